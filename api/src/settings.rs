//! The file that a worker reads: everything that its resource and its subnet say, resolved.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Run,
    decimal::{Decimal, literal},
};

/// What a node does in the subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trains and publishes.
    Miner,
    /// Scores miners and sets weights.
    Validator,
    /// Checks, merges and signs the manifest.
    Averager,
}

impl Role {
    /// All roles, in the order in which `up` starts them.
    pub const ALL: [Role; 3] = [Role::Averager, Role::Validator, Role::Miner];

    /// Lower-case name: command, label and metric value.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Miner => "miner",
            Role::Validator => "validator",
            Role::Averager => "averager",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The content of settings.yaml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Namespace of the resource; part of the derivation of development wallets.
    pub namespace: String,
    /// Name of the resource (Miner, Validator or Averager).
    pub name: String,
    /// Name of the subnet resource, for messages.
    pub subnet: String,
    /// Number of the subnet on the chain.
    pub netuid: u16,
    /// Where the chain is.
    pub chain: Chain,
    /// Where the bucket is.
    pub bucket: Bucket,
    /// The agreement.
    pub run: Run,
    /// How a validator turns scores into weights.
    #[serde(default)]
    pub scoring: Scoring,
    /// Who averages from which window on; empty: the subnet owner's hotkey.
    #[serde(default)]
    pub averagers: Vec<AveragerTerm>,
    /// Derive a development wallet instead of reading a hotkey file. Refused on any other chain than the devnet.
    #[serde(default)]
    pub dev_wallet: bool,
    /// Where a miner starts from that has no model of its own yet.
    #[serde(default, skip_serializing_if = "StartFrom::is_base")]
    pub start_from: StartFrom,
}

/// Where a miner starts from. Exactly one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.base), has(self.best), has(self.hotkey), has(self.checkpoint)].filter(x, x).size() == 1",
    "startFrom needs exactly one member: base, best, hotkey or checkpoint"
))]
pub struct StartFrom {
    /// From the subnet's base, as the averagers publish it; with lossWins that is the first base of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<FromBase>,
    /// From the model that the chain pays most; from the base while it pays nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<FromBest>,
    /// From the model of this hotkey, by its SS58 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^5[1-9A-HJ-NP-Za-km-z]{47}$"))]
    pub hotkey: Option<String>,
    /// From a safetensors file in the bucket, by its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub checkpoint: Option<String>,
}

/// Starting from the base has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FromBase {}

/// Starting from the best model has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FromBest {}

impl StartFrom {
    /// Whether it is the default: from the base.
    pub fn is_base(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for StartFrom {
    fn default() -> Self {
        Self { base: Some(FromBase {}), best: None, hotkey: None, checkpoint: None }
    }
}

/// Where the chain is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// WebSocket addresses of chain nodes, tried in order.
    #[schemars(length(min = 1, max = 8), inner(length(min = 6, max = 256), regex(pattern = r"^wss?://[^ ]+$")))]
    pub endpoints: Vec<String>,
    /// Hash of the chain's first block in hex with 0x; a node on another chain is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^0x[0-9a-f]{64}$"))]
    pub genesis_hash: Option<String>,
}

/// Where the bucket is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub name: String,
    /// Address of an S3 service; absent: AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^https?://[^ ]+$"))]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[serde(default = "us_east_1")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// Put before every key; empty or ending in a slash.
    #[serde(default)]
    #[schemars(length(max = 256), regex(pattern = r"^([A-Za-z0-9._-]+/)*$"))]
    pub prefix: String,
    /// PEM certificates that this bucket's address is checked against, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub ca_bundle: Option<String>,
}

/// How a validator turns scores into weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Scoring {
    /// Share of the old average that stays when a miner is scored.
    pub moving_average: Decimal,
    /// Weights are the averages to this power: at 3, half of the work on two keys does not pay.
    pub power: Decimal,
    /// Miners that a validator scores per window.
    #[schemars(range(min = 1, max = 256))]
    pub evaluations_per_window: u32,
    /// Windows without a commit after which a miner counts as gone.
    #[schemars(range(min = 1, max = 10_000))]
    pub absent_windows: u32,
}

impl Default for Scoring {
    fn default() -> Self {
        Self { moving_average: literal("0.9"), power: literal("3"), evaluations_per_window: 8, absent_windows: 10 }
    }
}

/// From which window on a hotkey is the subnet's averager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AveragerTerm {
    /// SS58 address of the averager's hotkey.
    #[schemars(regex(pattern = r"^5[1-9A-HJ-NP-Za-km-z]{47}$"))]
    pub hotkey: String,
    /// First window that it averages.
    #[serde(default)]
    pub from_window: u64,
}

fn us_east_1() -> String {
    "us-east-1".to_owned()
}
