//! What the chain says about a window, read once at the hash of its first block and kept on disk: ordinary
//! nodes of the chain forget state after 256 blocks.

use std::collections::BTreeMap;

use bistro_protocol::{hotkey::Hotkey, mechanism::loss_wins::Commitment, object::Hex32};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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

/// Who is paid, and who came when: what admission depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Economy {
    /// Hash of the window's first block.
    start: Hex32,
    /// Blocks from one epoch of the chain to the next.
    pub tempo: u64,
    /// Incentive by uid, of 65535.
    incentive: Vec<u16>,
    /// Block of registration by uid.
    registered: BTreeMap<u16, u64>,
}

/// When the phases of a window ended, by the chain's clock in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// Hash of the block that closes the uploads.
    block: Hex32,
    /// Of commits.
    pub commits_close_ms: u64,
    /// Of artifacts.
    pub uploads_close_ms: u64,
}

/// Who is committed to which model, and since which block.
pub type Models = BTreeMap<Hotkey, (Commitment, u64)>;

/// The same on disk.
#[derive(Serialize, Deserialize)]
struct Committed {
    /// Hash of the block as of which it was read.
    block: Hex32,
    rows: Vec<(Hotkey, u64, Vec<u8>)>,
}

impl Facts {
    /// The uid of `hotkey` in this window.
    pub fn uid_of(&self, hotkey: &Hotkey) -> Option<u16> {
        self.neurons.iter().find(|(_, h)| h == hotkey).map(|(uid, _)| *uid)
    }

    /// The hotkey of `uid` in this window.
    pub fn hotkey_of(&self, uid: u16) -> Option<Hotkey> {
        self.neurons.binary_search_by_key(&uid, |(u, _)| *u).ok().map(|i| self.neurons[i].1)
    }
}

impl Economy {
    /// Incentive of a uid, of 65535.
    pub fn incentive(&self, uid: u16) -> u16 {
        self.incentive.get(usize::from(uid)).copied().unwrap_or(0)
    }

    /// The block in which a uid was registered; 0 where the chain does not say.
    pub fn registered(&self, uid: u16) -> u64 {
        self.registered.get(&uid).copied().unwrap_or(0)
    }
}

impl Node {
    /// The facts of `window`, from disk or from the chain; waits until its first block is final.
    /// `None`: the chain forgot that state before it was read.
    pub async fn facts(&self, window: u64) -> Result<Option<Facts>, Failure> {
        if let Some(facts) = self.noted::<Facts>("facts", window)?.filter(|f| f.window == window) {
            return Ok(Some(facts));
        }
        let start = self.block_hash(self.clock.start(window)).await?;
        let Some(neurons) = unless_forgotten(self.chain.neurons(self.settings.netuid, start).await)? else {
            return Ok(None);
        };
        let mut neurons: Vec<_> = neurons.into_iter().map(|n| (n.uid, Hotkey(n.hotkey))).collect();
        neurons.sort_unstable_by_key(|(uid, _)| *uid);
        let facts = Facts { window, start: Hex32(start), neurons };
        self.state.write_json(&file("facts", window), &facts)?;
        Ok(Some(facts))
    }

    /// Who is paid and who came when, as of the first block of `window`, like [`Node::facts`].
    pub async fn economy(&self, window: u64) -> Result<Option<Economy>, Failure> {
        let start = self.block_hash(self.clock.start(window)).await?;
        if let Some(economy) = self.noted::<Economy>("economy", window)?.filter(|e| e.start.0 == start) {
            return Ok(Some(economy));
        }
        let (chain, netuid) = (&self.chain, self.settings.netuid);
        let read = async {
            Ok(Economy {
                start: Hex32(start),
                tempo: chain.tempo(netuid, start).await?.into(),
                incentive: chain.incentive(netuid, start).await?,
                registered: chain.blocks_at_registration(netuid, start).await?.into_iter().collect(),
            })
        };
        let Some(economy) = unless_forgotten(read.await)? else { return Ok(None) };
        self.state.write_json(&file("economy", window), &economy)?;
        Ok(Some(economy))
    }

    /// The deadlines of `window`, like [`Node::facts`]; waits until its uploads are closed.
    pub async fn deadlines(&self, window: u64) -> Result<Option<Deadlines>, Failure> {
        let [commits, uploads] = [self.clock.commits_close(window), self.clock.uploads_close(window)];
        let block = self.block_hash(uploads).await?;
        if let Some(deadlines) = self.noted::<Deadlines>("deadlines", window)?.filter(|d| d.block.0 == block) {
            return Ok(Some(deadlines));
        }
        let read = async {
            Ok(Deadlines {
                block: Hex32(block),
                commits_close_ms: self.chain.block(commits).await?.timestamp_ms,
                uploads_close_ms: self.chain.block(uploads).await?.timestamp_ms,
            })
        };
        let Some(deadlines) = unless_forgotten(read.await)? else { return Ok(None) };
        self.state.write_json(&file("deadlines", window), &deadlines)?;
        Ok(Some(deadlines))
    }

    /// Who was committed to which model when the commits of `window` closed, like [`Node::facts`]: one commitment each.
    pub async fn models(&self, window: u64) -> Result<Option<Models>, Failure> {
        let block = self.block_hash(self.clock.commits_close(window)).await?;
        let noted = self.noted::<Committed>("models", window)?.filter(|m| m.block.0 == block);
        let committed = match noted {
            Some(committed) => committed,
            None => {
                let read = self.chain.commitments(self.settings.netuid, block).await;
                let Some(rows) = unless_forgotten(read)? else { return Ok(None) };
                let rows = rows.into_iter().map(|row| (Hotkey(row.hotkey), row.block, row.bytes)).collect();
                let committed = Committed { block: Hex32(block), rows };
                self.state.write_json(&file("models", window), &committed)?;
                committed
            }
        };
        let models = committed.rows.into_iter().filter_map(|(hotkey, since, bytes)| {
            let commitment = Commitment::from_bytes(&bytes)?;
            (commitment.run == self.agreement.run).then_some((hotkey, (commitment, since)))
        });
        Ok(Some(models.collect()))
    }

    fn noted<T: DeserializeOwned>(&self, kind: &str, window: u64) -> Result<Option<T>, Failure> {
        self.state.read_json(&file(kind, window))
    }
}

fn file(kind: &str, window: u64) -> String {
    format!("{kind}-{window:08}.json")
}

fn unless_forgotten<T>(read: Result<T, chain::Error>) -> Result<Option<T>, Failure> {
    match read {
        Err(chain::Error::StatePruned { .. }) => Ok(None),
        other => Ok(Some(other?)),
    }
}
