//! The resource `Subnet`: one training network.
//!
//! It runs nothing itself. Miners, validators and averagers name it, and their pods get its settings.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    run::Run,
    settings::{AveragerTerm, Bucket, Chain, Scoring},
    workload::{NAME_MESSAGE, NAME_RULE},
};

/// One training network: a netuid on the chain, one bucket, one agreement.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "bistro.dev",
    version = "v1alpha1",
    kind = "Subnet",
    namespaced,
    status = "SubnetStatus",
    shortname = "sub",
    category = "bistro",
    derive = "PartialEq",
    doc = "One training network: a netuid on the chain, one bucket, one agreement.",
    validation = (NAME_RULE, NAME_MESSAGE),
    cel,
    printcolumn(name = "Netuid", type_ = "integer", json_path = ".spec.netuid"),
    printcolumn(name = "Run", type_ = "integer", json_path = ".spec.run.id"),
    printcolumn(name = "Window", type_ = "integer", json_path = ".status.window"),
    printcolumn(name = "Users", type_ = "integer", json_path = ".status.users"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.runDigest", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SubnetSpec {
    /// Number of the subnet on the chain. It cannot change: another number is another Subnet.
    #[x_kube(validation = ("self == oldSelf", "netuid cannot change: create another Subnet for another netuid"))]
    pub netuid: u16,
    /// Where the chain is.
    pub chain: Chain,
    /// Where the bucket is.
    pub bucket: Bucket,
    /// The agreement: what every node of the subnet must hold alike. It changes only with a higher id.
    #[x_kube(validation = (
        "self == oldSelf || self.id > oldSelf.id",
        "run is immutable under one id: raise run.id together with every other change of run"
    ))]
    pub run: Run,
    /// How validators turn scores into weights.
    #[serde(default)]
    pub scoring: Scoring,
    /// Who averages from which window on; empty: the subnet owner's hotkey.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["fromWindow".into()]))]
    pub averagers: Vec<AveragerTerm>,
}

/// What the users of a Subnet report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Digest of `spec.run` in hex; it is signed into every object of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_digest: Option<String>,
    /// Miners, Validators and Averagers that name this Subnet.
    #[serde(default)]
    pub users: u32,
    /// Latest window that any of their nodes reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// `Ready`: the settings are valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Names another object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NameRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
