//! What the chain says about a window, read once at the hash of its first block and kept on disk: ordinary
//! nodes of the chain forget state after 256 blocks.

use bistro_protocol::{hotkey::Hotkey, object::Hex32};
use serde::{Deserialize, Serialize};

use crate::{chain, failure::Failure, node::Node};

/// Facts of one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The window.
    pub window: u64,
    /// Hash of its first block.
    pub start: Hex32,
    /// Who is registered at that block, by uid.
    pub neurons: Vec<(u16, Hotkey)>,
}

impl Facts {
    /// The uid of `hotkey` in this window.
    pub fn uid_of(&self, hotkey: &Hotkey) -> Option<u16> {
        self.neurons.iter().find(|(_, h)| h == hotkey).map(|(uid, _)| *uid)
    }
}

impl Node {
    /// The facts of `window`, from disk or from the chain; waits until its first block is final.
    /// `None`: the chain forgot that state before it was read.
    pub async fn facts(&self, window: u64) -> Result<Option<Facts>, Failure> {
        let name = format!("facts-{window:08}.json");
        if let Some(facts) = self.state.read_json::<Facts>(&name)?.filter(|f| f.window == window) {
            return Ok(Some(facts));
        }
        let start = self.block_hash(self.clock.start(window)).await?;
        let neurons = match self.chain.neurons(self.settings.netuid, start).await {
            Err(chain::Error::StatePruned { .. }) => return Ok(None),
            other => other?,
        };
        let mut neurons: Vec<_> = neurons.into_iter().map(|n| (n.uid, Hotkey(n.hotkey))).collect();
        neurons.sort_unstable_by_key(|(uid, _)| *uid);
        let facts = Facts { window, start: Hex32(start), neurons };
        self.state.write_json(&name, &facts)?;
        Ok(Some(facts))
    }
}
