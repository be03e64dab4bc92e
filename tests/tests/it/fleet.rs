//! A subnet whose nodes are processes, each behind proxies of its own, and the rules that hold whatever happens to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use bistro_api::{NodeStatus, Role};
use bistro_protocol::{
    check::Verdict,
    hotkey::Hotkey,
    manifest::{MAX_MANIFEST, Manifest},
    object::{self, Kind, Opened},
};
use bistro_tests::{
    process::Worker,
    proxy::{BucketFault, BucketProxy, ChainFault, ChainProxy},
    shim::Shim,
};
use bistro_worker::bucket::Bucket;

use crate::support::Subnet;

/// Between two looks at all nodes.
const LOOK: Duration = Duration::from_millis(300);

/// What is wrong with one node or its surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Its way to the bucket.
    Bucket(BucketFault),
    /// Its way to the chain.
    Chain(ChainFault),
    /// There is no room in its state folder.
    Disk,
    /// Its wall clock differs by so many seconds; from its start on.
    Clock(i64),
}

/// One node.
pub struct Member {
    /// Its resource's name.
    pub name: &'static str,
    /// Its process.
    pub worker: Worker,
    /// Its latest answer.
    pub status: Option<NodeStatus>,
    bucket: BucketProxy,
    chain: ChainProxy,
    flag: PathBuf,
}

impl Member {
    /// From now on this is wrong. A clock cannot be set while the process runs.
    pub fn suffer(&self, fault: Fault) {
        match fault {
            Fault::None | Fault::Clock(_) => {}
            Fault::Bucket(fault) => self.bucket.set(fault),
            Fault::Chain(fault) => self.chain.set(fault),
            Fault::Disk => std::fs::write(&self.flag, "").expect("a flag"),
        }
    }

    /// From now on nothing is wrong, except the clock.
    pub fn heal(&self) {
        self.bucket.set(BucketFault::None);
        self.chain.set(ChainFault::None);
        // There is none unless the disk was full.
        let _ = std::fs::remove_file(&self.flag);
    }

    /// How often its proxies disturbed something.
    pub fn met(&self) -> u64 {
        self.bucket.met() + self.chain.met()
    }
}

/// All of them.
pub struct Fleet {
    pub subnet: Subnet,
    pub members: Vec<Member>,
    shim: Shim,
    bucket: Bucket,
    /// The manifests so far, from the first window on.
    manifests: Vec<Manifest>,
    /// Digests of the latest of them, and of the base after it.
    latest: Option<([u8; 32], [u8; 32])>,
    /// Digest of the base before each window, as the first node said it.
    digests: BTreeMap<u64, String>,
    /// Nodes that may stop by themselves.
    pub rivals: BTreeSet<&'static str>,
}

impl Fleet {
    /// A devnet and nobody yet.
    pub async fn new() -> Self {
        let subnet = Subnet::start().await;
        let shim = Shim::compile(subnet.folder()).expect("a C compiler");
        let bucket = subnet.bucket(&subnet.wallet(Role::Averager, "averager")).await;
        let (members, manifests, latest) = (Vec::new(), Vec::new(), None);
        Self { subnet, members, shim, bucket, manifests, latest, digests: BTreeMap::new(), rivals: BTreeSet::new() }
    }

    /// Starts a node called `name` with keys of its own, or with those of the node `keys_of`.
    pub async fn add(&mut self, role: Role, name: &'static str, keys_of: &str, fault: Fault) {
        let at = |url: String| -> SocketAddr {
            url.split("//").nth(1).and_then(|host| host.parse().ok()).expect("the devnet listens on an address")
        };
        let bucket = BucketProxy::to(at(self.subnet.devnet.s3_url())).await;
        let chain = ChainProxy::to(at(self.subnet.devnet.rpc_url())).await;
        let mut settings = self.subnet.settings.clone();
        settings.name = keys_of.to_owned();
        settings.chain.endpoints = vec![chain.url()];
        settings.bucket.endpoint = Some(bucket.url());
        let folder = self.subnet.folder().join(name);
        let flag = folder.join("full");
        let worker = Worker::new(role, folder, &settings);
        let variables = match fault {
            Fault::Clock(seconds) => self.shim.clock(seconds),
            Fault::Disk => self.shim.disk(&worker.state(), &flag),
            Fault::None | Fault::Bucket(_) | Fault::Chain(_) => Vec::new(),
        };
        let mut worker = worker.with(variables);
        worker.start();
        self.members.push(Member { name, worker, status: None, bucket, chain, flag });
    }

    pub fn member(&mut self, name: &str) -> &mut Member {
        self.members.iter_mut().find(|m| m.name == name).expect("a node of this name")
    }

    /// The public key of a node.
    pub fn hotkey(&self, role: Role, name: &str) -> Hotkey {
        Hotkey(self.subnet.wallet(role, name).hotkey.public())
    }

    pub fn window(&self) -> u64 {
        self.subnet.clock().window_of(self.subnet.chain.head().number)
    }

    /// Asks everybody once, and holds the rules: equal digests, nobody stops by itself, nobody sees fraud.
    pub async fn look(&mut self) {
        let answers = futures::future::join_all(self.members.iter().map(|m| m.worker.status())).await;
        for (member, answer) in self.members.iter_mut().zip(answers) {
            let ended = member.worker.ended();
            let (name, worker) = (member.name, &member.worker);
            assert!(ended.is_none() || self.rivals.contains(name), "{name} ended: {ended:?}: {}", worker.last_line());
            let Some(status) = answer else { continue };
            for record in &status.history {
                let known = self.digests.entry(record.window).or_insert_with(|| record.base_digest.clone());
                assert_eq!(*known, record.base_digest, "{} before window {}", member.name, record.window);
            }
            for scored in &status.scores {
                assert!(!is_fraud(&scored.verdict), "{} sees {} by {}", member.name, scored.verdict, scored.hotkey);
            }
            member.status = Some(status);
        }
        while self.next_manifest().await {}
    }

    /// Reads the next manifest, if it is there: it follows from the one before.
    async fn next_manifest(&mut self) -> bool {
        let window = self.subnet.settings.run.start_window + self.manifests.len() as u64;
        let (agreement, averager) = (self.subnet.agreement(), self.hotkey(Role::Averager, "averager"));
        let key = agreement.key(&averager, window, Kind::Manifest);
        let Some(found) = self.bucket.get(&key, MAX_MANIFEST).await.expect("the bucket answers") else { return false };
        let opened = object::open(&agreement, &averager, window, Kind::Manifest, &found.bytes);
        let Opened::<Manifest> { body, digest } = opened.expect("a sound manifest");
        let (previous, base) = self.latest.unwrap_or(([0; 32], body.base_before.0));
        body.check(window, previous, base).expect("the manifests are one history");
        self.latest = Some((digest, body.base_after.0));
        self.manifests.push(body);
        true
    }

    /// Looks again and again until it is as asked, for at most `patience`.
    pub async fn until(&mut self, what: &str, patience: Duration, mut asked: impl AsyncFnMut(&mut Self) -> bool) {
        let began = Instant::now();
        loop {
            self.look().await;
            if asked(self).await {
                return;
            }
            assert!(began.elapsed() < patience, "{what}: not within {} s", patience.as_secs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What the manifests of the windows from `first` on say of a hotkey, as far as there are manifests.
    pub fn verdicts(&self, hotkey: Hotkey, first: u64) -> impl Iterator<Item = Verdict> {
        let skipped = first.saturating_sub(self.subnet.settings.run.start_window) as usize;
        let entries = self.manifests.iter().skip(skipped).flat_map(|manifest| &manifest.neurons);
        entries.filter(move |entry| entry.hotkey == hotkey).map(|entry| entry.verdict)
    }

    /// All manifests so far: the digests are those that all nodes had; every registered hotkey has one verdict in every
    /// window, and never one that would be a lie about an honest miner.
    pub fn audit(&self) -> Ledger {
        let mut ledger = Ledger::default();
        let mut registered = BTreeSet::new();
        for (window, manifest) in (self.subnet.settings.run.start_window..).zip(&self.manifests) {
            let said = self.digests.get(&window);
            let base = hex::encode(manifest.base_before.0);
            assert!(said.is_none_or(|said| *said == base), "the base before window {window}");
            ledger.compared += u64::from(said.is_some());
            ledger.windows += 1;
            ledger.admitted += manifest.admitted.len() as u64;
            ledger.empty += u64::from(manifest.blocks.is_none());
            let mut hotkeys = BTreeSet::new();
            for entry in &manifest.neurons {
                assert!(hotkeys.insert(entry.hotkey.ss58()), "{} twice in window {window}", entry.hotkey);
                let verdict = entry.verdict;
                let honest =
                    matches!(verdict, Verdict::Accepted | Verdict::NoCommit | Verdict::NoArtifact | Verdict::Late);
                assert!(honest, "{verdict} for {} in window {window}", entry.hotkey);
                *ledger.by_hotkey.entry(entry.hotkey.ss58()).or_default().entry(verdict).or_default() += 1;
            }
            // Nobody leaves this subnet; only a window that the averager knows nothing of has no entries.
            if manifest.blocks.is_some() {
                assert!(hotkeys.is_superset(&registered), "window {window} leaves somebody out: {hotkeys:?}");
                registered = hotkeys;
            }
        }
        ledger
    }

    /// Asks everybody to stop, and the devnet too: nobody has anything to complain about.
    pub async fn stop(mut self) {
        let mut members = std::mem::take(&mut self.members);
        for member in members.iter_mut().filter(|m| !self.rivals.contains(m.name)) {
            let status = member.worker.stop().await;
            assert!(status.is_some_and(|s| s.success()), "{} stopped with {status:?}", member.name);
        }
    }
}

/// A failed test shows what every node said last.
impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                let message = member.status.as_ref().map_or("", |s| &s.message);
                eprintln!("---- {} says: {message}\n{}", member.name, member.worker.tail());
            }
        }
    }
}

fn is_fraud(verdict: &str) -> bool {
    [Verdict::Forged, Verdict::NotCommitted, Verdict::Norm, Verdict::Recompute].iter().any(|v| v.as_str() == verdict)
}

/// What the manifests say in sum.
#[derive(Default)]
pub struct Ledger {
    /// Manifests.
    pub windows: u64,
    /// Of those, windows that the averager knows nothing of.
    pub empty: u64,
    /// Pieces of work that were merged.
    pub admitted: u64,
    /// Windows whose base at least one node showed and that was compared with the manifest's.
    pub compared: u64,
    /// Verdicts by hotkey.
    pub by_hotkey: BTreeMap<String, BTreeMap<Verdict, u64>>,
}

impl Ledger {
    /// How often these hotkeys got this verdict.
    pub fn count(&self, hotkeys: &[Hotkey], verdict: Verdict) -> u64 {
        let of = |hotkey: &Hotkey| self.by_hotkey.get(&hotkey.ss58()).and_then(|v| v.get(&verdict)).copied();
        hotkeys.iter().filter_map(of).sum()
    }
}
