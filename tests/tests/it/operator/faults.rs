//! Whatever happens between the operator and the API server: it converges, it does not run hot, and no hotkey gets a
//! second pod.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bistro_tests::front::{Fate, Front, is_write};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::ConfigMap};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use super::World;

/// A front before the cluster, for the user `operator`.
async fn front(world: &World) -> Front {
    Front::start(world.cluster.client_of("operator").await).await
}

/// Exactly the children of these miners are there.
async fn assert_children(world: &World, miners: &[&str]) {
    let sets = world.api::<StatefulSet>().list(&ListParams::default()).await.expect("a list");
    let maps =
        world.api::<ConfigMap>().list(&ListParams::default().labels("app.kubernetes.io/managed-by=bistro")).await;
    assert_eq!((sets.items.len(), maps.expect("a list").items.len()), (miners.len(), miners.len()));
}

#[tokio::test]
async fn a_kill_after_any_write_loses_nothing() {
    let Some(world) = World::new().await else { return };
    let front = front(&world).await;
    let mut operator = world.operator_at(&front.kubeconfig()).with(&["--leader-elect", "false"]);
    // A miner of two takes four children and two statuses at least; the Subnet comes before.
    for n in 0..9 {
        let name = format!("m{n}");
        let (count, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (counted, told) = (count.clone(), lost.clone());
        front.rule(move |request| {
            if !is_write(request) || counted.fetch_add(1, Ordering::SeqCst) < n {
                return Fate::Pass;
            }
            told.notify_one();
            // The n-th write is done, and nobody is told; nothing comes after it.
            if counted.load(Ordering::SeqCst) == n + 1 { Fate::LoseAnswer } else { Fate::Vanish }
        });
        operator.start();
        world.apply(world.miner(&name, 2)).await;
        // There may be fewer writes than n: then the operator is killed at rest.
        let _ = tokio::time::timeout(Duration::from_secs(5), lost.notified()).await;
        operator.kill().await;
        front.heal();
        operator.start();
        world.until_ready(&name).await;
        assert_children(&world, &[name.as_str()]).await;
        assert_eq!(world.pods().await.len(), 2);
        world.api::<bistro_api::Miner>().delete(&name, &DeleteParams::background()).await.expect("deleted");
        world.cluster.until("its pods' end", async || world.pods().await.is_empty().then_some(())).await;
        operator.kill().await;
    }
}

#[tokio::test]
async fn refusals_that_pass_are_tried_again_with_pauses() {
    let Some(world) = World::new().await else { return };
    let front = front(&world).await;
    let operator = world.operator_at(&front.kubeconfig()).with(&["--leader-elect", "false"]).started();
    for (i, code) in [409, 429, 500, 503].into_iter().enumerate() {
        let name = format!("m{i}");
        let writes = Arc::new(AtomicUsize::new(0));
        let counted = writes.clone();
        front.rule(move |request| match is_write(request) {
            true => {
                counted.fetch_add(1, Ordering::SeqCst);
                Fate::Refuse(code)
            }
            false => Fate::Pass,
        });
        world.apply(world.miner(&name, 2)).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let tried = writes.load(Ordering::SeqCst);
        // 0.25 s, doubled each time: at most six attempts, of the miner and of the Subnet's status.
        assert!((1..=20).contains(&tried), "{code}: {tried} attempts in 4 s\n{}", operator.tail());
        front.heal();
        world.until_ready(&name).await;
    }
}

#[tokio::test]
async fn every_third_request_may_fail() {
    let Some(world) = World::new().await else { return };
    let front = front(&world).await;
    let count = AtomicUsize::new(0);
    front.rule(move |request| {
        let fates = [Fate::Pass, Fate::Refuse(503), Fate::Pass, Fate::Pass, Fate::Refuse(429), Fate::Pass];
        let watch = request.uri.query().is_some_and(|query| query.contains("watch=true"));
        if watch { Fate::Pass } else { fates[count.fetch_add(1, Ordering::SeqCst) % fates.len()] }
    });
    let _operator = world.operator_at(&front.kubeconfig()).started();
    for i in 0..6 {
        world.apply(world.miner(&format!("m{i}"), 1)).await;
    }
    for i in 0..6 {
        world.until_ready(&format!("m{i}")).await;
    }
}

/// Seconds for which the API server is away in `make soak`.
fn outage() -> Duration {
    let seconds = std::env::var("OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(300))
}

async fn survives(world: &World, fate: Fate, outage: Duration) {
    let front = front(world).await;
    let timing = ["--lease-duration", "6s", "--renew-deadline", "4s", "--retry-period", "1s"];
    let mut operator = world.operator_at(&front.kubeconfig()).with(&timing).started();
    world.apply(world.miner("before", 1)).await;
    world.until_ready("before").await;
    front.rule(move |_| fate);
    world.apply(world.miner("during", 1)).await;
    world.api::<ConfigMap>().delete("miner-before", &DeleteParams::default()).await.expect("deleted");
    // It cannot renew its lease: it ends, as it must, and the kubelet starts it again and again.
    let began = Instant::now();
    while began.elapsed() < outage {
        let ended = tokio::time::timeout(outage.saturating_sub(began.elapsed()), operator.ended()).await;
        if let Ok(code) = ended {
            assert_eq!(code, Some(1), "{}", operator.tail());
            operator.start();
        }
    }
    front.heal();
    let healed = Instant::now();
    world.until_ready("during").await;
    world.until_back::<ConfigMap>("miner-before", None).await;
    println!(
        "BENCH operator.outage fate={fate:?} seconds={} recovered_s={:.1}",
        outage.as_secs(),
        healed.elapsed().as_secs_f64()
    );
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let Some(world) = World::new().await else { return };
    survives(&world, Fate::Refuse(503), Duration::from_secs(8)).await;
}

#[tokio::test]
async fn connections_that_go_silent_are_noticed() {
    let Some(world) = World::new().await else { return };
    survives(&world, Fate::Vanish, Duration::from_secs(8)).await;
}

#[tokio::test]
#[ignore = "ten minutes: make soak"]
async fn soak_api_server() {
    for fate in [Fate::Refuse(503), Fate::Vanish] {
        let world = World::new().await.expect("a cluster");
        survives(&world, fate, outage()).await;
    }
}

#[tokio::test]
async fn two_operators_at_once_do_not_fight() {
    let Some(world) = World::new().await else { return };
    let start = || world.operator().with(&["--leader-elect", "false"]).started();
    let operators = [start(), start()];
    for i in 0..5 {
        world.apply(world.miner(&format!("m{i}"), 2)).await;
    }
    for i in 0..5 {
        world.until_ready(&format!("m{i}")).await;
    }
    world.patch("m0", json!({"spec": {"replicas": 3}})).await;
    world.cluster.until("eleven pods", async || (world.pods().await.len() == 11).then_some(())).await;
    let writes = async || {
        let mut sum = 0.0;
        for operator in &operators {
            sum += operator.metric("bistro_operator_writes_total", "StatefulSet").await.unwrap_or(0.0);
        }
        sum
    };
    // Either may write once more what the other just wrote; then they agree.
    let mut before = writes().await;
    let at_rest = async || {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = writes().await;
        (std::mem::replace(&mut before, now) == now).then_some(())
    };
    world.cluster.until("two operators that agree", at_rest).await;
}
