//! Transactions that wait for a block.
//!
//! One is *ready* when every tag that it requires is provided by a ready one (a nonce after the account's next
//! one requires the nonce before it). Ready ones go into blocks in the order in which they became ready, so a
//! transaction never comes before the one that it waits for.

use serde::Serialize;
use sp_core::H256;
use sp_runtime::transaction_validity::ValidTransaction;
use tokio::sync::mpsc::UnboundedSender;

/// The most transactions held at a time.
const MAX_TRANSACTIONS: usize = 8192;
/// The most bytes held at a time.
const MAX_BYTES: usize = 64 << 20;
/// The most bytes of one transaction.
pub const MAX_TRANSACTION_BYTES: usize = 1 << 20;

/// What a client that watches a transaction is told, in Substrate's words.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    Future,
    Ready,
    InBlock(H256),
    Finalized(H256),
    Usurped(H256),
    Invalid,
}

/// Where statuses of one transaction go. It ends when the sender is dropped.
pub type Watcher = UnboundedSender<Status>;

/// Why the pool does not take a valid transaction.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum PoolError {
    #[error("Transaction Already Imported")]
    AlreadyImported,
    #[error("Priority is too low: ({old} vs {new})")]
    TooLowPriority { old: u64, new: u64 },
    #[error("Immediately Dropped")]
    Full,
}

struct Waiting {
    hash: H256,
    raw: Vec<u8>,
    validity: ValidTransaction,
    /// When it became ready; `None`: something that it requires is missing.
    ready: Option<u64>,
    watchers: Vec<Watcher>,
}

impl Waiting {
    fn tell(&self, status: Status) {
        for watcher in &self.watchers {
            // A client that went away is no concern of the pool.
            let _ = watcher.send(status);
        }
    }
}

#[derive(Default)]
pub struct Pool {
    waiting: Vec<Waiting>,
    /// Counts transactions that became ready.
    sequence: u64,
    bytes: usize,
}

impl Pool {
    /// Adds a valid transaction, or lets it replace one with the same nonce and a lower priority.
    pub fn insert(
        &mut self,
        hash: H256,
        raw: Vec<u8>,
        validity: ValidTransaction,
        watcher: Option<Watcher>,
    ) -> Result<(), PoolError> {
        if self.waiting.iter().any(|other| other.hash == hash) {
            return Err(PoolError::AlreadyImported);
        }
        let same_place = self
            .waiting
            .iter()
            .position(|other| other.validity.provides.iter().any(|tag| validity.provides.contains(tag)));
        if let Some(index) = same_place {
            let old = self.waiting[index].validity.priority;
            if old >= validity.priority {
                return Err(PoolError::TooLowPriority { old, new: validity.priority });
            }
            self.remove(index).tell(Status::Usurped(hash));
        } else if self.waiting.len() >= MAX_TRANSACTIONS || self.bytes + raw.len() > MAX_BYTES {
            return Err(PoolError::Full);
        }
        self.bytes += raw.len();
        let watchers = watcher.into_iter().collect();
        self.waiting.push(Waiting { hash, raw, validity, ready: None, watchers });
        self.promote();
        if let Some(new) = self.waiting.iter().find(|new| new.hash == hash && new.ready.is_none()) {
            new.tell(Status::Future);
        }
        Ok(())
    }

    /// Hash and bytes of what can go into the next block, in order.
    pub fn ready(&self) -> Vec<(H256, Vec<u8>)> {
        let mut ready: Vec<_> = self.waiting.iter().filter(|waiting| waiting.ready.is_some()).collect();
        ready.sort_by_key(|waiting| waiting.ready);
        ready.into_iter().map(|waiting| (waiting.hash, waiting.raw.clone())).collect()
    }

    /// Hash and bytes of everything.
    pub fn all(&self) -> Vec<(H256, Vec<u8>)> {
        self.waiting.iter().map(|waiting| (waiting.hash, waiting.raw.clone())).collect()
    }

    /// Whether a waiting transaction provides this tag.
    pub fn provides(&self, tag: &[u8]) -> bool {
        self.waiting.iter().any(|waiting| waiting.validity.provides.iter().any(|provided| provided == tag))
    }

    /// Takes a transaction out because a block has it; answers its watchers, who still wait for finality.
    pub fn take_included(&mut self, hash: H256, block: H256) -> Vec<Watcher> {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.hash == hash) else {
            return Vec::new();
        };
        let included = self.remove(index);
        included.tell(Status::InBlock(block));
        included.watchers
    }

    /// Drops a transaction that can never be included.
    pub fn drop_invalid(&mut self, hash: H256) {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.hash == hash) {
            self.remove(index).tell(Status::Invalid);
        }
    }

    /// Notes what the runtime now says about a transaction. Call [`Pool::promote`] after the last.
    pub fn revalidated(&mut self, hash: H256, validity: ValidTransaction) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.hash == hash) {
            waiting.validity = validity;
        }
    }

    /// Makes ready what has become so.
    pub fn promote(&mut self) {
        loop {
            let provided: Vec<&Vec<u8>> = self
                .waiting
                .iter()
                .filter(|waiting| waiting.ready.is_some())
                .flat_map(|waiting| &waiting.validity.provides)
                .collect();
            let next = self.waiting.iter().position(|waiting| {
                waiting.ready.is_none() && waiting.validity.requires.iter().all(|tag| provided.contains(&tag))
            });
            let Some(index) = next else { return };
            self.waiting[index].ready = Some(self.sequence);
            self.sequence += 1;
            self.waiting[index].tell(Status::Ready);
        }
    }

    fn remove(&mut self, index: usize) -> Waiting {
        let removed = self.waiting.remove(index);
        self.bytes -= removed.raw.len();
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    fn nonce(account: u8, nonce: u8, priority: u64) -> ValidTransaction {
        let requires = if nonce == 0 { vec![] } else { vec![vec![account, nonce - 1]] };
        ValidTransaction { priority, requires, provides: vec![vec![account, nonce]], ..Default::default() }
    }

    fn hash(byte: u8) -> H256 {
        H256::repeat_byte(byte)
    }

    #[test]
    fn a_transaction_never_comes_before_the_one_it_waits_for() {
        let mut pool = Pool::default();
        pool.insert(hash(2), vec![2], nonce(1, 1, 0), None).expect("taken");
        assert!(pool.ready().is_empty());
        pool.insert(hash(1), vec![1], nonce(1, 0, 0), None).expect("taken");
        assert_eq!(pool.ready(), [(hash(1), vec![1]), (hash(2), vec![2])]);
    }

    #[test]
    fn only_a_higher_priority_replaces_the_same_nonce() {
        let mut pool = Pool::default();
        let (sender, mut statuses) = unbounded_channel();
        pool.insert(hash(1), vec![1], nonce(1, 0, 5), Some(sender)).expect("taken");
        assert_eq!(pool.insert(hash(1), vec![1], nonce(1, 0, 5), None), Err(PoolError::AlreadyImported));
        let too_low = Err(PoolError::TooLowPriority { old: 5, new: 5 });
        assert_eq!(pool.insert(hash(2), vec![2], nonce(1, 0, 5), None), too_low);
        pool.insert(hash(3), vec![3], nonce(1, 0, 6), None).expect("taken");
        assert_eq!(pool.ready(), [(hash(3), vec![3])]);
        assert_eq!(statuses.try_recv(), Ok(Status::Ready));
        assert_eq!(statuses.try_recv(), Ok(Status::Usurped(hash(3))));
    }

    #[test]
    fn the_pool_is_bounded_in_number_and_bytes() {
        let mut pool = Pool::default();
        pool.insert(hash(1), vec![0; MAX_BYTES], nonce(1, 0, 0), None).expect("taken");
        assert_eq!(pool.insert(hash(2), vec![0], nonce(2, 0, 0), None), Err(PoolError::Full));
        pool.drop_invalid(hash(1));
        for index in 0..MAX_TRANSACTIONS {
            let validity = ValidTransaction { requires: vec![vec![]], ..Default::default() };
            pool.insert(H256::from_low_u64_be(index as u64), vec![], validity, None).expect("taken");
        }
        assert_eq!(pool.insert(H256::repeat_byte(9), vec![], nonce(2, 0, 0), None), Err(PoolError::Full));
    }
}
