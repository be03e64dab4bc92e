//! The miner: train on own pages, commit, publish, follow.

mod carry;
mod contend;

use std::sync::Arc;

use bistro_api::{run::InnerOptimizer, status::Phase};
use bistro_protocol::{
    artifact::{self, Form},
    check::{Commit, Verdict},
    mechanism,
    object::{self, Kind},
    seed,
    tensors::Tensors,
};

use super::Loop;
use crate::{
    engine::{Error, Optimizer, Step, Work},
    facts::Facts,
    failure::Failure,
    follow::{Followed, Follower},
    mechanism::compute,
    node::{Node, Published},
    snapshot,
};

/// Kinds of files that are kept for the current window only.
const KEPT: [&str; 4] = ["base", "artifact", "commit", "facts"];

/// A miner between two windows.
pub struct Miner {
    node: Arc<Node>,
    follower: Follower,
}

impl Loop for Miner {
    async fn start(node: Arc<Node>) -> Result<Self, Failure> {
        let follower = Follower::start(&node).await?;
        Ok(Self { node, follower })
    }

    /// One window. Any step can be repeated: after a fault or a restart it goes on with the same bytes.
    async fn window(&mut self) -> Result<(), Failure> {
        let window = self.follower.window;
        self.settle(window, None).await?;
        if let Some(facts) = self.workable(window).await? {
            if !self.node.mechanism().has_common_base() {
                self.contend(&facts).await?;
            } else if let Some(artifact) = self.artifact(&facts).await? {
                self.publish(window, artifact).await?;
            }
        }
        let followed = self.follower.follow(&self.node).await?;
        self.settle(followed.window + 1, Some(&followed)).await?;
        snapshot::sweep(&self.node, window, &self.standing()?.kept()).await;
        self.node.state.forget_before(&KEPT, window)?;
        // Moments, residuals and own models outlive windows without training: only the newest count.
        for kind in ["optimizer", carry::RESIDUAL, contend::MODEL] {
            if let Some(newest) = self.node.state.newest_window(kind, window + 1)? {
                self.node.state.forget_before(&[kind], newest)?;
            }
        }
        self.note_verdict(&followed);
        Ok(())
    }
}

impl Miner {
    /// The facts of `window` if there is still time to work in it; otherwise it can only be followed.
    async fn workable(&self, window: u64) -> Result<Option<Facts>, Failure> {
        let node = &*self.node;
        // Who has committed before a restart still has time to upload.
        let committed = node.state.read_of("commit", window)?.is_some();
        let closed = if committed { node.clock.uploads_close(window) } else { node.clock.commits_close(window) };
        if node.head().number >= closed {
            node.telemetry.phase(Phase::Following);
            return Ok(None);
        }
        // Before the window starts there is time to look at the parameters that it starts with.
        if node.mechanism().has_common_base() {
            self.follower.measure(node).await?;
        } else {
            // After a restart it may have trained in this window already.
            let model = self.own_model(window + 1).await?;
            self.follower.show_loss(node, node.displayed_loss(model).await?);
        }
        let facts = node.facts(window).await?;
        let uid = facts.as_ref().and_then(|f| f.uid_of(&node.hotkey));
        if uid.is_none() {
            node.telemetry
                .message(format!("was not registered when window {window} started: works from the next one on"));
        }
        Ok(facts.filter(|_| uid.is_some()))
    }

    /// The signed work of this window: from disk after a restart, else by training. `None` if time ran out.
    async fn artifact(&mut self, facts: &Facts) -> Result<Option<Vec<u8>>, Failure> {
        let node = &*self.node;
        let window = facts.window;
        if let Some(artifact) = node.state.read_of("artifact", window)? {
            return Ok(Some(artifact));
        }
        node.telemetry.phase(Phase::Training);
        let Some(computed) = self.train(facts, self.follower.base.parameters.clone()).await? else {
            node.telemetry.message(format!("could not finish training before the reveal of window {window}: publishes nothing; use a faster machine or longer windows"));
            return Ok(None);
        };
        node.telemetry.phase(Phase::Waiting);
        let (base, mechanism) = (&self.follower.base, node.mechanism());
        let slice = node.slice(window, &base.parameters).await?;
        let work = mechanism.published(&computed, &slice, base);
        let (keypair, digest) = (node.wallet.keypair(), self.follower.digest);
        let artifact = match mechanism.form() {
            Form::Dense => artifact::encode(&node.agreement, window, mechanism.kind(), keypair, digest, &work),
            Form::TopK(_) => match self.compressed(window, work).await? {
                Some(artifact) => artifact,
                None => return Ok(None),
            },
        };
        node.state.write_of("artifact", window, &artifact)?;
        Ok(Some(artifact))
    }

    /// Trains on the own pages from `start` on, or takes their gradient there, until the reveal block at the latest.
    async fn train(&self, facts: &Facts, start: Tensors) -> Result<Option<Tensors>, Failure> {
        let node = &*self.node;
        let window = facts.window;
        let run = &node.settings.run;
        let uid = facts.uid_of(&node.hotkey).expect("checked by the caller");
        let order = seed::pages(node.settings.netuid, run.id, window, &facts.start.0);
        let pages = node.pages.own(&order, uid, run.dataset.pages_per_window);
        let sequences = node.sequences(&pages).await?;
        let mut optimizer = self.optimizer(window)?;

        let run_settings = run.clone();
        let windows = window - run.start_window;
        let cancel = node.stop.child_token();
        let training_run = node.compute({
            let (cancel, metrics) = (cancel.clone(), node.telemetry.metrics.clone());
            let tokens = u64::from(run.training.batch_sequences) * u64::from(run.dataset.sequence_length);
            move |engine| {
                let (mechanism, training) = (mechanism::of(&run_settings), &run_settings.training);
                let work = Work { base: &start, sequences: &sequences, training, windows };
                let progress = |_: Step| {
                    metrics.tokens.inc_by(tokens);
                    metrics.steps.inc();
                };
                let kept = training.inner_optimizer == InnerOptimizer::Kept && mechanism.trains();
                match compute(mechanism, engine, &work, &mut optimizer, &cancel, progress) {
                    Ok(computed) => Ok(Some((computed, kept.then(|| optimizer.into_bytes()).transpose()?))),
                    Err(Error::Cancelled) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        let reveal = node.clock.reveal(window);
        tokio::pin!(training_run);
        let outcome = tokio::select! {
            outcome = &mut training_run => outcome?,
            reached = node.reached(reveal) => {
                cancel.cancel();
                // The engine stops at its next step; waiting for it keeps one training at a time.
                training_run.await?;
                reached?;
                // Steps that end after the reveal could have been taken for the slice alone: they count as not taken.
                None
            }
        };
        let Some((computed, moments)) = outcome else { return Ok(None) };
        // The optimizer first: a crash before the artifact is written repeats this window from the state before it.
        if let Some(moments) = moments {
            node.state.write_of("optimizer", window + 1, &moments)?;
        }
        tracing::info!(window, uid, loss = computed.loss, "trained");
        Ok(Some(computed.tensors))
    }

    /// AdamW's moments as they were before this window.
    fn optimizer(&self, window: u64) -> Result<Optimizer, Failure> {
        let kept = self.node.settings.run.training.inner_optimizer == InnerOptimizer::Kept;
        let Some((_, bytes)) = self.node.state.newest_of("optimizer", window)?.filter(|_| kept) else {
            return Ok(Optimizer::fresh());
        };
        Ok(Optimizer::from_bytes(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "the saved moments are damaged: training goes on with fresh ones");
            Optimizer::fresh()
        }))
    }

    /// Commits, waits until nobody else can commit any more, and uploads.
    async fn publish(&self, window: u64, artifact: Vec<u8>) -> Result<(), Failure> {
        let node = &*self.node;
        if !self.commit(window, &Commit::of(&artifact)).await? {
            return Ok(());
        }
        self.until_uploads_open(window).await?;
        node.telemetry.phase(Phase::Uploading);
        if !self.put(window, node.mechanism().kind(), artifact).await? {
            return Ok(());
        }
        node.telemetry.phase(Phase::Waiting);
        node.telemetry.status.update(|s| s.windows += 1);
        tracing::info!(window, "published");
        Ok(())
    }

    /// Publishes the commit of this window. Whether it is in the bucket now.
    async fn commit(&self, window: u64, commit: &Commit) -> Result<bool, Failure> {
        let node = &*self.node;
        node.telemetry.phase(Phase::Committing);
        let sealed = node.state.read_of("commit", window)?;
        let sealed = match sealed {
            Some(sealed) => sealed,
            None => {
                let sealed = object::seal(&node.agreement, window, Kind::Commit, node.wallet.keypair(), commit);
                // On disk first: a signature is random, and a second one would look like a second signer.
                node.state.write_of("commit", window, &sealed)?;
                sealed
            }
        };
        self.put(window, Kind::Commit, sealed).await
    }

    /// Waits until nobody can commit any more in this window, by the chain and by the bucket.
    async fn until_uploads_open(&self, window: u64) -> Result<(), Failure> {
        let node = &*self.node;
        node.telemetry.phase(Phase::Waiting);
        let closes_ms = node.timestamp_ms(node.clock.commits_close(window)).await?;
        node.bucket_shows_ms(node.clock.upload_opens_ms(closes_ms)).await
    }

    /// Whether the object is in the bucket now; if not, this window is left alone.
    async fn put(&self, window: u64, kind: Kind, bytes: Vec<u8>) -> Result<bool, Failure> {
        let published = self.node.publish(window, kind, bytes).await?;
        if published == Published::Taken {
            self.node.telemetry.message(self.node.taken(window, kind)?);
            self.node.telemetry.phase(Phase::Waiting);
        }
        Ok(published == Published::Ours)
    }

    /// What the averager thought of this miner's work, and what to do about it.
    fn note_verdict(&self, followed: &Followed) {
        let (node, window) = (&*self.node, followed.window);
        let Some(entry) = followed.manifest.neurons.iter().find(|e| e.hotkey == node.hotkey) else { return };
        super::count_verdict(node, entry.verdict);
        let remedy = match entry.verdict {
            Verdict::Accepted | Verdict::NoCommit => return,
            Verdict::Late => {
                "the bucket took it after the deadline: use a faster link or longer phases, and compare the clocks of bucket and chain"
            }
            Verdict::StaleBase => {
                let from = match entry.behind {
                    Some(behind) => format!("it started from the base of {behind} windows before"),
                    None => "it started from a base that the averager does not know".to_owned(),
                };
                node.telemetry.message(format!(
                    "the work of window {window} did not count ({}): {from}; it follows the manifests from here on; if this comes back, delete the state folder, and it joins from a snapshot",
                    entry.verdict
                ));
                return;
            }
            Verdict::NoCommitment => {
                "the chain did not show the commitment to it in time: train faster, or use a longer commit phase"
            }
            Verdict::NoArtifact => "the upload did not end in time: use a faster link or a longer upload phase",
            Verdict::Norm => "its norm is more than ten times the median: lower no rate alone, train as the run says",
            _ => {
                "this should not happen: is the bucket shared with another writer, or the version of the worker another?"
            }
        };
        node.telemetry.message(format!("the work of window {window} did not count ({}): {remedy}", entry.verdict));
    }
}
