//! A real Kubernetes for tests: etcd, API server and, where asked for, controllers, machines that are not there, and a
//! node that runs pods.
//!
//! Most tests share one API server ([`Cluster::shared`]) and take a namespace each: to start one takes seconds. What
//! stops, counts or fills a cluster starts its own. Nothing outlives the test program, however it ends.

mod attendant;
pub(crate) mod audit;
mod client;
mod control;
mod daemon;
mod folder;
mod network;
mod node;
mod prometheus;
mod site;
mod tools;

use std::{net::Ipv4Addr, time::Duration};

pub use audit::Request;
pub use client::Ran;
use daemon::Daemon;
use folder::Folder;
use network::Network;
use nix::sys::signal::Signal;
use node::Node;
pub use prometheus::{Prometheus, Sample};
use site::Site;
use tokio::sync::OnceCell;
use tools::Tools;

/// Longest wait for a part of the cluster: only so that a broken test ends.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks at what is being waited for.
const LOOK: Duration = Duration::from_millis(100);

/// What a cluster has besides etcd and API server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Controller-manager and scheduler: what turns stateful sets into pods, collects garbage, binds volumes.
    pub controllers: bool,
    /// An audit log of what everybody but the administrator and the cluster itself asks.
    pub audit: bool,
    /// Machines that are not there, with GPUs: their pods are ready at once.
    pub fake_nodes: usize,
    /// A real node, which runs pods; needs root. Implies `controllers`; excludes `fake_nodes`.
    pub node: bool,
    /// Users besides admin, operator and other, each with a token and all rights.
    pub users: Vec<String>,
    /// More arguments of the API server.
    pub api_server: Vec<String>,
}

/// A control plane. It ends when it is dropped, or with this process.
pub struct Cluster {
    // In the order in which they end: clients before servers, the folder last.
    node: Option<Node>,
    fake: Option<Daemon>,
    controllers: Vec<Daemon>,
    api_server: Daemon,
    etcd: Daemon,
    site: Site,
}

impl Cluster {
    /// Starts a cluster; `None`, with a loud word, where its programs are not built.
    pub async fn start(options: Options) -> Option<Self> {
        if !options.node {
            let site = Site::new(Folder::new(), Tools::control()?, Ipv4Addr::LOCALHOST, Vec::new(), &options.users);
            return Some(Self::start_at(site, &options).await);
        }
        assert!(options.fake_nodes == 0, "kwok would take the real node for one of its own");
        let (tools, folder) = (Tools::node()?, Folder::new());
        let network = Network::start(folder.path(), &tools);
        let site = Site::new(folder, tools, network.node(), network.enter_network(), &options.users);
        let mut cluster = Self::start_at(site, &Options { controllers: true, ..options }).await;
        cluster.node = Some(Node::start(&cluster.site, network));
        cluster.wait_for_node().await;
        Some(cluster)
    }

    /// The one that tests share, with controllers, two machines that are not there, and our resources.
    pub async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Cluster>> = OnceCell::const_new();
        let start = async || {
            let cluster = Self::start(Options { controllers: true, fake_nodes: 2, ..Options::default() }).await?;
            cluster.apply_crds().await;
            Some(cluster)
        };
        SHARED.get_or_init(start).await.as_ref()
    }

    async fn start_at(site: Site, options: &Options) -> Self {
        let etcd = control::etcd(&site);
        let api_server = control::api_server(&site, options.audit, &options.api_server);
        let mut cluster = Self { node: None, fake: None, controllers: Vec::new(), api_server, etcd, site };
        cluster.wait_for_certificate().await;
        cluster.site.write_kubeconfigs();
        cluster.wait_for_api_server().await;
        if options.controllers {
            cluster.controllers = vec![control::controller_manager(&cluster.site), control::scheduler(&cluster.site)];
        }
        if options.fake_nodes > 0 {
            cluster.fake = Some(control::kwok(&cluster.site));
            cluster.add_fake_nodes(options.fake_nodes).await;
        }
        cluster
    }

    /// Waits until `done` gives something; fails at once where a part of the cluster has ended.
    pub async fn until<T>(&self, what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(done) = done().await {
                    return done;
                }
                self.daemons().for_each(Daemon::check);
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(done) => done,
            Err(_) => panic!("{what} did not come about:\n{}{}", self.tails(), self.happenings().await),
        }
    }

    /// Stops the API server in the middle of what it does; connections stay open and get no answer.
    pub fn pause_api_server(&self) {
        self.api_server.pause();
    }

    /// Lets it go on.
    pub fn resume_api_server(&self) {
        self.api_server.signal(Signal::SIGCONT);
    }

    /// Ends the API server: connections break and new ones are refused.
    pub fn stop_api_server(&self) {
        self.api_server.end();
    }

    /// Starts it again, with the same data at the same address, and waits until it is ready.
    pub async fn start_api_server(&self) {
        self.api_server.start_again();
        self.wait_for_api_server().await;
    }

    /// What a user asked since the start; needs [`Options::audit`].
    pub fn requests(&self, user: &str) -> Vec<Request> {
        audit::requests(&self.site.file("audit.log"), user)
    }

    /// What a user wrote, or tried to.
    pub fn writes(&self, user: &str) -> Vec<Request> {
        self.requests(user).into_iter().filter(Request::is_write).collect()
    }

    /// The ends of all logs, for a test that fails.
    pub fn tails(&self) -> String {
        self.daemons().map(|daemon| format!("--- {}\n{}\n", daemon.name, daemon.tail())).collect()
    }

    /// What the API server knows of pods and volumes and why they wait, for a test that fails.
    async fn happenings(&self) -> String {
        let objects = self.kubectl(&["get", "pods,pvc,pv", "-A", "-o=wide", "--request-timeout=10s"]).await;
        let events = self.kubectl(&["events", "-A", "--request-timeout=10s"]).await;
        format!("--- objects\n{}{}\n--- events\n{}{}", objects.out, objects.err, events.out, events.err)
    }

    async fn wait_for_certificate(&self) {
        // The API server writes the certificate first, and the key after it.
        let key = self.site.file("pki/apiserver.key");
        self.until("the API server's certificate", async || key.exists().then_some(())).await;
    }

    async fn wait_for_api_server(&self) {
        self.until("a ready API server", async || self.is_ready().await.then_some(())).await;
    }

    fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        let node = self.node.iter().flat_map(Node::daemons);
        node.chain(&self.fake).chain(&self.controllers).chain([&self.api_server, &self.etcd])
    }
}
