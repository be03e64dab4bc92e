//! A status says what is missing, and takes it back the moment it is there.

use bistro_api::{Miner, Subnet};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Pod},
    events::v1::Event,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::World;

/// Waits for an event about an object.
async fn event(world: &World, about: &str, reason: &str) -> String {
    let events = world.api::<Event>();
    let found = async || {
        let all = events.list(&ListParams::default()).await.ok()?.items;
        let event = all.into_iter().find(|event| {
            event.reason.as_deref() == Some(reason)
                && event.regarding.as_ref().is_some_and(|regarding| regarding.name.as_deref() == Some(about))
        })?;
        event.note
    };
    world.cluster.until(&format!("an event {reason} about {about}"), found).await
}

#[tokio::test]
async fn a_missing_subnet_is_named_and_missed_no_more_once_it_is_there() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    let mut miner = world.miner("m", 1);
    miner["spec"]["subnetRef"]["name"] = json!("later");
    world.apply(miner).await;
    let missing = world.until("m", "Ready", "False", "SubnetNotFound").await;
    assert!(missing.message.contains("later"), "{}", missing.message);
    assert!(event(&world, "m", "SubnetNotFound").await.contains("later"));
    assert!(world.pods().await.is_empty());
    world.apply(world.subnet("later")).await;
    world.until_ready("m").await;

    // A Subnet that goes stops nothing.
    world.api::<Subnet>().delete("later", &DeleteParams::default()).await.expect("deleted");
    world.until("m", "Ready", "False", "SubnetNotFound").await;
    assert_eq!(world.pods().await, ["miner-m-0"]);
    world.apply(world.subnet("later")).await;
    world.until_ready("m").await;
}

#[tokio::test]
async fn a_changed_subnet_rolls_its_users() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    world.apply(world.miner("m", 1)).await;
    world.until_ready("m").await;
    let settings = async || world.api::<ConfigMap>().get("miner-m").await.expect("there").data;
    let (before, pod) = (settings().await, world.api::<Pod>().get("miner-m-0").await.expect("there").uid());
    let patch = json!({"spec": {"run": {"id": 2, "startWindow": 100}}});
    world.api::<Subnet>().patch("demo", &PatchParams::default(), &Patch::Merge(patch)).await.expect("changed");
    world.until_back::<Pod>("miner-m-0", pod.as_deref()).await;
    assert_ne!(settings().await, before);
    world.until_ready("m").await;
    let subnet = async || {
        let status = world.api::<Subnet>().get("demo").await.ok()?.status?;
        (status.users == 1 && status.observed_generation == Some(2)).then_some(status)
    };
    assert_eq!(world.cluster.until("its status", subnet).await.run_digest.map(|digest| digest.len()), Some(64));
}

#[tokio::test]
async fn suspending_and_scaling_do_what_they_say() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    world.apply(world.miner("m", 2)).await;
    world.until_ready("m").await;
    world.patch("m", json!({"spec": {"suspend": true}})).await;
    world.until("m", "Suspended", "True", "Suspended").await;
    world.until("m", "Ready", "False", "Suspended").await;
    assert!(world.pods().await.is_empty());
    world.patch("m", json!({"spec": {"suspend": false}})).await;
    world.until_ready("m").await;
    // As `kubectl scale` and autoscalers do.
    let scale = json!({"spec": {"replicas": 4}});
    world.api::<Miner>().patch_scale("m", &PatchParams::default(), &Patch::Merge(scale)).await.expect("scaled");
    let four = async || (world.status("m").await.ready_replicas == 4).then_some(());
    world.cluster.until("four pods", four).await;
    let selector = world.status("m").await.selector.expect("a selector");
    let pods = world.api::<Pod>().list(&ListParams::default().labels(&selector)).await.expect("a list");
    assert_eq!(pods.items.len(), 4, "the scale subresource selects the pods");
    world.patch("m", json!({"spec": {"replicas": 0}})).await;
    world.until("m", "Ready", "True", "ScaledToZero").await;
}

#[tokio::test]
async fn a_paused_resource_is_left_alone() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    world.apply(world.miner("m", 1)).await;
    world.until_ready("m").await;
    world.patch("m", json!({"metadata": {"annotations": {"bistro.dev/paused": "true"}}})).await;
    world.until("m", "Progressing", "False", "Paused").await;
    let map = Patch::Merge(json!({"data": {"settings.yaml": "by hand"}}));
    world.api::<ConfigMap>().patch("miner-m", &PatchParams::default(), &map).await.expect("edited");
    world.patch("m", json!({"spec": {"replicas": 3}})).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let by_hand = async || {
        let data = world.api::<ConfigMap>().get("miner-m").await.ok()?.data?;
        Some(data["settings.yaml"] == "by hand")
    };
    assert_eq!((by_hand().await, world.wanted("miner-m").await), (Some(true), Some(1)));
    world.patch("m", json!({"metadata": {"annotations": {"bistro.dev/paused": null}}})).await;
    world.cluster.until("the right settings", async || (by_hand().await == Some(false)).then_some(())).await;
    world.cluster.until("three pods", async || (world.wanted("miner-m").await == Some(3)).then_some(())).await;
}

#[tokio::test]
async fn a_secret_that_the_kubelet_misses_is_named() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    let mut miner = world.miner("m", 1);
    miner["spec"]["wallet"] = json!({"secretRef": {"name": "hotkeys"}});
    miner["spec"]["pod"] = json!({"nodeSelector": {"no": "machine"}});
    world.apply(miner).await;
    // No machine takes the pod; and then one would, whose kubelet cannot mount.
    world.until("m", "Ready", "False", "Unschedulable").await;
    let uid = world.api::<Pod>().get("miner-m-0").await.expect("there").uid();
    world
        .apply(json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "mount", "namespace": world.namespace},
            "involvedObject": {"kind": "Pod", "name": "miner-m-0", "namespace": world.namespace, "uid": uid},
            "reason": "FailedMount", "type": "Warning",
            "message": "MountVolume.SetUp failed for volume \"wallet\" : secret \"hotkeys\" not found",
        }))
        .await;
    let missing = world.until("m", "Ready", "False", "SecretNotFound").await;
    assert!(missing.message.contains("hotkeys"), "{}", missing.message);
    event(&world, "m", "SecretNotFound").await;
    let nodes = world.status("m").await.nodes;
    assert!(nodes[0].message.as_deref().is_some_and(|message| message.contains("hotkeys")), "{nodes:?}");
}

#[tokio::test]
async fn what_the_schema_cannot_see_becomes_a_condition() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    let mut miner = world.miner("m", 1);
    miner["spec"]["template"] = json!({"spec": {"containers": [{"name": "worker", "args": ["rm"]}]}});
    world.apply(miner).await;
    let invalid = world.until("m", "Ready", "False", "Invalid").await;
    assert!(invalid.message.contains("args"), "{}", invalid.message);
    // One bad resource stops no other.
    world.apply(world.miner("good", 1)).await;
    world.until_ready("good").await;
    world.patch("m", json!({"spec": {"template": null}})).await;
    world.until_ready("m").await;
}

#[tokio::test]
async fn a_refusal_of_the_api_server_becomes_a_condition_with_its_words() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": world.namespace},
        "spec": {"hard": {"count/statefulsets.apps": "0"}},
    });
    world.apply(quota).await;
    // The quota's controller has to see it first.
    let quotas = world.api::<k8s_openapi::api::core::v1::ResourceQuota>();
    world.cluster.until("the quota", async || quotas.get("none").await.ok()?.status?.hard).await;
    world.apply(world.miner("m", 1)).await;
    let refused = world.until("m", "Ready", "False", "ApplyFailed").await;
    assert!(refused.message.contains("quota"), "{}", refused.message);
    quotas.delete("none", &DeleteParams::default()).await.expect("deleted");
    world.until_ready("m").await;
    assert!(world.api::<StatefulSet>().get("miner-m").await.is_ok());
}

#[tokio::test]
async fn pods_of_a_machine_that_is_lost_are_named_and_not_replaced() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    // No machine takes the pod, so nobody but this test can end it.
    let mut miner = world.miner("m", 1);
    miner["spec"]["pod"] = json!({"nodeSelector": {"no": "machine"}});
    world.apply(miner).await;
    world.until_back::<Pod>("miner-m-0", None).await;
    let pods = world.api::<Pod>();
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["bistro.dev/test"]}}));
    let uid = pods.patch("miner-m-0", &PatchParams::default(), &hold).await.expect("held").uid();
    pods.delete("miner-m-0", &DeleteParams::default()).await.expect("told");
    let lost = world.until("m", "NodeLost", "True", "MachineSilent").await;
    assert!(lost.message.contains("kubectl delete pod miner-m-0 --force"), "{}", lost.message);
    assert_eq!(pods.get("miner-m-0").await.expect("still there").uid(), uid);
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("miner-m-0", &PatchParams::default(), &release).await.expect("released");
    world.until("m", "NodeLost", "False", "MachinesAnswer").await;
    world.until_back::<Pod>("miner-m-0", uid.as_deref()).await;
}
