//! Sound objects of every kind, and ways to change them.

use bistro_tests::cluster::Cluster;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// The kinds, as kubectl takes them.
pub const KINDS: [&str; 4] = ["Subnet", "Miner", "Validator", "Averager"];
/// Those that run nodes.
pub const WORKLOADS: [&str; 3] = ["Miner", "Validator", "Averager"];

/// The smallest sound object of a kind.
pub fn sound(kind: &str) -> Value {
    let spec =
        if kind == "Subnet" { subnet() } else { json!({ "subnetRef": { "name": "demo" }, "wallet": { "dev": true } }) };
    json!({ "apiVersion": "bistro.dev/v1alpha1", "kind": kind, "metadata": { "name": "sound" }, "spec": spec })
}

fn subnet() -> Value {
    json!({
        "netuid": 1,
        "chain": { "endpoints": ["ws://devnet:9944"] },
        "bucket": { "name": "bistro" },
        "run": {
            "id": 2,
            "from": { "seed": 42 },
            "schedule": { "windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8 },
            "dataset": {
                "prefix": "datasets/rust", "digest": "00".repeat(32),
                "sequenceLength": 128, "pageSequences": 16, "pagesPerWindow": 4,
            },
            "model": { "preset": "tiny" },
            "training": { "learningRate": "3e-3", "batchSequences": 8, "innerSteps": 8 },
            "mechanism": { "cosine": { "sliceRatio": 4 } },
        },
    })
}

/// Changes an object as a JSON merge patch does: members are merged, null removes.
pub fn merge(object: &mut Value, change: &Value) {
    match (object, change) {
        (Value::Object(object), Value::Object(change)) => {
            for (name, change) in change {
                if change.is_null() {
                    object.remove(name);
                } else {
                    merge(object.entry(name.clone()).or_insert(json!({})), change);
                }
            }
        }
        (object, change) => *object = change.clone(),
    }
}

/// A kind in a namespace, for questions to the API server.
pub struct Objects {
    api: Api<DynamicObject>,
}

impl Objects {
    pub async fn of(cluster: &Cluster, kind: &str, namespace: &str) -> Self {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("bistro.dev", "v1alpha1", kind));
        Self { api: Api::namespaced_with(cluster.client().await, namespace, &resource) }
    }

    /// Whether this object would be created; if not, why.
    pub async fn would_create(&self, object: &Value) -> Result<(), String> {
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        self.api.create(&dry, &object).await.map(drop).map_err(|error| refusal(&error))
    }

    /// Creates it and gives what the server made of it.
    pub async fn create(&self, object: &Value) -> Value {
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        let created = self.api.create(&PostParams::default(), &object).await.expect("a sound object");
        serde_json::to_value(created).expect("plain data")
    }

    /// Whether this change of the sound object would be accepted; if not, why.
    pub async fn would_change(&self, change: &Value) -> Result<(), String> {
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let changed = self.api.patch("sound", &dry, &Patch::Merge(change)).await;
        changed.map(drop).map_err(|error| refusal(&error))
    }
}

/// What the API server says; anything but a refusal fails the test.
fn refusal(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 422 => status.message.clone(),
        other => panic!("not a refusal: {other}"),
    }
}
