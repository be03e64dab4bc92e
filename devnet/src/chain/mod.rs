//! The chain: blocks, states, the pool, and the thread that makes a block at every tick.
//!
//! One thread builds blocks; everybody else reads. The lock is held to look things up and to add a finished
//! block, never while the runtime runs.

pub mod execute;
pub mod genesis;
pub mod pool;
mod producer;
mod store;
#[cfg(test)]
mod tests;

use crate::{
    Options,
    runtime::{Header, Runtime, subtensor},
};
use codec::Encode;
use execute::Refusal;
use pool::{Pool, PoolError, Status, Watcher};
pub use producer::Producer;
use sp_core::{H256, storage::Storage};
use sp_io::hashing::blake2_256;
use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use store::Store;
use tokio::sync::watch;

/// The number of blocks whose state can be read; older states are discarded, as by an ordinary node.
pub const STATES_KEPT: usize = store::SEGMENT as usize;

/// Why the chain cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to build the genesis state: {0}")]
    Genesis(String),
    #[error("failed to read random bytes for the genesis")]
    Salt(#[source] std::io::Error),
    #[error("failed to use {path}")]
    Store {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to read {path}: it is no file of this version of bistro-devnet; name another --data folder")]
    OtherFormat { path: PathBuf },
    #[error("failed to read {path}: it is damaged; delete the folder to begin a new chain")]
    Damaged { path: PathBuf },
    #[error("failed to start the thread that makes blocks")]
    Thread(#[source] std::io::Error),
}

/// Why a transaction is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Why a state cannot be read.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum StateError {
    #[error("Header was not found in the database: {0:?}")]
    UnknownBlock(H256),
    #[error("State already discarded for {0:?}")]
    Discarded(H256),
}

/// The numbers of the newest block and of the newest final one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub best: u32,
    pub finalized: u32,
}

/// A header with its hash and the encoded extrinsics.
#[derive(Clone, Debug)]
pub struct Block {
    pub hash: H256,
    pub header: Header,
    pub body: Vec<Vec<u8>>,
}

/// A block whose state is still known.
#[derive(Clone)]
struct Recent {
    header: Header,
    state: Arc<Storage>,
}

struct Inner {
    store: Store,
    /// The hash of block n.
    hashes: Vec<H256>,
    numbers: HashMap<H256, u32>,
    /// The newest blocks; the last is the best. Never empty.
    recent: VecDeque<Recent>,
    pool: Pool,
    /// Watchers of transactions in blocks that are not final yet.
    unfinished: VecDeque<(u32, H256, Vec<Watcher>)>,
}

/// A chain that can be read by any number of threads.
pub struct Chain {
    inner: Mutex<Inner>,
    heads: watch::Sender<Heads>,
    finality_lag: u32,
    genesis: H256,
}

impl Chain {
    /// Continues the chain in the data folder, or begins one there.
    pub fn open(options: &Options) -> Result<Chain, Error> {
        let folder = options.data.join("chain");
        std::fs::create_dir_all(&folder).map_err(|source| Error::Store { path: folder.clone(), source })?;
        let (store, headers, states) = match Store::load(&folder)? {
            Some((store, loaded)) => (store, loaded.headers, loaded.states),
            None => {
                let state = genesis::state(options)?;
                let header = genesis::header(&state)?;
                let store = Store::create(&folder, &header, &state)?;
                (store, vec![header], vec![(0, Arc::new(state))])
            }
        };
        let hashes: Vec<H256> = headers.iter().map(Header::hash).collect();
        let numbers = hashes.iter().zip(0..).map(|(hash, number)| (*hash, number)).collect();
        let recent = |(number, state): (u32, Arc<Storage>)| {
            headers.get(number as usize).map(|header| Recent { header: header.clone(), state })
        };
        let recent: VecDeque<Recent> = states.into_iter().filter_map(recent).collect();
        let damaged = || Error::Damaged { path: folder.clone() };
        let best = recent.back().ok_or_else(damaged)?.header.number;
        let genesis = *hashes.first().ok_or_else(damaged)?;
        tracing::info!(height = best, genesis = ?genesis, "chain open");
        if let Some(newest) = recent.back() {
            warn_of_other_settings(&newest.state, options);
        }
        let inner = Inner { store, hashes, numbers, recent, pool: Pool::default(), unfinished: VecDeque::new() };
        let finality_lag = options.finality_lag;
        let heads = Heads { best, finalized: best.saturating_sub(finality_lag) };
        Ok(Chain { inner: Mutex::new(inner), heads: watch::channel(heads).0, finality_lag, genesis })
    }

    /// The hash of block 0.
    pub fn genesis(&self) -> H256 {
        self.genesis
    }

    /// Follows the heads. A receiver sees the newest only: whoever needs every block fetches those between.
    pub fn heads(&self) -> watch::Receiver<Heads> {
        self.heads.subscribe()
    }

    pub fn best(&self) -> u32 {
        self.heads.borrow().best
    }

    pub fn finalized(&self) -> u32 {
        self.heads.borrow().finalized
    }

    /// The hash of block `number`, if there is one.
    pub fn hash(&self, number: u32) -> Option<H256> {
        self.lock().hashes.get(number as usize).copied()
    }

    /// The number of the block with this hash, if there is one.
    pub fn number(&self, hash: H256) -> Option<u32> {
        self.lock().numbers.get(&hash).copied()
    }

    /// The header of block `number`, if there is one.
    pub fn header(&self, number: u32) -> Result<Option<Header>, Error> {
        let inner = self.lock();
        let oldest = inner.recent.front().map_or(0, |recent| recent.header.number);
        let recent = number.checked_sub(oldest).and_then(|index| inner.recent.get(index as usize));
        match recent {
            Some(recent) => Ok(Some(recent.header.clone())),
            None => Ok(inner.store.block(number)?.map(|(header, _)| header)),
        }
    }

    /// Block `number`, if there is one.
    pub fn block(&self, number: u32) -> Result<Option<Block>, Error> {
        let inner = self.lock();
        let Some(hash) = inner.hashes.get(number as usize).copied() else {
            return Ok(None);
        };
        Ok(inner.store.block(number)?.map(|(header, body)| Block { hash, header, body }))
    }

    /// The state after a block; of the best one if no hash is given. Answers the block's hash too.
    pub fn state(&self, hash: Option<H256>) -> Result<(H256, Arc<Storage>), StateError> {
        let inner = self.lock();
        let Some(hash) = hash else {
            return Ok(inner.best());
        };
        let number = *inner.numbers.get(&hash).ok_or(StateError::UnknownBlock(hash))?;
        let oldest = inner.recent.front().map_or(0, |recent| recent.header.number);
        let recent = number.checked_sub(oldest).and_then(|index| inner.recent.get(index as usize));
        recent.map(|recent| (hash, recent.state.clone())).ok_or(StateError::Discarded(hash))
    }

    /// Takes a transaction into the pool and answers its hash. The watcher hears what becomes of it.
    pub fn submit(&self, raw: Vec<u8>, watcher: Option<Watcher>) -> Result<H256, SubmitError> {
        if raw.len() > pool::MAX_TRANSACTION_BYTES {
            return Err(Refusal::Malformed.into());
        }
        let (best, state) = self.lock().best();
        // If a block comes between these two lines, the next revalidation finds out.
        let validity = execute::validate(&state, best, &raw)?;
        let hash = H256(blake2_256(&raw));
        self.lock().pool.insert(hash, raw, validity, watcher)?;
        Ok(hash)
    }

    /// The encoded transactions that wait.
    pub fn pending(&self) -> Vec<Vec<u8>> {
        self.lock().pool.all().into_iter().map(|(_, raw)| raw).collect()
    }

    /// The nonce after `first` and after all that wait for this account. A transaction provides (account, nonce).
    pub fn next_nonce(&self, account: &impl Encode, first: u32) -> u32 {
        let inner = self.lock();
        let mut nonce = first;
        while inner.pool.provides(&(account, nonce).encode()) {
            nonce = nonce.saturating_add(1);
        }
        nonce
    }

    /// Builds one block on the best one at `now` (milliseconds since 1970). Only the producer calls this.
    fn produce(&self, now: u64) -> Result<(), Error> {
        let (parent, parent_state, offered) = {
            let inner = self.lock();
            let (parent, state) = inner.best();
            (parent, state, inner.pool.ready())
        };
        let number = self.best() + 1;
        let built = execute::build(parent, number, (*parent_state).clone(), now, &offered);
        let hash = built.header.hash();
        let state = Arc::new(built.state);
        let waiting = {
            let mut inner = self.lock();
            inner.store.append(&built.header, &built.body, &parent_state, &state)?;
            inner.hashes.push(hash);
            inner.numbers.insert(hash, number);
            inner.recent.push_back(Recent { header: built.header, state: state.clone() });
            if inner.recent.len() > STATES_KEPT {
                inner.recent.pop_front();
            }
            for transaction in built.included {
                let watchers = inner.pool.take_included(transaction, hash);
                inner.unfinished.push_back((number, hash, watchers));
            }
            for transaction in built.rejected {
                inner.pool.drop_invalid(transaction);
            }
            inner.pool.all()
        };
        self.revalidate(&waiting, hash, &state);
        let heads = Heads { best: number, finalized: number.saturating_sub(self.finality_lag) };
        self.heads.send_replace(heads);
        self.lock().tell_finalized(heads.finalized);
        Ok(())
    }

    /// Nonces, mortality and guards may have changed with the block.
    fn revalidate(&self, waiting: &[(H256, Vec<u8>)], best: H256, state: &Storage) {
        if waiting.is_empty() {
            return;
        }
        let raws: Vec<&Vec<u8>> = waiting.iter().map(|(_, raw)| raw).collect();
        let results = execute::validate_all(state, best, &raws);
        let mut inner = self.lock();
        for ((hash, _), result) in waiting.iter().zip(results) {
            match result {
                Ok(validity) => inner.pool.revalidated(*hash, validity),
                Err(_) => inner.pool.drop_invalid(*hash),
            }
        }
        inner.pool.promote();
    }

    /// A panic under this lock ends the process anyway (the producer) or has changed nothing (a reader).
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings of a subnet are part of its chain: flags cannot change them later.
fn warn_of_other_settings(state: &Storage, options: &Options) {
    let (tempo, rate_limit) = execute::on_copy(state, || {
        let netuid = genesis::NETUID;
        (subtensor::Tempo::<Runtime>::get(netuid), subtensor::WeightsSetRateLimit::<Runtime>::get(netuid))
    });
    if tempo != options.tempo() || rate_limit != options.weights_rate_limit() {
        tracing::warn!(tempo, rate_limit, "this chain was begun with other settings and keeps them");
    }
}

impl Inner {
    fn best(&self) -> (H256, Arc<Storage>) {
        let best = self.recent.back().expect("a chain has at least its genesis");
        (best.header.hash(), best.state.clone())
    }

    fn tell_finalized(&mut self, finalized: u32) {
        while let Some((_, hash, watchers)) = self.unfinished.pop_front_if(|(number, ..)| *number <= finalized) {
            for watcher in watchers {
                // A client that went away is no concern of the chain.
                let _ = watcher.send(Status::Finalized(hash));
            }
        }
    }
}
