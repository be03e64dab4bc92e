//! The validator: follow, score what passed its own checks, set weights. It decides alone what its weights are.

use std::{collections::BTreeMap, sync::Arc};

use bistro_api::status::{Phase, Scored};
use bistro_protocol::{
    check::Verdict,
    hotkey::Hotkey,
    manifest::Manifest,
    mechanism::cosine::raw_score,
    object::{self, Kind},
    score::{Book, Outcome, Rates},
    seed,
    tensors::Tensors,
};
use serde::{Deserialize, Serialize};

use super::Loop;
use crate::{
    collect::{Collected, collect},
    facts::Facts,
    failure::Failure,
    follow::{Follower, averager_of},
    node::Node,
};

/// Kinds of files that are kept for the window that is scored and the one after it.
const KEPT: [&str; 2] = ["base", "facts"];
/// The file with everything that scores depend on.
const BOOK: &str = "book.json";

/// A validator between two windows.
pub struct Validator {
    node: Arc<Node>,
    follower: Follower,
    memory: Memory,
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
}

impl Loop for Validator {
    async fn start(node: Arc<Node>) -> Result<Self, Failure> {
        let follower = Follower::start(&node).await?;
        let memory: Memory = node.state.read_json(BOOK)?.unwrap_or_default();
        let validator = Self { node, follower, memory };
        validator.show(&[]);
        Ok(validator)
    }

    /// One window: follows its manifest, then scores it while the next one is under way.
    async fn window(&mut self) -> Result<(), Failure> {
        let node = &*self.node;
        let window = self.follower.window;
        self.follower.begin(node).await?;
        // A window that was followed before a restart is still to be scored.
        if window > node.settings.run.start_window && self.memory.next < window {
            self.score(window - 1).await?;
        }
        self.follower.follow(&self.node).await?;
        self.score(window).await?;
        self.node.state.forget_before(&KEPT, window)
    }
}

impl Validator {
    /// Scores `window`, whose manifest was followed, unless it was scored already or is too old.
    async fn score(&mut self, window: u64) -> Result<(), Failure> {
        if self.memory.next > window {
            return Ok(());
        }
        let node = &*self.node;
        // Its miners are drawn by a hash that nobody knows before the window ends.
        node.reached(node.clock.end(window)).await?;
        let too_late = node.head().number >= node.clock.end(window + 1);
        let Some(before) = node.state.base(window)?.filter(|_| !too_late) else {
            node.telemetry.message(format!("was too late to score window {window}: its miners count as not drawn"));
            return self.remember(window);
        };
        node.telemetry.phase(Phase::Scoring);
        let (Some(facts), true) = (node.facts(window).await?, self.admitted_anything(window).await?) else {
            return self.remember(window);
        };
        let collected = collect(node, &facts, &before.base, before.base.digest()).await?;
        self.observe(&facts, &collected);
        let outcomes = self.outcomes(&facts, &collected, &before.base).await?;
        self.memory.book.record(&outcomes, self.rates());
        self.remember(window)?;
        let weights = self.memory.book.weights(
            window,
            self.rates(),
            self.node.settings.scoring.power.value(),
            self.memory.first_weights.is_none(),
        );
        self.show(weights.as_deref().unwrap_or_default());
        match weights {
            Some(weights) if !weights.is_empty() => self.set_weights(window, &weights).await,
            _ => {
                self.node.telemetry.message("has no weights to set yet: no miner has earned any");
                Ok(())
            }
        }
    }

    /// A window that admitted nothing is nobody's absence.
    async fn admitted_anything(&self, window: u64) -> Result<bool, Failure> {
        let node = &*self.node;
        let Some(averager) = averager_of(node, window).await? else { return Ok(false) };
        let Some(found) = node.manifest_bytes(&averager, window).await? else { return Ok(false) };
        let opened = object::open::<Manifest>(&node.agreement, &averager, window, Kind::Manifest, &found.bytes);
        Ok(opened.is_ok_and(|m| !m.body.admitted.is_empty()))
    }

    fn observe(&mut self, facts: &Facts, collected: &Collected) {
        for work in collected.works.iter().filter(|w| w.verdict() != Verdict::NoCommit) {
            super::count_verdict(&self.node, work.verdict());
        }
        let neurons: Vec<(u16, Hotkey, bool)> = collected
            .works
            .iter()
            .map(|w| (w.uid, w.hotkey, w.commit.is_some() || w.verdict() != Verdict::NoCommit))
            .collect();
        let rates = self.rates();
        self.memory.book.observe(facts.window, &neurons, rates);
    }

    /// Scores every active miner of the window.
    async fn outcomes(
        &self,
        facts: &Facts,
        collected: &Collected,
        base: &Tensors,
    ) -> Result<Vec<(u16, Outcome)>, Failure> {
        let node = &*self.node;
        let active = self.memory.book.active(facts.window, self.rates());
        let drawn: Vec<_> = collected.works.iter().filter(|w| active.contains(&w.uid)).collect();
        let slice = node.slice(facts.window, base).await?;
        let mut gradients = BTreeMap::new();
        let accepted: Vec<_> = drawn.iter().filter(|w| w.outcome.is_ok()).map(|w| w.uid).collect();
        // One miner alone is compared with the pages of a uid that nobody has.
        let stand_in = (accepted.len() == 1).then_some(u16::MAX);
        for uid in accepted.iter().copied().chain(stand_in) {
            let order = seed::pages(node.settings.netuid, node.settings.run.id, facts.window, &facts.start.0);
            let pages = node.pages.own(&order, uid, node.settings.run.dataset.pages_per_window);
            let (sequences, base) = (node.sequences(&pages).await?, base.clone());
            let (_, gradient) = node.compute(move |engine| engine.gradient(&base, &sequences)).await?;
            gradients.insert(uid, slice.gather(&gradient));
        }
        let outcome = |work: &&crate::collect::Work| match &work.outcome {
            Err(verdict) => (work.uid, Outcome::Rejected(*verdict)),
            Ok(delta) => {
                let foreign: Vec<_> = gradients.iter().filter(|(uid, _)| **uid != work.uid).map(|(_, g)| g).collect();
                (work.uid, Outcome::Scored(raw_score(delta, &gradients[&work.uid], &foreign)))
            }
        };
        Ok(drawn.iter().map(outcome).collect())
    }

    /// Sets weights as soon as the chain's rate limit allows, if that is before the next merge.
    async fn set_weights(&mut self, window: u64, weights: &[(u16, u16)]) -> Result<(), Failure> {
        let node = &*self.node;
        let netuid = node.settings.netuid;
        let at = node.head().hash;
        let Some(uid) = node.chain.uid(netuid, node.hotkey.0, at).await? else {
            node.telemetry
                .message(format!("hotkey {} is not registered on netuid {netuid}: it cannot set weights", node.hotkey));
            return Ok(());
        };
        let last = node.chain.last_update(netuid, at).await?.get(usize::from(uid)).copied().unwrap_or(0);
        let due = last + node.chain.weights_rate_limit(netuid, at).await?;
        if due >= node.clock.uploads_close(window + 1) {
            return Ok(());
        }
        node.reached(due).await?;
        let version_key = node.chain.weights_version_key(netuid, node.head().hash).await?;
        match node.chain.set_weights(&node.wallet, netuid, weights, version_key).await {
            Ok(set) => {
                node.telemetry.message("");
                tracing::info!(window, block = set.block, miners = weights.len(), "set weights");
                self.memory.first_weights.get_or_insert(set.block);
            }
            // The next window brings better weights anyway; nothing is lost but one update.
            Err(error) => node.telemetry.message(format!("failed to set weights: {}", crate::failure::chain(&error))),
        }
        self.save()?;
        self.show(weights);
        Ok(())
    }

    fn rates(&self) -> Rates {
        let scoring = &self.node.settings.scoring;
        Rates { moving_average: scoring.moving_average.value(), absent_windows: scoring.absent_windows.into() }
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
            })
            .collect();
        self.node.telemetry.metrics.scored(&scores);
        self.node.telemetry.status.update(|status| {
            status.scores = scores;
            status.first_weights_block = self.memory.first_weights;
        });
    }
}
