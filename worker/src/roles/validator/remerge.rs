//! The merge done again. Who follows a run downloads what was merged, not the work; a validator has the work, and need not
//! believe the averager that merged it.

use bistro_protocol::{base::Base, check::Verdict, manifest::Manifest, merge::merged, tensors::Tensors};

use super::Validator;
use crate::{collect::Collected, failure::Failure, follow::averager_of};

impl Validator {
    /// Merges again what the manifest of `window`, which was followed from the base `before` it, says was merged.
    ///
    /// Fails for good, also after a restart, where another base comes out: weights that say what work is worth must not follow
    /// a base that was not made of it. Work that this node has not, or finds at fault, proves nothing: its author
    /// may have deleted it since. That is counted and said.
    pub(super) async fn remerge(
        &mut self,
        window: u64,
        manifest: &Manifest,
        collected: &Collected,
        before: &Base,
    ) -> Result<(), Failure> {
        let node = &*self.node;
        let works = match admitted(manifest, collected) {
            Ok(works) => works,
            Err((uid, verdict)) => {
                tracing::warn!(window, uid, %verdict, "cannot merge again what was admitted");
                node.telemetry.metrics.merges.with_label_values(&["unknown"]).inc();
                return Ok(());
            }
        };
        let mixing: Vec<f32> = manifest.mixing.iter().map(|weight| weight.0).collect();
        let same = tokio::task::block_in_place(|| {
            let merged = merged(&node.settings.run.merge.rule, &works, &mixing)?;
            let mut base = before.clone();
            node.outer_step(&mut base, &collected.slice, &merged, window);
            Some(base.digest() == manifest.base_after.0)
        });
        if same == Some(true) {
            node.telemetry.metrics.merges.with_label_values(&["same"]).inc();
            return Ok(());
        }
        node.telemetry.metrics.merges.with_label_values(&["different"]).inc();
        self.memory.refused = Some(window);
        self.save()?;
        self.refuse().await
    }

    /// Fails if a merge was refused in this run.
    pub(super) async fn refuse(&self) -> Result<(), Failure> {
        let Some(window) = self.memory.refused else { return Ok(()) };
        let averager = averager_of(&self.node, window).await?.map_or("nobody".to_owned(), |hotkey| hotkey.ss58());
        Err(Failure::Permanent(format!(
            "aggregate-mismatch: the base after window {window} is not what the admitted work gives: its averager, {averager}, \
             merged something else; name another one in `averagers` and start a new run from the base before"
        )))
    }
}

/// The admitted work in uid order, or whose is missing and why.
fn admitted<'a>(manifest: &Manifest, collected: &'a Collected) -> Result<Vec<&'a Tensors>, (u16, Verdict)> {
    let work = |uid: &u16| {
        let said = manifest.neurons.iter().find(|entry| entry.uid == *uid).and_then(|entry| entry.artifact);
        let work = collected.works.iter().find(|work| work.uid == *uid).ok_or((*uid, Verdict::Unregistered))?;
        match &work.outcome {
            Ok(_) if work.artifact() != said => Err((*uid, Verdict::NotCommitted)),
            Ok(work) => Ok(work),
            Err(verdict) => Err((*uid, *verdict)),
        }
    };
    manifest.admitted.iter().map(work).collect()
}
