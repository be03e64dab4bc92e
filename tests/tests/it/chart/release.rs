//! The chart on a real API server.

use bistro_tests::cluster::{Cluster, Options, Ran};

use super::{ALONE, EVERYTHING, checkout, render, text_of};

#[tokio::test]
async fn a_real_api_server_accepts_every_object() {
    let Some(cluster) = Cluster::shared().await else { return };
    cluster.apply_monitoring_crds().await;
    let (namespace, other) = (cluster.namespace().await, cluster.namespace().await);
    let label = ["label", "namespace", &namespace, "pod-security.kubernetes.io/warn=restricted"];
    cluster.kubectl(&label).await.output();
    let watched = format!("watchNamespaces={{{namespace},{other}}}");
    let some = [EVERYTHING, &[watched.as_str(), "crds.keep=false"]].concat();
    for values in [&[][..], EVERYTHING, ALONE, &some] {
        let text = render(cluster, &namespace, values).await.text;
        let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
        let ran = cluster.kubectl_with(&apply, &text).await;
        assert!(!ran.err.contains("Warning"), "{}", ran.err);
        ran.output();
    }
}

/// The chart's own release in a cluster where nobody else has our definitions.
struct Release {
    cluster: Cluster,
    namespace: String,
}

impl Release {
    async fn helm(&self, command: &str, values: &[&str]) -> Ran {
        let chart = checkout("charts/bistro");
        let mut arguments = vec![command, "bistro", chart.to_str().expect("UTF-8"), "--namespace", &self.namespace];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        self.cluster.helm(&arguments).await
    }

    async fn uninstall(&self) {
        self.cluster.helm(&["uninstall", "bistro", "--namespace", &self.namespace, "--wait"]).await.output();
    }

    /// Names of everything with the release's label, and of our definitions.
    async fn left(&self) -> String {
        let kinds = "all,configmap,secret,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget";
        let label = "app.kubernetes.io/instance=bistro";
        let here = ["get", kinds, "--namespace", &self.namespace, "--selector", label, "--output", "name"];
        let everywhere = ["get", "clusterrole,clusterrolebinding", "--selector", label, "--output", "name"];
        let here = self.cluster.kubectl(&here).await.output();
        here + &self.cluster.kubectl(&everywhere).await.output() + &self.definitions().await
    }

    async fn definitions(&self) -> String {
        let all = self.cluster.kubectl(&["get", "crd", "--output", "name"]).await.output();
        all.lines().filter(|name| name.ends_with(".bistro.dev")).map(|name| format!("{name}\n")).collect()
    }

    /// Whether the operator may do something: `verb resource[/name][ subresource]`.
    async fn may(&self, what: &str) -> bool {
        let mut words = what.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (verb, resource, subresource) = (word(), word(), format!("--subresource={}", word()));
        let account = format!("--as=system:serviceaccount:{}:bistro", self.namespace);
        let asked = ["auth", "can-i", verb, resource, &subresource, "--namespace", &self.namespace, &account];
        self.cluster.kubectl(&asked).await.ok
    }
}

#[tokio::test]
async fn a_release_can_be_installed_upgraded_and_removed() {
    let options = Options { controllers: true, fake_nodes: 1, ..Options::default() };
    let Some(cluster) = Cluster::start(options).await else { return };
    let namespace = cluster.namespace().await;
    let label = ["label", "namespace", &namespace, "pod-security.kubernetes.io/enforce=restricted"];
    cluster.kubectl(&label).await.output();
    let release = Release { cluster, namespace };

    let told = release.helm("install", &["devnet.enabled=true", "crds.keep=false"]).await.output();
    assert!(told.contains("apply -f manifests/quickstart.yaml"), "{told}");
    rights(&release).await;
    let quickstart = text_of("manifests/quickstart.yaml");
    let apply = ["apply", "--namespace", &release.namespace, "-f", "-"];
    let applied = release.cluster.kubectl_with(&apply, &quickstart).await.output();
    assert!(applied.contains("miner.bistro.dev/miner created"), "{applied}");
    assert!(applied.contains("secret/bucket configured"), "the chart has made it already: {applied}");

    let values = ["devnet.enabled=true", "crds.keep=false", "replicas=2", "networkPolicy.enabled=true"];
    release.helm("upgrade", &values).await.output();
    assert!(release.left().await.contains("poddisruptionbudget"), "two operators have a budget");
    let ours = "app.kubernetes.io/instance=bistro";
    let pods = ["get", "pods", "--namespace", &release.namespace, "--selector", ours, "--output", "name"];
    let pods = async || (release.cluster.kubectl(&pods).await.output().lines().count() >= 3).then_some(());
    release.cluster.until("pods of operator and devnet, which Pod Security lets in", pods).await;

    release.uninstall().await;
    release.cluster.until("an empty cluster", async || release.left().await.is_empty().then_some(())).await;

    release.helm("install", &[]).await.output();
    release.uninstall().await;
    assert_eq!(release.definitions().await.lines().count(), 4, "kept, and with them what people made");
    release.helm("install", &[]).await.output();
}

/// What the code does, and what it must not be able to do.
async fn rights(release: &Release) {
    for needed in [
        "watch miners.bistro.dev",
        "patch subnets.bistro.dev status",
        "update miners.bistro.dev finalizers",
        "create statefulsets.apps",
        "patch services",
        "delete poddisruptionbudgets.policy",
        "list pods",
        "create events.events.k8s.io",
        "create leases.coordination.k8s.io",
        "update leases.coordination.k8s.io/bistro-operator",
    ] {
        // The API server notices new rights a moment after they were written.
        let may = async || release.may(needed).await.then_some(());
        release.cluster.until(&format!("the operator's right to {needed}"), may).await;
    }
    for refused in [
        "get secrets",
        "list secrets",
        "list nodes",
        "delete pods",
        "create pods",
        "create pods exec",
        "patch miners.bistro.dev",
        "delete miners.bistro.dev",
        "update leases.coordination.k8s.io/another",
        "create clusterrolebindings.rbac.authorization.k8s.io",
    ] {
        assert!(!release.may(refused).await, "the operator must not be able to {refused}");
    }
}
