//! One replica leads; another takes over at once when it stops, and soon when it is killed. Nobody writes too late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bistro_tests::{
    front::{Fate, Front, is_write},
    operator::Operator,
};

use super::World;

const TIMING: [&str; 6] = ["--lease-duration", "3s", "--renew-deadline", "2s", "--retry-period", "500ms"];

async fn leads(operator: &Operator) -> bool {
    operator.metric("leader_election_master_status", "").await == Some(1.0)
}

/// Waits until this replica leads.
async fn until_leads(world: &World, operator: &Operator) -> Duration {
    let began = Instant::now();
    world.cluster.until("another leader", async || leads(operator).await.then_some(())).await;
    began.elapsed()
}

#[tokio::test]
async fn another_replica_takes_over() {
    let Some(world) = World::new().await else { return };
    let replica = || world.operator().with(&TIMING);
    let mut first = replica().started();
    until_leads(&world, &first).await;
    let mut second = replica().started();
    world.cluster.until("readiness", async || second.answer("/readyz").await.filter(|ok| ok == "ok\n")).await;
    assert!(!leads(&second).await, "one leads");
    world.apply(world.miner("a", 1)).await;
    world.until_ready("a").await;
    assert_eq!(second.metric("bistro_operator_writes_total", "").await, Some(0.0), "a follower writes nothing");

    assert_eq!(first.stop().await, Some(0));
    let clean = until_leads(&world, &second).await;
    world.apply(world.miner("b", 1)).await;
    world.until_ready("b").await;

    first.start();
    world.cluster.until("readiness", async || first.answer("/readyz").await.filter(|ok| ok == "ok\n")).await;
    second.kill().await;
    let killed = until_leads(&world, &first).await;
    world.apply(world.miner("c", 1)).await;
    world.until_ready("c").await;
    println!(
        "BENCH operator.handover clean_s={:.2} killed_s={:.2} lease_s=3",
        clean.as_secs_f64(),
        killed.as_secs_f64()
    );
}

#[tokio::test]
async fn a_leader_that_slept_through_its_lease_writes_nothing_any_more() {
    let Some(world) = World::new().await else { return };
    let front = Front::start(world.cluster.client_of("operator").await).await;
    let mut sleeper = world.operator_at(&front.kubeconfig()).with(&TIMING).started();
    until_leads(&world, &sleeper).await;
    let other = world.operator().with(&TIMING).started();
    sleeper.freeze();
    // Work piles up for it that it would write at once.
    world.apply(world.miner("a", 1)).await;
    until_leads(&world, &other).await;
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = writes.clone();
    front.rule(move |request| {
        if is_write(request) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Fate::Pass
    });
    sleeper.thaw();
    assert_eq!(sleeper.ended().await, Some(1), "{}", sleeper.tail());
    assert_eq!(writes.load(Ordering::SeqCst), 0);
    world.until_ready("a").await;
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_before_another_may_start() {
    let Some(world) = World::new().await else { return };
    let front = Front::start(world.cluster.client_of("operator").await).await;
    let mut cut = world.operator_at(&front.kubeconfig()).with(&TIMING).started();
    until_leads(&world, &cut).await;
    let other = world.operator().with(&TIMING).started();
    world.cluster.until("readiness", async || other.answer("/readyz").await.filter(|ok| ok == "ok\n")).await;
    // Renewals get no answer; everything else passes, later and later writes among it.
    let (last, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let seen = last.clone();
    front.rule(move |request| {
        if is_write(request) {
            seen.store(began.elapsed().as_millis().try_into().unwrap_or(usize::MAX), Ordering::SeqCst);
        }
        if request.uri.path().contains("/leases") { Fate::Vanish } else { Fate::Pass }
    });
    let (done, mut n) = (tokio::time::sleep(Duration::from_secs(6)), 0);
    tokio::pin!(done);
    loop {
        tokio::select! {
            () = &mut done => break,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                world.apply(world.miner(&format!("m{n}"), 1)).await;
                n += 1;
            }
        }
    }
    assert_eq!(cut.ended().await, Some(1));
    let last = last.load(Ordering::SeqCst);
    // The last renewal was sent before the front cut in; from then on the deadline of 2 s counts.
    assert!((1..=2_100).contains(&last), "the last write started {last} ms after the last renewal");
    until_leads(&world, &other).await;
}
