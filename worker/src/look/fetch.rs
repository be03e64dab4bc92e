//! Takes a miner's work or model out of the bucket, and believes it only if it is what was committed to.

use bistro_protocol::{
    artifact::{self, Artifact},
    check::Verdict,
    hotkey::Hotkey,
    object::Hex32,
};

use super::{Fetch, hotkey, manifests, span};
use crate::{bucket::Object, failure::Failure, files, models, node::Node};

/// Windows in which the newest accepted work is looked for.
const LOOK_BACK: u64 = 20;

/// Fetches, checks, writes; gives a line that says what it is.
pub(super) async fn fetch(node: &Node, what: &Fetch) -> Result<String, Failure> {
    let hotkey = hotkey(&what.hotkey)?;
    let found = match what.window {
        None if !node.mechanism().has_common_base() => model(node, &hotkey).await?,
        window => work(node, &hotkey, window).await?,
    };
    let Artifact { window, tensors, .. } = &found;
    let bytes = bistro_protocol::tensor_file::write(&[], tensors);
    files::write_atomic(&what.to, &bytes)?;
    let entries: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
    Ok(format!(
        "{}: the {} of {} in window {window}: {} tensors, {entries} entries, {} bytes; signed and as committed",
        what.to.display(),
        node.mechanism().kind().as_str(),
        hotkey,
        tensors.len(),
        bytes.len(),
    ))
}

async fn model(node: &Node, hotkey: &Hotkey) -> Result<Artifact, Failure> {
    let found = models::fetch(node, hotkey).await?;
    found.ok_or_else(|| Failure::Permanent(format!("{hotkey} is committed to no model that is in the bucket")))
}

/// Work that a manifest names as accepted.
async fn work(node: &Node, hotkey: &Hotkey, window: Option<u64>) -> Result<Artifact, Failure> {
    let (now, _) = span(node, LOOK_BACK);
    let windows = window.map_or(span(node, LOOK_BACK).1..=now, |window| window..=window);
    let accepted = manifests(node, windows).await?.into_iter().find_map(|(window, manifest)| {
        let entry = manifest.neurons.iter().find(|e| e.hotkey == *hotkey && e.verdict == Verdict::Accepted)?;
        Some((window, entry.artifact?, manifest.base_before))
    });
    let Some((window, digest, base)) = accepted else {
        let when = window.map_or(format!("in the last {LOOK_BACK} windows"), |window| format!("in window {window}"));
        return Err(Failure::Permanent(format!(
            "no manifest says that work of {hotkey} was accepted {when}: bistro-worker explain --hotkey {hotkey} says why"
        )));
    };
    let kind = node.mechanism().kind();
    let key = node.key(hotkey, window, kind);
    let check = |found: &Object| {
        let file = artifact::decode(&found.bytes).map_err(|_| "is unreadable")?;
        match () {
            () if *blake3::hash(&found.bytes).as_bytes() != digest.0 => Err("is not what was committed to"),
            () if !file.is_for(&node.agreement, hotkey, window, kind, base.0) => Err("is not signed for this window"),
            () => Ok(file),
        }
    };
    // Any mechanism's work has no more entries than the model.
    let found = match node.read(&key, artifact::max_bytes(&node.shape), check).await {
        Err(error) if error.is_the_authors() => Some(Err("is not what was committed to")),
        found => found?,
    };
    let gone = || Failure::Permanent(format!("{key} ({}) is not in the bucket any more", Hex32(digest.0)));
    found.ok_or_else(gone)?.map_err(|what| Failure::Permanent(format!("{key} {what}: nothing is written")))
}
