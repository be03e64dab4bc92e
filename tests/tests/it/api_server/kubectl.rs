//! What people see and do with kubectl.

use bistro_api::{Averager, Miner, Subnet, Validator};
use bistro_tests::cluster::Cluster;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::json;

use super::objects::{KINDS, Objects, merge, sound};

/// The heads of the columns that a definition asks for.
fn columns(definition: &CustomResourceDefinition, wide: bool) -> Vec<String> {
    let asked = definition.spec.versions[0].additional_printer_columns.iter().flatten();
    let shown = asked.filter(|column| wide || column.priority.unwrap_or_default() == 0);
    ["NAME".to_owned()].into_iter().chain(shown.map(|column| column.name.to_uppercase())).collect()
}

#[tokio::test]
async fn lists_show_the_columns_that_the_definitions_ask_for() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    for kind in KINDS {
        Objects::of(cluster, kind, &namespace).await.create(&sound(kind)).await;
    }
    for definition in [Subnet::crd(), Miner::crd(), Validator::crd(), Averager::crd()] {
        let names = &definition.spec.names;
        let short = names.short_names.iter().flatten().next().expect("a short name");
        for (flags, wide) in [(vec![], false), (vec!["-o", "wide"], true)] {
            let list = [&["get", short, "-n", &namespace][..], &flags].concat();
            let shown = cluster.kubectl(&list).await.output();
            let mut lines = shown.lines();
            let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
            assert_eq!(head, columns(&definition, wide), "{}", names.kind);
            assert!(lines.next().is_some_and(|line| line.starts_with("sound ")), "{shown}");
        }
    }
    // One word for all of them.
    let all = cluster.kubectl(&["get", "bistro", "-n", &namespace, "--no-headers", "-o=name"]).await.output();
    let mut all: Vec<&str> = all.lines().collect();
    all.sort_unstable();
    let expected = ["averager", "miner", "subnet", "validator"].map(|kind| format!("{kind}.bistro.dev/sound"));
    assert_eq!(all, expected);
}

#[tokio::test]
async fn explain_teaches_every_field_of_a_spec() {
    let Some(cluster) = Cluster::shared().await else { return };
    let wallet = cluster.kubectl(&["explain", "miner.spec.wallet"]).await.output();
    for text in
        ["Where the nodes' hotkeys come from", "secretRef", "bittensor hotkey file", "Nodes refuse it on any chain"]
    {
        // kubectl breaks lines where it likes.
        let plain = wallet.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(plain.contains(text), "{text}: {wallet}");
    }
    for definition in [Subnet::crd(), Miner::crd(), Validator::crd(), Averager::crd()] {
        let kind = definition.spec.names.kind.clone();
        let version = serde_json::to_value(&definition.spec.versions[0]).expect("plain data");
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        for (name, schema) in spec.as_object().expect("fields") {
            assert!(schema["description"].as_str().is_some_and(|text| text.len() > 10), "{kind}.spec.{name}");
        }
    }
}

#[tokio::test]
async fn replicas_are_scaled_within_their_bounds() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    Objects::of(cluster, "Miner", &namespace).await.create(&sound("Miner")).await;
    let scale = async |replicas: &str| {
        cluster.kubectl(&["scale", "-n", &namespace, "miner/sound", &format!("--replicas={replicas}")]).await
    };
    scale("3").await.output();
    let wanted = cluster.kubectl(&["get", "-n", &namespace, "miner/sound", "-o=jsonpath={.spec.replicas}"]).await;
    assert_eq!(wanted.output(), "3");
    let refused = scale("257").await.failure();
    assert!(refused.contains("spec.replicas") && refused.contains("256"), "{refused}");
}

#[tokio::test]
async fn a_misspelt_field_is_named() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    let mut object = sound("Miner");
    merge(&mut object, &json!({ "spec": { "replica": 3 } }));
    let refused = cluster.kubectl_with(&["create", "-n", &namespace, "-f", "-"], &object.to_string()).await.failure();
    assert!(refused.contains("unknown field \"spec.replica\""), "{refused}");
}

/// Statuses are the operator's: whoever writes a spec cannot write one by accident.
#[tokio::test]
async fn a_status_is_written_only_by_its_own_request() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    let mut object = sound("Miner");
    merge(&mut object, &json!({ "status": { "replicas": 7 } }));
    let stored = Objects::of(cluster, "Miner", &namespace).await.create(&object).await;
    assert!(stored.get("status").is_none(), "{stored}");
    let status = json!({ "status": { "replicas": 2, "readyReplicas": 1, "window": 12 } }).to_string();
    let patch = ["patch", "-n", &namespace, "miner/sound", "--subresource=status", "--type=merge", "-p", &status];
    cluster.kubectl(&patch).await.output();
    let row = cluster.kubectl(&["get", "miner/sound", "-n", &namespace, "--no-headers"]).await.output();
    assert!(row.split_whitespace().any(|cell| cell == "12"), "the window is shown: {row}");
}
