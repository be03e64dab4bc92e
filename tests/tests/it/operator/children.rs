//! Children are what the resource asks for, and stay so.

use std::time::Duration;

use bistro_tests::operator::Operator;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Pod, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::World;

#[tokio::test]
async fn a_deleted_child_comes_back_and_an_edited_one_is_put_right() {
    let Some(world) = World::new().await else { return };
    let operator = world.operator().started();
    world.apply(world.miner("m", 2)).await;
    world.until_ready("m").await;
    macro_rules! deleted {
        ($kind:ident, $name:literal) => {{
            let api = world.api::<$kind>();
            let uid = api.get($name).await.expect("there").uid();
            api.delete($name, &DeleteParams::background()).await.expect("deleted");
            world.until_back::<$kind>($name, uid.as_deref()).await;
        }};
    }
    deleted!(ConfigMap, "miner-m");
    deleted!(Service, "miner-m");
    deleted!(PodDisruptionBudget, "miner-m");
    deleted!(NetworkPolicy, "subnet-demo");
    deleted!(StatefulSet, "miner-m");
    world.until_ready("m").await;

    macro_rules! edited {
        ($kind:ident, $patch:tt, $right:expr) => {{
            let api = world.api::<$kind>();
            let patch = Patch::Merge(json!($patch));
            api.patch("miner-m", &PatchParams::default(), &patch).await.expect("edited");
            let right: fn(&$kind) -> bool = $right;
            world.cluster.until("its right form", async || api.get("miner-m").await.ok().filter(right)).await;
        }};
    }
    edited!(ConfigMap, {"data": {"settings.yaml": "{}"}}, |map| map.data.as_ref().is_some_and(|d| d["settings.yaml"].len() > 9));
    edited!(Service, {"spec": {"publishNotReadyAddresses": false}}, |service| {
        service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true))
    });
    edited!(StatefulSet, {"spec": {"replicas": 9}}, |set| set.spec.as_ref().is_some_and(|spec| spec.replicas == Some(2)));
    edited!(StatefulSet, {"metadata": {"labels": {"app.kubernetes.io/managed-by": null}, "ownerReferences": null}}, |set| {
        set.labels().contains_key("app.kubernetes.io/managed-by") && !set.owner_references().is_empty()
    });

    // What others add and nobody of us owns is theirs.
    let patch = Patch::Merge(json!({"metadata": {"labels": {"team": "red"}}}));
    world.api::<ConfigMap>().patch("miner-m", &PatchParams::default(), &patch).await.expect("edited");
    let writes = operator.metric("bistro_operator_writes_total", "ConfigMap").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(operator.metric("bistro_operator_writes_total", "ConfigMap").await, writes);
    let map = world.api::<ConfigMap>().get("miner-m").await.expect("there");
    assert_eq!(map.labels().get("team").map(String::as_str), Some("red"));
}

#[tokio::test]
async fn a_child_that_is_wanted_no_more_goes() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    world.apply(world.miner("m", 2)).await;
    world.until_back::<PodDisruptionBudget>("miner-m", None).await;
    world.patch("m", json!({"spec": {"replicas": 1}})).await;
    let budgets = world.api::<PodDisruptionBudget>();
    let gone = async || matches!(budgets.get_opt("miner-m").await, Ok(None)).then_some(());
    world.cluster.until("the end of the budget", gone).await;
    world.api::<bistro_api::Miner>().delete("m", &DeleteParams::background()).await.expect("deleted");
    let sets = world.api::<StatefulSet>();
    let gone = async || sets.list(&ListParams::default()).await.is_ok_and(|all| all.items.is_empty()).then_some(());
    world.cluster.until("the end of the pods", gone).await;
}

/// A field that the operator set when it created a child is the operator's to remove, in this life and in the next.
#[tokio::test]
async fn what_is_wanted_no_more_goes_from_children_that_stay() {
    let Some(world) = World::new().await else { return };
    let mut operator = world.operator().started();
    world.apply(world.miner("m", 2)).await;
    let sets = world.api::<StatefulSet>();
    let labelled = async |name: &'static str, label: Option<&'static str>| {
        world.patch("m", json!({"spec": {"pod": {"labels": {name: label}}}})).await;
        let has = |set: &StatefulSet| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
            template.and_then(|template| template.labels.as_ref()?.get(name).cloned())
        };
        let right = |set: &StatefulSet| has(set).as_deref() == label;
        world.cluster.until(&format!("team={label:?}"), async || sets.get("miner-m").await.ok().filter(right)).await;
    };
    labelled("team", Some("red")).await;
    // Made anew with the label, and known to the next operator from the API server alone.
    let uid = sets.get("miner-m").await.expect("there").uid();
    sets.delete("miner-m", &DeleteParams::background()).await.expect("deleted");
    world.until_back::<StatefulSet>("miner-m", uid.as_deref()).await;
    operator.stop().await;
    operator.start();
    labelled("team", None).await;
    labelled("team", Some("blue")).await;
    labelled("team", None).await;
    let owners = sets.get("miner-m").await.expect("there").metadata.managed_fields.unwrap_or_default();
    let ours = owners.iter().filter(|owner| owner.manager.as_deref() == Some("bistro.dev/operator"));
    assert_eq!(ours.map(|owner| owner.operation.clone().unwrap_or_default()).collect::<Vec<_>>(), ["Apply"]);
}

/// What it has written since its start.
async fn writes(operator: &Operator) -> Option<Vec<String>> {
    let text = operator.answer("/metrics").await?;
    let writes = text.lines().filter(|line| line.starts_with("bistro_operator_writes_total"));
    Some(writes.map(str::to_owned).collect())
}

#[tokio::test]
async fn at_rest_and_after_a_restart_nothing_is_written() {
    let Some(world) = World::new().await else { return };
    let mut operator = world.operator().started();
    for i in 0..5 {
        world.apply(world.miner(&format!("m{i}"), 2)).await;
    }
    for i in 0..5 {
        world.until_ready(&format!("m{i}")).await;
    }
    // The status of the Subnet may count its users a little later.
    tokio::time::sleep(Duration::from_secs(32)).await;
    let before = writes(&operator).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(writes(&operator).await, before, "at rest");
    assert_eq!(operator.stop().await, Some(0));
    operator.start();
    world
        .cluster
        .until("a leader", async || {
            (operator.metric("leader_election_master_status", "").await == Some(1.0)).then_some(())
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(writes(&operator).await, Some(Vec::new()), "after a restart");
}

#[tokio::test]
async fn a_stateful_set_that_cannot_change_is_replaced_and_its_pods_stay() {
    let Some(world) = World::new().await else { return };
    let mut operator = world.operator().started();
    world.apply(world.miner("m", 2)).await;
    world.until_ready("m").await;
    assert_eq!(operator.stop().await, Some(0));
    // As another version of the operator may have made it.
    let sets = world.api::<StatefulSet>();
    let mut set = sets.get("miner-m").await.expect("there");
    sets.delete("miner-m", &DeleteParams::orphan()).await.expect("deleted");
    let gone = async || matches!(sets.get_opt("miner-m").await, Ok(None)).then_some(());
    world.cluster.until("its end", gone).await;
    set.metadata.resource_version = None;
    set.metadata.uid = None;
    set.metadata.managed_fields = None;
    set.status = None;
    set.spec.as_mut().expect("a spec").pod_management_policy = Some("OrderedReady".to_owned());
    let old = sets.create(&kube::api::PostParams::default(), &set).await.expect("created").uid();
    let pods = world.api::<Pod>();
    let uids = async || {
        let all = pods.list(&ListParams::default()).await.expect("a list");
        all.items.iter().map(|pod| (pod.name_any(), pod.uid())).collect::<Vec<_>>()
    };
    let before = uids().await;
    operator.start();
    let new = world.until_back::<StatefulSet>("miner-m", old.as_deref()).await;
    assert_eq!(new.spec.and_then(|spec| spec.pod_management_policy).as_deref(), Some("Parallel"));
    world.until_ready("m").await;
    assert_eq!(uids().await, before, "no pod was touched");
}
