//! What a miner of compressed work carries from window to window.
//!
//! Work counts as sent where the manifest of its window admits it: then what it left behind is what the next work starts
//! with. In every other case, the work was never finished, came too late, was rejected or not admitted, nothing was sent:
//! the next work starts with what this one started with, and the progress of the window is dropped as that of miners is who
//! compress nothing. So nothing is lost or counted twice, whenever the process is killed: what a work leaves behind
//! is on disk before the work is, and the manifest says what became of it.

use bistro_protocol::{artifact, hotkey::Hotkey, manifest::Manifest, object::Hex32, tensors::Tensors};

use super::Miner;
use crate::{
    failure::Failure,
    follow::{Followed, averager_of},
    mechanism::residual::{Residual, Sent, send},
};

/// Kind of the files with what the work of a window starts with; the newest up to that window counts.
pub(super) const RESIDUAL: &str = "residual";
/// Kind of the files with what the work of a window leaves behind, until its manifest says whether it counts.
const LEFT: &str = "left";

impl Miner {
    /// The file with the work of this window, compressed; `None` where its numbers are none. What it leaves behind is on
    /// disk when this returns.
    pub(super) async fn compressed(&self, window: u64, work: Tensors) -> Result<Option<Vec<u8>>, Failure> {
        let node = &*self.node;
        let carried = self.carried(window)?;
        let (run, threads) = (node.settings.run.clone(), node.environment.threads);
        let sent = node.compute(move |_| {
            let mechanism = bistro_protocol::mechanism::of(&run);
            Ok(send(mechanism, &work, carried, threads))
        });
        let Some(sent) = sent.await? else { return Ok(None) };
        let Sent { work, left } = match sent {
            Ok(sent) => sent,
            Err(error) => {
                node.telemetry.message(format!("publishes nothing in window {window}: {error}"));
                return Ok(None);
            }
        };
        let (keypair, base) = (node.wallet.keypair(), self.follower.digest);
        let file = artifact::encode_sparse(&node.agreement, window, node.mechanism().kind(), keypair, base, &work);
        tracing::info!(window, entries = work.entries(), bytes = file.len(), "compressed");
        if let Some(tensors) = left {
            let artifact = Hex32(*blake3::hash(&file).as_bytes());
            node.state.write_of(LEFT, window, &Residual { artifact, tensors }.to_bytes())?;
        }
        Ok(Some(file))
    }

    /// What the work of `window` starts with.
    fn carried(&self, window: u64) -> Result<Option<Tensors>, Failure> {
        let node = &*self.node;
        if node.mechanism().decay() == 0.0 {
            return Ok(None);
        }
        let Some((_, bytes)) = node.state.newest_of(RESIDUAL, window)? else { return Ok(None) };
        let residual = Residual::from_bytes(&bytes).map(|residual| residual.tensors);
        if residual.is_none() {
            tracing::warn!("what was carried into this window is damaged: it is dropped");
        }
        Ok(residual)
    }

    /// Decides what becomes of all that work of windows before `window` left behind. Their manifests are `followed`, or
    /// in the bucket where the process was killed after it had followed one; what the manifest of a window says that nobody
    /// has any more is not known, and nothing counts as sent.
    pub(super) async fn settle(&self, window: u64, followed: Option<&Followed>) -> Result<(), Failure> {
        let node = &*self.node;
        for old in node.state.windows_of(LEFT)?.into_iter().filter(|old| *old < window) {
            let Some(bytes) = node.state.read_of(LEFT, old)? else { continue };
            let artifact = Residual::from_bytes(&bytes).map(|left| left.artifact);
            let counts = match followed.filter(|followed| followed.window == old) {
                Some(followed) => admits(&followed.manifest, &node.hotkey, artifact),
                None => match averager_of(node, old).await? {
                    Some(averager) => {
                        let manifest = node.manifest(&averager, old).await?;
                        manifest.is_some_and(|opened| admits(&opened.body, &node.hotkey, artifact))
                    }
                    None => false,
                },
            };
            if counts {
                node.state.write_of(RESIDUAL, old + 1, &bytes)?;
            } else {
                tracing::info!(window = old, "its work did not count: carries on what that started with");
            }
            node.state.forget_of(LEFT, old);
        }
        Ok(())
    }
}

/// Whether the work in this file of a hotkey was merged.
fn admits(manifest: &Manifest, hotkey: &Hotkey, artifact: Option<Hex32>) -> bool {
    let entry = manifest.neurons.iter().find(|entry| entry.hotkey == *hotkey);
    let admitted = entry.filter(|entry| manifest.admitted.contains(&entry.uid));
    artifact.is_some() && admitted.is_some_and(|entry| entry.artifact == artifact)
}

#[cfg(test)]
mod tests {
    use bistro_protocol::{check::Verdict, manifest::Entry};

    use super::*;

    #[test]
    fn work_counts_as_sent_where_it_is_admitted_and_the_same() {
        let (own, other) = (Hotkey([1; 32]), Hotkey([2; 32]));
        let entry = |uid, hotkey, artifact| Entry { uid, hotkey, verdict: Verdict::Accepted, artifact, behind: None };
        let (ours, theirs) = (Some(Hex32([7; 32])), Some(Hex32([8; 32])));
        let manifest = Manifest {
            neurons: vec![entry(0, own, ours), entry(1, other, theirs)],
            admitted: vec![0],
            ..Manifest::empty([0; 32], [0; 32])
        };
        assert!(admits(&manifest, &own, ours));
        assert!(!admits(&manifest, &own, theirs), "an earlier life published something else");
        assert!(!admits(&manifest, &other, theirs), "accepted, but not merged");
        assert!(!admits(&manifest, &own, None), "the file is damaged");
        assert!(!admits(&Manifest::empty([0; 32], [0; 32]), &own, ours));
    }
}
