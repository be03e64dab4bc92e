//! What a worker answers on `/status`, and what the operator, `bistro up` and people read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Role;

/// Windows that [`NodeStatus::history`] holds.
pub const HISTORY: usize = 64;

/// One node as it sees itself. Everything optional is absent until the node knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// What the node does.
    pub role: Role,
    /// SS58 address of its hotkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotkey: Option<String>,
    /// Its number on the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u16>,
    /// Latest finalised block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// Window of the latest finalised block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// What the node does right now, in one word.
    pub phase: Phase,
    /// Window whose base the node holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_window: Option<u64>,
    /// Digest of that base in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_digest: Option<String>,
    /// Loss of that base on the held-out pages, in nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// Average of its scores, as the validators publish it; a validator's own is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Share of the weights that validators give to it on the chain, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Share of the incentive that the chain gives to it, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incentive: Option<f64>,
    /// Windows in which the node did its whole work.
    #[serde(default)]
    pub windows: u64,
    /// Bytes of objects sent to the bucket since the process started.
    #[serde(default)]
    pub uploaded_bytes: u64,
    /// Bytes of objects received from the bucket since the process started.
    #[serde(default)]
    pub downloaded_bytes: u64,
    /// How often which verdict was given: on this miner's own work, or by this validator or averager on others'.
    #[serde(default)]
    pub verdicts: BTreeMap<String, u64>,
    /// What this validator thinks of each miner; empty for other roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Scored>,
    /// The latest comparison with each other validator's records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cross_checks: Vec<CrossCheck>,
    /// Block of the first finalised weights of this validator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_weights_block: Option<u64>,
    /// Whether the chain answers.
    pub chain: Reachable,
    /// Whether the bucket answers.
    pub bucket: Reachable,
    /// One line for people: what the node waits for or what went wrong, and the remedy.
    #[serde(default)]
    pub message: String,
    /// The last windows, oldest first, at most [`HISTORY`].
    #[serde(default)]
    pub history: Vec<WindowRecord>,
}

/// What a node does right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reading settings, keys and state; registering.
    #[default]
    Starting,
    /// Replaying manifests and aggregates up to the present.
    Following,
    /// Training on its own pages.
    Training,
    /// Publishing the digest of its work.
    Committing,
    /// Publishing its work.
    Uploading,
    /// Collecting, checking and merging.
    Merging,
    /// Scoring miners.
    Scoring,
    /// Waiting for the next phase.
    Waiting,
    /// Stopped for good; the message says why.
    Failed,
}

impl Phase {
    /// All phases, so that a metric can show each with 0 or 1.
    pub const ALL: [Phase; 9] = [
        Phase::Starting,
        Phase::Following,
        Phase::Training,
        Phase::Committing,
        Phase::Uploading,
        Phase::Merging,
        Phase::Scoring,
        Phase::Waiting,
        Phase::Failed,
    ];

    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Following => "following",
            Phase::Training => "training",
            Phase::Committing => "committing",
            Phase::Uploading => "uploading",
            Phase::Merging => "merging",
            Phase::Scoring => "scoring",
            Phase::Waiting => "waiting",
            Phase::Failed => "failed",
        }
    }
}

/// A validator's view of one miner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scored {
    /// The miner's number on the subnet.
    pub uid: u16,
    /// Its hotkey, SS58.
    pub hotkey: String,
    /// Its latest raw score, if it was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<f64>,
    /// Moving average of its normalised scores.
    pub average: f64,
    /// Share of this validator's weights, 0 to 1.
    pub weight: f64,
    /// Its latest verdict.
    pub verdict: String,
    /// Windows that the base of its latest work was behind, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
}

/// What a validator found when it recomputed a record of another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CrossCheck {
    /// The other validator's hotkey, SS58.
    pub validator: String,
    /// The window of the record.
    pub window: u64,
    /// Difference of the raw scores of one miner; 0 on the same kind of machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// Why the record cannot be recomputed: it is made up, copied, or of another agreement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Whether an outside service answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reachable {
    /// The last request got an answer.
    pub reachable: bool,
    /// Unix time in seconds of the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The last error, while it is not reachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One past window of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowRecord {
    /// The window.
    pub window: u64,
    /// Digest of the base before that window, in hex.
    pub base_digest: String,
    /// Loss of that base on the held-out pages, in nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// Work that the window admitted, or models that it accepted where nothing is merged; known once its manifest was read.
    #[serde(default)]
    pub admitted: u32,
}
