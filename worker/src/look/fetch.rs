//! Takes a miner's work or model out of the bucket, and believes it only if it is what was committed to.

use bistro_protocol::{
    artifact::{self, Content, Form},
    check::Verdict,
    hotkey::Hotkey,
    object::Hex32,
    tensors::Tensors,
};

use super::{Fetch, hotkey, manifests, span};
use crate::{bucket::Object, failure::Failure, files, models, node::Node};

/// Windows in which the newest accepted work is looked for.
const LOOK_BACK: u64 = 20;

/// Fetches, checks, writes; gives a line that says what it is.
pub(super) async fn fetch(node: &Node, what: &Fetch) -> Result<String, Failure> {
    let hotkey = hotkey(&what.hotkey)?;
    let (window, tensors) = match what.window {
        None if !node.mechanism().has_common_base() => model(node, &hotkey).await?,
        window => work(node, &hotkey, window).await?,
    };
    let bytes = bistro_protocol::tensor_file::write(&[], &tensors);
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

async fn model(node: &Node, hotkey: &Hotkey) -> Result<(u64, Tensors), Failure> {
    let found = models::fetch(node, hotkey).await?.map(|model| (model.window, model.parameters));
    found.ok_or_else(|| Failure::Permanent(format!("{hotkey} is committed to no model that is in the bucket")))
}

/// Work that a manifest names as accepted; where it is compressed, zero at every place that was not sent.
async fn work(node: &Node, hotkey: &Hotkey, window: Option<u64>) -> Result<(u64, Tensors), Failure> {
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
    let form = node.mechanism().form();
    let check = |found: &Object| {
        let file = artifact::decode(&found.bytes).map_err(|_| "is unreadable")?;
        match () {
            () if *blake3::hash(&found.bytes).as_bytes() != digest.0 => Err("is not what was committed to"),
            () if !file.is_for(&node.agreement, hotkey, window, kind, base.0) => Err("is not signed for this window"),
            () => Ok(file.content),
        }
    };
    // Any mechanism's work has no more entries than the model.
    let found = match node.read(&key, form.max_bytes(&node.shape), check).await {
        Err(error) if error.is_the_authors() => Some(Err("is not what was committed to")),
        found => found?,
    };
    let gone = || Failure::Permanent(format!("{key} ({}) is not in the bucket any more", Hex32(digest.0)));
    let content = found.ok_or_else(gone)?;
    let work = content.and_then(|content| match content {
        Content::Tensors(tensors) if form == Form::Dense => Ok(tensors),
        other => form.read(other, &node.shape).ok_or("is not written as the run says"),
    });
    Ok((window, work.map_err(|what| Failure::Permanent(format!("{key} {what}: nothing is written")))?))
}
