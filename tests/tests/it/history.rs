//! Joining late, sleeping long, another run: a node comes to the same bits whichever way it takes.

use std::collections::BTreeMap;

use bistro_api::{Role, run};
use bistro_protocol::{
    hotkey::Hotkey,
    object::{Hex32, Kind},
};

use crate::support::{Node, Subnet, wait};

/// Digest of the base before each window, as nodes that ran all the time hold it.
async fn digests(node: &Node) -> BTreeMap<u64, String> {
    let status = node.status().await.expect("it answers");
    status.history.iter().map(|r| (r.window, r.base_digest.clone())).collect()
}

/// Waits until `node` holds the base before `window` or a later one and compares all that both remember.
async fn agree(node: &Node, other: &Node, window: u64) -> u64 {
    node.until(|s| s.base_window >= Some(window)).await;
    other.until(|s| s.base_window >= Some(window)).await;
    let (a, b) = (digests(node).await, digests(other).await);
    let common: Vec<_> = a.keys().filter(|w| b.contains_key(w)).copied().collect();
    assert!(common.iter().any(|w| *w >= window), "both remember window {window}");
    assert!(common.iter().all(|w| a[w] == b[w]), "{a:?} {b:?}");
    *a.keys().next().expect("a history")
}

/// The base that the last manifest before `window` ended with.
async fn last_base(subnet: &Subnet, window: u64) -> Hex32 {
    let wallet = subnet.wallet(Role::Averager, "averager");
    let (bucket, hotkey) = (subnet.bucket(&wallet).await, Hotkey(wallet.hotkey.public()));
    for window in (0..window).rev() {
        let key = subnet.agreement().key(&hotkey, window, Kind::Manifest);
        if bucket.head(&key).await.expect("the bucket answers").is_some() {
            return subnet.manifest(window).await.base_after;
        }
    }
    panic!("there is no manifest before window {window}");
}

#[tokio::test(flavor = "multi_thread")]
async fn joiners_and_sleepers_take_snapshots_and_a_run_continues_another() {
    let mut subnet = Subnet::start_with(|s| s.run.schedule.snapshot_windows = 2).await;
    let averager = subnet.node(Role::Averager, "averager");
    let miner = subnet.node(Role::Miner, "miner");
    let sleeper = subnet.node(Role::Miner, "sleeper");
    let start = sleeper.until(|s| s.base_window.is_some()).await.base_window.expect("it has a base");
    let slept = sleeper.until(|s| s.base_window > Some(start)).await.base_window.expect("it has followed");
    sleeper.kill().await;

    // The third snapshot after a window deletes its manifest: nobody can replay it any more.
    let wallet = subnet.wallet(Role::Averager, "averager");
    let (bucket, hotkey) = (subnet.bucket(&wallet).await, Hotkey(wallet.hotkey.public()));
    let key = subnet.agreement().key(&hotkey, slept, Kind::Manifest);
    averager.until(|s| s.base_window > Some(slept)).await;
    assert!(bucket.head(&key).await.expect("the bucket answers").is_some(), "it was there");
    wait(async || bucket.head(&key).await.expect("the bucket answers").is_none().then_some(())).await;
    let sleeper = subnet.node(Role::Miner, "sleeper");
    let joiner = subnet.node(Role::Miner, "joiner");
    let now = averager.status().await.and_then(|s| s.base_window).expect("it has a base");
    assert!(agree(&sleeper, &averager, now + 1).await > slept, "it went on from a snapshot");
    assert!(agree(&joiner, &averager, now + 1).await > slept, "it started from a snapshot");
    let window = joiner.until(|s| s.verdicts.get("accepted").is_some_and(|n| *n > 0)).await.window;

    // Everybody stops; the subnet goes on under another agreement, from the last base of this one.
    for node in [miner, sleeper, joiner, averager] {
        node.stop().await;
    }
    let last = last_base(&subnet, window.expect("it knows the window") + 2).await;
    let old = subnet.settings.run.clone();
    let start = window.expect("it knows the window") + 2;
    subnet.settings.run = run::Run {
        id: old.id + 1,
        start_window: start,
        from: run::From { run: Some(old.id), ..run::From::default() },
        ..old
    };
    let averager = subnet.node(Role::Averager, "averager");
    let miner = subnet.node(Role::Miner, "miner");
    let fresh = subnet.node(Role::Miner, "fresh");
    agree(&miner, &averager, start + 2).await;
    agree(&fresh, &averager, start + 2).await;
    assert_eq!(subnet.manifest(start).await.base_before, last, "it begins where the old run ended");
    assert!(!subnet.manifest(start + 1).await.admitted.is_empty(), "the new run trains");
    for node in [averager, miner, fresh] {
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}
