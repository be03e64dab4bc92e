//! The test support's own promises: a cluster can be disturbed, its requests are counted, and nothing of it is left.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bistro_tests::cluster::{Cluster, Options};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::support::wait;

/// Long enough for an answer, short enough for none.
const MOMENT: Duration = Duration::from_secs(3);

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a ConfigMap")
}

#[tokio::test]
async fn an_api_server_pauses_ends_and_comes_back_with_its_data() {
    let Some(cluster) = Cluster::start(Options { audit: true, ..Options::default() }).await else { return };
    let api: Api<ConfigMap> = Api::namespaced(cluster.client_of("operator").await, "default");
    api.create(&PostParams::default(), &config_map("kept")).await.expect("created");

    cluster.pause_api_server();
    assert!(tokio::time::timeout(MOMENT, api.get("kept")).await.is_err(), "a paused server does not answer");
    cluster.resume_api_server();
    api.get("kept").await.expect("it answers again");

    cluster.stop_api_server();
    api.get("kept").await.expect_err("nobody is there");
    cluster.start_api_server().await;
    api.get("kept").await.expect("the same data at the same address");

    api.create(&PostParams::default(), &config_map("kept")).await.expect_err("it is there already");
    let writes = cluster.writes("operator");
    let seen: Vec<_> = writes.iter().map(|w| (w.verb.as_str(), w.resource.as_str(), w.name.as_str(), w.code)).collect();
    assert_eq!(seen, [("create", "configmaps", "kept", 201), ("create", "configmaps", "kept", 409)]);
    assert!(cluster.requests("operator").len() > writes.len() && cluster.writes("other").is_empty());
}

#[tokio::test]
async fn controllers_make_pods_and_collect_what_nobody_owns() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "set", "namespace": namespace },
        "spec": {
            "serviceName": "set", "replicas": 2, "selector": { "matchLabels": { "app": "set" } },
            "template": {
                "metadata": { "labels": { "app": "set" } },
                "spec": { "containers": [{
                    "name": "c", "image": "none", "resources": { "limits": { "nvidia.com/gpu": 1 } },
                }] },
            },
        },
    });
    cluster.apply(&set).await.expect("accepted");
    let ready = ["get", "statefulset/set", "-n", &namespace, "-o=jsonpath={.status.readyReplicas}"];
    wait(async || (cluster.kubectl(&ready).await.out == "2").then_some(())).await;
    cluster.kubectl(&["delete", "-n", &namespace, "statefulset/set"]).await.output();
    let pods = ["get", "pods", "-n", &namespace, "-o=name"];
    wait(async || cluster.kubectl(&pods).await.output().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_service_account_may_do_what_it_is_allowed_and_no_more() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    let file = cluster.kubeconfig_of_service_account(&namespace, "default").await;
    let file = format!("--kubeconfig={}", file.display());
    let list = ["get", "miners", "-n", &namespace, &file];
    let refused = cluster.kubectl(&list).await.failure();
    assert!(refused.contains("cannot list resource \"miners\""), "{refused}");
    let bind = ["create", "rolebinding", "reader", "-n", &namespace, "--clusterrole=reader"];
    let to = format!("--serviceaccount={namespace}:default");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "reader" },
        "rules": [{ "apiGroups": ["bistro.dev"], "resources": ["miners"], "verbs": ["list"] }],
    });
    cluster.apply(&role).await.expect("a role");
    cluster.kubectl(&[&bind[..], &[&to]].concat()).await.output();
    wait(async || cluster.kubectl(&list).await.ok.then_some(())).await;
}

/// Not a test: what the next one starts and kills.
#[tokio::test]
#[ignore = "a part of another test"]
async fn a_cluster_that_waits() {
    let Some(cluster) = Cluster::start(Options { controllers: true, fake_nodes: 1, ..Options::default() }).await else {
        return println!("FOLDER none");
    };
    println!("FOLDER {}", cluster.folder().display());
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test]
async fn a_killed_test_program_leaves_nothing_behind() {
    let mut killed = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--ignored", "--exact", "cluster::a_cluster_that_waits", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let lines = BufReader::new(killed.stdout.take().expect("it is piped")).lines();
    let folder = lines.map_while(Result::ok).find_map(|line| {
        // The harness writes the name of the test into the same line.
        line.split_once("FOLDER ").map(|(_, folder)| folder.to_owned())
    });
    let folder = PathBuf::from(folder.expect("it says where its cluster is"));
    if folder != Path::new("none") {
        assert!(folder.is_dir() && !processes_of(&folder).is_empty());
    }
    killed.kill().expect("it runs");
    killed.wait().expect("it has ended");
    wait(async || (processes_of(&folder).is_empty() && !folder.exists()).then_some(())).await;
}

/// Command lines that name a folder, the one of the shell that removes it aside.
pub fn processes_of(folder: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let lines = processes.filter_map(|process| {
        let folder_of_process = fs::read_link(process.path().join("cwd")).ok()?;
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let about = line.contains(folder.to_str().expect("plain names")) || folder_of_process.starts_with(folder);
        (about && !line.starts_with("sh -c")).then_some(line)
    });
    lines.collect()
}
