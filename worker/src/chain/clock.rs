//! Finalised heads: the clock of the whole system.
//!
//! A task follows the subscription and publishes every finalised head in order. The stream is only a wake-up call: what is
//! published is asked for by number, so a lost notification, a new connection or another endpoint leaves no gap. Only
//! after a long absence are heads left out, oldest first, because their state may be gone and nobody waits for them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use subxt::rpcs::client::{RpcClient, rpc_params};
use tokio::sync::watch;

use super::{Error, transport::Transport};
use crate::retry::jittered;

/// A stream without a new head for this long is given up. Main net has 12 s blocks and final ones every few blocks.
const SILENCE: Duration = Duration::from_secs(60);

/// Longest row of heads that is published one by one after an absence.
const ROW: u64 = 64;

/// Heads that are remembered.
const REMEMBERED: usize = 512;

/// `Timestamp.Now`: the hashes of both words.
const NOW: &str = "0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb";

/// A finalised block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Its time: Unix time in milliseconds.
    pub timestamp_ms: u64,
}

/// What the following task and the readers share.
pub(super) struct Clock {
    sender: watch::Sender<Head>,
    recent: Mutex<BTreeMap<u64, Head>>,
}

impl Clock {
    pub fn new(first: Head) -> Self {
        Self { sender: watch::Sender::new(first), recent: Mutex::new(BTreeMap::from([(first.number, first)])) }
    }

    pub fn heads(&self) -> watch::Receiver<Head> {
        self.sender.subscribe()
    }

    /// A remembered finalised block.
    pub fn recent(&self, number: u64) -> Option<Head> {
        self.lock().get(&number).copied()
    }

    fn publish(&self, head: Head) {
        let mut recent = self.lock();
        recent.insert(head.number, head);
        while recent.len() > REMEMBERED {
            recent.pop_first();
        }
        drop(recent);
        self.sender.send_replace(head);
    }

    fn last(&self) -> u64 {
        self.sender.borrow().number
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Head>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows until the surrounding task is ended. Faults are noted by the transport; here they only cost a pause.
    pub async fn follow(&self, transport: &Transport, rpc: &RpcClient, mut seen: impl FnMut(&Head)) {
        let mut pause = Duration::from_millis(100);
        loop {
            let before = self.last();
            match self.session(rpc, &mut seen).await {
                Ended::Silent => {
                    tracing::warn!("no finalised block for {} s: trying the next chain endpoint", SILENCE.as_secs());
                    transport.give_up(true).await;
                }
                Ended::Broken(reason) => tracing::debug!("the stream of finalised blocks ended: {reason}"),
            }
            pause =
                if self.last() > before { Duration::from_millis(100) } else { (pause * 2).min(Duration::from_secs(5)) };
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// One subscription from its start to its end.
    async fn session(&self, rpc: &RpcClient, seen: &mut impl FnMut(&Head)) -> Ended {
        let subscribed = rpc
            .subscribe::<Header>("chain_subscribeFinalizedHeads", rpc_params![], "chain_unsubscribeFinalizedHeads")
            .await;
        let mut stream = match subscribed {
            Ok(stream) => stream,
            Err(e) => return Ended::Broken(e.to_string()),
        };
        let mut advanced = tokio::time::Instant::now();
        loop {
            let header = match tokio::time::timeout_at(advanced + SILENCE, stream.next()).await {
                Err(_) => return Ended::Silent,
                Ok(None) => return Ended::Broken("closed".to_owned()),
                Ok(Some(Err(e))) => return Ended::Broken(e.to_string()),
                Ok(Some(Ok(header))) => header,
            };
            let Some(number) = header.number() else { return Ended::Broken("a header without a number".to_owned()) };
            let first = (self.last() + 1).max(number.saturating_sub(ROW));
            for number in first..=number {
                match head(rpc, number).await {
                    Ok(head) => {
                        self.publish(head);
                        seen(&head);
                        advanced = tokio::time::Instant::now();
                    }
                    Err(e) => return Ended::Broken(e.to_string()),
                }
            }
        }
    }
}

/// Why a subscription ended.
enum Ended {
    /// It is open and brings nothing.
    Silent,
    /// It is closed, or what it brings cannot be used.
    Broken(String),
}

/// The part of a header that matters here.
#[derive(serde::Deserialize)]
struct Header {
    number: String,
}

impl Header {
    fn number(&self) -> Option<u64> {
        u64::from_str_radix(self.number.strip_prefix("0x")?, 16).ok()
    }
}

/// The block of that number, which the caller knows to be finalised.
pub(super) async fn head(rpc: &RpcClient, number: u64) -> Result<Head, Error> {
    let hash = hash_of(rpc, number).await?;
    Ok(Head { number, hash, timestamp_ms: timestamp_ms(rpc, hash).await? })
}

/// The hash of the block of that number on the best chain.
pub(super) async fn hash_of(rpc: &RpcClient, number: u64) -> Result<[u8; 32], Error> {
    let what = format!("read the hash of block {number}");
    let answer: Result<Option<String>, _> = rpc.request("chain_getBlockHash", rpc_params![number]).await;
    let text = answer.map_err(|e| Error::sorted(&what, &number.to_string(), &e))?;
    let Some(text) = text else { return Err(Error::UnknownBlock { what, block: number.to_string() }) };
    bytes32(&text).ok_or_else(|| Error::Rpc { what, reason: "the answer is no hash".to_owned() })
}

/// Number of the newest finalised block.
pub(super) async fn finalised(rpc: &RpcClient) -> Result<u64, Error> {
    let what = "read the newest finalised block";
    let sorted = |e| Error::sorted(what, "newest", &e);
    let hash: String = rpc.request("chain_getFinalizedHead", rpc_params![]).await.map_err(sorted)?;
    let header: Option<Header> = rpc.request("chain_getHeader", rpc_params![hash]).await.map_err(sorted)?;
    let number = header.and_then(|header| header.number());
    number.ok_or_else(|| Error::Rpc { what: what.to_owned(), reason: "the header has no number".to_owned() })
}

/// `Timestamp.Now` in the state of that block, Unix time in milliseconds.
pub(super) async fn timestamp_ms(rpc: &RpcClient, hash: [u8; 32]) -> Result<u64, Error> {
    let block = format!("0x{}", hex::encode(hash));
    let what = format!("read the time of block {block}");
    let answer: Result<Option<String>, _> = rpc.request("state_getStorage", rpc_params![NOW, &block]).await;
    let text = answer.map_err(|e| Error::sorted(&what, &block, &e))?;
    // The genesis block has no time.
    let Some(text) = text else { return Ok(0) };
    let odd = || Error::Incompatible { what: what.clone(), reason: "Timestamp.Now is no u64".to_owned() };
    let bytes = text.strip_prefix("0x").and_then(|text| hex::decode(text).ok()).ok_or_else(odd)?;
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| odd())?))
}

pub(super) fn bytes32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.strip_prefix("0x")?, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_remembered_up_to_a_bound() {
        let at = |number| Head { number, hash: [0; 32], timestamp_ms: number };
        let clock = Clock::new(at(0));
        let heads = clock.heads();
        for number in 1..=1000 {
            clock.publish(at(number));
        }
        assert_eq!(*heads.borrow(), at(1000));
        assert_eq!(clock.recent(1000), Some(at(1000)));
        assert_eq!(clock.recent(1000 - REMEMBERED as u64), None);
    }

    #[test]
    fn numbers_and_hashes_of_odd_answers_are_refused() {
        assert_eq!(Header { number: "0x1f".into() }.number(), Some(31));
        assert_eq!(Header { number: "31".into() }.number(), None);
        assert_eq!(bytes32("0x00"), None);
    }
}
