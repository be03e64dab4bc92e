//! The averager: collect, check, merge, sign the manifest. It has the order of inclusion in its hands and
//! nothing else: it cannot forge work, pay or bits.

use std::{collections::BTreeMap, sync::Arc};

use bistro_api::{mechanism::LossReduction, status::Phase};
use bistro_protocol::{
    admission::{Candidate, admit},
    artifact,
    base::Base,
    check::{Commit, Verdict},
    manifest::{Blocks, Entry, Manifest},
    mechanism::Mechanism,
    merge::merge,
    object::{self, Bits32, Bits64, Hex32, Kind, Opened},
    slice::Slice,
    tensors::Tensors,
};

use super::Loop;
use crate::{
    collect::{Collected, Work, collect},
    facts::{Economy, Facts},
    failure::Failure,
    follow::{Follower, averager_of},
    mechanism::averaging::{self, Mixed, Scales},
    node::{Node, Published},
    snapshot,
};

/// Kinds of files that are kept for the current window only.
const KEPT: [&str; 7] = ["base", "manifest", "aggregate", "facts", "economy", "deadlines", "models"];
/// Mixing weights that a manifest has room for: each takes eleven bytes of its two million.
const MOST_WEIGHTS: usize = 100_000;
/// A run whose start lies further back than this and has no manifest is too late to begin.
const LATEST_START: u64 = 100;

/// An averager between two windows.
pub struct Averager {
    node: Arc<Node>,
    follower: Follower,
}

impl Loop for Averager {
    async fn start(node: Arc<Node>) -> Result<Self, Failure> {
        let follower = Follower::start(&node).await?;
        let averager = Self { node, follower };
        averager.refuse_a_late_start().await?;
        Ok(averager)
    }

    /// One window: follows a manifest that is there already, else issues it.
    async fn window(&mut self) -> Result<(), Failure> {
        let node = &*self.node;
        let window = self.follower.window;
        self.store_snapshot().await?;
        let known = self.known(window).await?;
        self.follower.begin(node).await?;
        // Read before the bucket is asked for anything: while that is away the chain forgets.
        node.deadlines(window).await?;
        if averager_of(node, window).await? != Some(node.hotkey) {
            node.telemetry.message(format!("is not the averager of window {window}: follows until its term begins"));
            self.follower.follow(node).await?;
        } else if node.manifest(&node.hotkey, window).await?.is_some() {
            node.telemetry.phase(Phase::Following);
            self.follower.follow(node).await?;
        } else {
            self.issue(known).await?;
        }
        self.node.state.forget_before(&KEPT, window)
    }
}

impl Averager {
    /// What the chain says at the start of the window; `None` where it has forgotten. Read at once, before it does.
    async fn known(&self, window: u64) -> Result<Option<(Facts, Economy)>, Failure> {
        let Some(facts) = self.node.facts(window).await? else { return Ok(None) };
        Ok(self.node.economy(window).await?.map(|economy| (facts, economy)))
    }

    /// Stores the base before this window if one is due and this hotkey issued the manifest that ended with it.
    async fn store_snapshot(&self) -> Result<(), Failure> {
        let (node, window) = (&*self.node, self.follower.window);
        if snapshot::is_due(node, window) && averager_of(node, window - 1).await? == Some(node.hotkey) {
            snapshot::publish(node, window, &self.follower.base, self.follower.digest).await?;
            snapshot::sweep(node, window, &[]).await;
        }
        Ok(())
    }

    /// Issues the manifest of the window and follows it.
    async fn issue(&mut self, known: Option<(Facts, Economy)>) -> Result<(), Failure> {
        let node = &*self.node;
        let window = self.follower.window;
        node.telemetry.phase(Phase::Merging);
        if node.state.read_of("manifest", window)?.is_none() {
            self.prepare(known).await?;
        }
        let node = &*self.node;
        let bytes = node.state.read_of("manifest", window)?;
        let bytes = bytes.ok_or_else(|| Failure::Transient("the manifest vanished from the state folder".into()))?;
        let opened: Opened<Manifest> = object::open(&node.agreement, &node.hotkey, window, Kind::Manifest, &bytes)
            .map_err(|v| {
                Failure::Permanent(format!("the manifest of window {window} in the state folder is {v}: delete it"))
            })?;
        // The aggregate first: whoever sees the manifest finds it.
        if let Some(aggregate) = node.state.read_of("aggregate", window)?.filter(|_| opened.body.aggregate.is_some()) {
            self.publish(Kind::Aggregate, aggregate).await?;
        }
        self.publish(Kind::Manifest, bytes).await?;
        let admitted = opened.body.admitted.len();
        self.follower.follow(node).await?;
        self.node.telemetry.status.update(|s| s.windows += 1);
        tracing::info!(window, admitted, "issued the manifest");
        Ok(())
    }

    /// Publishes for this window; there is one manifest, so whatever took its place is a second averager's.
    async fn publish(&self, kind: Kind, bytes: Vec<u8>) -> Result<(), Failure> {
        let (node, window) = (&*self.node, self.follower.window);
        match node.publish(window, kind, bytes).await? {
            Published::Ours => Ok(()),
            Published::Taken => Err(Failure::Permanent(format!(
                "key-taken: {} holds other bytes: a second averager signs with hotkey {}; stop one of them and delete the state of the other",
                node.key(&node.hotkey, window, kind),
                node.hotkey
            ))),
        }
    }

    /// Collects and merges, and puts aggregate and manifest on disk, in this order.
    async fn prepare(&self, known: Option<(Facts, Economy)>) -> Result<(), Failure> {
        let node = &*self.node;
        let window = self.follower.window;
        let collected = match &known {
            Some((facts, _)) => collect(node, facts, &self.follower.base, self.follower.digest).await?,
            None => None,
        };
        let manifest = match known.zip(collected) {
            Some(((facts, economy), collected)) => {
                count(node, &collected);
                self.merged(&facts, &economy, collected).await?
            }
            None => {
                tracing::warn!(window, "the chain forgot the state of this window: its manifest is empty");
                Manifest::empty(self.follower.previous, self.follower.digest)
            }
        };
        let bytes = object::seal(&node.agreement, window, Kind::Manifest, node.wallet.keypair(), &manifest);
        node.state.write_of("manifest", window, &bytes)
    }

    /// Merges what is admitted and writes the aggregate.
    async fn merged(&self, facts: &Facts, economy: &Economy, collected: Collected) -> Result<Manifest, Failure> {
        let node = &*self.node;
        let window = facts.window;
        let reveal = node.block_hash(node.clock.reveal(window)).await?;
        let entries = collected.works.iter().map(|work| Entry {
            uid: work.uid,
            hotkey: work.hotkey,
            verdict: work.verdict(),
            artifact: work.artifact(),
            behind: work.behind(node, window),
        });
        let mut manifest = Manifest {
            blocks: Some(Blocks { start: facts.start, reveal: Hex32(reveal) }),
            neurons: entries.collect(),
            median_norm: collected.median_norm.map(Bits64),
            ..Manifest::empty(self.follower.previous, self.follower.digest)
        };
        let uids = admit(&candidates(economy, &collected), node.clock.start(window), economy.tempo, &reveal);
        let chosen = collected.works.iter().filter(|w| uids.binary_search(&w.uid).is_ok());
        let admitted: BTreeMap<u16, &Tensors> =
            chosen.filter_map(|w| Some((w.uid, w.outcome.as_ref().ok()?))).collect();
        let works: Vec<&Tensors> = admitted.values().copied().collect();
        let slice = &collected.slice;
        let merged = match node.mechanism() {
            Mechanism::LossReduction(settings) => {
                let mixed = weigh(node, &self.follower.base, slice, settings, &works, window).await?;
                mixed.map(|mixed| (mixed.merged, mixed.weights))
            }
            // The manifest says who has which model; nothing is merged.
            Mechanism::LossWins(_) => None,
            _ => merge(&node.settings.run.merge.rule, &works).map(|merged| (merged, Vec::new())),
        };
        if let Some((merged, mixing)) = merged
            && let Some(base_after) = self.base_after(slice, &merged).await?
        {
            manifest.admitted = admitted.into_keys().collect();
            manifest.mixing = mixing.into_iter().map(Bits32).collect();
            manifest.base_after = Hex32(base_after);
            let (keypair, base) = (node.wallet.keypair(), self.follower.digest);
            let file = artifact::encode(&node.agreement, window, Kind::Aggregate, keypair, base, &merged);
            manifest.aggregate = Some(Commit::of(&file).digest);
            node.state.write_of("aggregate", window, &file)?;
        }
        Ok(manifest)
    }

    /// Digest of the next base; `None` where that would no longer be a model: nothing is admitted then, since nobody could
    /// go on from there.
    async fn base_after(&self, slice: &Slice, merged: &Tensors) -> Result<Option<[u8; 32]>, Failure> {
        let (node, window) = (&*self.node, self.follower.window);
        let mut base = self.follower.base.clone();
        node.outer_step(&mut base, slice, merged, window);
        let (parameters, sequences) = (base.parameters.clone(), node.sequences(&node.pages.displayed()).await?);
        let computes = node.compute(move |engine| match engine.loss(&parameters, &sequences) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_finite() => Ok(false),
            Err(error) => Err(error),
        });
        if computes.await? && base.state.all_finite() {
            return Ok(Some(base.digest()));
        }
        node.telemetry.message(format!("the work of window {window} would break the base: nothing is admitted"));
        Ok(None)
    }

    async fn refuse_a_late_start(&self) -> Result<(), Failure> {
        let node = &*self.node;
        let (start, now) = (node.settings.run.start_window, node.clock.window_of(node.head().number));
        let first = self.follower.window == start && node.manifest(&node.hotkey, start).await?.is_none();
        if first && now > start + LATEST_START {
            return Err(Failure::Permanent(format!(
                "run.startWindow {start} lies {} windows back and no manifest exists: set it to {} under a higher run id",
                now - start,
                now + 2
            )));
        }
        Ok(())
    }
}

/// Learns how much of each work counts. `None` where there is nothing to mix.
async fn weigh(
    node: &Node,
    base: &Base,
    slice: &Slice,
    settings: &LossReduction,
    works: &[&Tensors],
    window: u64,
) -> Result<Option<Mixed>, Failure> {
    if works.is_empty() {
        return Ok(None);
    }
    if works.len() * base.parameters.len() > MOST_WEIGHTS {
        let merged = merge(&node.settings.run.merge.rule, works);
        tracing::warn!(window, "more weights than a manifest holds: all work counts alike");
        return Ok(merged.map(|merged| Mixed { merged, ..Mixed::default() }));
    }
    let (tuning, check) = node.pages.tuning(window);
    let (tuning, check) = (node.sequences(&tuning).await?, node.sequences(&check).await?);
    let works: Vec<Tensors> = works.iter().map(|work| (*work).clone()).collect();
    let (parameters, slice, averaging) = (base.parameters.clone(), slice.clone(), settings.averaging.clone());
    let (factor, cancel) = (node.mechanism().factor(&node.settings.run.training), node.stop.child_token());
    let mixed = node.compute(move |engine| {
        let works: Vec<&Tensors> = works.iter().collect();
        let scales = Scales { base: &parameters, slice: &slice, works: &works, factor, tuning: &tuning, check: &check };
        averaging::weigh(engine, &averaging, &scales, &cancel)
    });
    let mixed = mixed.await?;
    for (strategy, loss) in &mixed.strategies {
        node.telemetry.metrics.averaging_loss.with_label_values(&[strategy]).set(*loss);
        tracing::info!(window, strategy, loss, before = mixed.before, "weighed the work");
    }
    if mixed.strategy == averaging::NOTHING {
        // Admitted all the same: validators go on scoring it, so that whoever is at fault is not paid for ever.
        node.telemetry.message(format!(
            "the work of window {window} would raise the loss however it is weighed: none of it counts"
        ));
    }
    Ok(Some(mixed))
}

fn candidates(economy: &Economy, collected: &Collected) -> Vec<Candidate> {
    let candidate = |work: &Work| Candidate {
        uid: work.uid,
        hotkey: work.hotkey,
        incentive: economy.incentive(work.uid),
        registered: economy.registered(work.uid),
        accepted: work.outcome.is_ok(),
    };
    collected.works.iter().map(candidate).collect()
}

fn count(node: &Node, collected: &Collected) {
    for work in collected.works.iter().filter(|w| w.verdict() != Verdict::NoCommit) {
        super::count_verdict(node, work.verdict());
    }
}
