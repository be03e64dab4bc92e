//! `bistro operator`: the controller.
//!
//! ```text
//! watches -> cache -> queue -> passes: dereference -> validate -> build -> apply -> update_status
//!              ^                                      (plan: pure)           |
//!              +-- poll: /status of the pods                                 +-> API server, behind the gate
//! ```
//!
//! Every replica watches and compares; only the one that holds the lease writes. So a new leader starts with a warm
//! cache, and a restart writes nothing that already is what it should be.

mod agree;
mod apply;
mod arguments;
mod cache;
mod child;
mod client;
mod context;
mod election;
mod gate;
mod handle;
mod http;
mod jitter;
mod key;
mod metrics;
mod pass;
mod pod;
mod poll;
mod queue;
mod report;
mod seen;
mod status;
mod subnet;
mod watch;

use std::{process::ExitCode, sync::Arc, time::Duration};

use bistro_api::{Averager, Miner, Subnet, Validator};
use k8s_controller::events::{EventRecorder, Reporter};
use kube::{api::ApiResource, core::GroupVersionKind};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use arguments::Arguments;

use self::{
    arguments::LogFormat,
    cache::Cache,
    child::ChildKind,
    context::Context,
    election::Election,
    gate::{Beats, Fence, GateLayer},
    http::Health,
    key::{Key, Kind},
    metrics::Metrics,
    pass::PassError,
    poll::PodId,
    queue::{Outcome, Queue},
    watch::{Change, Synced, Target},
};

/// Label of every child and pod.
const OURS: &str = "app.kubernetes.io/managed-by=bistro";
/// What the kubelet says when it cannot mount a volume.
const MOUNT_FAILURES: &str = "involvedObject.kind=Pod,reason=FailedMount";
/// Passes that run when the operator is told to stop have this long to end.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Why the operator ends.
#[derive(Debug, thiserror::Error)]
enum OperatorError {
    #[error(transparent)]
    Connect(#[from] client::ConnectError),
    #[error("failed to listen on {0}: choose another --http")]
    Listen(std::net::SocketAddr, #[source] std::io::Error),
    #[error("failed to register metrics")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Timing(#[from] election::Unfit),
    #[error("failed to start")]
    Start(#[source] std::io::Error),
    #[error("another replica leads now; this one starts anew")]
    LostLease,
    #[error("a part of the operator ended: {0}")]
    Ended(&'static str),
}

/// Runs until SIGTERM or until the lease is lost. Exit code 2: the arguments are wrong.
pub fn run(arguments: &Arguments) -> ExitCode {
    log(arguments.log_format);
    // One thread: all it does is to wait and to read JSON, and threads that wake each other cost more than they bring.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(OperatorError::Start).and_then(|runtime| runtime.block_on(operate(arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if matches!(
                error,
                OperatorError::Timing(_) | OperatorError::Connect(client::ConnectError::Config(_))
            ) {
                2
            } else {
                1
            };
            tracing::error!("{}", crate::cli::one_line(&error));
            ExitCode::from(code)
        }
    }
}

fn log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BISTRO_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,tower_http=off,kube_client=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        LogFormat::Text => log.init(),
    }
}

async fn operate(arguments: &Arguments) -> Result<(), OperatorError> {
    let timing = arguments.timing()?;
    let metrics = Metrics::new(arguments.max_concurrent_reconciles.into(), &arguments.lease_name)?;
    let fence = if arguments.leader_elect { Fence::default() } else { Fence::open() };
    let (beats, synced) = (Beats::default(), Arc::new(Synced::default()));
    let client =
        client::connect(GateLayer { fence: fence.clone(), beats: beats.clone(), metrics: metrics.clone() }).await?;
    let identity = arguments.identity();
    let reporter = Reporter { controller: context::FIELD_MANAGER.to_owned(), instance: Some(identity.clone()) };
    let context = Context {
        cache: Arc::new(Cache::default()),
        queue: Arc::new(Queue::default()),
        events: Arc::new(EventRecorder::new(client.clone(), reporter)),
        environment: Arc::new(arguments.environment()),
        client,
        fence,
        metrics,
    };
    let listener = TcpListener::bind(arguments.http).await.map_err(|e| OperatorError::Listen(arguments.http, e))?;
    let health = Health { context: context.clone(), beats, synced: synced.clone() };
    let http = tokio::spawn(http::serve(listener, health));
    let (polls, polled) = mpsc::unbounded_channel();
    let watches = watches(&context, &arguments.namespaces(), &synced, &polls);
    let election = Election::new(&context.client, &arguments.lease_namespace, &arguments.lease_name, &identity, timing);
    let stop = stop_signal();
    tokio::select! {
        done = lead(arguments, &context, &election, &synced, polled, polls, &stop) => done,
        _ = http => Err(OperatorError::Ended("the HTTP server")),
        _ = futures::future::select_all(watches) => Err(OperatorError::Ended("a watch")),
    }
}

/// Works from the first complete lists on, writes from the moment the lease is ours, and gives it back at the end.
async fn lead(
    arguments: &Arguments,
    context: &Context,
    election: &Election,
    synced: &Synced,
    polled: mpsc::UnboundedReceiver<PodId>,
    polls: mpsc::UnboundedSender<PodId>,
    stop: &CancellationToken,
) -> Result<(), OperatorError> {
    let began = Instant::now();
    tokio::select! {
        () = synced.wait() => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(milliseconds = began.elapsed().as_millis(), "the cache is complete");
    let workers = workers(context, arguments.max_concurrent_reconciles, stop);
    let mut held = None;
    if arguments.leader_elect {
        tokio::select! {
            lease = election.acquire(&context.fence) => held = Some(lease),
            () = stop.cancelled() => return Ok(()),
        }
    }
    context.metrics.lead(&arguments.lease_name, true);
    let (keys, pods) = {
        let state = context.cache.lock();
        let pods = state.pods.iter().flat_map(|(owner, pods)| pods.keys().map(|ordinal| (owner.clone(), *ordinal)));
        (state.keys(), pods.collect::<Vec<_>>())
    };
    keys.into_iter().for_each(|key| context.queue.add(key));
    if !arguments.poll_interval.is_zero() {
        // The receiver outlives this: it is only dropped with the poller.
        pods.into_iter().for_each(|pod| drop(polls.send(pod)));
        tokio::spawn(poll::poll(context.clone(), arguments.poll_interval, polled));
    }
    let lost = async {
        match &mut held {
            Some(held) => election.hold(held, &context.fence).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = lost => {
            context.metrics.lead(&arguments.lease_name, false);
            return Err(OperatorError::LostLease);
        }
        () = stop.cancelled() => {}
    }
    tracing::info!("stops: no new passes");
    let finished = timeout(LAST_WRITES, workers.join_all()).await;
    if finished.is_err() {
        tracing::warn!("passes still ran after {} s and were cut off", LAST_WRITES.as_secs());
    }
    if let Some(held) = held {
        election.release(held, &context.fence).await;
    }
    Ok(())
}

fn workers(context: &Context, count: u16, stop: &CancellationToken) -> JoinSet<()> {
    (0..count).map(|_| work(context.clone(), stop.clone())).collect()
}

/// Takes one resource after the other. A pass that began is finished, so that no resource is left half written.
async fn work(context: Context, stop: CancellationToken) {
    loop {
        let (key, waited) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = context.queue.next() => next,
        };
        context.metrics.began(key.kind, waited);
        let began = Instant::now();
        let outcome = match one(&context, &key).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(%key, error = crate::cli::one_line(&error), "a pass failed; trying again");
                Outcome::Failed
            }
        };
        context.metrics.ended(key.kind, outcome, began.elapsed());
        context.queue.done(&key, outcome);
    }
}

async fn one(context: &Context, key: &Key) -> Result<Outcome, PassError> {
    match key.kind {
        Kind::Subnet => subnet::pass(context, key).await,
        Kind::Miner => pass::pass::<Miner>(context, key).await,
        Kind::Validator => pass::pass::<Validator>(context, key).await,
        Kind::Averager => pass::pass::<Averager>(context, key).await,
    }
}

/// Starts all watches.
fn watches(
    context: &Context,
    namespaces: &[String],
    synced: &Arc<Synced>,
    polls: &mpsc::UnboundedSender<PodId>,
) -> Vec<JoinHandle<()>> {
    let core = |kind, plural| ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", kind), plural);
    let mut watches = Watches { context, namespaces, synced, all: Vec::new() };
    watches.add(ApiResource::erase::<Subnet>(&()), None, None, handle::subnet);
    watches.add(ApiResource::erase::<Miner>(&()), None, None, handle::node::<Miner>);
    watches.add(ApiResource::erase::<Validator>(&()), None, None, handle::node::<Validator>);
    watches.add(ApiResource::erase::<Averager>(&()), None, None, handle::node::<Averager>);
    watches.add(core("Event", "events"), None, Some(MOUNT_FAILURES), handle::mount_failure);
    let polls = polls.clone();
    watches.add(core("Pod", "pods"), Some(OURS), None, move |context: &Context, change| {
        if let Some(pod) = handle::pod(context, change) {
            // Nobody listens while another replica leads.
            drop(polls.send(pod));
        }
    });
    for kind in ChildKind::ALL {
        let handle = move |context: &Context, change| handle::child(context, kind, change);
        watches.add(kind.resource(), Some(OURS), None, handle);
    }
    watches.all
}

/// Watches that were started.
struct Watches<'a> {
    context: &'a Context,
    namespaces: &'a [String],
    synced: &'a Arc<Synced>,
    all: Vec<JoinHandle<()>>,
}

impl Watches<'_> {
    fn add(
        &mut self,
        resource: ApiResource,
        labels: Option<&'static str>,
        fields: Option<&'static str>,
        handle: impl Fn(&Context, Change) + Send + Sync + 'static,
    ) {
        let target = Target { resource, labels, fields, namespaces: self.namespaces.to_vec() };
        let context = self.context.clone();
        let handle: watch::Handle = Arc::new(move |change| handle(&context, change));
        self.all.extend(watch::start(&self.context.client, &target, self.synced, &self.context.metrics, &handle));
    }
}

fn stop_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        // Without handlers the signals end the process at once, which it survives too.
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    stop
}
