//! What a validator tells: verdicts at once, weights to the chain, scores once their weights can be seen there.

use bistro_protocol::{
    check::Verdict,
    manifest::Manifest,
    object::{self, Kind},
    record::{Judged, Scores, Verdicts},
};
use serde::{Deserialize, Serialize};

use super::Validator;
use crate::{collect::Collected, facts::Facts, failure::Failure, node::Published};

/// A record that waits for its weights.
#[derive(Serialize, Deserialize)]
struct Pending {
    /// The newest finalised block when the window was scored: weights set later used its averages.
    scored_at: u64,
    scores: Scores,
}

impl Validator {
    /// Publishes its own verdicts, and where the manifest says otherwise.
    pub(super) async fn publish_verdicts(
        &self,
        facts: &Facts,
        manifest: &Manifest,
        collected: &Collected,
    ) -> Result<(), Failure> {
        let node = &*self.node;
        let said = |uid: u16| {
            let entry = manifest.neurons.binary_search_by_key(&uid, |e| e.uid);
            entry.map_or(Verdict::Unregistered, |i| manifest.neurons[i].verdict)
        };
        let judged = collected.works.iter().map(|work| {
            let (own, said) = (work.verdict(), said(work.uid));
            let (disputed, behind) = ((own != said).then_some(said), work.behind(node, facts.window));
            Judged { uid: work.uid, hotkey: work.hotkey, verdict: own, disputed, behind }
        });
        let verdicts: Vec<Judged> = judged.filter(|j| j.verdict != Verdict::NoCommit || j.disputed.is_some()).collect();
        for Judged { uid, verdict, disputed, .. } in &verdicts {
            if let Some(said) = disputed {
                tracing::warn!(window = facts.window, uid, own = %verdict, manifest = %said, "disputes a verdict");
                super::super::count_verdict(node, Verdict::Disputed);
            }
        }
        self.publish(facts.window, Kind::Verdicts, "verdicts", &Verdicts { verdicts }).await
    }

    /// Keeps a window's record until the weights that used it are on the chain.
    pub(super) fn keep_record(&self, window: u64, scores: Scores) -> Result<(), Failure> {
        let pending = Pending { scored_at: self.node.head().number, scores };
        let bytes = serde_json::to_vec(&pending).expect("plain data serialises");
        self.node.state.write_of("record", window, &bytes)
    }

    /// Publishes the records whose weights, or later ones, are on the chain.
    pub(super) async fn publish_records(&self) -> Result<(), Failure> {
        let node = &*self.node;
        let windows = node.state.windows_of("record")?;
        if windows.is_empty() {
            return Ok(());
        }
        let (netuid, at) = (node.settings.netuid, node.head().hash);
        let Some(uid) = node.chain.uid(netuid, node.hotkey.0, at).await? else { return Ok(()) };
        let updated = node.chain.last_update(netuid, at).await?.get(usize::from(uid)).copied().unwrap_or(0);
        let rows = node.chain.weights(netuid, at).await?;
        let visible = rows.into_iter().find(|(u, _)| *u == uid).map(|(_, row)| row).unwrap_or_default();
        for window in windows {
            let Some(bytes) = node.state.read_of("record", window)? else { continue };
            let Ok(Pending { scored_at, mut scores }) = serde_json::from_slice(&bytes) else {
                tracing::warn!(window, "a record in the state folder is damaged: it is not published");
                node.state.forget_of("record", window);
                continue;
            };
            if updated <= scored_at {
                continue;
            }
            scores.weights_block = (sorted(scores.weights()) == sorted(visible.clone())).then_some(updated);
            self.publish(window, Kind::Scores, "scores", &scores).await?;
            node.state.forget_of("record", window);
        }
        Ok(())
    }

    /// Signs and publishes a body, once: the signed bytes are on disk first, since a second signature would look like a
    /// second signer's.
    async fn publish<T: Serialize>(&self, window: u64, kind: Kind, file: &str, body: &T) -> Result<(), Failure> {
        let node = &*self.node;
        let sealed = match node.state.read_of(file, window)? {
            Some(sealed) => sealed,
            None => {
                let sealed = object::seal(&node.agreement, window, kind, node.wallet.keypair(), body);
                node.state.write_of(file, window, &sealed)?;
                sealed
            }
        };
        if node.publish(window, kind, sealed).await? == Published::Taken {
            node.telemetry.message(node.taken(window, kind)?);
        }
        Ok(())
    }

    /// Sets weights as soon as the chain's rate limit allows, if that is before the next merge.
    pub(super) async fn set_weights(&mut self, window: u64, weights: &[(u16, u16)]) -> Result<(), Failure> {
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
}

fn sorted(mut weights: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    weights.sort_unstable();
    weights
}
