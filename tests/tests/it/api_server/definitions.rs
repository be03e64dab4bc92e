//! The definitions and the manifests, as the API server takes them.

use std::path::{Path, PathBuf};

use bistro_tests::cluster::Cluster;

use super::objects::{KINDS, Objects, WORKLOADS, sound};

fn repository(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)
}

/// The YAML files of a folder and its folders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    let nested = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    let mut found: Vec<PathBuf> = nested.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    found.sort();
    found
}

#[tokio::test]
async fn every_definition_is_accepted_as_it_is_committed() {
    let Some(cluster) = Cluster::shared().await else { return };
    for file in files(&repository("crds")) {
        let path = file.to_str().expect("plain names");
        cluster
            .kubectl(&["apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", path])
            .await
            .output();
    }
    // A schema that is not structural is accepted, and then nothing of it is enforced.
    let conditions = "-o=jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=='NonStructuralSchema')].message}{'\\n'}{end}";
    let names = cluster.kubectl(&["get", "crds", conditions]).await.output();
    let mut names: Vec<&str> = names.lines().map(str::trim).filter(|name| name.ends_with("bistro.dev")).collect();
    names.sort_unstable();
    assert_eq!(names, ["averagers.bistro.dev", "miners.bistro.dev", "subnets.bistro.dev", "validators.bistro.dev"]);
}

#[tokio::test]
async fn every_manifest_is_accepted_with_strict_validation() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    let files = files(&repository("manifests"));
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let path = file.to_str().expect("plain names");
        let apply = ["apply", "-n", &namespace, "--server-side", "--dry-run=server", "--validate=strict", "-f", path];
        cluster.kubectl(&apply).await.output();
    }
}

#[tokio::test]
async fn defaults_stand_in_what_the_server_stores() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    for kind in WORKLOADS {
        let stored = Objects::of(cluster, kind, &namespace).await.create(&sound(kind)).await;
        let spec = &stored["spec"];
        assert_eq!((&spec["replicas"], &spec["suspend"]), (&1.into(), &false.into()), "{kind}: {spec}");
        assert_eq!(spec["startFrom"]["base"].is_object(), kind == "Miner", "{kind}: {spec}");
    }
    let stored = Objects::of(cluster, "Subnet", &namespace).await.create(&sound("Subnet")).await;
    let spec = &stored["spec"];
    assert_eq!(spec["bucket"]["region"], "us-east-1");
    assert_eq!((&spec["scoring"]["movingAverage"], &spec["scoring"]["power"]), (&"0.9".into(), &"3".into()));
    let (training, run) = (&spec["run"]["training"], &spec["run"]);
    assert_eq!(training["betas"], serde_json::json!(["0.9", "0.95"]));
    assert_eq!((&training["weightDecay"], &training["innerOptimizer"]), (&"0.1".into(), &"kept".into()));
    assert_eq!((&run["schedule"]["skewSeconds"], &run["schedule"]["snapshotWindows"]), (&3.into(), &20.into()));
    assert!(run["merge"]["rule"]["mean"].is_object(), "{run}");
}

/// What the server stores must be what the run digest is computed over, or two nodes would sign different runs.
#[tokio::test]
async fn the_server_fills_in_the_defaults_that_the_digest_counts() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    let stored = Objects::of(cluster, "Subnet", &namespace).await.create(&sound("Subnet")).await;
    let digest = |object: &serde_json::Value| {
        let run: bistro_api::Run = serde_json::from_value(object["spec"]["run"].clone()).expect("a run");
        bistro_api::digest::run_digest(&run)
    };
    assert_eq!(digest(&stored), digest(&sound("Subnet")));
}

#[tokio::test]
async fn the_same_object_applied_twice_changes_nothing() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    for kind in KINDS {
        let text = sound(kind).to_string();
        let apply = ["apply", "-n", &namespace, "--server-side", "-o=jsonpath={.metadata.resourceVersion}", "-f", "-"];
        let first = cluster.kubectl_with(&apply, &text).await.output();
        let second = cluster.kubectl_with(&apply, &text).await.output();
        assert_eq!(first, second, "{kind}");
    }
}
