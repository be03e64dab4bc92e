//! The operator, as a process, against a real API server with controllers and machines that are not there.

mod children;
mod conditions;
mod election;
mod faults;
mod rivals;

use std::path::Path;

use bistro_api::{Miner, workload::WorkloadStatus};
use bistro_tests::{cluster::Cluster, operator::Operator};
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

/// A namespace of the shared cluster with a Subnet in it.
pub struct World {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// The namespace.
    pub namespace: String,
    /// The administrator.
    pub client: Client,
}

impl World {
    /// Absent where the machine has no Kubernetes; that was said loudly.
    pub async fn new() -> Option<Self> {
        let cluster = Cluster::shared().await?;
        let world = Self { cluster, namespace: cluster.namespace().await, client: cluster.client().await };
        world.apply(world.subnet("demo")).await;
        Some(world)
    }

    /// One replica that looks after this namespace and asks no nodes.
    pub fn operator(&self) -> Operator {
        self.operator_at(&self.cluster.kubeconfig_of("operator"))
    }

    /// The same behind something.
    pub fn operator_at(&self, kubeconfig: &Path) -> Operator {
        Operator::new(kubeconfig, &self.namespace).with(&["--poll-interval", "0s"])
    }

    /// The quickstart's Subnet.
    pub fn subnet(&self, name: &str) -> Value {
        let text = include_str!("../../../../manifests/quickstart.yaml");
        let text = text.split("\n---\n").find(|text| text.contains("kind: Subnet")).expect("there is one");
        let mut subnet: Value = serde_yaml::from_str(text).expect("YAML");
        subnet["metadata"] = json!({ "name": name, "namespace": self.namespace });
        subnet
    }

    /// A miner with development keys.
    pub fn miner(&self, name: &str, replicas: u32) -> Value {
        json!({
            "apiVersion": "bistro.dev/v1alpha1", "kind": "Miner",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": { "subnetRef": { "name": "demo" }, "replicas": replicas, "wallet": { "dev": true }, "gpu": { "count": 0 } },
        })
    }

    /// Applies an object.
    pub async fn apply(&self, object: Value) {
        self.cluster.apply(&object).await.expect("the API server takes it");
    }

    /// Changes a miner.
    pub async fn patch(&self, miner: &str, patch: Value) {
        let patched = self.api::<Miner>().patch(miner, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.expect("the API server takes it");
    }

    /// Objects of this namespace.
    pub fn api<K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The status of a miner.
    pub async fn status(&self, miner: &str) -> WorkloadStatus {
        self.api::<Miner>().get(miner).await.ok().and_then(|miner| miner.status).unwrap_or_default()
    }

    /// Waits until a condition of a miner has this status and reason.
    pub async fn until(&self, miner: &str, type_: &str, status: &str, reason: &str) -> Condition {
        let what = format!("{type_}={status} for {reason} of {miner}");
        let found = async || {
            let conditions = self.status(miner).await.conditions;
            conditions.into_iter().find(|c| c.type_ == type_ && c.status == status && c.reason == reason)
        };
        self.cluster.until(&what, found).await
    }

    /// Waits until all pods of a miner are ready.
    pub async fn until_ready(&self, miner: &str) {
        self.until(miner, "Ready", "True", "AllReady").await;
    }

    /// Waits until something is there, or is another object than before.
    pub async fn until_back<K>(&self, name: &str, before: Option<&str>) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + for<'a> serde::Deserialize<'a>,
    {
        let found = async || {
            let found = self.api::<K>().get_opt(name).await.ok().flatten()?;
            (found.uid().as_deref() != before && found.meta().deletion_timestamp.is_none()).then_some(found)
        };
        self.cluster.until(&format!("another {name}"), found).await
    }

    /// Names of all pods.
    pub async fn pods(&self) -> Vec<String> {
        let pods = self.api::<Pod>().list(&ListParams::default()).await.expect("a list");
        pods.items.iter().map(ResourceExt::name_any).collect()
    }

    /// Pods that a StatefulSet wants.
    pub async fn wanted(&self, name: &str) -> Option<i32> {
        let set = self.api::<StatefulSet>().get_opt(name).await.ok().flatten()?;
        set.spec.and_then(|spec| spec.replicas)
    }
}
