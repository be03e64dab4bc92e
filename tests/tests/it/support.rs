//! A subnet of real nodes in this process, over a devnet of its own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bistro_api::{NodeStatus, Role, Settings, settings};
use bistro_devnet::{Devnet, Options};
use bistro_protocol::{
    check::Verdict,
    clock::Clock,
    hotkey::Hotkey,
    manifest::{MAX_MANIFEST, Manifest},
    object::{self, Agreement, Kind},
};
use bistro_tests::process::{ask, free_port};
use bistro_worker::{
    bucket::{Bucket, Credentials},
    chain::{Chain, DevWallet, Identity, bootstrap},
    data::{self, BucketFolder, FolderDocuments},
    engine::{Choice, Precision},
    environment::Environment,
    failure::Failure,
    roles,
    telemetry::Telemetry,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything: only so that a broken test ends.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Devnet, bucket with a dataset, and the agreement of a small run.
pub struct Subnet {
    pub devnet: Devnet,
    pub chain: Chain,
    pub settings: Settings,
    folder: tempfile::TempDir,
}

impl Subnet {
    /// A chain with four blocks a second and a dataset made of this workspace's own sources.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same with other settings.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_on(tempfile::tempdir().expect("a temporary folder"), own_sources(), change).await
    }

    /// The same with the text of another folder.
    pub async fn start_from(text: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_on(tempfile::tempdir().expect("a temporary folder"), text.to_owned(), change).await
    }

    /// The same, where the chain has blocks already: their hashes are what a long history needs, not the hours.
    pub async fn start_late(blocks: u64, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let block_time = Duration::from_millis(10);
        let options = Options { data: folder.path().join("devnet"), block_time, ..Options::default() };
        let devnet = Devnet::start(options).await.expect("a devnet starts");
        let settings = json!({ "endpoints": [devnet.rpc_url()] });
        let settings = serde_json::from_value(settings).expect("sound settings");
        let chain = Chain::connect(&settings, Telemetry::new(Role::Miner)).await.expect("the chain answers");
        chain.wait_for(blocks).await;
        devnet.shutdown().await;
        Self::start_on(folder, own_sources(), change).await
    }

    async fn start_on(folder: tempfile::TempDir, text: PathBuf, change: impl FnOnce(&mut Settings)) -> Self {
        let options = Options { data: folder.path().join("devnet"), ..Options::default() };
        let devnet = Devnet::start(options).await.expect("a devnet starts");
        let digest = prepare_dataset(&devnet, &text).await;
        let mut settings = small_run(&devnet, &digest);
        change(&mut settings);
        let chain = Chain::connect(&settings.chain, Telemetry::new(Role::Miner)).await.expect("the chain answers");
        Self { devnet, chain, settings, folder }
    }

    /// Starts a node, or starts it again with the state that it left.
    pub fn node(&self, role: Role, name: &str) -> Node {
        Node::start(role, self.environment(name))
    }

    /// The same with other settings than the others.
    pub fn node_with(&self, role: Role, name: &str, change: impl FnOnce(&mut Settings)) -> Node {
        let mut settings = self.settings.clone();
        change(&mut settings);
        Node::start(role, self.environment_with(name, settings))
    }

    /// What a node without keys of its own takes; its settings are written.
    pub fn environment(&self, name: &str) -> Environment {
        self.environment_with(name, self.settings.clone())
    }

    fn environment_with(&self, name: &str, settings: Settings) -> Environment {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(folder.join("state")).expect("a folder");
        let settings = Settings { name: name.to_owned(), ..settings };
        let text = serde_json::to_string(&settings).expect("plain data");
        std::fs::write(folder.join("settings.yaml"), text).expect("JSON is YAML");
        Environment {
            settings: folder.join("settings.yaml"),
            secrets: PathBuf::from("no secrets: development keys"),
            state: folder.join("state"),
            http: free_port().to_string(),
            threads: 1,
            device: Choice::Cpu,
            precision: Precision::F32,
            recompute: None,
            ordinal: 0,
        }
    }

    /// A hotkey on the chain that no node runs for.
    pub async fn register(&self, role: Role, name: &str) -> DevWallet {
        let wallet = self.wallet(role, name);
        let identity = Identity::Development(wallet.clone());
        bootstrap(&self.chain, &identity, role, self.settings.netuid, 0).await.expect("the devnet registers it");
        wallet
    }

    /// A signed object of a hotkey; waits until it is there.
    pub async fn object<T: DeserializeOwned>(&self, wallet: &DevWallet, window: u64, kind: Kind) -> T {
        let (bucket, hotkey) = (self.bucket(wallet).await, Hotkey(wallet.hotkey.public()));
        let key = self.agreement().key(&hotkey, window, kind);
        let found = wait(async || bucket.get(&key, MAX_MANIFEST).await.expect("the bucket answers")).await;
        object::open(&self.agreement(), &hotkey, window, kind, &found.bytes).expect("a sound object").body
    }

    pub fn agreement(&self) -> Agreement {
        Agreement {
            genesis: self.devnet.genesis(),
            netuid: self.settings.netuid,
            run: self.settings.run.id,
            run_digest: bistro_api::digest::run_digest(&self.settings.run),
        }
    }

    pub fn clock(&self) -> Clock {
        Clock::new(&self.settings.run.schedule).expect("the phases fit")
    }

    pub fn wallet(&self, role: Role, name: &str) -> DevWallet {
        DevWallet::derive(&self.settings.namespace, role.as_str(), name, 0)
    }

    /// Everything of this subnet lies below it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn bucket(&self, wallet: &DevWallet) -> Bucket {
        let credentials = Credentials::development(&wallet.hotkey.ss58());
        Bucket::new(&self.settings.bucket, credentials, Telemetry::new(Role::Miner)).await.expect("sound settings")
    }

    /// The manifest of a window by the averager called `averager`; waits until it is there.
    pub async fn manifest(&self, window: u64) -> Manifest {
        self.object(&self.wallet(Role::Averager, "averager"), window, Kind::Manifest).await
    }

    /// What the manifest says of a hotkey.
    pub async fn verdict(&self, window: u64, wallet: &DevWallet) -> Option<Verdict> {
        let hotkey = Hotkey(wallet.hotkey.public());
        self.manifest(window).await.neurons.iter().find(|e| e.hotkey == hotkey).map(|e| e.verdict)
    }
}

/// Calls `ask` until it answers, or fails the test.
pub async fn wait<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it comes in time")
}

/// Enough text for tests that are not about learning.
fn own_sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/src")
}

async fn prepare_dataset(devnet: &Devnet, text: &Path) -> String {
    let keys = Credentials::Keys { access_key_id: "admin".into(), secret_access_key: "admin".into() };
    let bucket =
        Bucket::new(&bucket_settings(devnet), keys, Telemetry::new(Role::Miner)).await.expect("sound settings");
    let documents = FolderDocuments::new(text, &["rs".to_owned()]).expect("sources");
    let sink = BucketFolder::new(bucket, "datasets/test");
    data::prepare(&documents, &sink, None, |_| ()).await.expect("the devnet takes it").digest
}

fn bucket_settings(devnet: &Devnet) -> settings::Bucket {
    let text = json!({ "name": "bistro", "endpoint": devnet.s3_url() });
    serde_json::from_value(text).expect("sound settings")
}

fn small_run(devnet: &Devnet, digest: &str) -> Settings {
    let text = json!({
        "namespace": "default", "name": "", "subnet": "test", "netuid": 1, "devWallet": true,
        "chain": { "endpoints": [devnet.rpc_url()] },
        "bucket": { "name": "bistro", "endpoint": devnet.s3_url() },
        "run": {
            "id": 1,
            "from": { "seed": 1 },
            "schedule": { "windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8, "skewSeconds": 0 },
            "dataset": { "prefix": "datasets/test", "digest": digest, "sequenceLength": 32, "pageSequences": 2, "pagesPerWindow": 4 },
            "model": { "preset": "test" },
            "training": { "learningRate": "1e-2", "batchSequences": 4, "innerSteps": 2 },
            "mechanism": { "cosine": { "sliceRatio": 4 } }
        }
    });
    serde_json::from_value(text).expect("sound settings")
}

/// Digests by window of what a node holds in its history.
pub fn digests(status: &NodeStatus) -> BTreeMap<u64, String> {
    status.history.iter().map(|r| (r.window, r.base_digest.clone())).collect()
}

/// One node of the subnet.
pub struct Node {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Failure>>,
    http: SocketAddr,
}

impl Node {
    fn start(role: Role, environment: Environment) -> Self {
        let http = environment.http.parse().expect("an address");
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(roles::run(role, environment, stop.clone())), stop, http }
    }

    /// What the node says of itself, if it answers.
    pub async fn status(&self) -> Option<NodeStatus> {
        serde_json::from_slice(&ask(self.http, "/status").await?).ok()
    }

    /// Waits until the status is as asked; fails at once when the node has failed for good.
    pub async fn until(&self, mut asked: impl FnMut(&NodeStatus) -> bool) -> NodeStatus {
        wait(async || {
            assert!(!self.task.is_finished(), "the node has stopped");
            self.status().await.filter(|s| asked(s))
        })
        .await
    }

    /// Asks it to stop and waits for the end.
    pub async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("it stops in time");
        ended.expect("no panic").expect("no failure");
    }

    /// Waits until it has failed for good and gives its line.
    pub async fn failed(self) -> String {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("it ends in time").expect("no panic");
        match ended {
            Err(Failure::Permanent(line)) => line,
            other => panic!("it must fail for good: {other:?}"),
        }
    }

    /// Ends it without a word, as a kill does.
    pub async fn kill(self) {
        self.task.abort();
        let _aborted = self.task.await;
        self.stop.cancel();
    }
}
