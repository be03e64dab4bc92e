//! A miner of compressed work that is killed again and again publishes the bits that one would publish that never was:
//! model, moments, pages and what it carries are those of before.

use std::{path::PathBuf, sync::Arc};

use bistro_api::Role;
use bistro_protocol::{
    artifact, base::Base, hotkey::Hotkey, manifest::Manifest, mechanism, object::Kind, seed, slice::Slice,
    tensors::Tensors, topk::Sparse,
};
use bistro_worker::{
    engine::{Optimizer, Work},
    follow::Follower,
    mechanism::{
        compute,
        residual::{Residual, Sent, send},
    },
    node::Node,
    roles::prepare,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::Subnet;

/// What happens to the miner in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blow {
    /// Killed while it trains, or waits for the reveal.
    Training,
    /// The same, and an earlier try has left something behind that no work belongs to.
    TrainingTwice,
    /// Killed with a commit in the bucket and the work on disk.
    Committed,
    /// The same, and it comes back too late to upload.
    TooLate,
    /// Killed while the averager merges.
    Uploaded,
    /// Killed when it has followed the manifest, before it has drawn its conclusion.
    Followed,
}

const BLOWS: [Blow; 7] = [
    Blow::Training,
    Blow::Committed,
    Blow::Followed,
    Blow::TooLate,
    Blow::TrainingTwice,
    Blow::Uploaded,
    Blow::Followed,
];

/// A window as somebody saw it who only followed.
struct Seen {
    window: u64,
    base: Base,
    manifest: Manifest,
}

/// The life of a miner that was never killed, by what can be read of it.
struct Replay {
    node: Arc<Node>,
    hotkey: Hotkey,
    optimizer: Optimizer,
    residual: Option<Tensors>,
    /// Windows in which what was carried made a difference.
    carried: usize,
}

impl Replay {
    /// The next window; gives what was published in it, if that was uploaded.
    async fn window(&mut self, seen: &Seen) -> Option<Sparse> {
        let Seen { window, base, manifest } = seen;
        let read = async |kind| {
            let key = self.node.key(&self.hotkey, *window, kind);
            self.node.bucket.get(&key, 1 << 26).await.expect("the bucket answers").map(|found| found.bytes)
        };
        // A commit says that it has trained.
        read(Kind::Commit).await?;
        let file = read(Kind::Delta).await;
        let run = self.node.settings.run.clone();
        let facts = self.node.facts(*window).await.expect("the chain answers").expect("it remembers");
        let uid = facts.uid_of(&self.hotkey).expect("registered");
        let order = seed::pages(self.node.settings.netuid, run.id, *window, &facts.start.0);
        let pages = self.node.pages.own(&order, uid, run.dataset.pages_per_window);
        let sequences = self.node.sequences(&pages).await.expect("the bucket answers");
        let (start, windows, mut optimizer) = (base.clone(), window - run.start_window, self.optimizer.clone());
        let trained = self.node.compute(move |engine| {
            let mechanism = mechanism::of(&run);
            let parameters = &start.parameters;
            let work = Work { base: parameters, sequences: &sequences, training: &run.training, windows };
            let computed = compute(mechanism, engine, &work, &mut optimizer, &CancellationToken::new(), |_| ())?;
            Ok((mechanism.published(&computed.tensors, &Slice::Whole, &start), optimizer))
        });
        let (work, optimizer) = trained.await.expect("it trains");
        let mechanism = self.node.mechanism();
        let with = |carried| send(mechanism, &work, carried, 1).expect("compressed").expect("finite");
        let Sent { work: sent, left } = with(self.residual.clone());
        self.carried += usize::from(with(None).work != sent);
        self.optimizer = optimizer;
        let entry = manifest.neurons.iter().find(|entry| entry.uid == uid).expect("registered");
        if manifest.admitted.contains(&uid) {
            self.residual = left;
        }
        let file = file?;
        assert_eq!(entry.artifact.map(|digest| digest.0), Some(*blake3::hash(&file).as_bytes()));
        let published = artifact::decode(&file).expect("canonical").content;
        let shape = base.parameters.shape();
        assert!(file.len() as u64 <= mechanism.form().max_bytes(&shape), "{} bytes", file.len());
        let published = mechanism.form().read(published, &shape).expect("as the run says");
        assert_eq!(published, sent.dense(&shape), "window {window}: other bits");
        Some(sent)
    }
}

/// Does it to the miner in `window`, and starts it again.
async fn strike(subnet: &Subnet, miner: crate::support::Node, blow: Blow, window: u64) -> crate::support::Node {
    let (clock, state) = (subnet.clock(), subnet.folder().join("miner/state/run-1"));
    let file = |kind: &str, window: u64| -> PathBuf { state.join(format!("{kind}-{window:08}")) };
    let block = match blow {
        Blow::Training | Blow::TrainingTwice => clock.start(window) + 4,
        Blow::Committed | Blow::TooLate => clock.commits_close(window) + 1,
        Blow::Uploaded => clock.uploads_close(window) + 1,
        Blow::Followed => clock.start(window + 1),
    };
    if blow == Blow::Followed {
        miner.until(|status| status.base_window == Some(window + 1)).await;
    }
    subnet.chain.wait_for(block).await;
    miner.kill().await;
    match blow {
        Blow::TrainingTwice => {
            let files = std::fs::read_dir(&state).expect("a folder").flatten().map(|entry| entry.path());
            let carries =
                |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("residual-"));
            let newest = files.filter(carries).max().expect("it carries something");
            std::fs::copy(newest, file("left", window)).expect("copied");
        }
        Blow::TooLate => drop(subnet.chain.wait_for(clock.uploads_close(window) + 4).await),
        Blow::Followed => {
            // As if it had not come to this: what the work left behind waits for the manifest again.
            let bytes = std::fs::read(file("residual", window + 1)).expect("the work was admitted");
            assert!(Residual::from_bytes(&bytes).is_some());
            std::fs::rename(file("residual", window + 1), file("left", window)).expect("renamed");
        }
        _ => {}
    }
    subnet.node(Role::Miner, "miner")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_miner_carries_on_with_the_same_bits() {
    let subnet = Subnet::start_with(|settings| {
        let top_k = json!({ "topK": { "k": 32, "values": "twoBit", "decay": "0.9" } });
        let mechanism = json!({ "cosine": { "sliceRatio": 1, "compression": top_k } });
        settings.run.mechanism = serde_json::from_value(mechanism).expect("sound settings");
    })
    .await;
    let averager = subnet.node(Role::Averager, "averager");
    let mut miner = subnet.node(Role::Miner, "miner");
    let environment = subnet.environment("onlooker");
    let settings = environment.read_settings().expect("written by the test");
    let stop = CancellationToken::new();
    let node = Arc::new(prepare::onlooker(settings, environment, stop.clone()).await.expect("it gets ready"));
    let hotkey = Hotkey(subnet.wallet(Role::Miner, "miner").hotkey.public());
    let mut follower = Follower::start(&node).await.expect("it has a base");
    let (optimizer, residual) = (Optimizer::fresh(), None);
    let mut replay = Replay { node: Arc::clone(&node), hotkey, optimizer, residual, carried: 0 };

    // Two windows to get going: the first residual is there then.
    let first = miner.until(|status| status.windows >= 2).await.base_window.expect("it works");
    let last = first + BLOWS.len() as u64;
    let striking = async {
        for (window, blow) in (first + 1..).zip(BLOWS) {
            miner = strike(&subnet, miner, blow, window).await;
        }
        miner.until(|status| status.base_window > Some(last)).await;
        miner
    };
    let watching = async {
        let mut published = Vec::new();
        while follower.window <= last {
            let (window, base) = (follower.window, follower.base.clone());
            let manifest = follower.follow(&node).await.expect("it follows").manifest;
            if replay.window(&Seen { window, base, manifest }).await.is_some() {
                published.push(window);
            }
        }
        published
    };
    let (miner, published) = tokio::join!(striking, watching);
    for (window, blow) in (first + 1..).zip(BLOWS) {
        assert_eq!(published.contains(&window), blow != Blow::TooLate, "{blow:?} in window {window}: {published:?}");
    }
    assert!(replay.carried >= BLOWS.len(), "what is carried shows: {}", replay.carried);
    stop.cancel();
    for node in [averager, miner] {
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}
