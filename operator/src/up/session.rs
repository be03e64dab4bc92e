//! One `up` from the first process to the last: start, watch, stop.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use bistro_api::NodeStatus;
use kube::ResourceExt;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Arguments, UpError,
    board::Board,
    devnet::{self, DevnetOptions},
    display::{Display, FRAME},
    endpoints::Endpoints,
    frame::Heading,
    network::{self, Network},
    pod::{LocalPod, Renderer},
    poll::{Addresses, keep_asking},
    state::StateFolder,
    summary,
    supervisor::{Event, Supervisor, Wanted},
};
use crate::{ask::PollError, manifests::Manifests, plan::contract};

/// First and longest wait before a process starts again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the end waits for a node that has not followed the last window.
const STRAGGLER_GRACE: Duration = Duration::from_secs(120);
/// And how many windows.
const STRAGGLER_WINDOWS: u64 = 2;

/// Ends that take longer are worth a word.
const QUICK: Duration = Duration::from_secs(2);

/// A running network.
pub struct Session<'a> {
    arguments: &'a Arguments,
    started: Instant,
    board: Board,
    display: Display,
    labels: BTreeMap<String, String>,
    addresses: Addresses,
    events: mpsc::UnboundedReceiver<Event>,
    supervisor: Supervisor,
    nodes: Group,
    devnet: Group,
    interrupts: Interrupts,
    /// When the last wanted window was seen.
    target_since: Option<Instant>,
}

/// Processes that stop together.
struct Group {
    wanted: watch::Sender<Wanted>,
    running: JoinSet<String>,
    /// Those that have not ended.
    ids: BTreeSet<String>,
}

impl Group {
    fn new() -> Self {
        Self { wanted: watch::Sender::new(Wanted::Running), running: JoinSet::new(), ids: BTreeSet::new() }
    }

    fn start(&mut self, supervisor: Supervisor, pod: LocalPod) {
        let id = pod.id.clone();
        self.ids.insert(id.clone());
        self.running.spawn(async move {
            supervisor.supervise(pod).await;
            id
        });
    }

    /// Waits until all have ended.
    async fn drain(&mut self) {
        while let Some(ended) = self.running.join_next().await {
            if let Ok(id) = ended {
                self.ids.remove(&id);
            }
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl<'a> Session<'a> {
    /// Starts everything, runs it to its end, stops everything and writes the summary.
    pub async fn begin(
        arguments: &'a Arguments,
        manifests: Manifests,
        network: Network,
        programs: PathBuf,
        started: Instant,
    ) -> Result<(), UpError> {
        let state = StateFolder::open(arguments.state.as_deref(), &network.subnet.name_any())?;
        let (sender, events) = mpsc::unbounded_channel();
        let nodes = Group::new();
        let mut session = Self {
            arguments,
            started,
            board: Board::default(),
            display: Display::new(arguments.plain, started),
            labels: BTreeMap::new(),
            addresses: Addresses::default(),
            events,
            supervisor: Supervisor {
                leash: std::env::current_exe().map_err(UpError::Runtime)?,
                backoff: BACKOFF,
                events: sender,
                wanted: nodes.wanted.subscribe(),
            },
            nodes,
            devnet: Group::new(),
            interrupts: Interrupts::listen().map_err(UpError::Runtime)?,
            target_since: None,
        };
        network.warnings.iter().for_each(|warning| session.display.say(&format!("warning: {warning}")));
        let ended = session.run(manifests, network, &state, programs).await;
        session.stop().await;
        session.display.end(&session.board);
        session.write_summary()?;
        ended
    }

    async fn run(
        &mut self,
        manifests: Manifests,
        mut network: Network,
        state: &StateFolder,
        programs: PathBuf,
    ) -> Result<(), UpError> {
        if network.needs_devnet() {
            let Some(endpoints) = self.start_devnet(&network, state, &programs).await? else { return Ok(()) };
            network = network::plan(&network::on_devnet(&manifests, &endpoints))?;
        } else if self.arguments.devnet_corpus.is_some() {
            self.display
                .say("warning: --devnet-corpus means nothing here: no endpoint of the subnet names the host devnet");
        }
        let count = network.workloads.iter().map(|w| w.validated.replicas).sum::<i32>();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / usize::try_from(count).unwrap_or_default().max(1)).max(1);
        let renderer = Renderer { network: &network, state, programs: &programs, threads };
        let jobs = renderer.jobs()?;
        let mut nodes = Vec::new();
        for workload in &network.workloads {
            nodes.extend(renderer.nodes(workload)?);
        }
        unambiguous(&mut nodes);
        let view = |pod: &LocalPod| Some((pod.id.clone(), pod.label.clone(), pod.role?));
        self.board = Board::new(nodes.iter().filter_map(view));
        self.display.say(&header(&network, &nodes, &jobs, state));
        self.display.begin(heading(&network, self.arguments));
        jobs.into_iter().chain(nodes).for_each(|pod| self.start(pod));
        self.watch().await
    }

    /// `None`: interrupted while it was starting.
    async fn start_devnet(
        &mut self,
        network: &Network,
        state: &StateFolder,
        programs: &std::path::Path,
    ) -> Result<Option<Endpoints>, UpError> {
        let corpus = self.arguments.devnet_corpus.as_ref().map(|path| path.canonicalize().unwrap_or(path.clone()));
        let options = DevnetOptions { programs, block_time: &self.arguments.block_time, corpus };
        let pod = devnet::pod(&network.subnet, state, &options)?;
        let skip = devnet::log_length(&pod);
        self.labels.insert(pod.id.clone(), pod.label.clone());
        let supervisor = Supervisor { wanted: self.devnet.wanted.subscribe(), ..self.supervisor.clone() };
        self.devnet.start(supervisor, pod.clone());
        let ready = devnet::ready(&pod, skip);
        tokio::pin!(ready);
        loop {
            tokio::select! {
                endpoints = &mut ready => return Ok(Some(endpoints)),
                Some(event) = self.events.recv() => self.handle(event)?,
                () = self.interrupts.next() => return Ok(None),
            }
        }
    }

    fn start(&mut self, pod: LocalPod) {
        self.labels.insert(pod.id.clone(), pod.label.clone());
        self.nodes.start(self.supervisor.clone(), pod);
    }

    /// Until the windows are done, something fails or somebody interrupts.
    async fn watch(&mut self) -> Result<(), UpError> {
        let (sender, mut answers) = mpsc::channel(64);
        let mut background = JoinSet::new();
        for node in &self.board.nodes {
            background.spawn(keep_asking(node.id.clone(), self.addresses.clone(), sender.clone()));
        }
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resumed = signal(SignalKind::from_raw(nix::libc::SIGCONT)).map_err(UpError::Runtime)?;
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => self.handle(event)?,
                Some((id, answer)) = answers.recv() => {
                    self.take_in(&id, answer)?;
                    if self.done() {
                        return Ok(());
                    }
                }
                _ = frames.tick() => self.display.draw(&self.board),
                _ = resumed.recv() => self.display.resume(),
                () = self.interrupts.next() => return Ok(()),
            }
        }
    }

    fn take_in(&mut self, id: &str, answer: Result<NodeStatus, PollError>) -> Result<(), UpError> {
        let now = self.started.elapsed();
        match answer {
            Ok(status) => {
                let news = self.board.observe(id, status, now).map_err(UpError::Diverged)?;
                self.display.news(&self.board, news);
            }
            Err(why) => {
                let news = self.board.unanswered(id, &why.to_string(), now);
                self.display.news(&self.board, news);
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), UpError> {
        let label = |id: &String| self.labels.get(id).unwrap_or(id).clone();
        match event {
            Event::Started { id, http } => {
                if let Ok(mut addresses) = self.addresses.lock() {
                    addresses.insert(id, http);
                }
            }
            Event::Restarting { id, cause, after } => {
                // Another process may get its port.
                if let Ok(mut addresses) = self.addresses.lock() {
                    addresses.remove(&id);
                }
                self.board.restarting(&id, &cause, self.started.elapsed());
                let line = format!("{} {cause}, starting again in {:.1} s", label(&id), after.as_secs_f64());
                self.display.say(&line);
            }
            Event::Done { id } => self.display.say(&format!("job {} is done", label(&id))),
            Event::Failed { id, line } => return Err(UpError::Failed(label(&id), line)),
        }
        Ok(())
    }

    /// Whether all wanted windows are over and every node has left them behind.
    fn done(&mut self) -> bool {
        let wanted = self.arguments.windows.and_then(|windows| usize::try_from(windows).ok());
        let Some(target) = wanted.and_then(|windows| self.board.target(windows)) else { return false };
        let behind = self.board.behind(target);
        if behind.is_empty() {
            return true;
        }
        let since = *self.target_since.get_or_insert_with(Instant::now);
        let newest = self.board.nodes.iter().filter_map(|node| node.newest_window()).max();
        let over = newest.is_some_and(|newest| newest > target.saturating_add(STRAGGLER_WINDOWS));
        if over || since.elapsed() > STRAGGLER_GRACE {
            let line = format!("warning: {} did not follow window {target} in time", behind.join(", "));
            self.display.say(&line);
            return true;
        }
        false
    }

    /// Nodes first: they may still be writing to the bucket.
    async fn stop(&mut self) {
        for group in [&mut self.nodes, &mut self.devnet] {
            if let Some(late) = ask_to_stop(group, &self.labels).await {
                self.display.say(&format!("waiting for {late} to end; Ctrl-C again kills"));
                self.display.draw(&self.board);
                stop_late(group, &mut self.interrupts).await;
            }
        }
    }

    fn write_summary(&self) -> Result<(), UpError> {
        let Some(path) = &self.arguments.summary else { return Ok(()) };
        let mut text = serde_json::to_string_pretty(&summary::of(&self.board)).unwrap_or_default();
        text.push('\n');
        fs::write(path, text).map_err(|error| UpError::Summary(path.display().to_string(), error))
    }
}

/// SIGTERM; the names of those that take more than a moment.
async fn ask_to_stop(group: &mut Group, labels: &BTreeMap<String, String>) -> Option<String> {
    if group.running.is_empty() {
        return None;
    }
    group.wanted.send_replace(Wanted::Stopped);
    if timeout(QUICK, group.drain()).await.is_ok() {
        return None;
    }
    let names: Vec<&str> = group.ids.iter().map(|id| labels.get(id).unwrap_or(id).as_str()).collect();
    Some(names.join(", "))
}

/// The grace of the contract, then SIGKILL; an interrupt cuts the grace short.
async fn stop_late(group: &mut Group, interrupts: &mut Interrupts) {
    let grace = Duration::from_secs(u64::try_from(contract::GRACE_SECONDS).unwrap_or_default());
    tokio::select! {
        () = group.drain() => return,
        () = interrupts.next() => {}
        () = sleep(grace) => {}
    }
    group.wanted.send_replace(Wanted::Killed);
    group.drain().await;
}

/// Nodes of two kinds may have one name; then the pods' names tell them apart.
fn unambiguous(nodes: &mut [LocalPod]) {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    nodes.iter().for_each(|node| *count.entry(node.label.clone()).or_default() += 1);
    for node in nodes.iter_mut().filter(|node| count.get(&node.label).is_some_and(|n| *n > 1)) {
        node.label = node.id.clone();
    }
}

fn header(network: &Network, nodes: &[LocalPod], jobs: &[LocalPod], state: &StateFolder) -> String {
    let spec = &network.subnet.spec;
    let labels = |pods: &[LocalPod]| pods.iter().map(|pod| pod.label.as_str()).collect::<Vec<_>>().join(" ");
    let bucket = spec.bucket.endpoint.as_deref().unwrap_or("s3:/");
    let folder = state.path().display();
    let mut lines = vec![
        format!("subnet  {} (netuid {}, run {})", network.subnet.name_any(), spec.netuid, spec.run.id),
        format!("chain   {}", spec.chain.endpoints.join(" ")),
        format!("bucket  {bucket}/{}", spec.bucket.name),
        format!("nodes   {}", labels(nodes)),
    ];
    if !jobs.is_empty() {
        lines.push(format!("jobs    {}", labels(jobs)));
    }
    lines.push(format!("logs    {folder}/pods/*/log"));
    lines.push(format!("again   --state {folder} continues from here; Ctrl-C stops everything"));
    lines.join("\n")
}

fn heading(network: &Network, arguments: &Arguments) -> Heading {
    let spec = &network.subnet.spec;
    Heading {
        subnet: network.subnet.name_any(),
        netuid: spec.netuid,
        run: spec.run.id,
        schedule: spec.run.schedule.clone(),
        windows: arguments.windows,
    }
}
