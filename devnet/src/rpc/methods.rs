//! The calls that answer once.

use super::{error, view};
use crate::{
    chain::{Chain, execute},
    runtime::{AccountId, System},
};
use codec::{Decode, Encode};
use jsonrpsee::{
    RpcModule,
    core::RegisterMethodError,
    types::{ErrorObjectOwned, Params},
};
use serde_json::{Value, json};
use sp_core::{
    H256,
    crypto::Ss58Codec,
    storage::{Storage, StorageKey},
};

/// The most keys that one answer lists, as in Substrate.
const MAX_KEYS: u32 = 1000;
/// The most keys that one question names.
const MAX_QUERIED: usize = 4096;

type Answer = Result<Value, ErrorObjectOwned>;
type Method = fn(&Chain, &Params<'_>) -> Answer;

/// Every method under each of its names: clients differ in which one they use.
const METHODS: &[(&[&str], Method)] = &[
    (&["chain_getBlockHash", "chain_getHead"], get_block_hash),
    (&["chain_getFinalizedHead", "chain_getFinalisedHead"], |chain, _| Ok(json!(chain.hash(chain.finalized())))),
    (&["chain_getHeader"], get_header),
    (&["chain_getBlock"], get_block),
    (&["state_call", "state_callAt"], state_call),
    (&["state_getStorage", "state_getStorageAt"], get_storage),
    (&["state_getStorageHash", "state_getStorageHashAt"], get_storage_hash),
    (&["state_getStorageSize", "state_getStorageSizeAt"], get_storage_size),
    (&["state_getKeysPaged", "state_getKeysPagedAt"], get_keys_paged),
    (&["state_queryStorageAt"], query_storage_at),
    (&["state_getRuntimeVersion", "chain_getRuntimeVersion"], |_, _| Ok(view::runtime_version())),
    (&["state_getMetadata"], get_metadata),
    (&["system_accountNextIndex", "account_nextIndex"], next_index),
    (&["author_submitExtrinsic"], submit),
    (&["author_pendingExtrinsics"], pending),
    (&["payment_queryInfo"], query_info),
    (&["system_chain"], |_, _| Ok(json!(crate::CHAIN_NAME))),
    (&["system_name"], |_, _| Ok(json!(env!("CARGO_PKG_NAME")))),
    (&["system_version"], |_, _| Ok(json!(env!("CARGO_PKG_VERSION")))),
    (&["system_chainType"], |_, _| Ok(json!("Development"))),
    (&["system_properties"], |_, _| Ok(json!({ "ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO" }))),
    (&["system_health"], |_, _| Ok(json!({ "peers": 0, "isSyncing": false, "shouldHavePeers": false }))),
    (&["system_peers"], |_, _| Ok(json!([]))),
    (&["system_nodeRoles"], |_, _| Ok(json!(["Authority"]))),
];

pub fn register(module: &mut RpcModule<Chain>) -> Result<(), RegisterMethodError> {
    for (names, method) in METHODS {
        for name in *names {
            module.register_blocking_method(name, move |params, chain, _| method(&chain, &params))?;
        }
    }
    Ok(())
}

fn get_block_hash(chain: &Chain, params: &Params<'_>) -> Answer {
    match params.sequence().optional_next::<Value>()? {
        None => Ok(json!(chain.hash(chain.best()))),
        Some(Value::Array(numbers)) => {
            let hash = |number: &Value| Ok(chain.hash(view::number_param(number)?));
            let hashes = numbers.iter().take(MAX_QUERIED).map(hash);
            Ok(json!(hashes.collect::<Result<Vec<_>, ErrorObjectOwned>>()?))
        }
        Some(number) => Ok(json!(chain.hash(view::number_param(&number)?))),
    }
}

/// The number of the block that an optional hash names; the best one's if there is none.
fn number(chain: &Chain, params: &Params<'_>) -> Result<Option<u32>, ErrorObjectOwned> {
    let hash = params.sequence().optional_next::<H256>()?;
    Ok(hash.map_or_else(|| Some(chain.best()), |hash| chain.number(hash)))
}

fn get_header(chain: &Chain, params: &Params<'_>) -> Answer {
    let Some(number) = number(chain, params)? else {
        return Ok(Value::Null);
    };
    let header = chain.header(number).map_err(|source| error::chain(&source))?;
    Ok(header.map_or(Value::Null, |header| view::header(&header)))
}

fn get_block(chain: &Chain, params: &Params<'_>) -> Answer {
    let Some(number) = number(chain, params)? else {
        return Ok(Value::Null);
    };
    let block = chain.block(number).map_err(|source| error::chain(&source))?;
    Ok(block.map_or(Value::Null, |block| view::block(&block)))
}

fn state_call(chain: &Chain, params: &Params<'_>) -> Answer {
    let mut sequence = params.sequence();
    let (method, arguments): (String, String) = (sequence.next()?, sequence.next()?);
    let arguments = view::bytes_param(&arguments)?;
    let hash = sequence.optional_next()?;
    let (_, state) = chain.state(hash).map_err(|source| error::call_state(&source))?;
    let answer = execute::call(&state, &method, &arguments).map_err(|source| error::call(&source))?;
    Ok(json!(view::hex_of(&answer)))
}

/// A value from storage by the parameters (key, optional block hash).
fn stored(chain: &Chain, params: &Params<'_>) -> Result<Option<Vec<u8>>, ErrorObjectOwned> {
    let mut sequence = params.sequence();
    let key = view::bytes_param(&sequence.next::<String>()?)?;
    let (_, state) = chain.state(sequence.optional_next()?).map_err(|source| error::state(&source))?;
    Ok(state.top.get(&key).cloned())
}

fn get_storage(chain: &Chain, params: &Params<'_>) -> Answer {
    Ok(json!(stored(chain, params)?.map(|value| view::hex_of(&value))))
}

fn get_storage_hash(chain: &Chain, params: &Params<'_>) -> Answer {
    Ok(json!(stored(chain, params)?.map(|value| H256(sp_io::hashing::blake2_256(&value)))))
}

fn get_storage_size(chain: &Chain, params: &Params<'_>) -> Answer {
    Ok(json!(stored(chain, params)?.map(|value| value.len())))
}

fn get_keys_paged(chain: &Chain, params: &Params<'_>) -> Answer {
    let mut sequence = params.sequence();
    let prefix: Option<String> = sequence.optional_next()?;
    let count: u32 = sequence.next()?;
    let after: Option<String> = sequence.optional_next()?;
    if count > MAX_KEYS {
        return Err(error::too_many(count, MAX_KEYS));
    }
    let (_, state) = chain.state(sequence.optional_next()?).map_err(|source| error::state(&source))?;
    let prefix = view::bytes_param(&prefix.unwrap_or_default())?;
    let after = after.map(|after| view::bytes_param(&after)).transpose()?;
    let start = after.clone().map_or_else(|| prefix.clone(), |after| after.max(prefix.clone()));
    let keys = state
        .top
        .range(start..)
        .map(|(key, _)| key)
        .take_while(|key| key.starts_with(&prefix))
        .filter(|key| Some(*key) != after.as_ref())
        .take(count as usize);
    Ok(json!(keys.map(|key| view::hex_of(key)).collect::<Vec<_>>()))
}

fn query_storage_at(chain: &Chain, params: &Params<'_>) -> Answer {
    let mut sequence = params.sequence();
    let keys = keys_param(sequence.next()?)?;
    let (hash, state) = chain.state(sequence.optional_next()?).map_err(|source| error::state(&source))?;
    Ok(json!([change_set(hash, &state, &keys)]))
}

/// Keys from their hex, of a bounded number.
pub(super) fn keys_param(keys: Vec<String>) -> Result<Vec<StorageKey>, ErrorObjectOwned> {
    if keys.len() > MAX_QUERIED {
        return Err(error::too_many(u32::try_from(keys.len()).unwrap_or(u32::MAX), MAX_QUERIED as u32));
    }
    keys.iter().map(|key| view::bytes_param(key).map(StorageKey)).collect()
}

/// The values of keys at a block, as `state_queryStorageAt` and `state_subscribeStorage` show them.
pub(super) fn change_set(hash: H256, state: &Storage, keys: &[StorageKey]) -> Value {
    let change =
        |key: &StorageKey| json!([view::hex_of(&key.0), state.top.get(&key.0).map(|value| view::hex_of(value))]);
    json!({ "block": hash, "changes": keys.iter().map(change).collect::<Vec<_>>() })
}

fn get_metadata(chain: &Chain, params: &Params<'_>) -> Answer {
    let hash = params.sequence().optional_next()?;
    let (_, state) = chain.state(hash).map_err(|source| error::call_state(&source))?;
    let answer = execute::call(&state, "Metadata_metadata", &[]).map_err(|source| error::call(&source))?;
    let metadata = Vec::<u8>::decode(&mut &answer[..]).map_err(|source| error::invalid_params(source.to_string()))?;
    Ok(json!(view::hex_of(&metadata)))
}

fn next_index(chain: &Chain, params: &Params<'_>) -> Answer {
    let text: String = params.sequence().next()?;
    let account = AccountId::from_string(&text).map_err(|source| error::invalid_params(format!("{source:?}")))?;
    let (_, state) = chain.state(None).map_err(|source| error::state(&source))?;
    let first = execute::on_copy(&state, || System::account_nonce(&account));
    Ok(json!(chain.next_nonce(&account, first)))
}

fn submit(chain: &Chain, params: &Params<'_>) -> Answer {
    let raw = extrinsic_param(params)?;
    chain.submit(raw, None).map(|hash| json!(hash)).map_err(|source| error::submit(&source))
}

/// The bytes of the first parameter, an extrinsic.
pub(super) fn extrinsic_param(params: &Params<'_>) -> Result<Vec<u8>, ErrorObjectOwned> {
    let text: String = params.sequence().next()?;
    view::bytes_of(&text).map_err(|source| error::bad_extrinsic_bytes(&source))
}

fn pending(chain: &Chain, _: &Params<'_>) -> Answer {
    Ok(json!(chain.pending().iter().map(|raw| view::hex_of(raw)).collect::<Vec<_>>()))
}

fn query_info(chain: &Chain, params: &Params<'_>) -> Answer {
    let mut sequence = params.sequence();
    let mut arguments = view::bytes_param(&sequence.next::<String>()?)?;
    let (_, state) = chain.state(sequence.optional_next()?).map_err(|source| error::call_state(&source))?;
    u32::try_from(arguments.len()).unwrap_or(u32::MAX).encode_to(&mut arguments);
    let answer = execute::call(&state, "TransactionPaymentApi_query_info", &arguments);
    let answer = answer.map_err(|source| error::call(&source))?;
    type Info = pallet_transaction_payment::RuntimeDispatchInfo<u64, frame_support::weights::Weight>;
    let info = Info::decode(&mut &answer[..]).map_err(|source| error::invalid_params(source.to_string()))?;
    Ok(json!({
        "weight": { "ref_time": info.weight.ref_time(), "proof_size": info.weight.proof_size() },
        "class": info.class,
        "partialFee": info.partial_fee.to_string(),
    }))
}
