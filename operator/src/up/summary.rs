//! `--summary`: what a run of `up` came to, for scripts and tests.

use std::collections::BTreeMap;

use bistro_api::Role;
use serde::{Deserialize, Serialize};

use super::{board::Board, lines::positive_zero, node_view::NodeView};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Windows that admitted something and ended while `up` ran.
    pub windows: usize,
    /// Seconds from the start of `up` to the first finalised weights; absent where there were none.
    pub seconds_to_first_weights: Option<f64>,
    /// The nodes.
    pub nodes: Vec<NodeSummary>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// What it does.
    pub role: Role,
    /// Name for people: `<name>-<ordinal>`.
    pub name: String,
    /// SS58 address of its hotkey.
    pub hotkey: Option<String>,
    /// Its number on the subnet.
    pub uid: Option<u16>,
    /// Windows in which it did its whole work.
    pub windows: u64,
    /// Held-out loss of the first base that it measured, in nats per token.
    pub first_loss: Option<f64>,
    /// Held-out loss of the last base that it measured.
    pub last_loss: Option<f64>,
    /// Mean of what the validators think of it.
    pub score: Option<f64>,
    /// Share of the weights on the chain.
    pub weight: Option<f64>,
    /// Share of the incentive.
    pub incentive: Option<f64>,
    /// How often which verdict was given.
    pub verdicts: BTreeMap<String, u64>,
    /// Digest of the base before each window, in hex.
    pub digests: BTreeMap<u64, String>,
}

/// The summary of what the board knows.
pub fn of(board: &Board) -> Summary {
    let node = |(index, node): (usize, &NodeView)| {
        let status = node.status.as_ref();
        let losses = || node.history.values().filter_map(|record| record.held_out_loss);
        NodeSummary {
            role: node.role,
            name: node.label.clone(),
            hotkey: status.and_then(|s| s.hotkey.clone()),
            uid: status.and_then(|s| s.uid),
            windows: status.map_or(0, |s| s.windows),
            first_loss: losses().next(),
            last_loss: losses().next_back(),
            score: board.miner_score(index),
            weight: status.and_then(|s| s.weight).map(positive_zero),
            incentive: status.and_then(|s| s.incentive).map(positive_zero),
            verdicts: status.map(|s| s.verdicts.clone()).unwrap_or_default(),
            digests: node.history.iter().map(|(window, record)| (*window, record.base_digest.clone())).collect(),
        }
    };
    Summary {
        windows: board.admitted.len(),
        seconds_to_first_weights: board.first_weights.map(|time| time.as_secs_f64()),
        nodes: board.nodes.iter().enumerate().map(node).collect(),
    }
}
