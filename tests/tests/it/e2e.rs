//! The product on a real node: from `helm install` and `kubectl apply` to miners with scores, and back to nothing.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bistro_tests::{
    cluster::{Cluster, Options, Prometheus},
    monitoring,
};
use serde_json::{Value, json};

/// Longest wait for anything: only so that a broken test ends.
const PATIENCE: Duration = Duration::from_secs(300);
const NAMESPACE: &str = "bistro";
/// The programs whose images `make images` writes.
const IMAGES: [&str; 3] = ["bistro", "bistro-worker", "bistro-devnet"];

fn checkout(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn images() -> PathBuf {
    let given = std::env::var_os("BISTRO_IMAGES").map(PathBuf::from);
    given.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/bistro/images"))
}

/// A cluster, and what the test does with it.
struct Product {
    cluster: Cluster,
}

impl Product {
    async fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[arguments, &["-n", NAMESPACE]].concat()).await.output()
    }

    async fn helm(&self, arguments: &[&str]) -> String {
        self.cluster.helm(&[arguments, &["-n", NAMESPACE]].concat()).await.output()
    }

    /// An object as it is now; null where there is none.
    async fn get(&self, what: &str) -> Value {
        let found = self.cluster.kubectl(&["get", what, "-n", NAMESPACE, "-o=json"]).await;
        if found.ok { serde_json::from_str(&found.out).expect("kubectl writes JSON") } else { Value::Null }
    }

    /// Waits until an object is as asked.
    async fn until(&self, what: &str, asked: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let object = self.get(what).await;
            if asked(&object) {
                return object;
            }
            if began.elapsed() > PATIENCE {
                panic!("{what} is not as asked: {object}\n{}", self.story().await);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// What somebody who looks for the fault would ask first.
    async fn story(&self) -> String {
        let mut story = String::new();
        for question in [
            &["get", "bistro,pods,jobs,pvc", "-n", NAMESPACE, "-o=wide"][..],
            &["get", "events", "-n", NAMESPACE, "--sort-by=.lastTimestamp"],
            &["logs", "deployment/bistro", "-n", NAMESPACE, "--tail=30"],
            &["logs", "-l", "app.kubernetes.io/name=bistro", "-n", NAMESPACE, "--tail=5", "--prefix"],
        ] {
            let answer = self.cluster.kubectl(question).await;
            story += &format!("$ kubectl {}\n{}{}\n", question.join(" "), answer.out, answer.err);
        }
        story
    }

    /// Waits until a number of miners are ready and each has a score above zero.
    async fn scores(&self, miners: usize) -> Value {
        self.until("miner/miner", |miner| {
            let nodes = miner["status"]["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            let score = |node: &Value| node["score"].as_str().and_then(|score| score.parse::<f64>().ok());
            let scored = nodes.iter().filter(|node| score(node).is_some_and(|score| score > 0.0));
            miner["status"]["readyReplicas"] == miners && scored.count() >= miners
        })
        .await
    }
}

#[tokio::test]
#[ignore = "needs root and containers: make e2e"]
async fn e2e_from_helm_install_to_scores_and_back_to_nothing() {
    let Some(cluster) = Cluster::start(Options { node: true, ..Options::default() }).await else { return };
    for image in IMAGES {
        cluster.import_image(&images().join(format!("{image}.tar")));
    }
    cluster.apply_monitoring_crds().await;
    let product = Product { cluster };
    let began = Instant::now();
    installs(&product).await;
    product.kubectl(&["apply", "-f", &checkout("manifests/quickstart.yaml")]).await;
    product.scores(3).await;
    println!("{}", product.kubectl(&["get", "bistro"]).await);
    println!("BENCH e2e.scores seconds={:.0}", began.elapsed().as_secs_f64());
    product.helm(&["test", "bistro", "--timeout=2m"]).await;

    // It looks on while everything below happens; what it saw is asked at the end.
    let prometheus = watches(&product).await;
    scales(&product).await;
    suspends_and_resumes(&product).await;
    survives_a_deleted_pod(&product).await;
    takes_gpus(&product).await;
    shows(&product, &prometheus).await;
    drop(prometheus);
    upgrades(&product).await;
    leaves_nothing(&product).await;
}

/// Blocks of a second: in windows of 40 seconds two cores have time to train four miners beside a whole Kubernetes.
const VALUES: [&str; 5] = [
    "--set=devnet.enabled=true,devnet.blockTime=1s",
    "--set=crds.keep=false",
    "--set=pollInterval=5s",
    "--set=serviceMonitor.enabled=true,podMonitor.enabled=true,prometheusRule.enabled=true",
    "--set=dashboards.enabled=true",
];

async fn installs(product: &Product) {
    let chart = checkout("charts/bistro");
    let install = ["install", "bistro", &chart, "--create-namespace", "--wait", "--timeout=3m"];
    product.helm(&[&install[..], &VALUES].concat()).await;
}

async fn scales(product: &Product) {
    for miners in ["4", "2"] {
        product.kubectl(&["scale", "miner/miner", &format!("--replicas={miners}")]).await;
        let wanted: usize = miners.parse().expect("a number");
        product.until("miner/miner", |miner| miner["status"]["readyReplicas"] == wanted).await;
        let set = "statefulset/miner-miner";
        product.until(set, |set| set["status"]["replicas"] == wanted).await;
    }
}

async fn suspends_and_resumes(product: &Product) {
    let suspend = async |suspend: bool| {
        let patch = format!(r#"{{"spec":{{"suspend":{suspend}}}}}"#);
        product.kubectl(&["patch", "miner/miner", "--type=merge", "-p", &patch]).await;
    };
    let condition = |miner: &Value, status: &str| {
        let conditions = miner["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Suspended" && c["status"] == status)
    };
    suspend(true).await;
    product.until("miner/miner", |miner| condition(miner, "True") && miner["status"]["replicas"] == 0).await;
    suspend(false).await;
    product.until("miner/miner", |miner| condition(miner, "False") && miner["status"]["readyReplicas"] == 2).await;
}

/// The pod comes back under its name with its hotkey, and works on.
async fn survives_a_deleted_pod(product: &Product) {
    let pod = product.until("pod/miner-miner-0", |pod| pod["status"]["phase"] == "Running").await;
    let window = |miner: &Value| miner["status"]["window"].as_u64().unwrap_or_default();
    let before = window(&product.get("miner/miner").await);
    product.kubectl(&["delete", "pod/miner-miner-0"]).await;
    let again = product.until("pod/miner-miner-0", |again| again["status"]["phase"] == "Running").await;
    assert_ne!(pod["metadata"]["uid"], again["metadata"]["uid"]);
    product.until("miner/miner", |miner| window(miner) > before + 1).await;
    product.scores(2).await;
}

/// A Prometheus that scrapes what the chart's monitors name, as the Prometheus Operator would have it.
async fn watches(product: &Product) -> Prometheus {
    let monitors = product.get("servicemonitors,podmonitors").await;
    let monitors = monitors["items"].as_array().cloned().unwrap_or_default();
    assert!(monitors.len() >= 2, "the chart has a monitor for the operator and one for the workers: {monitors:?}");
    let scrapes = monitoring::scrape_configs(&monitors, &product.cluster.kubeconfig(), "1s");
    let rules = product.get("prometheusrules").await;
    let groups = rules["items"].as_array().into_iter().flatten();
    let groups: Vec<Value> =
        groups.flat_map(|rule| rule["spec"]["groups"].as_array().cloned().unwrap_or_default()).collect();
    assert!(!groups.is_empty(), "the chart has rules");
    product.cluster.prometheus(&scrapes, &groups).await
}

/// Each panel and each alert looks at something that is there.
async fn shows(product: &Product, prometheus: &Prometheus) {
    let panels = monitoring::panel_queries(NAMESPACE, NAMESPACE, "demo");
    let mut empty: Vec<_> = panels.into_iter().chain(monitoring::alert_selectors()).collect();
    let began = Instant::now();
    while !empty.is_empty() {
        let mut still = Vec::new();
        for query in empty {
            // In a run where all is well nothing is refused.
            let of_trouble = query.text.contains(r#"verdict!="accepted""#);
            if !of_trouble && prometheus.query(&query.text).await.is_empty() {
                still.push(query);
            }
        }
        empty = still;
        assert!(began.elapsed() < PATIENCE, "no data for {empty:#?}\n{}", product.story().await);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for group in prometheus.rules().await {
        for rule in group["rules"].as_array().into_iter().flatten() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }
}

/// On a machine with eight simulated GPUs a miner asks for two and gets them; one that asks for nine waits and says why.
async fn takes_gpus(product: &Product) {
    let miner = |name: &str, count: u32| {
        json!({
            "apiVersion": "bistro.dev/v1alpha1", "kind": "Miner", "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": { "subnetRef": { "name": "demo" }, "wallet": { "dev": true }, "gpu": { "count": count } },
        })
    };
    product.cluster.apply(&miner("two", 2)).await.expect("accepted");
    product.cluster.apply(&miner("nine", 9)).await.expect("accepted");
    let pod = product.until("pod/miner-two-0", |pod| pod["spec"]["nodeName"].is_string()).await;
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], "2");
    let waits = |miner: &Value| {
        let conditions = miner["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["reason"] == "Unschedulable")
    };
    product.until("miner/nine", waits).await;
    for name in ["miner/two", "miner/nine"] {
        product.kubectl(&["delete", name]).await;
    }
}

/// Pods of workers stay when only the operator changes.
async fn upgrades(product: &Product) {
    let uid = async || product.get("pod/miner-miner-0").await["metadata"]["uid"].clone();
    let before = uid().await;
    let chart = checkout("charts/bistro");
    let upgrade = ["upgrade", "bistro", &chart, "--wait", "--timeout=3m", "--set=replicas=2"];
    product.helm(&[&upgrade[..], &VALUES].concat()).await;
    product.until("deployment/bistro", |deployment| deployment["status"]["readyReplicas"] == 2).await;
    assert_eq!(uid().await, before, "an upgrade of the operator restarts no worker");
}

async fn leaves_nothing(product: &Product) {
    product.helm(&["uninstall", "bistro", "--wait", "--timeout=3m"]).await;
    // The definitions went, and with them all resources, and with those their children.
    let left = "statefulset,pod,service,configmap,poddisruptionbudget,networkpolicy";
    let names = ["get", left, "-n", NAMESPACE, "-l", "app.kubernetes.io/name=bistro", "-o=name"];
    let began = Instant::now();
    loop {
        let left = product.cluster.kubectl(&names).await.output();
        if left.is_empty() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{left} is left\n{}", product.story().await);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let definitions = product.cluster.kubectl(&["get", "crds", "-o=name"]).await.output();
    assert!(!definitions.contains("bistro.dev"), "{definitions}");
}
