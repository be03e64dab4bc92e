//! The validator: follow, score what passed its own checks, publish, set weights. It decides alone what its weights
//! are; what it publishes lets everybody recompute them.

mod cross_check;
mod evaluate;
mod former;
mod publish;
pub(crate) mod recompute;
mod remerge;

use std::{collections::BTreeMap, sync::Arc};

use bistro_api::status::{Phase, Scored};
use bistro_protocol::{
    check::Verdict,
    hotkey::Hotkey,
    manifest::Manifest,
    score::{Book, Rates},
};
use serde::{Deserialize, Serialize};

use self::former::Formers;
use super::Loop;
use crate::{
    collect::{Collected, collect},
    facts::Facts,
    failure::Failure,
    follow::{Follower, averager_of},
    node::Node,
};

/// Kinds of files that are kept for the windows whose records can still be compared.
const KEPT: [&str; 5] = ["base", "facts", "deadlines", "models", "accepted"];
/// Windows that other validators' records are compared for.
const COMPARED: u64 = 3;
/// The file with everything that scores depend on.
const BOOK: &str = "book.json";

/// A validator between two windows.
pub struct Validator {
    node: Arc<Node>,
    follower: Follower,
    memory: Memory,
    /// The newest window of each other validator's records that was compared; lost with the process, which costs
    /// one comparison.
    compared: BTreeMap<Hotkey, u64>,
    /// Windows that miners' bases are behind, by uid, as far as the latest work shows it.
    behind: BTreeMap<u16, u64>,
}

/// What survives a restart beside the base.
#[derive(Default, Serialize, Deserialize)]
struct Memory {
    /// Averages and the scale of scores.
    book: Book,
    /// The first window that was not scored (nor dropped) yet.
    next: u64,
    /// Block of the first finalised weights.
    first_weights: Option<u64>,
    /// Models that their owners have replaced.
    #[serde(default)]
    formers: Formers,
    /// The window whose manifest lied about its work.
    #[serde(default)]
    refused: Option<u64>,
}

impl Loop for Validator {
    async fn start(node: Arc<Node>) -> Result<Self, Failure> {
        let follower = Follower::start(&node).await?;
        let memory: Memory = node.state.read_json(BOOK)?.unwrap_or_default();
        let validator = Self { node, follower, memory, compared: BTreeMap::new(), behind: BTreeMap::new() };
        validator.show(&[]);
        Ok(validator)
    }

    /// One window: follows its manifest, then scores it while the next one is under way.
    async fn window(&mut self) -> Result<(), Failure> {
        let node = &*self.node;
        let window = self.follower.window;
        self.refuse().await?;
        self.follower.begin(node).await?;
        // A window that was followed before a restart is still to be scored.
        if window > node.settings.run.start_window && self.memory.next < window {
            self.score(window - 1, None).await?;
        }
        let followed = self.follower.follow(&self.node).await?;
        self.score(followed.window, Some(followed.manifest)).await?;
        let node = &*self.node;
        crate::snapshot::sweep(node, followed.window, &[]).await;
        node.state.forget_before(&KEPT, followed.window.saturating_sub(COMPARED))?;
        // Records that no weights ever followed; they are of no use to anybody after so long.
        let old = followed.window.saturating_sub(u64::from(node.settings.run.schedule.snapshot_windows));
        node.state.forget_before(&["verdicts", "scores", "record"], old)
    }
}

impl Validator {
    /// Scores `window`, whose manifest was followed, unless it was scored already or is too old.
    async fn score(&mut self, window: u64, manifest: Option<Manifest>) -> Result<(), Failure> {
        if self.memory.next > window {
            return Ok(());
        }
        self.observe_models(window).await?;
        let node = &*self.node;
        // Its miners are drawn by a hash that nobody knows before the window ends.
        let end = node.block_hash(node.clock.end(window)).await?;
        let too_late = node.head().number >= node.clock.end(window + 1);
        let Some(before) = node.state.base(window)?.filter(|_| !too_late) else {
            node.telemetry.message(format!("was too late to score window {window}: its miners count as not drawn"));
            return self.remember(window);
        };
        node.telemetry.phase(Phase::Scoring);
        let manifest = match manifest {
            Some(manifest) => Some(manifest),
            None => self.read_manifest(window).await?,
        };
        // A window in which nothing came of anybody's work is nobody's absence.
        let has_common_base = node.mechanism().has_common_base();
        let any = |m: &Manifest| m.neurons.iter().any(|entry| entry.verdict == Verdict::Accepted);
        let counts = |m: &Manifest| if has_common_base { !m.admitted.is_empty() } else { any(m) };
        let (Some(facts), Some(manifest)) = (node.facts(window).await?, manifest.filter(counts)) else {
            return self.remember(window);
        };
        let Some(collected) = collect(node, &facts, &before.base, before.base.digest()).await? else {
            return self.remember(window);
        };
        self.publish_verdicts(&facts, &manifest, &collected).await?;
        if has_common_base {
            self.remerge(window, &manifest, &collected, &before.base).await?;
        }
        self.observe(&facts, &collected);
        let scores = self.evaluate(&facts, end, &collected, &before.base).await?;
        let complete = self.memory.book.is_complete(window, self.rates(), self.memory.first_weights.is_none());
        self.keep_record(window, scores)?;
        self.remember(window)?;
        let weights = self.memory.book.weights(self.node.settings.scoring.power.value());
        self.show(&weights);
        match (weights.is_empty(), complete) {
            (true, _) => self.node.telemetry.message("has no weights to set yet: no miner has earned any"),
            (_, false) => self.node.telemetry.message("sets its first weights once every active miner was drawn"),
            (false, true) => self.set_weights(window, &weights).await?,
        }
        self.publish_records().await?;
        self.cross_check(window, end).await
    }

    async fn read_manifest(&self, window: u64) -> Result<Option<Manifest>, Failure> {
        let Some(averager) = averager_of(&self.node, window).await? else { return Ok(None) };
        Ok(self.node.manifest(&averager, window).await?.map(|opened| opened.body))
    }

    /// Who replaced which model: also in windows that are not scored, else a copy from their time would look like an original.
    async fn observe_models(&mut self, window: u64) -> Result<(), Failure> {
        let node = &*self.node;
        if node.mechanism().has_common_base() {
            return Ok(());
        }
        let (Some(mut models), Some(facts)) = (node.models(window).await?, node.facts(window).await?) else {
            return Ok(());
        };
        models.retain(|hotkey, _| facts.uid_of(hotkey).is_some());
        let closed = node.clock.commits_close(window);
        let book = &self.memory.book;
        let average = |hotkey: &Hotkey| facts.uid_of(hotkey).map_or(0.0, |uid| book.average(uid));
        self.memory.formers.observe(&models, closed, average);
        Ok(())
    }

    fn observe(&mut self, facts: &Facts, collected: &Collected) {
        for work in collected.works.iter().filter(|w| w.verdict() != Verdict::NoCommit) {
            super::count_verdict(&self.node, work.verdict());
        }
        for work in &collected.works {
            match work.behind(&self.node, facts.window) {
                Some(behind) => drop(self.behind.insert(work.uid, behind)),
                // Whoever caught up is not behind; who publishes nothing may still be.
                None if work.verdict() != Verdict::NoCommit => drop(self.behind.remove(&work.uid)),
                None => {}
            }
        }
        let neurons: Vec<(u16, Hotkey, bool)> = collected
            .works
            .iter()
            .map(|w| (w.uid, w.hotkey, w.commit.is_some() || w.verdict() != Verdict::NoCommit))
            .collect();
        let rates = self.rates();
        self.memory.book.observe(facts.window, &neurons, rates);
    }

    fn rates(&self) -> Rates {
        Rates::from(&self.node.settings.scoring)
    }

    fn remember(&mut self, window: u64) -> Result<(), Failure> {
        self.memory.next = window + 1;
        self.node.telemetry.status.update(|s| s.windows += 1);
        self.save()
    }

    fn save(&self) -> Result<(), Failure> {
        self.node.state.write_json(BOOK, &self.memory)
    }

    /// Puts what it thinks of each miner into status and metrics.
    fn show(&self, weights: &[(u16, u16)]) {
        let total: f64 = weights.iter().map(|(_, w)| f64::from(*w)).sum();
        let weight = |uid: u16| weights.iter().find(|(u, _)| *u == uid).map_or(0.0, |(_, w)| f64::from(*w) / total);
        let seen = self.memory.book.standings().filter(|(_, s)| s.last_commit.is_some());
        let scores: Vec<Scored> = seen
            .map(|(uid, s)| Scored {
                uid,
                hotkey: s.hotkey.ss58(),
                raw: s.raw,
                average: s.average,
                weight: weight(uid),
                verdict: s.verdict.to_string(),
                behind: self.behind.get(&uid).copied(),
            })
            .collect();
        self.node.telemetry.metrics.scored(&scores);
        self.node.telemetry.status.update(|status| {
            status.scores = scores;
            status.first_weights_block = self.memory.first_weights;
        });
    }
}
