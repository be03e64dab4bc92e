//! A node that joins 200 windows late. `make bench-join` prints how long it takes over a link of 100 Mbit/s, and how long
//! the bare download of the same objects takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bistro_api::{Role, Settings};
use bistro_protocol::{
    artifact,
    check::{Commit, Verdict},
    clock::Clock,
    hotkey::Hotkey,
    manifest::{Blocks, Entry, Manifest},
    mechanism,
    object::{self, Hex32, Kind},
    seed,
    slice::SliceOf,
    tensors::{Tensor, Tensors},
};
use bistro_tests::proxy::{BucketFault, BucketProxy};
use bistro_worker::{
    bucket::Bucket, chain::DevWallet, engine::Engine, follow::Follower, roles::prepare, telemetry::Telemetry,
};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::support::Subnet;

/// Bytes per second of the link: 100 Mbit/s.
const LINK: u32 = 12_500_000;
/// Windows that the joiner missed.
const MISSED: u64 = 200;

/// What somebody published, without anybody having trained: replaying does not care.
fn work(shape: &[(String, Vec<usize>)], window: u64) -> Tensors {
    let entry = |i: usize| ((i as u64).wrapping_mul(2_654_435_761 + window) % 1000) as f32 * 1e-6;
    let tensor = |(name, shape): &(String, Vec<usize>)| Tensor {
        name: name.clone(),
        shape: shape.clone(),
        data: (0..shape.iter().product()).map(entry).collect(),
    };
    Tensors::new(shape.iter().map(tensor).collect()).expect("valid")
}

/// Publishes the history of a run as its averager would have; gives the digest of the last base and the bytes of what a
/// joiner needs.
async fn publish_history(subnet: &Subnet, wallet: &DevWallet, bucket: &Bucket) -> ([u8; 32], u64) {
    let Settings { run, netuid, .. } = subnet.settings.clone();
    let (agreement, clock) = (subnet.agreement(), Clock::new(&run.schedule).expect("the phases fit"));
    let mechanism = mechanism::of(&run);
    let (keypair, hotkey) = (wallet.hotkey.keypair(), Hotkey(wallet.hotkey.public()));
    let engine = Engine::new(&run.model, 256, run.dataset.sequence_length, 1).expect("a model");
    let mut base = mechanism.first_base(engine.initial(run.from.seed.expect("a seed")).expect("drawn"));
    let shape = mechanism.work_shape(&base.parameters);
    let every = u64::from(run.schedule.snapshot_windows);
    let (mut previous, mut needed) = ([0; 32], 0);
    for window in 0..MISSED {
        let put = async |kind, bytes: Vec<u8>| {
            bucket.put_new(&agreement.key(&hotkey, window, kind), Bytes::from(bytes)).await.expect("stored");
        };
        let before = base.digest();
        if window > 0 && window.is_multiple_of(every) {
            let file = artifact::encode(&agreement, window, Kind::Base, keypair, before, &base.to_tensors());
            needed = file.len() as u64;
            put(Kind::Base, file).await;
        }
        let [start, reveal] = [clock.start(window), clock.reveal(window)].map(|b| subnet.chain.block_hash(b));
        let (start, reveal) = (start.await.expect("a block"), reveal.await.expect("a block"));
        let merged = work(&shape, window);
        let of = SliceOf { netuid, run: run.id, window, reveal: &reveal, ratio: mechanism.slice_ratio() };
        let slice = mechanism.slice(of, &base.parameters);
        mechanism.outer_step(&mut base, &slice, &merged, &run.training, window);
        let file = artifact::encode(&agreement, window, Kind::Aggregate, keypair, before, &merged);
        let entry = Entry {
            uid: 0,
            hotkey,
            verdict: Verdict::Accepted,
            artifact: Some(Hex32(seed::seed("test", &window))),
            behind: None,
        };
        let manifest = Manifest {
            blocks: Some(Blocks { start: Hex32(start), reveal: Hex32(reveal) }),
            neurons: vec![entry],
            admitted: vec![0],
            base_after: Hex32(base.digest()),
            aggregate: Some(Commit::of(&file).digest),
            ..Manifest::empty(previous, before)
        };
        let sealed = object::seal(&agreement, window, Kind::Manifest, keypair, &manifest);
        let opened = object::open::<Manifest>(&agreement, &hotkey, window, Kind::Manifest, &sealed);
        previous = opened.expect("just sealed").digest;
        needed += (file.len() + sealed.len()) as u64;
        put(Kind::Aggregate, file).await;
        put(Kind::Manifest, sealed).await;
    }
    (base.digest(), needed)
}

/// Downloads what a joiner needs and does nothing with it.
async fn download(subnet: &Subnet, bucket: &Bucket, hotkey: &Hotkey) -> f64 {
    let every = u64::from(subnet.settings.run.schedule.snapshot_windows);
    let newest = (MISSED - 1) / every * every;
    let began = Instant::now();
    let get = async |window, kind| {
        let found = bucket.get(&subnet.agreement().key(hotkey, window, kind), 1 << 30).await;
        found.expect("the bucket answers").expect("it is there");
    };
    get(newest, Kind::Base).await;
    get(newest - 1, Kind::Manifest).await;
    for window in newest..MISSED {
        get(window, Kind::Manifest).await;
        get(window, Kind::Aggregate).await;
    }
    began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: make bench-join"]
async fn bench_join() {
    // Windows of 20 blocks, as short as they may be.
    let mut subnet = Subnet::start_late(20 * MISSED, |s| {
        s.run.schedule = bistro_api::run::Schedule {
            window_blocks: 20,
            commit_blocks: 5,
            upload_blocks: 5,
            merge_blocks: 5,
            ..s.run.schedule.clone()
        };
        s.run.model.preset = Some(bistro_api::run::Preset::Tiny);
    })
    .await;
    let averager = subnet.register(Role::Averager, "averager").await;
    let bucket = subnet.bucket(&averager).await;
    let hotkey = Hotkey(averager.hotkey.public());
    let (wanted, needed) = publish_history(&subnet, &averager, &bucket).await;
    let server = subnet.devnet.s3_url();
    let proxy = BucketProxy::to(server.trim_start_matches("http://").parse().expect("an address")).await;
    proxy.set(BucketFault::Slow { delay: Duration::from_millis(5), bytes_per_second: LINK });
    subnet.settings.bucket.endpoint = Some(proxy.url());
    let download_seconds = download(&subnet, &subnet.bucket(&averager).await, &hotkey).await;

    let environment = subnet.environment("joiner");
    let settings = environment.read_settings().expect("written by the test");
    let stop = CancellationToken::new();
    let node = prepare::node(Role::Miner, settings, environment, Telemetry::new(Role::Miner), stop.clone()).await;
    let node = Arc::new(node.expect("it gets ready"));
    let began = Instant::now();
    let mut follower = Follower::start(&node).await.expect("it finds a snapshot");
    let snapshot = follower.window;
    while follower.window < MISSED {
        follower.follow(&node).await.expect("it follows");
    }
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(follower.digest, wanted, "the same bits");
    let aggregates = MISSED - snapshot;
    println!(
        "BENCH join windows={MISSED} snapshot={snapshot} aggregates={aggregates} mbytes={:.1} seconds={seconds:.2} download_seconds={download_seconds:.2} digest_equal=true",
        needed as f64 / 1e6
    );
    stop.cancel();
    subnet.devnet.shutdown().await;
}
