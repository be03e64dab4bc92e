//! What every role has: settings, keys, chain, bucket, data, engine, state; and the few things all of them do.

use std::sync::{Arc, Mutex, PoisonError};

use bistro_api::{Settings, run::Cosine};
use bistro_protocol::{
    clock::Clock,
    hotkey::Hotkey,
    manifest::MAX_MANIFEST,
    object::{Agreement, Kind},
    page::Pages,
    slice::{self, Slice, SliceOf},
    tensors::Tensors,
};
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    bucket::{Bucket, Object, Put},
    chain::{self, Chain, Head},
    data::Dataset,
    engine::Engine,
    environment::Environment,
    failure::Failure,
    roles::Shown,
    state::State,
    telemetry::Telemetry,
};

/// One node of the subnet.
pub struct Node {
    /// What its resource and its subnet say.
    pub settings: Settings,
    /// The pod contract.
    pub environment: Environment,
    /// Chain, subnet and run.
    pub agreement: Agreement,
    /// The clock of the run.
    pub clock: Clock,
    /// The keys that it signs with.
    pub wallet: chain::Hotkey,
    /// Its public key.
    pub hotkey: Hotkey,
    /// The chain.
    pub chain: Chain,
    /// The bucket.
    pub bucket: Bucket,
    /// The text.
    pub dataset: Dataset,
    /// How the text falls into pages.
    pub pages: Pages,
    /// What it shows.
    pub telemetry: Telemetry,
    /// What it keeps.
    pub state: State,
    /// Cancelled when the process is asked to stop.
    pub stop: CancellationToken,
    /// The engine of the run's model; one computation at a time.
    pub engine: Arc<Mutex<Engine>>,
    /// Finalised blocks.
    pub heads: watch::Receiver<Head>,
}

impl Node {
    /// What the background task needs that shows the chain's view of this node.
    pub fn shown(&self) -> Shown {
        Shown {
            chain: self.chain.clone(),
            clock: self.clock,
            netuid: self.settings.netuid,
            hotkey: self.hotkey.0,
            telemetry: self.telemetry.clone(),
        }
    }

    /// The settings of the mechanism.
    pub fn cosine(&self) -> &Cosine {
        self.settings.run.mechanism.cosine.as_ref().expect("checked when the settings were read")
    }

    /// The latest finalised block.
    pub fn head(&self) -> Head {
        *self.heads.borrow()
    }

    /// Waits until `block` is final and gives its hash.
    pub async fn block_hash(&self, block: u64) -> Result<[u8; 32], Failure> {
        self.reached(block).await?;
        Ok(self.chain.block_hash(block).await?)
    }

    /// Waits until `block` is final and gives its timestamp in milliseconds.
    pub async fn timestamp_ms(&self, block: u64) -> Result<u64, Failure> {
        self.reached(block).await?;
        Ok(self.chain.block(block).await?.timestamp_ms)
    }

    /// Waits until `block` is final.
    pub async fn reached(&self, block: u64) -> Result<(), Failure> {
        let mut heads = self.heads.clone();
        tokio::select! {
            () = self.stop.cancelled() => Err(Failure::Stopped),
            head = heads.wait_for(|h| h.number >= block) => {
                head.map(drop).map_err(|_| Failure::Transient("the chain's clock stopped".into()))
            }
        }
    }

    /// Sleeps until the local clock shows `unix_ms`; at once if it has passed.
    pub async fn sleep_until_ms(&self, unix_ms: u64) -> Result<(), Failure> {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        self.pause(std::time::Duration::from_millis(unix_ms.saturating_sub(now))).await
    }

    /// Sleeps, unless the process is asked to stop.
    pub async fn pause(&self, length: std::time::Duration) -> Result<(), Failure> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Failure::Stopped),
            () = tokio::time::sleep(length) => Ok(()),
        }
    }

    /// Runs `work` with the engine on a thread that may block.
    pub async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T, crate::engine::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let engine = Arc::clone(&self.engine);
        // The engine's buffers are overwritten by every call: a panic in one leaves nothing that matters.
        let run = move || work(&mut engine.lock().unwrap_or_else(PoisonError::into_inner));
        let result = tokio::task::spawn_blocking(run).await;
        result.map_err(|e| Failure::Permanent(format!("the engine panicked: {e}")))?.map_err(Failure::permanent)
    }

    /// The sequences of these pages, one after the other.
    pub async fn sequences(&self, pages: &[u64]) -> Result<Vec<Vec<u32>>, Failure> {
        let mut sequences = Vec::new();
        for page in pages {
            sequences.extend(self.dataset.page(&self.pages, *page).await?);
        }
        Ok(sequences)
    }

    /// The entries that window `window` publishes.
    pub async fn slice(&self, window: u64, schema: &Tensors) -> Result<Slice, Failure> {
        let reveal = self.block_hash(self.clock.reveal(window)).await?;
        Ok(Slice::derive(self.slice_of(window, &reveal), schema))
    }

    fn slice_of<'a>(&self, window: u64, reveal: &'a [u8; 32]) -> SliceOf<'a> {
        let Agreement { netuid, run, .. } = self.agreement;
        SliceOf { netuid, run, window, reveal, ratio: self.cosine().slice_ratio }
    }

    /// Names and shapes of a miner's work.
    pub fn work_shape(&self, schema: &Tensors) -> Vec<(String, Vec<usize>)> {
        slice::shape(schema, self.cosine().slice_ratio)
    }

    /// Key of an object of this run.
    pub fn key(&self, hotkey: &Hotkey, window: u64, kind: Kind) -> String {
        self.agreement.key(hotkey, window, kind)
    }

    /// Reads a manifest's bytes.
    pub async fn manifest_bytes(&self, averager: &Hotkey, window: u64) -> Result<Option<Object>, Failure> {
        Ok(self.bucket.get(&self.key(averager, window, Kind::Manifest), MAX_MANIFEST).await?)
    }

    /// Publishes an object that nobody may have published before. If one is there with the same bytes, it is our
    /// own from before a restart; with others, somebody else signs with this hotkey.
    pub async fn publish(&self, window: u64, kind: Kind, bytes: Vec<u8>) -> Result<(), Failure> {
        let key = self.key(&self.hotkey, window, kind);
        let bytes = Bytes::from(bytes);
        if self.bucket.put_new(&key, bytes.clone()).await? == Put::Stored {
            return Ok(());
        }
        let found = self.bucket.get(&key, bytes.len() as u64).await;
        if found.is_ok_and(|o| o.is_some_and(|o| o.bytes == bytes)) {
            return Ok(());
        }
        Err(Failure::Permanent(format!(
            "key-taken: {key} holds other bytes: a second process signs with hotkey {}; stop one of them",
            self.hotkey
        )))
    }
}
