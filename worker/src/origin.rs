//! The first base of a run: drawn from a seed, inherited from an earlier run, or read from a checkpoint.

use bistro_protocol::{
    base::Base,
    hotkey::Hotkey,
    manifest::{MAX_MANIFEST, Manifest},
    object::{self, Agreement, Hex32, Kind},
    tensors::Tensors,
};

use crate::{failure::Failure, follow::averager_of, interop::Gathered, node::Node, snapshot};

/// Windows before the start of a run in which the last manifest of the earlier one is looked for.
const LOOK_BACK: u64 = 200;

/// The base before the run's first window.
pub async fn first_base(node: &Node) -> Result<Base, Failure> {
    let bistro_api::run::From { seed, run, checkpoint } = &node.settings.run.from;
    let parameters = match (seed, run, checkpoint) {
        (Some(seed), ..) => {
            let seed = *seed;
            node.compute(move |engine| engine.initial(seed)).await?
        }
        (None, Some(run), _) => inherited(node, *run).await?,
        (None, None, Some(key)) => read_checkpoint(node, "run.from.checkpoint", key).await?,
        (None, None, None) => {
            return Err(Failure::Permanent("run.from: name one of seed, run, checkpoint".into()));
        }
    };
    // What a mechanism keeps beside the parameters starts anew with every run.
    Ok(node.mechanism().first_base(parameters))
}

/// The parameters that an earlier run ended with: that of its last manifest before this run starts.
///
/// Its averager has it on disk and stores it as the first snapshot of this run; everybody else takes it from there.
/// All compare its digest with the old manifest, so a run cannot be continued from anything else.
async fn inherited(node: &Node, run: u32) -> Result<Tensors, Failure> {
    let start = node.settings.run.start_window;
    let averager = averager_of(node, start).await?;
    let last = last_manifest(node, run, start).await?;
    let wanted = last.base_after.0;
    let saved = node.state.newest_base_of_run(run)?.map(|saved| saved.base).filter(|base| base.digest() == wanted);
    let base = match (saved, averager) {
        (Some(base), _) => base,
        (None, Some(averager)) => match snapshot::read(node, &averager, start).await? {
            Some((base, digest)) if digest == wanted => base,
            Some(_) => {
                return Err(Failure::Permanent(format!(
                    "digest-mismatch: the first base of run {} is not the last one of run {run}; stopping rather than following another model",
                    node.settings.run.id
                )));
            }
            None if averager == node.hotkey => {
                return Err(Failure::Permanent(format!(
                    "the last base of run {run} ({}) is not in this averager's state: put its folder run-{run} back, or start from one of its snapshots (run.from.checkpoint)",
                    hex::encode(wanted)
                )));
            }
            None => {
                let line = format!("waits for the averager to store the last base of run {run}");
                return Err(Failure::Transient(line));
            }
        },
        (None, None) => return Err(Failure::Transient("the subnet has no averager yet".into())),
    };
    fits(node, &base.parameters, &format!("the last base of run {run}"))?;
    if averager == Some(node.hotkey) {
        snapshot::publish(node, start, &base, wanted).await?;
    }
    Ok(base.parameters)
}

/// The newest manifest of another run before window `start`.
async fn last_manifest(node: &Node, run: u32, start: u64) -> Result<Manifest, Failure> {
    for window in (start.saturating_sub(LOOK_BACK)..start).rev() {
        let Some(averager) = averager_of(node, window).await? else { continue };
        if let Some(manifest) = manifest_of(node, run, &averager, window).await? {
            return Ok(manifest);
        }
    }
    Err(Failure::Permanent(format!(
        "run {run} has no manifest in the {LOOK_BACK} windows before window {start}: set run.startWindow close behind its last window, or start from a checkpoint"
    )))
}

/// A manifest of another run; its digest is taken from the manifest itself, since those settings are not here.
async fn manifest_of(node: &Node, run: u32, averager: &Hotkey, window: u64) -> Result<Option<Manifest>, Failure> {
    let agreement = Agreement { run, ..node.agreement.clone() };
    let found = node.bucket.get(&agreement.key(averager, window, Kind::Manifest), MAX_MANIFEST).await?;
    let Some(found) = found else { return Ok(None) };
    let Some(run_digest) = object::claimed_run_digest(&found.bytes) else { return Ok(None) };
    let agreement = Agreement { run_digest, ..agreement };
    let opened = object::open::<Manifest>(&agreement, averager, window, Kind::Manifest, &found.bytes);
    Ok(opened.ok().map(|opened| opened.body))
}

/// Parameters by their key, which `field` names: one of our own snapshots or models, or any safetensors file that has this
/// model's, as `import` reads them.
pub async fn read_checkpoint(node: &Node, field: &str, key: &str) -> Result<Tensors, Failure> {
    let gathered = Gathered::new(node.shape.clone());
    let found = node.bucket.get(key, gathered.most_bytes()).await.map_err(Failure::from)?;
    let found = found.ok_or_else(|| Failure::Transient(format!("{field}: {key} is not in the bucket")))?;
    let parameters = checkpoint(gathered, field, key, &found.bytes)?;
    tracing::info!(key, digest = %Hex32(parameters.digest()), "starts from a checkpoint");
    Ok(parameters)
}

fn checkpoint(mut gathered: Gathered, field: &str, key: &str, bytes: &[u8]) -> Result<Tensors, Failure> {
    let parameters = gathered.take(key, bytes).and_then(|()| gathered.finish(key));
    parameters.map_err(|error| Failure::permanent(error).context(field))
}

fn fits(node: &Node, base: &Tensors, what: &str) -> Result<(), Failure> {
    if base.has_shape(&node.shape) && base.all_finite() {
        return Ok(());
    }
    Err(Failure::Permanent(format!("{what} does not fit run.model: names, shapes or values differ")))
}

#[cfg(test)]
mod tests {
    use bistro_protocol::{tensor_file, tensors::Tensor};

    use super::*;

    fn read(bytes: &[u8]) -> Result<Tensors, String> {
        let gathered = Gathered::new(vec![("model.norm.weight".into(), vec![2])]);
        checkpoint(gathered, "run.from.checkpoint", "models/w", bytes).map_err(|failure| match failure {
            Failure::Permanent(line) => line,
            other => format!("{other:?}"),
        })
    }

    fn file(tensors: &[(&str, usize)]) -> Vec<u8> {
        let tensor = |(name, n): &(&str, usize)| Tensor { name: (*name).into(), shape: vec![*n], data: vec![1.5; *n] };
        tensor_file::write(&[], &Tensors::new(tensors.iter().map(tensor).collect()).expect("names differ"))
    }

    #[test]
    fn a_checkpoint_is_a_snapshot_or_anybody_s_file_of_the_model() {
        let snapshot = read(&file(&[("model.norm.weight", 2), ("outer.m.model.norm.weight", 2)])).expect("a snapshot");
        assert_eq!(
            snapshot.iter().map(|t| (&*t.name, &*t.data)).collect::<Vec<_>>(),
            [("model.norm.weight", &[1.5; 2][..])]
        );
        let header = r#"{"norm.weight":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;
        let halves = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0xc0, 0x3f, 0xc0, 0x3f]].concat();
        assert_eq!(read(&halves).as_ref(), Ok(&snapshot));
    }

    #[test]
    fn what_does_not_fit_is_named_with_field_and_file() {
        for (bytes, says) in [
            (file(&[("w", 2)]), "tensor \"w\" is none of the model's"),
            (file(&[("model.norm.weight", 3)]), "tensor \"model.norm.weight\" has the shape [3], the model's has [2]"),
            (file(&[]), "no tensor \"model.norm.weight\""),
            (vec![0xff; 64], "is no safetensors file"),
        ] {
            let line = read(&bytes).expect_err(says);
            assert!(
                line.starts_with(&format!("run.from.checkpoint: models/w: {says}")) && line.lines().count() == 1,
                "{line}"
            );
        }
    }
}
