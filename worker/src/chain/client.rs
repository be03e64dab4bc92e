//! The connection to the chain: what it is, and its blocks.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bistro_api::settings;
use subxt::{
    OnlineClient, OnlineClientAtBlock, SubstrateConfig,
    backend::LegacyBackend,
    rpcs::client::{RpcClient, rpc_params},
    utils::H256,
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Error, Head,
    clock::{self, Clock},
    transport::Transport,
};
use crate::{
    retry::{Fault, Retry, Stopped},
    telemetry::Telemetry,
};

/// How long a read tries again before it gives the error back.
const PATIENCE: Duration = Duration::from_secs(15);

/// Blocks whose clients are kept: a window reads many entries at one block.
const KEPT: usize = 4;

pub(super) type AtBlock = OnlineClientAtBlock<SubstrateConfig>;

/// One chain. Clones share the connection; when the last one is dropped the background task ends.
#[derive(Clone)]
pub struct Chain {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub rpc: RpcClient,
    pub api: OnlineClient<SubstrateConfig>,
    pub telemetry: Telemetry,
    pub clock: Arc<Clock>,
    genesis: [u8; 32],
    name: String,
    /// The blocks read last, newest first.
    kept: Mutex<VecDeque<([u8; 32], AtBlock)>>,
    _follows: DropGuard,
}

impl Chain {
    /// Connects to the first endpoint that answers and starts to follow finalised heads. Tries for ever where that can
    /// help, and shows in the status what it waits for; an error means that somebody must change something.
    pub async fn connect(settings: &settings::Chain, telemetry: Telemetry) -> Result<Self, Error> {
        let settings::Chain { endpoints, genesis_hash } = settings;
        let transport = Transport::new(endpoints, genesis_hash.as_deref(), telemetry.clone());
        let judge = |error: &Error| {
            telemetry.message(error.to_string());
            judged(error)
        };
        let attempt = || Self::connect_once(&transport, telemetry.clone());
        let chain = Retry::new().run(judge, attempt).await.map_err(fault)?;
        telemetry.message("");
        Ok(chain)
    }

    async fn connect_once(transport: &Transport, telemetry: Telemetry) -> Result<Self, Error> {
        let rpc = RpcClient::new(transport.clone());
        let what = "connect to the chain";
        let name = rpc.request("system_chain", rpc_params![]).await.map_err(|e| Error::sorted(what, "0", &e))?;
        let genesis = clock::hash_of(&rpc, 0).await?;
        let backend = LegacyBackend::<SubstrateConfig>::builder().build(rpc.clone());
        let api = OnlineClient::from_backend(Arc::new(backend)).await;
        let api = api.map_err(|e| Error::sorted(what, "0", &e))?;
        let first = clock::head(&rpc, clock::finalised(&rpc).await?).await?;
        let clock = Arc::new(Clock::new(first));
        let stop = CancellationToken::new();
        tokio::spawn({
            let (clock, transport, rpc) = (clock.clone(), transport.clone(), rpc.clone());
            let (stop, telemetry) = (stop.clone(), telemetry.clone());
            async move {
                let seen = |head: &Head| telemetry.status.update(|status| status.block = Some(head.number));
                seen(&first);
                stop.run_until_cancelled(clock.follow(&transport, &rpc, seen)).await;
            }
        });
        let kept = Mutex::new(VecDeque::new());
        let inner = Inner { rpc, api, telemetry, clock, genesis, name, kept, _follows: stop.drop_guard() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Hash of the first block: which chain this is.
    pub fn genesis(&self) -> [u8; 32] {
        self.inner.genesis
    }

    /// What `system_chain` said.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Finalised heads: always the newest, numbers only grow, and who is quick sees each. It goes on over lost
    /// connections and other endpoints.
    pub fn heads(&self) -> watch::Receiver<Head> {
        self.inner.clock.heads()
    }

    /// The newest finalised head.
    pub fn head(&self) -> Head {
        *self.heads().borrow()
    }

    /// Waits until that block is finalised, for ever if need be.
    pub async fn wait_for(&self, number: u64) -> Head {
        let mut heads = self.heads();
        match heads.wait_for(|head| head.number >= number).await {
            Ok(head) => *head,
            // The sender lives in this very struct.
            Err(_) => self.head(),
        }
    }

    /// Hash of a finalised block; waits until it is finalised.
    pub async fn block_hash(&self, number: u64) -> Result<[u8; 32], Error> {
        self.wait_for(number).await;
        if let Some(head) = self.inner.clock.recent(number) {
            return Ok(head.hash);
        }
        patiently(|| clock::hash_of(&self.inner.rpc, number)).await
    }

    /// Time of a block, Unix time in milliseconds. [`Error::StatePruned`] where its state is gone.
    pub async fn timestamp_ms(&self, hash: [u8; 32]) -> Result<u64, Error> {
        patiently(|| clock::timestamp_ms(&self.inner.rpc, hash)).await
    }

    /// A finalised block with its hash and time; waits until it is finalised.
    pub async fn block(&self, number: u64) -> Result<Head, Error> {
        self.wait_for(number).await;
        if let Some(head) = self.inner.clock.recent(number) {
            return Ok(head);
        }
        patiently(|| clock::head(&self.inner.rpc, number)).await
    }

    /// The client at a block, for reads.
    pub(super) async fn at(&self, hash: [u8; 32]) -> Result<AtBlock, Error> {
        let kept = || self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, at)) = kept().iter().find(|(known, _)| *known == hash) {
            return Ok(at.clone());
        }
        let block = format!("0x{}", hex::encode(hash));
        let at = self.inner.api.at_block(H256(hash)).await;
        let at = at.map_err(|e| Error::sorted(&format!("read block {block}"), &block, &e))?;
        let mut kept = kept();
        kept.truncate(KEPT - 1);
        kept.push_front((hash, at.clone()));
        Ok(at)
    }
}

/// Tries again for [`PATIENCE`] where that can help.
pub(super) async fn patiently<T, F>(attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    Retry::new().within(PATIENCE).run(judged, attempt).await.map_err(fault)
}

fn judged(error: &Error) -> Fault {
    if error.is_transient() { Fault::Transient } else { Fault::Permanent }
}

fn fault(stopped: Stopped<Error>) -> Error {
    match stopped {
        Stopped::Fault(error) => error,
        Stopped::Cancelled => Error::Unreachable { what: "go on".to_owned(), reason: "stopped".to_owned() },
    }
}
