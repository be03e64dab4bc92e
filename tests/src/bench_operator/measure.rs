//! What is done to one operator in one cluster of its own.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use kube::{
    Client,
    api::{Api, DynamicObject},
};
use nix::sys::signal::Signal;

use super::{
    Settings, drift,
    figures::Figures,
    ledger::{Ledger, Tally},
    load::{self, api, name},
    program::Program,
    subject::{self, Subject},
};
use crate::cluster::{Cluster, Options};

/// The user whose writes are counted.
const USER: &str = "operator";
/// Fake machines. A bench of 10,000 has 20,000 pods.
const MACHINES: usize = 8;
/// Ours writes a status every 30 s at most: what it owes is written by then.
const OWED: Duration = Duration::from_secs(31);
/// An operator that has written nothing for so long has finished.
const QUIET: Duration = Duration::from_secs(5);
/// An operator that writes for so long after everything is ready never finishes.
const NEVER_QUIET: Duration = Duration::from_secs(90);
/// Pause between two looks at the audit log.
const LOOK: Duration = Duration::from_millis(200);
/// Pause between a trial and the next.
const PAUSE: Duration = Duration::from_millis(150);

/// A subject in its cluster, with its figures.
pub struct Measured<'a> {
    subject: &'a Subject,
    settings: &'a Settings,
    cluster: Cluster,
    namespaces: Vec<String>,
    client: Client,
    figures: &'a mut Figures,
}

impl<'a> Measured<'a> {
    /// Everything, in a new cluster; `None` where there are no programs for one.
    pub async fn all(subject: &'a Subject, settings: &'a Settings, figures: &'a mut Figures) -> Option<()> {
        let options = Options { controllers: true, audit: true, fake_nodes: MACHINES, ..Options::default() };
        let cluster = Cluster::start(options).await?;
        let mut namespaces = Vec::new();
        for _ in 0..settings.namespaces {
            namespaces.push(cluster.namespace().await);
        }
        subject::install(subject, &cluster, &namespaces).await;
        let client = cluster.client().await;
        let mut measured = Self { subject, settings, cluster, namespaces, client, figures };
        let operator = measured.create().await;
        if let Some(operator) = operator {
            measured.rest(operator).await;
        }
        Some(())
    }

    async fn rest(&mut self, operator: Program) {
        if self.settings.does("drift") {
            self.drift().await;
        }
        let operator = self.restart(operator).await;
        if self.settings.does("idle") {
            self.idle(&operator).await;
        }
        operator.end(Signal::SIGTERM).await;
        if self.settings.does("handover") {
            self.handover("TERM", Signal::SIGTERM).await;
            self.handover("KILL", Signal::SIGKILL).await;
        }
    }

    fn start(&self, replica: Option<&'static str>) -> Option<Program> {
        let quiet = !self.settings.does("polls");
        let command = self.subject.command?;
        let kubeconfig = self.cluster.kubeconfig_of(USER);
        Some(Program::start(self.cluster.folder(), &kubeconfig, replica, quiet, command))
    }

    fn ledger(&self) -> Ledger {
        let log: PathBuf = self.cluster.folder().join("audit.log");
        Ledger::from_now(log, USER)
    }

    fn add(&mut self, name: &str, value: f64) {
        eprintln!("{} {name} {value:.3}", self.subject.name);
        self.figures.add(name, value);
    }

    /// Waits until the operator has written nothing for a while: what it wrote by then.
    async fn quiet(&self, ledger: &mut Ledger) -> Tally {
        let began = Instant::now();
        while began.elapsed() < NEVER_QUIET {
            let tally = ledger.read();
            if tally.last.unwrap_or(began).max(began).elapsed() > QUIET {
                return tally.clone();
            }
            tokio::time::sleep(LOOK).await;
        }
        eprintln!("{} never stops writing", self.subject.name);
        ledger.read().clone()
    }

    fn count(&self) -> f64 {
        self.settings.count as f64
    }

    /// Creates everything, and returns the operator that made it ready.
    async fn create(&mut self) -> Option<Program> {
        let began = Instant::now();
        let mut operator = self.start(None);
        if let Some(operator) = &mut operator {
            operator.answers(self.subject.ready_path).await;
            self.add("start.seconds", began.elapsed().as_secs_f64());
            // Its caches are full and its election over.
            tokio::time::sleep(Duration::from_secs(3)).await;
            operator.check();
        }
        let mut ledger = self.ledger();
        let cpu = operator.as_ref().map(Program::cpu);
        let creating = self.cluster.client().await;
        let count = self.settings.count;
        let took = load::until_all_ready(self.subject, &creating, &self.client, &self.namespaces, count).await;
        self.add("create.seconds", took.as_secs_f64());
        self.add("create.per_second", self.count() / took.as_secs_f64());
        if let (Some(operator), Some(cpu)) = (&mut operator, cpu) {
            let tally = self.quiet(&mut ledger).await;
            operator.check();
            let memory = operator.memory();
            self.add("create.cpu_s", operator.cpu() - cpu);
            self.add("create.rss_mib", memory.rss);
            self.add("create.peak_mib", memory.peak);
            self.add("create.writes", tally.writes as f64 / self.count());
            self.add("create.events", tally.events as f64 / self.count());
            self.add("create.conflicts", tally.conflicts as f64);
            eprintln!("{} asked {:?} and {} reads", self.subject.name, tally.by, tally.reads);
        }
        load::check_children(self.subject, &self.client, &self.namespaces, count).await;
        operator
    }

    /// Ends the operator and starts it again: until it has looked at everything once, and what it wrote for that.
    async fn restart(&mut self, operator: Program) -> Program {
        tokio::time::sleep(OWED).await;
        self.quiet(&mut self.ledger()).await;
        let stopped = operator.end(Signal::SIGTERM).await;
        self.add("restart.stop_seconds", stopped.as_secs_f64());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut ledger = self.ledger();
        let began = Instant::now();
        let mut operator = self.start(None).expect("it was started before");
        while operator.reconciles().await < self.count() {
            operator.check();
            assert!(began.elapsed() < NEVER_QUIET, "it does not look at everything:\n{}", operator.tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.add("restart.seconds", began.elapsed().as_secs_f64());
        let tally = self.quiet(&mut ledger).await;
        operator.check();
        let memory = operator.memory();
        self.add("restart.writes", tally.writes as f64);
        self.add("restart.events", tally.events as f64);
        self.add("restart.rss_mib", memory.rss);
        self.add("restart.peak_mib", memory.peak);
        self.add("restart.cpu_s", operator.cpu());
        operator
    }

    /// Lets the operator be.
    async fn idle(&mut self, operator: &Program) {
        self.quiet(&mut self.ledger()).await;
        let (mut ledger, cpu, began) = (self.ledger(), operator.cpu(), Instant::now());
        tokio::time::sleep(self.settings.idle).await;
        let tally = ledger.read().clone();
        let percent = (operator.cpu() - cpu) / began.elapsed().as_secs_f64() * 100.0;
        self.add("idle.writes", tally.writes as f64);
        self.add("idle.events", tally.events as f64);
        self.add("idle.cpu_percent", percent);
        self.add("idle.rss_mib", operator.memory().rss);
    }

    /// Deletes and edits children of resources that are spread over all.
    async fn drift(&mut self) {
        let subject = self.subject;
        for child in &subject.children {
            for (change, edit) in [("deleted", false), ("edited", true)] {
                let figure = format!("drift.{}.{change}", child.resource.plural);
                for trial in 0..self.settings.trials {
                    let (namespace, name) = self.pick(trial);
                    let children = api(&self.client, namespace, &child.resource);
                    let Some(took) = drift::trial(&children, child, &name, edit).await else { break };
                    self.figures.add(&figure, took.as_secs_f64() * 1000.0);
                    tokio::time::sleep(PAUSE).await;
                }
                if let Some(median) = self.figures.median(&figure) {
                    eprintln!("{} {figure} {median:.1} ms", subject.name);
                }
            }
        }
    }

    /// Namespace and name of a resource, another one for each number; 101 is prime to every usual count.
    fn pick(&self, number: usize) -> (&str, String) {
        let number = number * 101 % self.settings.count;
        (load::place(&self.namespaces, number), name(number))
    }

    /// Two replicas, of which the leader is ended: until the other one has the lease, and until it has put back a child that is
    /// deleted once the leader is gone.
    async fn handover(&mut self, ending: &str, signal: Signal) {
        let before = self.holder().await;
        let leader = self.start(Some("a")).expect("it was started before");
        let first = self.another_holder(before.as_deref()).await;
        let mut other = self.start(Some("b")).expect("it was started before");
        other.answers(self.subject.ready_path).await;
        // Its caches are full.
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.quiet(&mut self.ledger()).await;

        let child = self.subject.children.iter().find(|child| child.name.is_some()).expect("a child to delete");
        let (namespace, name) = self.pick(7);
        let children = api(&self.client, namespace, &child.resource);
        let name = child.name.expect("it has one")(&name);
        let began = Instant::now();
        let acted = async {
            leader.end(signal).await;
            drift::deleted(&children, &name).await;
            began.elapsed()
        };
        let taken = async {
            self.another_holder(first.as_deref()).await;
            began.elapsed()
        };
        let (acted, taken) = tokio::join!(acted, taken);
        other.check();
        other.end(Signal::SIGTERM).await;
        self.add(&format!("handover.{ending}.taken"), taken.as_secs_f64());
        self.add(&format!("handover.{ending}.seconds"), acted.as_secs_f64());
    }

    /// Waits until somebody else than `before` has the lease.
    async fn another_holder(&self, before: Option<&str>) -> Option<String> {
        let began = Instant::now();
        loop {
            let holder = self.holder().await;
            if holder.is_some() && holder.as_deref() != before {
                return holder;
            }
            assert!(began.elapsed() < NEVER_QUIET, "nobody takes the lease {}", self.subject.lease);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Who has the lease.
    async fn holder(&self) -> Option<String> {
        let resource = subject::resource("coordination.k8s.io", "v1", "Lease");
        let leases: Api<DynamicObject> = api(&self.client, "default", &resource);
        let lease = leases.get_opt(self.subject.lease).await.expect("leases can be read")?;
        let holder = lease.data.pointer("/spec/holderIdentity")?.as_str()?;
        (!holder.is_empty()).then(|| holder.to_owned())
    }
}
