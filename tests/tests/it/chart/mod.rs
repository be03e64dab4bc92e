//! The Helm chart: what it renders, its alerts and dashboards, and that a real API server takes all of it.

mod monitoring;
mod release;
mod templates;

use std::path::{Path, PathBuf};

use bistro_tests::cluster::Cluster;
use serde_json::Value;

/// Everything on, so that every template renders something.
const EVERYTHING: &[&str] = &[
    "replicas=3",
    "image.registry=registry.example.org/team",
    "image.workerCuda.repository=bistro-worker-cuda",
    "image.pullSecrets[0].name=registry",
    "subnetNetworkPolicy.metricsNamespaces={monitoring}",
    "leaderElection.leaseName=another",
    "maxConcurrentReconciles=4",
    "pollInterval=1m",
    "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy:3128",
    "commonLabels.team=training",
    "podAnnotations.note=one",
    "podLabels.note=two",
    "priorityClassName=system-cluster-critical",
    "serviceAccount.annotations.note=three",
    "networkPolicy.enabled=true",
    "networkPolicy.apiServerCIDRs={10.96.0.1/32}",
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
    "serviceMonitor.enabled=true",
    "serviceMonitor.labels.release=prometheus",
    "podMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "dashboards.enabled=true",
    "devnet.enabled=true",
    "devnet.storage.size=1Gi",
    "extraObjects[0].apiVersion=v1,extraObjects[0].kind=ConfigMap,extraObjects[0].metadata.name=\\{\\{ .Release.Name \\}\\}-more",
];

/// As little as possible.
const ALONE: &[&str] = &[
    "leaderElection.enabled=false",
    "crds.enabled=false",
    "rbac.create=false",
    "rbac.aggregateClusterRoles=false",
    "serviceAccount.create=false",
];

/// A folder or file of the checkout.
fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text_of(path: &str) -> String {
    std::fs::read_to_string(checkout(path)).expect("it is in the checkout")
}

/// What `helm template` writes.
struct Rendered {
    text: String,
    objects: Vec<Value>,
}

impl Rendered {
    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The only object of its kind.
    fn only<'a>(&'a self, kind: &'a str) -> &'a Value {
        let mut found = self.of_kind(kind);
        let first = found.next().unwrap_or_else(|| panic!("no {kind} in {}", self.text));
        assert!(found.next().is_none(), "more than one {kind}");
        first
    }
}

/// Renders the chart as the release `bistro` in a namespace, with `--set` for each value.
async fn render(cluster: &Cluster, namespace: &str, values: &[&str]) -> Rendered {
    let text = template(cluster, namespace, values).await.output();
    let objects: Vec<Value> = serde_yaml::from_multiple(&text).expect("YAML");
    Rendered { text, objects: objects.into_iter().filter(|object| !object.is_null()).collect() }
}

async fn template(cluster: &Cluster, namespace: &str, values: &[&str]) -> bistro_tests::cluster::Ran {
    let chart = checkout("charts/bistro");
    let chart = chart.to_str().expect("a path in UTF-8");
    let mut arguments = vec!["template", "bistro", chart, "--namespace", namespace, "--kube-version", "1.34.0"];
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    cluster.helm(&arguments).await
}
