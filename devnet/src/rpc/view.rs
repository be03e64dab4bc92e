//! How chain data looks in JSON, and how parameters are read.

use super::error;
use crate::{
    chain::Block,
    runtime::{Header, VERSION},
};
use codec::Encode;
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::{Value, json};

/// Bytes as `0x` and hex.
pub fn hex_of(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// Bytes from hex, with or without `0x`.
pub fn bytes_of(text: &str) -> Result<Vec<u8>, hex::FromHexError> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text))
}

/// Like [`bytes_of`], for a parameter of any method.
pub fn bytes_param(text: &str) -> Result<Vec<u8>, ErrorObjectOwned> {
    bytes_of(text).map_err(|source| error::invalid_params(source.to_string()))
}

/// A block number: a JSON number or hex.
pub fn number_param(value: &Value) -> Result<u32, ErrorObjectOwned> {
    let from_hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let number = value.as_u64().or_else(|| value.as_str().and_then(from_hex));
    let number = number.and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| error::invalid_params("a block number is a 32-bit number or its hex"))
}

pub fn header(header: &Header) -> Value {
    let logs: Vec<String> = header.digest.logs.iter().map(|log| hex_of(&log.encode())).collect();
    json!({
        "parentHash": header.parent_hash,
        "number": format!("0x{:x}", header.number),
        "stateRoot": header.state_root,
        "extrinsicsRoot": header.extrinsics_root,
        "digest": { "logs": logs },
    })
}

pub fn block(block: &Block) -> Value {
    let extrinsics: Vec<String> = block.body.iter().map(|extrinsic| hex_of(extrinsic)).collect();
    json!({
        "block": { "header": header(&block.header), "extrinsics": extrinsics },
        "justifications": null,
    })
}

pub fn runtime_version() -> Value {
    let apis: Vec<Value> = VERSION.apis.iter().map(|(id, version)| json!([hex_of(id), version])).collect();
    json!({
        "specName": VERSION.spec_name,
        "implName": VERSION.impl_name,
        "authoringVersion": VERSION.authoring_version,
        "specVersion": VERSION.spec_version,
        "implVersion": VERSION.impl_version,
        "transactionVersion": VERSION.transaction_version,
        "stateVersion": VERSION.system_version,
        "apis": apis,
    })
}
