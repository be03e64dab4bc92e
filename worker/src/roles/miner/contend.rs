//! The miner where there is no common base: it trains a model of its own from window to window, and publishes it when it has
//! become better.
//!
//! ```text
//! train -> better on held-out pages? -> commit on the chain -> final -> upload -> every window: a commit that says "this one"
//! ```
//!
//! Nothing of a model can be read before the chain shows whose it is. The commit of a window names the model that the chain
//! named when the window's commits closed; that may be one of an earlier window.

use bistro_api::status::Phase;
use bistro_protocol::{
    artifact,
    check::Commit,
    hotkey::Hotkey,
    mechanism::{Mechanism, loss_wins::Commitment},
    object::{Bits64, Kind},
    tensor_file,
    tensors::Tensors,
};
use serde::{Deserialize, Serialize};

use super::Miner;
use crate::{chain, facts::Facts, failure::Failure, models, node::Published, origin};

/// The file with what this miner has published.
const STANDING: &str = "standing.json";
/// Kind of the files with a signed model, by the window that it is published in.
const SIGNED: &str = "signed";
/// Kind of the files with the parameters that training goes on from.
pub(super) const MODEL: &str = "model";
/// Models before the current one that stay in the bucket: more than validators look at.
const FORMER: usize = 8;
/// Blocks before the commits close in which a commitment that is not final yet is given up on for this window.
const SPARE: u64 = 3;

/// What survives a restart beside the files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Standing {
    /// The last window that it trained in.
    trained: Option<u64>,
    /// Loss on the held-out pages that a model must fall below to be published.
    best: Option<Bits64>,
    /// The model that the chain shows.
    shown: Option<Signed>,
    /// A better one that the chain does not show yet.
    next: Option<Signed>,
    /// Windows of the models before it, the newest last: while they can be read, a copy of one earns nothing.
    #[serde(default)]
    former: Vec<u64>,
}

/// A signed model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Signed {
    /// The window of its key.
    window: u64,
    /// Digest and size of the file.
    commit: Commit,
    /// Whether it is in the bucket.
    uploaded: bool,
}

impl Standing {
    /// Windows whose objects are still somebody's best.
    pub(super) fn kept(&self) -> Vec<u64> {
        let own = self.shown.iter().chain(&self.next).map(|signed| signed.window);
        own.chain(self.former.iter().copied()).collect()
    }
}

impl Miner {
    /// What was published so far.
    pub(super) fn standing(&self) -> Result<Standing, Failure> {
        Ok(self.node.state.read_json(STANDING)?.unwrap_or_default())
    }

    /// One window: trains, and says which model is to be judged.
    pub(super) async fn contend(&self, facts: &Facts) -> Result<(), Failure> {
        let node = &*self.node;
        let window = facts.window;
        let mut standing = self.standing()?;
        if standing.trained.is_none_or(|trained| trained < window) {
            self.improve(facts, &mut standing).await?;
        }
        self.show_commitment(window, &mut standing).await?;
        let Some(shown) = &standing.shown else {
            if standing.next.is_none() {
                node.telemetry.message("has no model yet that is better than what it started from: publishes nothing");
            }
            node.telemetry.phase(Phase::Waiting);
            return Ok(());
        };
        let committed = self.commit(window, &shown.commit).await?;
        self.upload(window, &mut standing).await?;
        if committed {
            node.telemetry.status.update(|s| s.windows += 1);
        }
        Ok(())
    }

    /// Trains for one window, and signs the result where it is better than all before by more than the floor: whoever
    /// publishes becomes the younger one, which is worth it only then.
    async fn improve(&self, facts: &Facts, standing: &mut Standing) -> Result<(), Failure> {
        let node = &*self.node;
        let window = facts.window;
        let start = self.own_model(window).await?;
        let best = match standing.best {
            Some(best) => best.0,
            None => node.displayed_loss(start.clone()).await?,
        };
        standing.best = Some(Bits64(best));
        node.telemetry.phase(Phase::Training);
        let Some(model) = self.train(facts, start).await? else {
            node.telemetry.message(format!("could not finish training before the reveal of window {window}: goes on from its last model; use a faster machine or longer windows"));
            return Ok(());
        };
        let loss = node.displayed_loss(model.clone()).await?;
        node.state.write_of(MODEL, window + 1, &tensor_file::write(&[], &model))?;
        let Mechanism::LossWins(settings) = node.mechanism() else { return Ok(()) };
        // One that the chain may still take comes first: else it could show a model that nobody uploads.
        if standing.next.is_none() && loss < (1.0 - settings.floor.value()) * best {
            let (keypair, base) = (node.wallet.keypair(), self.follower.digest);
            let file = artifact::encode(&node.agreement, window, Kind::Model, keypair, base, &model);
            node.state.write_of(SIGNED, window, &file)?;
            standing.next = Some(Signed { window, commit: Commit::of(&file), uploaded: false });
            standing.best = Some(Bits64(loss));
        }
        standing.trained = Some(window);
        self.keep(standing)?;
        tracing::info!(window, loss, best, published = standing.next.is_some(), "has trained its model");
        Ok(())
    }

    /// Where training goes on in `window`: this miner's last model before it, or what it starts from.
    pub(super) async fn own_model(&self, window: u64) -> Result<Tensors, Failure> {
        let node = &*self.node;
        if let Some((_, bytes)) = node.state.newest_of(MODEL, window)? {
            match tensor_file::read(&bytes) {
                Ok((_, model)) if model.has_shape(&node.shape) && model.all_finite() => return Ok(model),
                _ => tracing::warn!("the saved model is damaged: starts again from where it began"),
            }
        }
        let start_from = &node.settings.start_from;
        if let Some(key) = &start_from.checkpoint {
            return origin::read_checkpoint(node, "startFrom.checkpoint", key).await;
        }
        if let Some(hotkey) = &start_from.hotkey {
            let hotkey = Hotkey::from_ss58(hotkey)
                .map_err(|error| Failure::Permanent(format!("startFrom.hotkey: {hotkey}: {error}")))?;
            let found = models::fetch(node, &hotkey).await?;
            return found.map(|model| model.parameters).ok_or_else(|| {
                Failure::Transient(format!("startFrom.hotkey: waits for a model of {}", hotkey.ss58()))
            });
        }
        if start_from.best.is_some() {
            for hotkey in models::paid(node).await? {
                if let Some(found) = models::fetch(node, &hotkey).await? {
                    tracing::info!(%hotkey, window = found.window, "starts from the best model");
                    return Ok(found.parameters);
                }
            }
            tracing::info!("the chain pays for no model yet: starts from the base");
        }
        Ok(self.follower.base.parameters.clone())
    }

    /// Sees to it that the chain shows the newest model, as far as that can be before the commits close: later its hotkey
    /// is judged by the one before.
    async fn show_commitment(&self, window: u64, standing: &mut Standing) -> Result<(), Failure> {
        let node = &*self.node;
        let Some(next) = standing.next.clone() else { return Ok(()) };
        node.telemetry.phase(Phase::Committing);
        let closes = node.clock.commits_close(window);
        let commitment = Commitment::of(&node.agreement, &node.hotkey, next.window, &next.commit.digest.0);
        let (netuid, bytes) = (node.settings.netuid, commitment.to_bytes());
        // A process that was killed after it sent it finds it there.
        let found = node.chain.commitment(netuid, node.hotkey.0, node.head().hash).await?;
        let shows = |found: Option<chain::Committed>| found.filter(|f| f.bytes == bytes).map(|f| f.block);
        if shows(found).is_none() {
            tokio::select! {
                made = node.chain.commit(&node.wallet, netuid, &bytes) => match made {
                    Ok(_) => {}
                    Err(chain::Error::Refused(refusal)) => node.telemetry.message(refusal.to_string()),
                    Err(error) => return Err(error.into()),
                },
                reached = node.reached(closes.saturating_sub(SPARE)) => {
                    reached?;
                    node.telemetry.message(format!("the commitment to the model of window {} is not final yet: is judged by the one before in window {window}", next.window));
                }
            }
        }
        // Its own block counts, whenever this node learned of it.
        let block = shows(node.chain.commitment(netuid, node.hotkey.0, node.head().hash).await?);
        if block.is_some_and(|block| block <= closes) {
            standing.former.extend(standing.shown.take().map(|shown| shown.window));
            let extra = standing.former.len().saturating_sub(FORMER);
            standing.former.drain(..extra);
            (standing.shown, standing.next) = (Some(next), None);
            self.keep(standing)?;
        }
        Ok(())
    }

    /// Uploads the model that the chain shows, once nobody can commit any more in this window.
    async fn upload(&self, window: u64, standing: &mut Standing) -> Result<(), Failure> {
        let node = &*self.node;
        self.until_uploads_open(window).await?;
        let Some(shown) = standing.shown.as_mut().filter(|shown| !shown.uploaded) else { return Ok(()) };
        let Some(file) = node.state.read_of(SIGNED, shown.window)? else {
            let line = format!("the signed model of window {} vanished from the state folder", shown.window);
            return Err(Failure::Transient(line));
        };
        node.telemetry.phase(Phase::Uploading);
        if node.publish(shown.window, Kind::Model, file).await? == Published::Taken {
            node.telemetry.message(node.taken(shown.window, Kind::Model)?);
        }
        shown.uploaded = true;
        let window = shown.window;
        self.keep(standing)?;
        node.telemetry.phase(Phase::Waiting);
        node.state.forget_before(&[SIGNED], window)?;
        tracing::info!(window, "published its model");
        Ok(())
    }

    fn keep(&self, standing: &Standing) -> Result<(), Failure> {
        self.node.state.write_json(STANDING, standing)
    }
}
