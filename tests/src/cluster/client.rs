//! Ways to talk to a cluster.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Namespace, Node, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use super::Cluster;

/// How a program ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Ran {
    /// It ended with 0.
    pub ok: bool,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// Its output, where it must have succeeded.
    pub fn output(self) -> String {
        assert!(self.ok, "it failed: {}{}", self.out, self.err);
        self.out
    }

    /// Its errors, where it must have failed.
    pub fn failure(self) -> String {
        assert!(!self.ok, "it must fail: {}{}", self.out, self.err);
        self.err
    }
}

impl Cluster {
    /// A client with all rights, for the runtime that it is called on.
    pub async fn client(&self) -> Client {
        self.client_of("admin").await
    }

    /// A client of one user.
    pub async fn client_of(&self, user: &str) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig_of(user)).expect("a sound file");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        // What is timed must not wait for its own packets.
        bistro::client::prompt(config.expect("a sound file")).expect("a sound configuration").build()
    }

    /// The administrator's file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin")
    }

    /// The file of a user: admin, operator, other, or one that the options name.
    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        let users = self.site.users();
        assert!(users.iter().any(|known| known == user), "{user} is none of {users:?}: name it in Options::users");
        self.site.kubeconfig(user)
    }

    /// The file of a service account, which may do what RBAC allows it.
    pub async fn kubeconfig_of_service_account(&self, namespace: &str, name: &str) -> PathBuf {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() };
        let asked = TokenRequest { spec, ..TokenRequest::default() };
        let given = accounts.create_token_request(name, &PostParams::default(), &asked).await.expect("a token");
        let token = given.status.expect("the server fills it in").token;
        self.site.write_kubeconfig(&format!("{namespace}-{name}"), &token)
    }

    /// Where the API server is, as a URL.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.site.address, self.site.port())
    }

    /// The folder of the cluster: for logs, and files that must go with it.
    pub fn folder(&self) -> &Path {
        self.site.folder.path()
    }

    /// A program of `hack/kube`, for example prometheus.
    pub fn program(&self, name: &str) -> PathBuf {
        self.site.tools.path(name)
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl(&self, arguments: &[&str]) -> Ran {
        self.run("kubectl", arguments, "").await
    }

    /// Runs kubectl as the administrator with something to read, for `-f -`.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Ran {
        self.run("kubectl", arguments, input).await
    }

    /// Runs helm as the administrator.
    pub async fn helm(&self, arguments: &[&str]) -> Ran {
        self.run("helm", arguments, "").await
    }

    async fn run(&self, name: &str, arguments: &[&str], input: &str) -> Ran {
        let mut command = Command::new(self.program(name));
        command
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            // Both keep caches below it.
            .env("HOME", self.folder())
            .kill_on_drop(true)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("hack/kube has built it");
        let mut stdin = child.stdin.take().expect("it is piped");
        let (ran, _) = tokio::join!(child.wait_with_output(), async move {
            // A program that ends early reads no more; what it says of that is what counts.
            let _ = stdin.write_all(input.as_bytes()).await;
        });
        let ran = ran.expect("it can be waited for");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { ok: ran.status.success(), out: text(ran.stdout), err: text(ran.stderr) }
    }

    /// A namespace of its own for a test; pods can be created in it at once.
    pub async fn namespace(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        let client = self.client().await;
        self.apply(&namespace).await.expect("a namespace");
        if !self.controllers.is_empty() {
            let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
            self.until("its service account", async || accounts.get("default").await.ok().map(drop)).await;
        }
        name
    }

    /// Removes a namespace without waiting for that.
    pub async fn delete_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client().await);
        namespaces.delete(name, &kube::api::DeleteParams::default()).await.expect("it can be deleted");
    }

    /// Applies any object by server-side apply, as the user `admin` of the field manager `test`.
    pub async fn apply(&self, object: &Value) -> kube::Result<DynamicObject> {
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object with kind and name");
        let api = self.api_of(&object).await;
        api.patch(&object.name_any(), &PatchParams::apply("test").force(), &Patch::Apply(&object)).await
    }

    /// Creates any object.
    pub async fn create(&self, object: &Value) -> kube::Result<DynamicObject> {
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object with a kind");
        self.api_of(&object).await.create(&PostParams::default(), &object).await
    }

    async fn api_of(&self, object: &DynamicObject) -> Api<DynamicObject> {
        let types = object.types.clone().expect("it names its kind");
        let kind = GroupVersionKind::try_from(types).expect("group/version");
        let resource = ApiResource::from_gvk(&kind);
        match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client().await, &namespace, &resource),
            None => Api::all_with(self.client().await, &resource),
        }
    }

    /// Applies our custom resource definitions and waits until they are served.
    pub async fn apply_crds(&self) {
        let definitions = bistro::crds::all();
        self.apply_definitions(&definitions).await;
    }

    /// Applies the definitions of ServiceMonitor, PodMonitor and PrometheusRule.
    pub async fn apply_monitoring_crds(&self) {
        let files = ["podmonitors", "servicemonitors", "prometheusrules"];
        let definitions = files.map(|name| {
            let path = self.program("monitoring").join(format!("{name}.yaml"));
            let text = std::fs::read_to_string(path).expect("hack/kube has copied it");
            serde_yaml::from_str(&text).expect("a definition")
        });
        self.apply_definitions(&definitions).await;
    }

    async fn apply_definitions(&self, definitions: &[CustomResourceDefinition]) {
        let api: Api<CustomResourceDefinition> = Api::all(self.client().await);
        for definition in definitions {
            let apply = PatchParams::apply("test").force();
            api.patch(&definition.name_any(), &apply, &Patch::Apply(definition)).await.expect("it is accepted");
        }
        for definition in definitions {
            let name = definition.name_any();
            self.until("an established definition", async || {
                let conditions = api.get(&name).await.ok()?.status?.conditions?;
                conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
            })
            .await;
        }
    }

    pub(super) async fn is_ready(&self) -> bool {
        let request = hyper::Request::get("/readyz").body(Vec::new()).expect("a path");
        self.client().await.request_text(request).await.is_ok()
    }

    pub(super) async fn add_fake_nodes(&self, count: usize) {
        let room = json!({ "cpu": "100000", "memory": "1000Ti", "pods": "20000", "nvidia.com/gpu": "100000" });
        for i in 0..count {
            let name = format!("fake-{i}");
            let labels = json!({ "kubernetes.io/os": "linux", "kubernetes.io/hostname": name });
            let node = json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels },
                "status": { "capacity": room, "allocatable": room },
            });
            self.create(&node).await.expect("a node");
        }
        let nodes: Api<Node> = Api::all(self.client().await);
        self.until("ready nodes", async || {
            let nodes = nodes.list(&kube::api::ListParams::default()).await.ok()?;
            let ready = nodes.items.iter().filter(|node| is_ready(node)).count();
            (ready == count).then_some(())
        })
        .await;
    }
}

/// Whether a machine takes pods.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
