//! Following: from manifest to manifest, from base to base. Every role does it, the averager too.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use bistro_api::status::{Phase, WindowRecord};
use bistro_protocol::{
    artifact::{self, Form},
    base::Base,
    check::{Commit, Verdict},
    hotkey::Hotkey,
    manifest::{MAX_MANIFEST, Manifest, ManifestError},
    mechanism::Mechanism,
    object::{Hex32, Kind, Opened},
    slice::Slice,
    tensors::Tensors,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    bucket::Object,
    facts::Facts,
    failure::Failure,
    node::Node,
    origin,
    snapshot::{self, Snapshot},
    state::SavedBase,
};

/// How often a manifest that is not there yet is asked for.
const POLL: Duration = Duration::from_millis(250);
/// Windows after which a node that replays many saves its base.
const REPLAYED: u64 = 16;
/// After so long the wait is worth a line, and a look for a snapshot.
const SPEAK_AFTER: Duration = Duration::from_secs(10);

/// A node's place in the history of the run.
pub struct Follower {
    /// The base before `window`.
    pub base: Base,
    /// Its digest.
    pub digest: [u8; 32],
    /// The first window whose manifest was not followed yet.
    pub window: u64,
    /// Digest of the manifest before; zeros for the first window.
    pub previous: [u8; 32],
    /// What is on its way for this window already, while many are replayed.
    ahead: Option<Ahead>,
}

/// A manifest that was followed.
pub struct Followed {
    /// Its window.
    pub window: u64,
    /// What it says.
    pub manifest: Manifest,
}

impl Follower {
    /// Goes on from the state on disk, or starts with the first base of the run; from the newest snapshot where one
    /// lies between there and the present and the way is longer than from one snapshot to the next.
    pub async fn start(node: &Node) -> Result<Self, Failure> {
        let saved = node.state.newest_base()?;
        let window = saved.as_ref().map_or(node.settings.run.start_window, |saved| saved.window);
        let far = behind(node, window) > u64::from(node.settings.run.schedule.snapshot_windows);
        if far && let Some(follower) = Self::at_snapshot(node, window).await? {
            return Ok(follower);
        }
        let SavedBase { window, previous, base } = match saved {
            Some(saved) => saved,
            None => SavedBase { window, previous: [0; 32], base: origin::first_base(node).await? },
        };
        let follower = Self { digest: base.digest(), base, window, previous, ahead: None };
        node.state.save_base(&follower.saved())?;
        follower.show(node, None);
        Ok(follower)
    }

    fn saved(&self) -> SavedBase {
        SavedBase { window: self.window, previous: self.previous, base: self.base.clone() }
    }

    /// A place to go on from after window `after`: the newest snapshot, if there is one.
    async fn at_snapshot(node: &Node, after: u64) -> Result<Option<Self>, Failure> {
        node.telemetry.phase(Phase::Following);
        let Some(found) = snapshot::newest(node, after).await? else { return Ok(None) };
        let Snapshot { window, previous, base, digest } = found;
        tracing::info!(from = after, to = window, "goes on from a snapshot");
        let follower = Self { base, digest, window, previous, ahead: None };
        node.state.save_base(&follower.saved())?;
        // Moments belong to a path through parameters that this node did not walk; what was not sent is due all the same.
        node.state.forget_before(&["optimizer"], window + 1)?;
        follower.show(node, None);
        Ok(Some(follower))
    }

    /// The place before `window`, in the past: from the newest snapshot before it on, or from the first base of the run.
    /// Only what the bucket still has can be followed.
    pub async fn reach(node: &Node, window: u64) -> Result<Self, Failure> {
        let start = node.settings.run.start_window;
        if !(start..=node.clock.window_of(node.head().number)).contains(&window) {
            return Err(Failure::Permanent(format!("the run has no window {window} yet, or had none")));
        }
        let mut follower = match snapshot::before(node, window).await? {
            Some(Snapshot { window, previous, base, digest }) => Self { base, digest, window, previous, ahead: None },
            None => {
                let base = origin::first_base(node).await?;
                Self { digest: base.digest(), base, window: start, previous: [0; 32], ahead: None }
            }
        };
        while follower.window < window {
            follower.follow(node).await?;
        }
        Ok(follower)
    }

    /// The start of a window for a node that does not train: shows the base's loss unless it is an old one, and reads
    /// the facts at once, since the chain forgets the state of a window's first block.
    pub async fn begin(&self, node: &Node) -> Result<Option<Facts>, Failure> {
        if behind(node, self.window) == 0 && node.mechanism().has_common_base() {
            self.measure(node).await?;
        }
        node.telemetry.phase(Phase::Waiting);
        node.facts(self.window).await
    }

    /// Waits for the manifest of this window and follows it: checks, moves the base, compares digests, saves.
    pub async fn follow(&mut self, node: &Node) -> Result<Followed, Failure> {
        let (averager, opened, aggregate) = match self.fetched(node).await {
            Some(fetched) => fetched,
            None => {
                let (averager, opened) = self.manifest_of_this_window(node).await?;
                (averager, opened, None)
            }
        };
        // Replaying takes no longer than downloading: the next window comes while this one is computed.
        self.ahead = (behind(node, self.window) > 1).then(|| Ahead::fetch(node, averager, self.window + 1));
        opened.body.check(self.window, self.previous, self.digest)?;
        if let Some(what) = mixing_fault(node, &opened.body) {
            return Err(ManifestError::Contradiction { window: self.window, what }.into());
        }
        if let Some(blocks) = opened.body.blocks {
            let reveal = node.block_hash(node.clock.reveal(self.window)).await?;
            if blocks.reveal != Hex32(reveal) {
                let what = "its reveal block is not the chain's";
                return Err(ManifestError::Contradiction { window: self.window, what }.into());
            }
        }
        if let Some(digest) = opened.body.aggregate {
            let merged = self.aggregate(node, &averager, digest, aggregate).await?;
            let slice = node.slice(self.window, &self.base.parameters).await?;
            self.step(node, &slice, &merged);
        }
        self.advance(node, opened.body, opened.digest)
    }

    /// Moves the base by a merged slice.
    fn step(&mut self, node: &Node, slice: &Slice, merged: &Tensors) {
        node.outer_step(&mut self.base, slice, merged, self.window);
        self.digest = self.base.digest();
    }

    /// Ends the window: the base is the promised one, or nobody goes on from here.
    fn advance(&mut self, node: &Node, manifest: Manifest, digest: [u8; 32]) -> Result<Followed, Failure> {
        let window = self.window;
        manifest.verify(window, self.digest)?;
        (self.window, self.previous) = (window + 1, digest);
        // Who replays many windows and is killed replays some of them again.
        if behind(node, self.window) < 2 || self.window.is_multiple_of(REPLAYED) {
            node.state.save_base(&self.saved())?;
        }
        // Where nothing is merged, whoever has a sound model takes part.
        let admitted = match node.mechanism().has_common_base() {
            true => manifest.admitted.len(),
            false => manifest.neurons.iter().filter(|entry| entry.verdict == Verdict::Accepted).count(),
        };
        node.telemetry.status.update(|status| {
            let record = status.history.iter_mut().find(|r| r.window == window);
            if let Some(record) = record {
                record.admitted = admitted as u32;
            }
        });
        self.show(node, None);
        tracing::info!(window, admitted, base = %hex::encode(&self.digest[..6]), "followed");
        Ok(Followed { window, manifest })
    }

    /// Measures the base on the held-out pages and shows it.
    pub async fn measure(&self, node: &Node) -> Result<f64, Failure> {
        let loss = node.displayed_loss(self.base.parameters.clone()).await?;
        self.show_loss(node, loss);
        Ok(loss)
    }

    /// Shows the loss of this window's base, or of the model that this node has instead of it.
    pub fn show_loss(&self, node: &Node, loss: f64) {
        node.telemetry.metrics.loss.set(loss);
        self.show(node, Some(loss));
    }

    /// Puts the base before this window into status and history.
    fn show(&self, node: &Node, loss: Option<f64>) {
        let digest = hex::encode(self.digest);
        node.telemetry.status.update(|status| {
            status.base_window = Some(self.window);
            status.base_digest = Some(digest.clone());
            status.held_out_loss = loss.or(status.held_out_loss);
        });
        let admitted = 0;
        node.telemetry.status.record(WindowRecord {
            window: self.window,
            base_digest: digest,
            held_out_loss: loss,
            admitted,
        });
    }

    /// Waits for it. While it is missing everybody waits, and says so; only who slept so long that it was deleted
    /// meanwhile goes on from a snapshot.
    async fn manifest_of_this_window(&mut self, node: &Node) -> Result<(Hotkey, Opened<Manifest>), Failure> {
        // Nothing can be there before the uploads of the window are closed.
        node.reached(node.clock.uploads_close(self.window)).await?;
        let mut asked = Instant::now();
        loop {
            let averager = averager_of(node, self.window).await?;
            if let Some(averager) = averager
                && let Some(found) = node.manifest(&averager, self.window).await?
            {
                node.telemetry.message("");
                return Ok((averager, found));
            }
            if asked.elapsed() > SPEAK_AFTER {
                asked = Instant::now();
                let by = averager.map_or("the subnet's averager, which has no hotkey yet".to_owned(), |a| a.ss58());
                node.telemetry.message(format!("waits for the manifest of window {} by {by}", self.window));
                node.telemetry.phase(Phase::Waiting);
                if let Some(follower) = Self::at_snapshot(node, self.window).await? {
                    *self = follower;
                }
            }
            node.pause(POLL).await?;
        }
    }

    /// What was fetched ahead for this window, if it is sound; else it is asked for as ever.
    async fn fetched(&mut self, node: &Node) -> Option<(Hotkey, Opened<Manifest>, Option<Object>)> {
        let Ahead { window, averager, task } = self.ahead.take()?;
        let (manifest, aggregate) = task.await.ok()?;
        if window != self.window || averager_of(node, window).await.ok()? != Some(averager) {
            return None;
        }
        let opened = node.open_manifest(&averager, window, &manifest?).ok()?;
        Some((averager, opened, aggregate))
    }

    /// The merged slice: what was fetched ahead if that is it, else out of the bucket.
    async fn aggregate(
        &self,
        node: &Node,
        averager: &Hotkey,
        digest: Hex32,
        fetched: Option<Object>,
    ) -> Result<Tensors, Failure> {
        let shape = node.work_shape(&self.base.parameters);
        let key = node.key(averager, self.window, Kind::Aggregate);
        let check = |found: &Object| {
            if Commit::of(&found.bytes).digest != digest {
                return Err("its aggregate has another digest");
            }
            let file = artifact::decode(&found.bytes).map_err(|_| "its aggregate is unreadable")?;
            let ours = file.is_for(&node.agreement, averager, self.window, Kind::Aggregate, self.digest);
            let aggregate = Form::Dense.read(file.content, &shape).filter(|aggregate| ours && aggregate.all_finite());
            aggregate.ok_or("its aggregate is not this window's")
        };
        if let Some(Ok(aggregate)) = fetched.as_ref().map(check) {
            return Ok(aggregate);
        }
        let found = node.read(&key, artifact::max_bytes(&shape), check).await?;
        // The manifest is stored after the aggregate: a bucket that has one but not yet the other catches up.
        let found = found.ok_or_else(|| Failure::Transient(format!("{key} is not in the bucket yet")))?;
        found.map_err(|what| ManifestError::Contradiction { window: self.window, what }.into())
    }
}

/// Whether a manifest has the mixing weights that its mechanism has: for each admitted uid and tensor one, or none at all
/// where all count alike.
fn mixing_fault(node: &Node, manifest: &Manifest) -> Option<&'static str> {
    let wanted = match node.mechanism() {
        Mechanism::LossReduction(_) => manifest.admitted.len() * node.shape.len(),
        _ => 0,
    };
    match () {
        () if !manifest.mixing.is_empty() && manifest.mixing.len() != wanted => {
            Some("its mixing weights are not those of its work")
        }
        () if manifest.mixing.iter().any(|weight| weight.0 < 0.0) => Some("a mixing weight is below 0"),
        () if !are_shares(manifest, node.shape.len()) => {
            Some("the mixing weights of a tensor are more than 1 together")
        }
        () => None,
    }
}

/// Whether the weights of no tensor are more than 1 together, but for their rounding.
fn are_shares(manifest: &Manifest, tensors: usize) -> bool {
    let sum =
        |tensor| manifest.mixing.iter().skip(tensor).step_by(tensors).map(|weight| f64::from(weight.0)).sum::<f64>();
    (0..tensors).all(|tensor| sum(tensor) <= 1.001)
}

/// Windows between the present and `window`.
fn behind(node: &Node, window: u64) -> u64 {
    node.clock.window_of(node.head().number).saturating_sub(window)
}

/// Manifest and aggregate of a window on their way; nothing of them is believed before it is checked.
struct Ahead {
    window: u64,
    averager: Hotkey,
    task: AbortOnDropHandle<(Option<Object>, Option<Object>)>,
}

impl Ahead {
    fn fetch(node: &Node, averager: Hotkey, window: u64) -> Self {
        let bucket = node.bucket.clone();
        let keys = [Kind::Manifest, Kind::Aggregate].map(|kind| node.key(&averager, window, kind));
        let most = artifact::max_bytes(&node.shape);
        let task = tokio::spawn(async move {
            let [manifest, aggregate] = &keys;
            let (manifest, aggregate) = tokio::join!(bucket.get(manifest, MAX_MANIFEST), bucket.get(aggregate, most));
            // Whatever went wrong shows again where it is asked for in earnest.
            (manifest.ok().flatten(), aggregate.ok().flatten())
        });
        Self { window, averager, task: AbortOnDropHandle::new(task) }
    }
}

/// Whose manifest counts for `window`: the term that holds, else the subnet owner's hotkey as of now.
pub async fn averager_of(node: &Node, window: u64) -> Result<Option<Hotkey>, Failure> {
    let terms = node.settings.averagers.iter().filter(|t| t.from_window <= window);
    if let Some(term) = terms.max_by_key(|t| t.from_window) {
        let hotkey = Hotkey::from_ss58(&term.hotkey);
        return hotkey.map(Some).map_err(|e| Failure::Permanent(format!("averagers: {e}")));
    }
    let at = node.head().hash;
    let known = *node.owner.lock().unwrap_or_else(PoisonError::into_inner);
    let owner = match known.filter(|(block, _)| *block == at) {
        Some((_, owner)) => owner,
        None => {
            let owner = node.chain.owner_hotkey(node.settings.netuid, at).await?;
            *node.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, owner));
            owner
        }
    };
    // The chain's default account: the owner has named none.
    Ok((owner != [0; 32]).then_some(Hotkey(owner)))
}
