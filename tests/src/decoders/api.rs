//! What the operator and the workers tell each other.

use bistro_api::{NodeStatus, Run, decimal::Decimal, digest::run_digest};
use serde_json::json;

use super::{Decoder, plain};
use crate::mutate::Form;

pub const DECODERS: &[Decoder] = &[
    Decoder { name: "decimal", decode: decimal, bound: plain, form: Form::Text, seeds: decimals },
    Decoder {
        name: "run",
        decode: run,
        bound: |n| 2 * tree(n),
        form: Form::Json,
        seeds: || vec![a_run().to_string().into()],
    },
    Decoder { name: "node-status", decode: node_status, bound: status_bound, form: Form::Json, seeds: statuses },
];

/// A tree of any JSON: an object in an object takes five bytes there and a node with room for eleven members here.
pub fn tree(length: usize) -> usize {
    160 * length + 16_384
}

/// A member of `verdicts` takes six bytes and becomes an entry of a tree, which may be nearly empty.
fn status_bound(length: usize) -> usize {
    32 * length + 4096
}

fn decimal(bytes: &[u8]) -> bool {
    let parsed = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Decimal>().ok());
    parsed.is_some_and(|d| {
        assert!(d.value().is_finite(), "{d} was accepted");
        true
    })
}

fn decimals() -> Vec<Vec<u8>> {
    ["0", "-1.25", "3e-3", "10.25E2", "0.00000000000000000001"].map(|text| text.as_bytes().to_vec()).into()
}

/// The way through an API server and back changes nothing: for that it is a tree twice.
fn run(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Run>(bytes).is_ok_and(|run| {
        let again: Run =
            serde_json::from_value(serde_json::to_value(&run).expect("a run is JSON")).expect("it is read back");
        assert_eq!(run_digest(&again), run_digest(&run), "the same agreement has one digest");
        true
    })
}

/// A run with a free-form model.
pub fn a_run() -> serde_json::Value {
    json!({
        "id": 1, "from": {"seed": 42},
        "schedule": {"windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8, "skewSeconds": 0},
        "dataset": {"prefix": "datasets/rust", "digest": "00".repeat(32), "sequenceLength": 128, "pageSequences": 16, "pagesPerWindow": 4},
        "model": {"config": {"a": [1, 0.5, null], "b": {"c": "d"}}},
        "training": {"learningRate": "3e-3", "batchSequences": 8, "innerSteps": 8},
        "mechanism": {"cosine": {"sliceRatio": 4}}
    })
}

fn node_status(bytes: &[u8]) -> bool {
    serde_json::from_slice::<NodeStatus>(bytes).is_ok()
}

fn statuses() -> Vec<Vec<u8>> {
    let status = json!({
        "role": "validator", "hotkey": "5F", "uid": 7, "block": 100, "window": 2, "phase": "scoring", "baseWindow": 2,
        "baseDigest": "00", "heldOutLoss": 3.5, "score": 0.5, "weight": 0.5, "incentive": 0.5, "windows": 1,
        "verdicts": {"accepted": 2}, "firstWeightsBlock": 9, "message": "",
        "scores": [{"uid": 1, "hotkey": "5G", "raw": 0.1, "average": 0.1, "weight": 1.0, "verdict": "accepted"}],
        "chain": {"reachable": true, "since": 5}, "bucket": {"reachable": false, "error": "gone"},
        "history": [{"window": 1, "baseDigest": "00", "heldOutLoss": 4.5, "admitted": 1}]
    });
    vec![status.to_string().into_bytes()]
}
