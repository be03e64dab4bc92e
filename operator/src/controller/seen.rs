//! What is read of the objects that the watches bring, and nothing else.
//!
//! Most of an object is who wrote which field, and defaults; read into trees, a thousand StatefulSets cost more time
//! and memory than all the rest of a start. So the parts that are only compared stay text, and the others are skipped.

use std::{borrow::Cow, collections::BTreeMap};

use bistro_api::{
    Averager, Miner, Subnet, Validator,
    subnet::{SubnetSpec, SubnetStatus},
    workload::{AveragerSpec, MinerSpec, ValidatorSpec, WorkloadStatus},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{Resource, api::ApiResource, core::DynamicResourceScope};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

use super::pod::short;

/// kubectl keeps a copy of the whole object here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object of any kind that is watched or written, as far as anybody reads it: what only some kinds have stays text.
/// One type for all of them, so that the client and the watches are compiled once.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Read")]
pub struct Object {
    /// Without who wrote what.
    pub metadata: ObjectMeta,
    /// What `managedFields` says of the operator.
    pub owned: Owned,
    /// What most kinds have.
    pub spec: Option<Box<RawValue>>,
    /// What a ConfigMap has.
    pub data: Option<Box<RawValue>>,
    /// What somebody else says of it.
    pub status: Option<Box<RawValue>>,
    /// What an Event is about.
    pub involved_object: Option<Box<RawValue>>,
    /// What an Event says.
    pub message: Option<Box<RawValue>>,
}

/// As whom the operator owns fields of an object. To the API server who created it and who applies are two owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Where in `managedFields` it stands as who created the object.
    pub created: Option<usize>,
    /// It also stands there as who applies.
    pub applied: bool,
}

/// An object as it comes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    metadata: Metadata,
    #[serde(default)]
    spec: Option<Box<RawValue>>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    status: Option<Box<RawValue>>,
    #[serde(default)]
    involved_object: Option<Box<RawValue>>,
    #[serde(default)]
    message: Option<Box<RawValue>>,
}

/// Metadata as far as it is read.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    managed_fields: Vec<Writer>,
}

/// Who wrote, without what.
#[derive(Deserialize)]
struct Writer {
    #[serde(default)]
    manager: Manager,
    #[serde(default)]
    operation: Operation,
    #[serde(default)]
    subresource: Option<IgnoredAny>,
}

#[derive(Default, Deserialize, PartialEq)]
enum Manager {
    /// [`FIELD_MANAGER`](super::context::FIELD_MANAGER).
    #[serde(rename = "bistro.dev/operator")]
    Us,
    #[default]
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize, PartialEq)]
enum Operation {
    Update,
    Apply,
    #[default]
    #[serde(other)]
    Other,
}

impl From<Read> for Object {
    fn from(read: Read) -> Self {
        let Read { metadata: read_metadata, spec, data, status, involved_object, message } = read;
        let ours = |operation: Operation| {
            let is = |writer: &Writer| {
                writer.manager == Manager::Us && writer.operation == operation && writer.subresource.is_none()
            };
            read_metadata.managed_fields.iter().position(is)
        };
        let (created, applied) = (ours(Operation::Update), ours(Operation::Apply).is_some());
        let owned = Owned { created, applied };
        let mut annotations = read_metadata.annotations;
        if let Some(annotations) = &mut annotations {
            annotations.remove(LAST_APPLIED);
        }
        let metadata = ObjectMeta {
            name: read_metadata.name,
            namespace: read_metadata.namespace,
            uid: read_metadata.uid,
            resource_version: read_metadata.resource_version,
            generation: read_metadata.generation,
            creation_timestamp: read_metadata.creation_timestamp.map(Time),
            deletion_timestamp: read_metadata.deletion_timestamp.map(Time),
            labels: read_metadata.labels,
            annotations,
            owner_references: read_metadata.owner_references,
            ..ObjectMeta::default()
        };
        Self { metadata, owned, spec, data, status, involved_object, message }
    }
}

impl Resource for Object {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A part of an object; its default if it is absent or not what it should be.
pub fn part<T: Default + DeserializeOwned>(raw: Option<&RawValue>) -> T {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// A resource of ours from its three parts.
pub trait Parts: Sized {
    /// What it asks for.
    type Spec: DeserializeOwned;
    /// What is known of it.
    type Status: DeserializeOwned;
    /// Puts it together.
    fn of(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

macro_rules! parts {
    ($kind:ident, $spec:ident, $status:ident) => {
        impl Parts for $kind {
            type Spec = $spec;
            type Status = $status;

            fn of(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self {
                Self { metadata, spec, status }
            }
        }
    };
}

parts!(Subnet, SubnetSpec, SubnetStatus);
parts!(Miner, MinerSpec, WorkloadStatus);
parts!(Validator, ValidatorSpec, WorkloadStatus);
parts!(Averager, AveragerSpec, WorkloadStatus);

/// A resource of ours, or why it cannot be read: one that was stored under another schema must not stop its watch.
pub fn resource<K: Parts>(object: Object) -> Result<K, String> {
    let text = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or("null", |raw| raw.get()).to_owned();
    let spec = serde_json::from_str(&text(&object.spec)).map_err(|error| short(&error.to_string()))?;
    // A status of another version is no reason not to run: it is written anew.
    let status = serde_json::from_str(&text(&object.status)).ok().flatten();
    Ok(K::of(object.metadata, spec, status))
}

/// What is read of what a pod asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenPodSpec {
    /// Its machine.
    pub node_name: Option<String>,
    /// Its volumes.
    pub volumes: Vec<SeenVolume>,
}

/// What is read of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeenVolume {
    /// Its name.
    pub name: String,
    /// Its Secret.
    pub secret: Option<SeenSecret>,
}

/// What is read of the Secret of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenSecret {
    /// Its name.
    pub secret_name: Option<String>,
}

/// What is read of how a pod is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenPodStatus {
    /// Its address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// Its conditions.
    pub conditions: Vec<SeenCondition>,
    /// Its containers that run first.
    pub init_container_statuses: Vec<SeenContainer>,
    /// Its containers.
    pub container_statuses: Vec<SeenContainer>,
}

/// What is read of a condition of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeenCondition {
    /// Which.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why, in a word.
    pub reason: Option<String>,
    /// Why, for people.
    pub message: Option<String>,
}

/// What is read of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenContainer {
    /// Its image.
    pub image: String,
    /// How it is.
    pub state: SeenState,
    /// How it was before.
    pub last_state: SeenState,
}

/// How a container is: at most one of these.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeenState {
    /// It waits.
    pub waiting: Option<SeenWaiting>,
    /// It runs.
    pub running: Option<IgnoredAny>,
    /// It has ended.
    pub terminated: Option<SeenEnd>,
}

/// Why a container waits.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeenWaiting {
    /// In a word.
    pub reason: Option<String>,
    /// For people.
    pub message: Option<String>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenEnd {
    /// 0: as it should.
    pub exit_code: i32,
    /// Its last words.
    pub message: Option<String>,
}

/// What an event is about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Involved {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::context::FIELD_MANAGER, *};

    fn validator(spec: serde_json::Value) -> Result<Validator, String> {
        let object = json!({
            "metadata": {"name": "v", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "x"}], "annotations": {LAST_APPLIED: "{}", "kept": "yes"}},
            "spec": spec,
        });
        // As a watch brings it: from text.
        resource(serde_json::from_str(&object.to_string()).expect("always"))
    }

    #[test]
    fn a_resource_comes_without_what_only_others_need() {
        let validator = validator(json!({"subnetRef": {"name": "demo"}, "wallet": {"dev": true}})).expect("readable");
        assert_eq!(validator.metadata.name.as_deref(), Some("v"));
        assert!(validator.metadata.managed_fields.is_none());
        assert_eq!(validator.metadata.annotations.map(|all| all.into_keys().collect()), Some(vec!["kept".to_owned()]));
    }

    #[test]
    fn a_resource_of_another_schema_has_a_reason() {
        assert!(validator(json!({"subnetRef": "demo"})).expect_err("unreadable").contains("demo"));
    }

    #[test]
    fn what_we_created_is_told_from_what_we_applied() {
        let at = |entries: serde_json::Value| {
            let object = json!({"metadata": {"name": "x", "managedFields": entries}});
            serde_json::from_str::<Object>(&object.to_string()).expect("an object").owned
        };
        let ours = |operation: &str| json!({"manager": FIELD_MANAGER, "operation": operation, "fieldsV1": {"f:a": {}}});
        let status = json!({"manager": FIELD_MANAGER, "operation": "Update", "subresource": "status"});
        let others = json!({"manager": "kubectl", "operation": "Update"});
        assert_eq!(at(json!([others, ours("Update")])), Owned { created: Some(1), applied: false });
        assert_eq!(at(json!([ours("Apply"), status])), Owned { created: None, applied: true });
        assert_eq!(at(json!([ours("Update"), ours("Apply")])), Owned { created: Some(0), applied: true });
        assert_eq!(at(json!([{}])), Owned::default());
    }
}
