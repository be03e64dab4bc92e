//! Cheats as nodes of a running subnet, over a real bucket and a real chain: what they come to beside honest miners.
//! `make bench-adversaries` prints it after the figures of the arena, which plays more windows in less time.

use std::{collections::BTreeMap, sync::Arc};

use bistro_api::{NodeStatus, Role, Run, Settings, run::Dataset};
use bistro_protocol::{
    artifact::{self, Content},
    check::{Commit, Verdict},
    hotkey::Hotkey,
    object::{self, Kind},
    record::Scores,
    seed,
    tensors::Tensors,
};
use bistro_tests::{
    cheat::{Cheat, Cheater, View},
    judge::auc,
    runs::{Knobs, small},
};
use bistro_worker::{failure::Failure, follow::Follower, node::Node, roles::prepare, telemetry::Telemetry};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::support::Subnet;

/// Evaluations that are waited for.
const EVALUATIONS: usize = 20;
const HONEST: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// The run that the arena plays, on the same text.
fn as_in_the_arena(settings: &mut Settings) {
    let small = small(Knobs { ratio: 10, ..Knobs::default() });
    let run = settings.run.clone();
    settings.run = Run {
        dataset: Dataset { prefix: run.dataset.prefix, digest: run.dataset.digest, ..small.dataset },
        schedule: run.schedule,
        ..small
    };
    settings.scoring.evaluations_per_window = 64;
}

/// One cheat with keys and state of its own.
struct Cheating {
    node: Arc<Node>,
    follower: Follower,
    cheater: Cheater,
    /// Whose work it copies, where it copies.
    victims: Vec<Hotkey>,
}

impl Cheating {
    async fn start(subnet: &Subnet, cheat: Cheat, number: u64, stop: &CancellationToken) -> Self {
        let environment = subnet.environment(&cheat.name());
        let settings = environment.read_settings().expect("written by the test");
        let node = prepare::node(Role::Miner, settings, environment, Telemetry::new(Role::Miner), stop.clone()).await;
        let node = Arc::new(node.expect("it gets ready"));
        let follower = Follower::start(&node).await.expect("it has a base");
        let victims = HONEST.iter().map(|name| Hotkey(subnet.wallet(Role::Miner, name).hotkey.public()));
        Self { victims: victims.collect(), cheater: Cheater::new(cheat, number), follower, node }
    }

    /// Cheats in every window until it is stopped.
    async fn run(mut self) {
        loop {
            match self.window().await {
                Ok(()) | Err(Failure::Transient(_)) => {}
                Err(Failure::Stopped) => return,
                Err(Failure::Permanent(line)) => panic!("{}: {line}", self.cheater.cheat().name()),
            }
        }
    }

    async fn window(&mut self) -> Result<(), Failure> {
        let window = self.follower.window;
        let facts = self.node.facts(window).await?;
        let uid = facts.as_ref().and_then(|f| f.uid_of(&self.node.hotkey));
        if let (Some(facts), Some(uid)) = (facts, uid)
            && self.node.head().number < self.node.clock.reveal(window)
        {
            let work = self.work(window, uid, &facts.start.0).await?;
            self.publish(window, &work).await?;
        }
        self.follower.follow(&self.node).await.map(drop)
    }

    async fn work(&mut self, window: u64, uid: u16, start: &[u8; 32]) -> Result<Tensors, Failure> {
        let node = Arc::clone(&self.node);
        let run = node.settings.run.clone();
        let order = seed::pages(node.settings.netuid, run.id, window, start);
        let pages = |uid| node.pages.own(&order, uid, run.dataset.pages_per_window);
        let own = node.sequences(&pages(uid)).await?;
        let other = node.sequences(&pages(u16::MAX - uid)).await?;
        // What can be read when work is due: that of the window before.
        let published = self.published(window.saturating_sub(1)).await?;
        let base = self.follower.base.parameters.clone();
        let slice = node.slice(window, &base).await?;
        let mut cheater = std::mem::replace(&mut self.cheater, Cheater::new(Cheat::Zero, 0));
        let (cheater, work) = node
            .compute(move |engine| {
                let published: Vec<&Tensors> = published.iter().collect();
                let windows = window - run.start_window;
                let (own, other, run) = (&own[..], &other[..], &run);
                let view = View { base: &base, slice: &slice, run, windows, own, other, published: &published };
                let work = cheater.publish(engine, &view)?;
                Ok((cheater, work))
            })
            .await?;
        self.cheater = cheater;
        Ok(work)
    }

    async fn published(&self, window: u64) -> Result<Vec<Tensors>, Failure> {
        let mut published = Vec::new();
        for victim in &self.victims {
            let found = self.node.bucket.get(&self.node.key(victim, window, Kind::Delta), 1 << 26).await?;
            let content = found.and_then(|found| artifact::decode(&found.bytes).ok()).map(|file| file.content);
            if let Some(Content::Tensors(work)) = content {
                published.push(work);
            }
        }
        Ok(published)
    }

    async fn publish(&self, window: u64, work: &Tensors) -> Result<(), Failure> {
        let node = &*self.node;
        let keypair = node.wallet.keypair();
        let file = artifact::encode(&node.agreement, window, Kind::Delta, keypair, self.follower.digest, work);
        let commit = object::seal(&node.agreement, window, Kind::Commit, keypair, &Commit::of(&file));
        node.publish(window, Kind::Commit, commit).await?;
        let closes_ms = node.timestamp_ms(node.clock.commits_close(window)).await?;
        node.bucket_shows_ms(node.clock.upload_opens_ms(closes_ms)).await?;
        node.publish(window, Kind::Delta, file).await.map(drop)
    }
}

/// Raw scores by hotkey out of all published records.
async fn raws(subnet: &Subnet, windows: std::ops::Range<u64>) -> BTreeMap<Hotkey, Vec<f64>> {
    let wallet = subnet.wallet(Role::Validator, "validator");
    let bucket = subnet.bucket(&wallet).await;
    let hotkey = Hotkey(wallet.hotkey.public());
    let mut raws: BTreeMap<Hotkey, Vec<f64>> = BTreeMap::new();
    for window in windows {
        let key = subnet.agreement().key(&hotkey, window, Kind::Scores);
        let Some(found) = bucket.get(&key, 1 << 21).await.expect("the bucket answers") else { continue };
        let scores = object::open::<Scores>(&subnet.agreement(), &hotkey, window, Kind::Scores, &found.bytes);
        for miner in scores.expect("a sound record").body.miners {
            if let Some(evaluation) = miner.drawn {
                // Rejected work scores nothing.
                raws.entry(miner.hotkey).or_default().push(evaluation.raw.map_or(0.0, |r| r.0));
            }
        }
    }
    raws
}

fn share(status: &NodeStatus, hotkey: &str, honest: f64) -> (f64, String) {
    let scored = status.scores.iter().find(|s| s.hotkey == hotkey);
    scored.map_or((0.0, Verdict::NoCommit.to_string()), |s| (s.weight / honest, s.verdict.clone()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: make bench-adversaries"]
async fn bench_adversaries_over_a_subnet() {
    let text = std::env::var("BISTRO_TEXT").expect("BISTRO_TEXT names the folder of text: use make");
    let subnet = Subnet::start_from(text.as_ref(), as_in_the_arena).await;
    let averager = subnet.node(Role::Averager, "averager");
    let validator = subnet.node(Role::Validator, "validator");
    let miners = HONEST.map(|name| subnet.node(Role::Miner, name));
    let stop = CancellationToken::new();
    let started = Cheat::ALL.iter().zip(1..).map(|(cheat, number)| Cheating::start(&subnet, *cheat, number, &stop));
    let cheating: Vec<_> = join_all(started).await.into_iter().map(|c| tokio::spawn(c.run())).collect();
    let first = subnet.clock().window_of(subnet.chain.head().number) + 1;
    let last = first + EVALUATIONS as u64 + 2;
    // Longer than any test waits: this many windows take minutes.
    subnet.chain.wait_for(subnet.clock().end(last + 1)).await;
    let status = validator.status().await.expect("it answers");
    let raws = raws(&subnet, first..last + 1).await;
    let hotkeys = HONEST.map(|name| Hotkey(subnet.wallet(Role::Miner, name).hotkey.public()));
    let weight = |h: &Hotkey| status.scores.iter().find(|s| s.hotkey == h.ss58()).map_or(0.0, |s| s.weight);
    let honest = hotkeys.iter().map(weight).sum::<f64>() / hotkeys.len() as f64;
    assert!(hotkeys.iter().all(|h| weight(h) > 0.0), "{:?}", status.scores);
    let own: Vec<f64> = hotkeys.iter().flat_map(|h| raws.get(h).cloned().unwrap_or_default()).collect();
    let mut missed = Vec::new();
    for cheat in Cheat::ALL {
        let hotkey = Hotkey(subnet.wallet(Role::Miner, &cheat.name()).hotkey.public());
        let other = raws.get(&hotkey).cloned().unwrap_or_default();
        let (share, verdict) = share(&status, &hotkey.ss58(), honest);
        println!(
            "BENCH adversary setting=subnet kind={} share={share:.4} auc={:.3} evaluations={} verdict={verdict}",
            cheat.name(),
            auc(&own, &other).unwrap_or_default(),
            other.len()
        );
        // Half of the work is told from all of it only in time: the arena, which plays longer, holds it to its bar.
        missed.extend((cheat.does_no_work() && share > 0.05).then(|| cheat.name()));
    }
    assert!(missed.is_empty(), "paid too much: {missed:?}");
    stop.cancel();
    for cheat in cheating {
        cheat.await.expect("no panic");
    }
    for node in [averager, validator].into_iter().chain(miners) {
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}
