//! Everything between the start of the process and the first window.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bistro_api::{Role, Settings, run::Run};
use bistro_protocol::{clock::Clock, hotkey::Hotkey, object::Agreement, page::Pages};
use tokio_util::sync::CancellationToken;

use crate::{
    bucket::{Bucket, Credentials},
    chain::{self, Chain, Identity, bootstrap},
    data::Dataset,
    engine::{self, Engine, Place},
    environment::{Environment, digest_of},
    failure::Failure,
    node::Node,
    state::State,
    telemetry::Telemetry,
};

/// How often something that is not there yet is looked for.
const POLL: Duration = Duration::from_secs(1);

/// Gets a node ready to work; waits for whatever may still come.
pub async fn node(
    role: Role,
    settings: Settings,
    environment: Environment,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> Result<Node, Failure> {
    let device = device(&environment)?;
    let waits = Waits { telemetry: telemetry.clone(), stop: stop.clone() };
    let identity = waits.identity(&settings, role, &environment).await?;
    telemetry.status.update(|status| status.hotkey = Some(identity.hotkey().ss58()));
    of(Some((role, &identity)), identity.hotkey().clone(), device, settings, environment, telemetry, stop).await
}

/// One that reads only: its hotkey is nobody's, and it takes no place on the subnet.
pub async fn onlooker(settings: Settings, environment: Environment, stop: CancellationToken) -> Result<Node, Failure> {
    of(
        None,
        chain::Hotkey::development("//bistro/onlooker"),
        device(&environment)?,
        settings,
        environment,
        Telemetry::new(Role::Validator),
        stop,
    )
    .await
}

/// Where the engine will compute. Found before anything is waited for: a GPU that does not answer is a fault at once.
fn device(environment: &Environment) -> Result<Option<Place>, Failure> {
    let device = Place::find(environment.device, environment.precision).map_err(Failure::permanent)?;
    match &device {
        Some(device) => tracing::info!(%device, precision = ?environment.precision, "computes"),
        None => tracing::info!(device = "cpu", threads = environment.threads, "computes"),
    }
    Ok(device)
}

async fn of(
    place: Option<(Role, &Identity)>,
    wallet: chain::Hotkey,
    device: Option<Place>,
    settings: Settings,
    environment: Environment,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> Result<Node, Failure> {
    let waits = Waits { telemetry: telemetry.clone(), stop: stop.clone() };
    let clock = Clock::new(&settings.run.schedule).map_err(Failure::permanent)?;
    let chain = waits.unless_stopped(Chain::connect(&settings.chain, telemetry.clone())).await??;
    check_block_time(&chain, &clock).await?;
    let credentials = waits.credentials(&settings, &environment, &wallet.ss58()).await?;
    let bucket = Bucket::new(&settings.bucket, credentials, telemetry.clone()).await?;
    telemetry.loaded();
    if let Some((role, identity)) = place {
        waits.unless_stopped(bootstrap(&chain, identity, role, settings.netuid, environment.ordinal)).await??;
    }

    let agreement = Agreement {
        genesis: chain.genesis(),
        netuid: settings.netuid,
        run: settings.run.id,
        run_digest: digest_of(&settings),
    };
    let state = waits.state(&environment, &agreement, Hotkey(wallet.public())).await?;
    let dataset = waits.dataset(&settings, &environment, &bucket).await?;
    let pages = Pages::new(&settings.run.dataset, dataset.tokens()).map_err(Failure::permanent)?;
    let run = &settings.run;
    let engine = engine(run, &environment, dataset.vocabulary()).and_then(|engine| engine.on(device.as_ref()));
    let engine = engine.map_err(|e| Failure::permanent(e).context("run.model"))?;
    let shape = engine.shape();
    telemetry.message("");
    tracing::info!(hotkey = %wallet.ss58(), run = %hex::encode(&agreement.run_digest[..6]), "ready");
    Ok(Node {
        hotkey: Hotkey(wallet.public()),
        heads: chain.heads(),
        owner: Mutex::default(),
        born: clock.window_of(chain.head().number),
        engine: Arc::new(Mutex::new(engine)),
        settings,
        environment,
        agreement,
        clock,
        wallet,
        chain,
        bucket,
        dataset,
        pages,
        shape,
        telemetry,
        state,
        stop,
    })
}

/// An engine that fits into the memory of the container, as far as that is up to it.
fn engine(run: &Run, environment: &Environment, vocabulary: u32) -> Result<Engine, engine::Error> {
    let build = |recompute| {
        let build = if recompute { Engine::recomputing } else { Engine::new };
        build(&run.model, vocabulary, run.dataset.sequence_length, environment.threads)
    };
    let engine = build(environment.recompute == Some(true))?;
    let bytes = engine.training_bytes(run.training.batch_sequences as usize);
    // What is not training's: the base, older moments, what is downloaded.
    let limit = memory_limit().filter(|limit| environment.recompute.is_none() && bytes > limit / 2);
    let (engine, bytes) = match limit {
        None => (engine, bytes),
        Some(limit) => {
            tracing::info!(limit_mib = limit >> 20, "activations are computed again, to save memory");
            let engine = build(true)?;
            let bytes = engine.training_bytes(run.training.batch_sequences as usize);
            (engine, bytes)
        }
    };
    tracing::info!(mib = bytes.div_ceil(1 << 20), "training takes");
    Ok(engine)
}

/// Of the container, in bytes; `None` where there is none.
fn memory_limit() -> Option<u64> {
    std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok()
}

/// Things that may come later: each is waited for, and named in the status meanwhile.
struct Waits {
    telemetry: Telemetry,
    stop: CancellationToken,
}

impl Waits {
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Failure::Stopped),
            output = work => Ok(output),
        }
    }

    async fn pause(&self, line: &str) -> Result<(), Failure> {
        tracing::info!("waiting: {line}");
        self.telemetry.message(line);
        self.unless_stopped(tokio::time::sleep(POLL)).await
    }

    /// A key that is not in the Secret yet may be added; a damaged one may not mend itself.
    async fn identity(&self, settings: &Settings, role: Role, environment: &Environment) -> Result<Identity, Failure> {
        loop {
            match Identity::load(settings, role, &environment.secrets, environment.ordinal) {
                Ok(identity) => return Ok(identity),
                Err(error) if error.missing => self.pause(&error.to_string()).await?,
                Err(error) => return Err(Failure::permanent(error)),
            }
        }
    }

    /// Mounted keys, else a devnet's public ones for a development wallet, else the default chain of AWS.
    async fn credentials(
        &self,
        settings: &Settings,
        environment: &Environment,
        hotkey: &str,
    ) -> Result<Credentials, Failure> {
        loop {
            match Credentials::from_secrets(&environment.secrets, environment.ordinal) {
                Ok(Some(credentials)) => return Ok(credentials),
                Ok(None) if settings.dev_wallet => return Ok(Credentials::development(hotkey)),
                Ok(None) => return Ok(Credentials::Aws),
                Err(error @ crate::bucket::Error::SecretMissing { .. }) => self.pause(&error.to_string()).await?,
                Err(error) => return Err(Failure::permanent(error)),
            }
        }
    }

    /// A full disk can be emptied.
    async fn state(&self, environment: &Environment, agreement: &Agreement, hotkey: Hotkey) -> Result<State, Failure> {
        loop {
            match State::open(&environment.state, agreement, hotkey) {
                Err(Failure::Transient(line)) => self.pause(&line).await?,
                other => return other,
            }
        }
    }

    /// The index may be on its way: a Job prepares it while the nodes start.
    async fn dataset(
        &self,
        settings: &Settings,
        environment: &Environment,
        bucket: &Bucket,
    ) -> Result<Dataset, Failure> {
        let dataset = &settings.run.dataset;
        loop {
            let cache = environment.state.join("dataset");
            match Dataset::open(bucket, dataset, &cache).await {
                Ok(Some(dataset)) => return Ok(dataset),
                Ok(None) => {
                    let key = format!("{}/index.json", dataset.prefix);
                    self.pause(&format!("waits for the dataset {key}: bistro-worker dataset prepare makes it")).await?;
                }
                Err(Failure::Transient(line)) => self.pause(&line).await?,
                Err(other) => return Err(other),
            }
        }
    }
}

/// The phases must be longer than what the clocks of bucket and chain may differ by.
async fn check_block_time(chain: &Chain, clock: &Clock) -> Result<(), Failure> {
    /// Blocks that the block time is measured over.
    const SPAN: u64 = 10;
    let head = chain.head();
    let Some(earlier) = head.number.checked_sub(SPAN).filter(|n| *n > 0) else { return Ok(()) };
    let Ok(earlier) = chain.block(earlier).await else { return Ok(()) };
    let block_ms = head.timestamp_ms.saturating_sub(earlier.timestamp_ms) / SPAN;
    // Half of a block's worth of doubt: a chain that just caught up shows shorter times.
    if 2 * block_ms < clock.shortest_block_ms() {
        return Err(Failure::Permanent(format!(
            "run.schedule: at {block_ms} ms per block the phases are shorter than skewSeconds + 1 s: lengthen them or lower skewSeconds"
        )));
    }
    Ok(())
}
