//! A real node: pods run, find each other, get volumes and GPUs, and nothing of it is left on the machine.

use std::{fs, path::Path};

use bistro_tests::cluster::{Cluster, Options};
use serde_json::{Value, json};

use crate::{cluster::processes_of, support::wait};

/// A pod of the tests' own image.
fn pod(namespace: &str, name: &str, command: &[&str], more: &Value) -> Value {
    let mut container = json!({ "name": "probe", "image": "localhost/probe:1", "args": command });
    container["resources"] = more["resources"].clone();
    container["volumeMounts"] = more["volumeMounts"].clone();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
        "spec": { "restartPolicy": "OnFailure", "containers": [container], "volumes": more["volumes"].clone() },
    })
}

async fn phase(cluster: &Cluster, namespace: &str, pod: &str) -> String {
    cluster.kubectl(&["get", "pod", pod, "-n", namespace, "-o=jsonpath={.status.phase}"]).await.out
}

async fn until_phase(cluster: &Cluster, namespace: &str, pod: &str, asked: &str) {
    let what = format!("pod {pod}: {asked}");
    cluster.until(&what, async || (phase(cluster, namespace, pod).await == asked).then_some(())).await;
}

#[tokio::test]
#[ignore = "needs root and containers: make e2e"]
async fn e2e_a_node_runs_pods_and_leaves_nothing() {
    let Some(cluster) = Cluster::start(Options { node: true, ..Options::default() }).await else { return };
    let namespace = &cluster.namespace().await;

    // Names, services and the way between pods.
    cluster.apply(&pod(namespace, "server", &["serve", ":8080"], &json!({}))).await.expect("accepted");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "named", "namespace": namespace },
        "spec": { "selector": { "app": "server" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    cluster.apply(&service).await.expect("accepted");
    let url = format!("http://named.{namespace}.svc.cluster.local/");
    cluster.apply(&pod(namespace, "client", &["get", &url], &json!({}))).await.expect("accepted");
    until_phase(&cluster, namespace, "client", "Succeeded").await;
    let answer = cluster.kubectl(&["logs", "client", "-n", namespace]).await.output();
    assert_eq!(answer.trim(), "server", "the server answers with its name");

    // This machine reaches pods by their addresses.
    let address = cluster.kubectl(&["get", "pod/server", "-n", namespace, "-o=jsonpath={.status.podIP}"]).await;
    let address = format!("{}:8080", address.output()).parse().expect("an address");
    let answer = bistro_tests::process::ask(address, "/").await.expect("the pod answers");
    assert_eq!(String::from_utf8_lossy(&answer).trim(), "server");

    volumes_come_and_go(&cluster, namespace).await;
    gpus_are_given_and_run_out(&cluster, namespace).await;
    nothing_is_left(cluster).await;
}

async fn volumes_come_and_go(cluster: &Cluster, namespace: &str) {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "claim", "namespace": namespace },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    cluster.apply(&claim).await.expect("accepted");
    let volume = json!({
        "volumes": [{ "name": "state", "persistentVolumeClaim": { "claimName": "claim" } }],
        "volumeMounts": [{ "name": "state", "mountPath": "/state" }],
    });
    cluster.apply(&pod(namespace, "keeper", &["serve", ":8080"], &volume)).await.expect("accepted");
    until_phase(cluster, namespace, "keeper", "Running").await;
    let delete = ["delete", "-n", namespace, "pod/keeper", "pvc/claim", "--grace-period=1"];
    cluster.kubectl(&delete).await.output();
    let volumes = ["get", "pv", "-o=name"];
    wait(async || cluster.kubectl(&volumes).await.output().is_empty().then_some(())).await;
}

async fn gpus_are_given_and_run_out(cluster: &Cluster, namespace: &str) {
    let gpus = |count: u32| json!({ "resources": { "limits": { "nvidia.com/gpu": count } } });
    for (name, count) in [("large", 6), ("larger", 3)] {
        cluster.apply(&pod(namespace, name, &["serve", ":8080"], &gpus(count))).await.expect("accepted");
        let placed = if name == "large" { "Running" } else { "Pending" };
        until_phase(cluster, namespace, name, placed).await;
    }
    let why = ["get", "pod/larger", "-n", namespace, "-o=jsonpath={.status.conditions[0].message}"];
    wait(async || cluster.kubectl(&why).await.output().contains("Insufficient nvidia.com/gpu").then_some(())).await;
    cluster.kubectl(&["delete", "-n", namespace, "pod/large", "--grace-period=1"]).await.output();
    until_phase(cluster, namespace, "larger", "Running").await;
}

/// Pods still run when the cluster is dropped.
async fn nothing_is_left(cluster: Cluster) {
    let folder = cluster.folder().to_owned();
    let interface = format!("/sys/class/net/{}", cluster.interface());
    let groups = groups_of(&folder);
    assert!(Path::new(&interface).exists() && !groups.is_empty() && !processes_of(&folder).is_empty());
    drop(cluster);
    assert_eq!(processes_of(&folder), Vec::<String>::new());
    assert_eq!(groups_of(&folder), Vec::<String>::new());
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(folder.to_str().expect("plain names")), "{mounts}");
    assert!(!folder.exists() && !Path::new(&interface).exists());
}

/// Control groups with the folder's name, in whichever version.
fn groups_of(folder: &Path) -> Vec<String> {
    let name = folder.file_name().expect("it has a name");
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).expect("control groups").flatten().map(|entry| entry.path());
    let all = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(name));
    all.filter(|group| group.exists()).map(|group| group.display().to_string()).collect()
}
