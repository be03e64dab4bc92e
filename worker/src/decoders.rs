//! What the worker reads from outside, each as one function that says whether it took the bytes: for the tests with a
//! million inputs and for fuzzing.

use bistro_api::run::Model;

use crate::{
    bucket::credentials,
    chain::wallet,
    data::Index,
    engine::{Config, Optimizer},
    environment,
    facts::Facts,
    interop,
    mechanism::residual::Residual,
    state::{self, Owner},
};

/// settings.yaml.
pub fn settings(bytes: &[u8]) -> bool {
    environment::parse(bytes).is_ok()
}

/// A hotkey file.
pub fn hotkey_file(bytes: &[u8]) -> bool {
    wallet::parse(bytes).is_ok()
}

/// A file with one of the keys to the bucket.
pub fn bucket_key(bytes: &[u8]) -> bool {
    credentials::parse(bytes).is_some()
}

/// The index of a dataset under its own digest.
pub fn dataset_index(bytes: &[u8]) -> bool {
    Index::from_bytes(bytes, blake3::hash(bytes).to_hex().as_str()).is_ok()
}

/// The config.json of a model.
pub fn model_config(bytes: &[u8]) -> bool {
    serde_json::from_slice(bytes).is_ok_and(|value| {
        let model = Model { preset: None, config: Some(value) };
        Config::new(&model, 256, 128).is_ok()
    })
}

/// A safetensors file by any writer.
pub fn foreign_tensors(bytes: &[u8]) -> bool {
    interop::is_readable(bytes)
}

/// A base that a node kept.
pub fn saved_base(bytes: &[u8]) -> bool {
    state::parse_base(bytes).is_some()
}

/// Moments of the optimizer that a miner kept.
pub fn optimizer(bytes: &[u8]) -> bool {
    Optimizer::from_bytes(bytes).is_ok()
}

/// What a miner's work left behind.
pub fn residual(bytes: &[u8]) -> bool {
    Residual::from_bytes(bytes).is_some()
}

/// Whose state a folder holds.
pub fn owner(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Owner>(bytes).is_ok()
}

/// Facts of a window that a node kept.
pub fn facts(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Facts>(bytes).is_ok()
}
