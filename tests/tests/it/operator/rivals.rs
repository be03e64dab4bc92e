//! A hotkey signs with one pod at a time, whatever people apply.

use bistro_api::Miner;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use super::World;

fn with_wallet(mut miner: Value, secret: &str) -> Value {
    miner["spec"]["wallet"] = json!({ "secretRef": { "name": secret } });
    miner
}

/// Which resources have pods that mount a Secret.
async fn signers(world: &World, secret: &str) -> Vec<String> {
    let pods = world.api::<Pod>().list(&ListParams::default()).await.expect("a list");
    let mounts = |pod: &&Pod| {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.filter_map(|volume| volume.secret.as_ref()?.secret_name.clone()).any(|name| name == secret)
    };
    let mut names: Vec<_> =
        pods.items.iter().filter(mounts).map(|pod| pod.labels()["app.kubernetes.io/instance"].clone()).collect();
    names.dedup();
    names
}

#[tokio::test]
async fn two_resources_with_one_wallet_never_have_pods_at_a_time() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    // No machine takes its pods, so nobody but this test can end them.
    let mut first = with_wallet(world.miner("first", 2), "keys");
    first["spec"]["pod"] = json!({"nodeSelector": {"no": "machine"}});
    world.apply(first).await;
    world.until_back::<Pod>("miner-first-1", None).await;
    world.until_back::<Pod>("miner-first-0", None).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    world.apply(with_wallet(world.miner("second", 1), "keys")).await;
    let conflict = world.until("second", "Ready", "False", "HotkeyConflict").await;
    assert!(conflict.message.contains("first"), "{}", conflict.message);
    assert_eq!(signers(&world, "keys").await, ["first"]);

    // They are held, as by a machine that takes its time: the second has to wait for them.
    let hold = json!({"metadata": {"finalizers": ["bistro.dev/test"]}});
    let pods = world.api::<Pod>();
    for name in ["miner-first-0", "miner-first-1"] {
        pods.patch(name, &Default::default(), &kube::api::Patch::Merge(&hold)).await.expect("held");
    }
    world.api::<Miner>().delete("first", &DeleteParams::background()).await.expect("deleted");
    let waits = async || {
        let conditions = world.status("second").await.conditions;
        conditions.into_iter().find(|c| c.type_ == "Ready" && c.message.contains("waits for the pods"))
    };
    world.cluster.until("the second to wait", waits).await;
    assert_eq!(signers(&world, "keys").await, ["first"]);
    let release = json!({"metadata": {"finalizers": null}});
    for name in ["miner-first-0", "miner-first-1"] {
        pods.patch(name, &Default::default(), &kube::api::Patch::Merge(&release)).await.expect("released");
    }
    world.until_ready("second").await;
    assert_eq!(signers(&world, "keys").await, ["second"]);
}

#[tokio::test]
async fn an_older_resource_that_takes_a_wallet_in_use_waits_for_the_pods_of_the_younger() {
    let Some(world) = World::new().await else { return };
    let _operator = world.operator().started();
    world.apply(with_wallet(world.miner("older", 1), "its-own")).await;
    world.until_ready("older").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    world.apply(with_wallet(world.miner("younger", 1), "keys")).await;
    world.until_ready("younger").await;
    world.patch("older", json!({"spec": {"wallet": {"secretRef": {"name": "keys"}}}})).await;
    let mut seen = Vec::new();
    let moved = async || {
        let signers = signers(&world, "keys").await;
        assert!(signers.len() <= 1, "two resources sign with one hotkey: {signers:?}");
        seen.extend(signers.clone());
        (signers == ["older"]).then_some(())
    };
    world.cluster.until("the older to sign", moved).await;
    world.until("younger", "Ready", "False", "HotkeyConflict").await;
}
