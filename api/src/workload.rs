//! The resources `Miner`, `Validator` and `Averager`.
//!
//! They have one shape, [`Workload`], and differ in what their pods do; a Miner adds where it starts from.
//! Code that serves all three is generic over [`Node`].

use k8s_openapi::{
    api::core::v1::ResourceRequirements,
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{Condition, ObjectMeta},
    },
};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    pod::Pod,
    settings::{Role, StartFrom},
    subnet::NameRef,
};

/// Names become part of pod and service names, which are DNS labels of at most 63 characters.
pub(crate) const NAME_RULE: &str =
    "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')";
/// What to do about [`NAME_RULE`].
pub(crate) const NAME_MESSAGE: &str =
    "metadata.name needs at most 40 characters of a-z, 0-9 and -: the names of its pods are made from it";
/// Nodes that a status shows; the least healthy come first, so the rest is healthy.
pub const STATUS_NODES: usize = 64;
/// Extended resource that a GPU is requested by, unless the resource names another.
pub const NVIDIA_GPU: &str = "nvidia.com/gpu";

macro_rules! node_resource {
    ($(#[$doc:meta])* $kind:literal, $short:literal, $text:literal, $spec:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* }) => {
        $(#[$doc])*
        #[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[kube(
            group = "bistro.dev",
            version = "v1alpha1",
            kind = $kind,
            namespaced,
            status = "WorkloadStatus",
            shortname = $short,
            category = "bistro",
            derive = "PartialEq",
            doc = $text,
            validation = (NAME_RULE, NAME_MESSAGE),
            cel,
            scale(
                spec_replicas_path = ".spec.replicas",
                status_replicas_path = ".status.replicas",
                label_selector_path = ".status.selector"
            ),
            printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnetRef.name"),
            printcolumn(name = "Wanted", type_ = "integer", json_path = ".spec.replicas"),
            printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
            printcolumn(name = "Window", type_ = "integer", json_path = ".status.window"),
            printcolumn(name = "Loss", type_ = "string", json_path = ".status.loss"),
            printcolumn(name = "Score", type_ = "string", json_path = ".status.score"),
            printcolumn(name = "Incentive", type_ = "string", json_path = ".status.incentive"),
            printcolumn(
                name = "Healthy",
                type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Ready\")].status"
            ),
            printcolumn(
                name = "Reason",
                type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
            ),
            printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
            printcolumn(
                name = "Message",
                type_ = "string",
                json_path = ".status.conditions[?(@.type==\"Ready\")].message",
                priority = "1"
            )
        )]
        #[serde(rename_all = "camelCase")]
        pub struct $spec {
            /// What all three kinds have in common.
            #[serde(flatten)]
            pub workload: Workload,
            $($(#[$field_meta])* pub $field: $type,)*
        }
    };
}

node_resource! {
    /// Pods that train and publish their work.
    "Miner", "mnr", "Pods that train on the subnet's data and publish their work.",
    MinerSpec {
        /// Where a miner starts from that has no model of its own yet; only the mechanism lossWins has a choice. Exactly
        /// one member.
        #[serde(default)]
        start_from: StartFrom
    }
}
node_resource! {
    /// Pods that score miners and set weights.
    "Validator", "val", "Pods that check and score the work of miners and set weights on the chain.",
    ValidatorSpec {}
}
node_resource! {
    /// Pods that merge what miners publish.
    "Averager", "avg", "Pods that check and merge the work of miners and sign the manifest of each window.",
    AveragerSpec {}
}

/// What Miner, Validator and Averager have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || self.storage == oldSelf.storage)",
    "storage cannot change, because the volumes of a StatefulSet cannot: create a resource under another name"
))]
pub struct Workload {
    /// The Subnet in the same namespace that the nodes belong to. It cannot change.
    #[x_kube(validation = ("self == oldSelf", "subnetRef cannot change: create a resource under another name"))]
    pub subnet_ref: NameRef,
    /// Number of nodes; node i signs with hotkey i.
    #[serde(default = "one")]
    #[schemars(range(max = 256))]
    pub replicas: u32,
    /// Where the nodes' hotkeys come from. Exactly one member.
    pub wallet: Wallet,
    /// How the nodes sign in to the subnet's bucket.
    #[serde(default)]
    pub bucket: BucketAccess,
    /// GPUs of each node; absent: one for miners and validators, none for averagers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// CPU and memory of each node. limits.cpu also sets the number of its threads.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Stop all nodes and keep their state.
    #[serde(default)]
    pub suspend: bool,
    /// Image of the worker; absent: the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Volume that keeps the state of each node; absent: the state goes with the pod, and a new pod joins from a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Where and how the pods run.
    #[serde(default)]
    pub pod: Pod,
    /// A partial pod template that is merged last. It may not change what the operator sets for the container `worker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub template: Option<serde_json::Value>,
}

/// Where hotkeys come from. Exactly one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.secretRef) != self.dev",
    "wallet needs exactly one of secretRef (a Secret with hotkey files) and dev: true (a devnet only)"
))]
pub struct Wallet {
    /// A Secret with one bittensor hotkey file per node under the keys hotkey-0, hotkey-1, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
    /// Derive, fund and register development hotkeys. Nodes refuse it on any chain that is not the devnet.
    #[serde(default)]
    pub dev: bool,
}

/// How nodes sign in to the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BucketAccess {
    /// A Secret with the keys access-key-id and secret-access-key, or access-key-id-0, ... for each node its own;
    /// they should allow writes under the nodes' own hotkeys only. Absent: AWS' usual chain of credentials
    /// (use pod.serviceAccountName), and on a devnet a key derived from the hotkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<NameRef>,
}

/// GPUs of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// GPUs of each node; 0 computes on the CPU.
    #[schemars(range(max = 64))]
    pub count: u32,
    /// Extended resource that stands for one GPU; nodes tolerate the taint of the same name.
    #[serde(default = "nvidia_gpu")]
    #[schemars(length(min = 1, max = 253))]
    pub resource_name: String,
}

/// The volume of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume, for example 20Gi.
    #[schemars(schema_with = "quantity")]
    pub size: Quantity,
    /// Class of the volume; absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// What the operator observes of a Miner, Validator or Averager.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that exist.
    #[serde(default)]
    pub replicas: u32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: u32,
    /// Label selector of the pods, for `kubectl scale` and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Latest window that a node reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Held-out loss of the latest base that a node reported, in nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// Mean of its nodes' scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Sum of its nodes' shares of the chain's incentive, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incentive: Option<String>,
    /// What each node reports, least healthy first, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub nodes: Vec<NodeSummary>,
    /// Nodes that there are, including those that `nodes` has no room for.
    #[serde(default)]
    pub nodes_total: u32,
    /// `Ready`, `Progressing`, `Suspended`, `Registered`, `ChainReachable`, `BucketReachable`, and `NodeLost` once there was one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One node in a status. Decimals are texts: floats do not survive an API server unchanged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// Its pod.
    pub pod: String,
    /// SS58 address of its hotkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotkey: Option<String>,
    /// Its number on the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u16>,
    /// The window that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Loss of its base on the held-out pages, in nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// Average of its scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Share of the validators' weights, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Share of the chain's incentive, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incentive: Option<String>,
    /// Latest verdict on its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What it waits for or what went wrong, and the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One of the three kinds that run nodes.
pub trait Node:
    kube::Resource<DynamicType = ()> + CustomResourceExt + Clone + std::fmt::Debug + Serialize + DeserializeOwned
{
    /// What its nodes do.
    const ROLE: Role;
    /// The shared part of its spec.
    fn workload(&self) -> &Workload;
    /// Its status, once the operator wrote one.
    fn status(&self) -> Option<&WorkloadStatus>;
    /// Where its nodes start from.
    fn start_from(&self) -> StartFrom {
        StartFrom::default()
    }
    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
}

macro_rules! node {
    ($kind:ident, $role:ident $(, $start_from:ident)?) => {
        impl Node for $kind {
            const ROLE: Role = Role::$role;

            fn workload(&self) -> &Workload {
                &self.spec.workload
            }

            fn status(&self) -> Option<&WorkloadStatus> {
                self.status.as_ref()
            }

            $(fn start_from(&self) -> StartFrom {
                self.spec.$start_from.clone()
            })?
        }
    };
}

node!(Miner, Miner, start_from);
node!(Validator, Validator);
node!(Averager, Averager);

fn one() -> u32 {
    1
}

fn nvidia_gpu() -> String {
    NVIDIA_GPU.to_owned()
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true })
}

fn quantity(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "x-kubernetes-int-or-string": true })
}
