//! Whole bases in the bucket, so that who joins late or slept long need not replay the whole run, and the deletion of
//! what nobody needs any more.

use bistro_protocol::{
    artifact::{self, Content},
    base::Base,
    hotkey::Hotkey,
    object::{Hex32, Kind},
};
use bytes::Bytes;

use crate::{bucket::Object, failure::Failure, follow::averager_of, node::Node};

/// Objects that one sweep looks at; what is left over waits for the next one.
const SWEEP: usize = 5000;

/// A base and its place in the history, as a joiner takes it.
pub struct Snapshot {
    /// It is the base before this window.
    pub window: u64,
    /// Digest of the manifest of the window before.
    pub previous: [u8; 32],
    /// The base.
    pub base: Base,
    /// Their digest.
    pub digest: [u8; 32],
}

/// Whether the base before `window` is stored.
pub fn is_due(node: &Node, window: u64) -> bool {
    window > node.settings.run.start_window && window.is_multiple_of(every(node))
}

/// The newest snapshot after window `after` that the manifest before it vouches for.
pub async fn newest(node: &Node, after: u64) -> Result<Option<Snapshot>, Failure> {
    between(node, after, node.clock.window_of(node.head().number)).await
}

/// The newest snapshot up to window `last`.
pub async fn before(node: &Node, last: u64) -> Result<Option<Snapshot>, Failure> {
    between(node, node.settings.run.start_window, last).await
}

async fn between(node: &Node, after: u64, last: u64) -> Result<Option<Snapshot>, Failure> {
    let mut window = last - last % every(node);
    while window > after {
        if let Some(found) = at(node, window).await? {
            return Ok(Some(found));
        }
        window = window.saturating_sub(every(node));
    }
    Ok(None)
}

async fn at(node: &Node, window: u64) -> Result<Option<Snapshot>, Failure> {
    let Some(averager) = averager_of(node, window - 1).await? else { return Ok(None) };
    let Some(manifest) = node.manifest(&averager, window - 1).await? else { return Ok(None) };
    let Some((base, digest)) = read(node, &averager, window).await? else { return Ok(None) };
    let state = node.mechanism().state_shape(&node.shape);
    if manifest.body.base_after != Hex32(digest) || !base.state.has_shape(&state) {
        tracing::warn!(window, "the snapshot is not the base that the manifest before it ended with: not used");
        return Ok(None);
    }
    Ok(Some(Snapshot { window, previous: manifest.digest, base, digest }))
}

/// The base before `window` as `averager` stored it, with its digest; `None` where there is no sound one.
pub async fn read(node: &Node, averager: &Hotkey, window: u64) -> Result<Option<(Base, [u8; 32])>, Failure> {
    let key = node.key(averager, window, Kind::Base);
    let check = |found: &Object| {
        let file = artifact::decode(&found.bytes).map_err(|_| ())?;
        let ours = file.is_for(&node.agreement, averager, window, Kind::Base, file.base);
        let Content::Tensors(tensors) = file.content else { return Err(()) };
        let sound = ours && tensors.all_finite();
        let (claimed, base) = (file.base, Base::from_tensors(tensors));
        let whole = base.parameters.has_shape(&node.shape) && base.digest() == claimed;
        if sound && whole { Ok((base, claimed)) } else { Err(()) }
    };
    // The state of any mechanism: three times the parameters at most.
    match node.read(&key, 4 * artifact::max_bytes(&node.shape), check).await? {
        Some(Err(())) => {
            tracing::warn!(key, "the base in the bucket is damaged or not this run's: not used");
            Ok(None)
        }
        found => Ok(found.and_then(Result::ok)),
    }
}

/// Stores the base before `window`. One that is there already is this hotkey's own from before a restart.
pub async fn publish(node: &Node, window: u64, base: &Base, digest: [u8; 32]) -> Result<(), Failure> {
    let key = node.key(&node.hotkey, window, Kind::Base);
    if node.bucket.head(&key).await?.is_some() {
        return Ok(());
    }
    let file = artifact::encode(&node.agreement, window, Kind::Base, node.wallet.keypair(), digest, &base.to_tensors());
    node.bucket.put_new(&key, Bytes::from(file)).await?;
    tracing::info!(window, "stored a snapshot");
    Ok(())
}

/// Deletes what this hotkey published for windows that are two snapshots old, when a new snapshot is due at `window`.
/// Manifests and aggregates live until the third snapshot after them, so that whoever takes an older one gets on.
/// What belongs to the windows `kept` stays: models that are still somebody's best.
pub async fn sweep(node: &Node, window: u64, kept: &[u64]) {
    let Some(before) = window.checked_sub(2 * every(node)).filter(|b| *b > 0 && window.is_multiple_of(every(node)))
    else {
        return;
    };
    // Nothing depends on it: who may not list or delete only pays for more storage.
    if let Err(error) = delete_before(node, before, kept).await {
        tracing::debug!(%error, "old objects stay in the bucket until the next sweep");
    }
}

async fn delete_before(node: &Node, before: u64, kept: &[u64]) -> Result<(), crate::bucket::Error> {
    let folder = node.agreement.folder(&node.hotkey);
    for (key, _) in node.bucket.list(&folder, SWEEP).await? {
        let window = key.strip_prefix(&folder).and_then(|rest| rest.split_once('/')?.0.parse::<u64>().ok());
        if window.is_some_and(|w| w < before && !kept.contains(&w)) {
            node.bucket.delete(&key).await?;
        }
    }
    Ok(())
}

fn every(node: &Node) -> u64 {
    u64::from(node.settings.run.schedule.snapshot_windows).max(1)
}
