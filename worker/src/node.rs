//! What every role has: settings, keys, chain, bucket, data, engine, state; and the few things all of them do.

use std::sync::{Arc, Mutex, PoisonError};

use bistro_api::Settings;
use bistro_protocol::{
    base::Base,
    check::Verdict,
    clock::Clock,
    hotkey::Hotkey,
    manifest::{MAX_MANIFEST, Manifest},
    mechanism::{self, Mechanism},
    object::{self, Agreement, Kind, Opened},
    page::Pages,
    slice::{Slice, SliceOf},
    tensors::Tensors,
};
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    bucket::{self, Bucket, Object, Put},
    chain::{self, Chain, Head},
    data::Dataset,
    engine::Engine,
    environment::Environment,
    failure::Failure,
    mechanism::loss_or_infinity,
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
    /// Names and shapes of the base.
    pub shape: Vec<(String, Vec<usize>)>,
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
    /// The subnet owner's hotkey as of a block, so that who replays many windows asks once a block.
    pub owner: Mutex<Option<([u8; 32], [u8; 32])>>,
    /// The window in which this process got ready: an earlier one may have worked in it with the same hotkey.
    pub born: u64,
}

/// Reads of one object until they are given up as a fault of the bucket.
const READS: usize = 4;

/// What became of an object that a node published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in the bucket.
    Ours,
    /// Another object is in its place, signed with this hotkey by another process, or by this one before it lost
    /// its state.
    Taken,
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

    /// The mechanism with its settings.
    pub fn mechanism(&self) -> Mechanism<'_> {
        mechanism::of(&self.settings.run)
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

    /// Waits until the bucket's clock shows `unix_ms`, whatever this machine's clock says.
    pub async fn bucket_shows_ms(&self, unix_ms: u64) -> Result<(), Failure> {
        if self.bucket.now_ms().is_none() {
            // Any answer carries the time; whether there is such an object does not matter.
            self.bucket.head(&self.key(&self.hotkey, 0, Kind::Commit)).await?;
        }
        while let Some(left) = self.bucket.now_ms().and_then(|now| unix_ms.checked_sub(now)).filter(|left| *left > 0) {
            self.pause(std::time::Duration::from_millis(left)).await?;
        }
        Ok(())
    }

    /// Sleeps, unless the process is asked to stop.
    pub async fn pause(&self, length: std::time::Duration) -> Result<(), Failure> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Failure::Stopped),
            () = tokio::time::sleep(length) => Ok(()),
        }
    }

    /// Runs `work` with the engine on a thread that may block. Work that was cancelled means that this node stops; whoever
    /// cancels for another reason answers for it in `work`.
    pub async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T, crate::engine::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let engine = Arc::clone(&self.engine);
        // The engine's buffers are overwritten by every call: a panic in one leaves nothing that matters.
        let run = move || work(&mut engine.lock().unwrap_or_else(PoisonError::into_inner));
        let result = tokio::task::spawn_blocking(run).await;
        result.map_err(|e| Failure::Permanent(format!("the engine panicked: {e}")))?.map_err(|error| match error {
            crate::engine::Error::Cancelled => Failure::Stopped,
            error => Failure::permanent(error),
        })
    }

    /// The sequences of these pages, one after the other.
    pub async fn sequences(&self, pages: &[u64]) -> Result<Vec<Vec<u32>>, Failure> {
        let mut sequences = Vec::new();
        for page in pages {
            sequences.extend(self.dataset.page(&self.pages, *page).await?);
        }
        Ok(sequences)
    }

    /// Loss of parameters on the held-out pages that everybody shows, in nats per token; infinite where they do not compute.
    pub async fn displayed_loss(&self, parameters: Tensors) -> Result<f64, Failure> {
        let sequences = self.sequences(&self.pages.displayed()).await?;
        self.compute(move |engine| loss_or_infinity(engine, &parameters, &sequences)).await
    }

    /// The entries that window `window` publishes.
    pub async fn slice(&self, window: u64, schema: &Tensors) -> Result<Slice, Failure> {
        let reveal = self.block_hash(self.clock.reveal(window)).await?;
        Ok(self.mechanism().slice(self.slice_of(window, &reveal), schema))
    }

    fn slice_of<'a>(&self, window: u64, reveal: &'a [u8; 32]) -> SliceOf<'a> {
        let Agreement { netuid, run, .. } = self.agreement;
        SliceOf { netuid, run, window, reveal, ratio: self.mechanism().slice_ratio() }
    }

    /// Moves the base before `window` by merged work.
    pub fn outer_step(&self, base: &mut Base, slice: &Slice, merged: &Tensors, window: u64) {
        let run = &self.settings.run;
        self.mechanism().outer_step(base, slice, merged, &run.training, window - run.start_window);
    }

    /// Names and shapes of a miner's work.
    pub fn work_shape(&self, schema: &Tensors) -> Vec<(String, Vec<usize>)> {
        self.mechanism().work_shape(schema)
    }

    /// Key of an object of this run.
    pub fn key(&self, hotkey: &Hotkey, window: u64, kind: Kind) -> String {
        self.agreement.key(hotkey, window, kind)
    }

    /// The manifest of `window`, if it is there; its signature and its place in the run are checked.
    pub async fn manifest(&self, averager: &Hotkey, window: u64) -> Result<Option<Opened<Manifest>>, Failure> {
        let key = self.key(averager, window, Kind::Manifest);
        let open = |found: &Object| self.open_manifest(averager, window, found);
        self.read(&key, MAX_MANIFEST, open).await?.transpose().map_err(|verdict| {
            Failure::Permanent(match verdict {
                Verdict::RunMismatch => format!(
                    "run-mismatch: the manifest of window {window} follows another agreement than this node: apply the same Subnet everywhere"
                ),
                other => format!("the manifest of window {window} by {averager} is {other}: nobody can follow it"),
            })
        })
    }

    /// Checks signature and place in the run of a manifest's bytes.
    pub fn open_manifest(&self, averager: &Hotkey, window: u64, found: &Object) -> Result<Opened<Manifest>, Verdict> {
        object::open(&self.agreement, averager, window, Kind::Manifest, &found.bytes)
    }

    /// Reads an object and checks it; `None` where there is none. What fails its check is read again, and only the same
    /// bytes twice are believed: one wrong bit on the way would be a verdict on its author, or end this node.
    pub async fn read<T, E>(
        &self,
        key: &str,
        most: u64,
        check: impl Fn(&Object) -> Result<T, E>,
    ) -> Result<Option<Result<T, E>>, bucket::Error> {
        let mut before = None;
        for _ in 0..READS {
            let Some(found) = self.bucket.get(key, most).await? else { return Ok(None) };
            match check(&found) {
                Ok(value) => return Ok(Some(Ok(value))),
                Err(fault) if before.as_ref() == Some(&found.bytes) => return Ok(Some(Err(fault))),
                Err(_) => before = Some(found.bytes),
            }
        }
        Err(bucket::Error::Unsteady { key: key.to_owned() })
    }

    /// Publishes an object that nobody may have published before. If one is there with the same bytes, it is our
    /// own from before a restart.
    pub async fn publish(&self, window: u64, kind: Kind, bytes: Vec<u8>) -> Result<Published, Failure> {
        let key = self.key(&self.hotkey, window, kind);
        let bytes = Bytes::from(bytes);
        if self.bucket.put_new(&key, bytes.clone()).await? == Put::Stored {
            return Ok(Published::Ours);
        }
        let same = |found: &Object| if found.bytes == bytes { Ok(()) } else { Err(()) };
        match self.read(&key, bytes.len() as u64, same).await {
            Ok(Some(Ok(()))) => Ok(Published::Ours),
            Ok(Some(Err(()))) | Err(bucket::Error::TooLarge { .. }) => Ok(Published::Taken),
            // A bucket that refuses a key because it is there and does not show it yet.
            Ok(None) => Err(Failure::Transient(format!("{key} is taken but cannot be read yet"))),
            Err(error) => Err(error.into()),
        }
    }

    /// What a taken key means. In the window in which this process began, an earlier one that lost its state has
    /// most likely written it: that window is left alone, with the line that is given back. Later on a second process
    /// signs with this hotkey, and going on would spoil the work of both.
    pub fn taken(&self, window: u64, kind: Kind) -> Result<String, Failure> {
        let key = self.key(&self.hotkey, window, kind);
        if window > self.born {
            return Err(Failure::Permanent(format!(
                "key-taken: {key} holds other bytes: a second process signs with hotkey {}; stop one of them",
                self.hotkey
            )));
        }
        Ok(format!(
            "key-taken: {key} was written before this process started: leaves window {window} alone and works from the next one on; if this comes back, a second process signs with hotkey {}",
            self.hotkey
        ))
    }
}
