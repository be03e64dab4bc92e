//! What is read of the objects that the watches bring, and nothing else.
//!
//! Most of an object is who wrote which field, and defaults; read into trees, a thousand StatefulSets cost more time
//! and memory than all the rest of a start. So the parts that are only compared stay text, and the others are skipped.

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug};

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
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::pod::short;

/// kubectl keeps a copy of the whole object here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object of a kind that is known from where it came.
pub trait Seen:
    Resource<DynamicType = ApiResource, Scope = DynamicResourceScope> + DeserializeOwned + Clone + Debug + Send + 'static
{
}

impl<T> Seen for T where
    T: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + 'static
{
}

macro_rules! seen {
    ($type:ident $(<$param:ident>)?) => {
        impl $(<$param>)? Resource for $type $(<$param>)? {
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
    };
}

seen!(Object);
seen!(SeenPod);
seen!(SeenEvent);
seen!(Guarded<K>);

/// A child: what anybody may have asked for stays text.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    /// Without who wrote what.
    #[serde(deserialize_with = "slim")]
    pub metadata: ObjectMeta,
    /// What most kinds have.
    #[serde(default)]
    pub spec: Option<Box<RawValue>>,
    /// What a ConfigMap has.
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
    /// Only a StatefulSet's is read.
    #[serde(default)]
    pub status: Option<Box<RawValue>>,
}

/// A resource of ours, or why it cannot be read: one that was stored under another schema must not stop its watch.
#[derive(Clone, Debug)]
pub struct Guarded<K> {
    /// Without who wrote what.
    pub metadata: ObjectMeta,
    /// The resource.
    pub object: Result<K, String>,
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

impl<'de, K: Parts> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(deserialize_with = "slim")]
            metadata: ObjectMeta,
            #[serde(default)]
            spec: Option<Box<RawValue>>,
            #[serde(default)]
            status: Option<Box<RawValue>>,
        }
        let Raw { metadata, spec, status } = Raw::deserialize(deserializer)?;
        let text = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or("null", |raw| raw.get()).to_owned();
        let parse = || -> Result<K, serde_json::Error> {
            let spec = serde_json::from_str(&text(&spec))?;
            // A status of another version is no reason not to run: it is written anew.
            let status = serde_json::from_str(&text(&status)).ok().flatten();
            Ok(K::of(metadata.clone(), spec, status))
        };
        let object = parse().map_err(|error| short(&error.to_string()));
        Ok(Self { metadata, object })
    }
}

/// What is read of a pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenPod {
    /// Without who wrote what.
    #[serde(deserialize_with = "slim")]
    pub metadata: ObjectMeta,
    /// What it asks for.
    #[serde(default)]
    pub spec: SeenPodSpec,
    /// How it is.
    #[serde(default)]
    pub status: SeenPodStatus,
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
    pub running: Option<serde::de::IgnoredAny>,
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

/// What is read of an event of the kubelet.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenEvent {
    /// Without who wrote what.
    #[serde(deserialize_with = "slim")]
    pub metadata: ObjectMeta,
    /// Of what.
    pub involved_object: Involved,
    /// What happened.
    #[serde(default)]
    pub message: String,
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

/// Metadata without who wrote what, and without kubectl's copy of the object: half of it.
fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[derive(Default)]
    struct Slim {
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
    }
    let slim = Slim::deserialize(deserializer)?;
    let mut annotations = slim.annotations;
    if let Some(annotations) = &mut annotations {
        annotations.remove(LAST_APPLIED);
    }
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        generation: slim.generation,
        creation_timestamp: slim.creation_timestamp.map(Time),
        deletion_timestamp: slim.deletion_timestamp.map(Time),
        labels: slim.labels,
        annotations,
        owner_references: slim.owner_references,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn validator(spec: serde_json::Value) -> Guarded<Validator> {
        let object = json!({
            "metadata": {"name": "v", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"manager": "x"}], "annotations": {LAST_APPLIED: "{}", "kept": "yes"}},
            "spec": spec,
        });
        // As a watch brings it: from text.
        serde_json::from_str(&object.to_string()).expect("always")
    }

    #[test]
    fn a_resource_comes_without_what_only_others_need() {
        let guarded = validator(json!({"subnetRef": {"name": "demo"}, "wallet": {"dev": true}}));
        let validator = guarded.object.expect("readable");
        assert_eq!(validator.metadata.name.as_deref(), Some("v"));
        assert!(validator.metadata.managed_fields.is_none());
        assert_eq!(validator.metadata.annotations.map(|all| all.into_keys().collect()), Some(vec!["kept".to_owned()]));
    }

    #[test]
    fn a_resource_of_another_schema_has_a_name_and_a_reason() {
        let guarded = validator(json!({"subnetRef": "demo"}));
        assert_eq!(guarded.metadata.name.as_deref(), Some("v"));
        assert!(guarded.object.expect_err("unreadable").contains("demo"));
    }
}
