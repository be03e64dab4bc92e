//! Runs the runtime: blocks, validation and runtime APIs, each on a copy of a state.
//!
//! Externalities are thread-local and synchronous: nothing here awaits.

use crate::runtime::{Executive, Header, Runtime, RuntimeCall, UncheckedExtrinsic, call_api};
use codec::{DecodeLimit, Encode};
use sp_core::{H256, storage::Storage};
use sp_runtime::transaction_validity::{
    InvalidTransaction, TransactionSource, TransactionValidity, TransactionValidityError, ValidTransaction,
};
use sp_state_machine::BasicExternalities;
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

/// Calls nest only in a hostile extrinsic.
const MAX_DEPTH: u32 = 64;

/// Why a runtime call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("Exported method {0} is not found")]
    NotFound(String),
    #[error("the runtime panicked: the arguments do not decode or the call cannot run here")]
    Panicked,
}

/// Why a transaction is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("Extrinsic has invalid format")]
    Malformed,
    #[error("{0:?}")]
    Invalid(TransactionValidityError),
}

/// A block that was just built, and what became of the transactions offered to it.
pub struct Built {
    pub header: Header,
    pub body: Vec<Vec<u8>>,
    pub state: Storage,
    /// Offered and in the body, whether or not the call succeeded.
    pub included: Vec<H256>,
    /// Offered and found invalid.
    pub rejected: Vec<H256>,
}

/// Runs `action` on a throw-away copy of a state.
pub fn on_copy<R>(state: &Storage, action: impl FnOnce() -> R) -> R {
    BasicExternalities::new(state.clone()).execute_with(action)
}

/// Calls a runtime API by name on a throw-away copy of a state.
///
/// # Errors
/// [`CallError::Panicked`] where wasm would trap, above all on arguments that do not decode.
pub fn call(state: &Storage, method: &str, arguments: &[u8]) -> Result<Vec<u8>, CallError> {
    // These build or execute whole blocks; they have no business in a view.
    if method.starts_with("BlockBuilder_") || method == "Core_execute_block" || method == "Core_initialize_block" {
        return Err(CallError::NotFound(method.to_string()));
    }
    let answer = quietly(|| on_copy(state, || call_api(method, arguments)))?;
    answer.ok_or_else(|| CallError::NotFound(method.to_string()))
}

/// Decodes an extrinsic that must fill all of its bytes.
pub fn decode(raw: &[u8]) -> Result<UncheckedExtrinsic, Refusal> {
    UncheckedExtrinsic::decode_all_with_depth_limit(MAX_DEPTH, &mut &raw[..]).map_err(|_| Refusal::Malformed)
}

/// Asks the runtime about a transaction, on top of block `hash`.
pub fn validate(state: &Storage, hash: H256, raw: &[u8]) -> Result<ValidTransaction, Refusal> {
    validate_all(state, hash, &[raw]).pop().unwrap_or(Err(Refusal::Malformed))
}

/// Asks the runtime about several transactions, each by itself.
pub fn validate_all(state: &Storage, hash: H256, raws: &[impl AsRef<[u8]>]) -> Vec<Result<ValidTransaction, Refusal>> {
    on_copy(state, || {
        let check = |raw: &[u8]| {
            let extrinsic = decode(raw)?;
            let validity = quietly(|| {
                sp_io::storage::start_transaction();
                let validity = Executive::validate_transaction(TransactionSource::External, extrinsic, hash);
                sp_io::storage::rollback_transaction();
                validity
            });
            let validity: TransactionValidity = validity.map_err(|_| Refusal::Malformed)?;
            validity.map_err(Refusal::Invalid)
        };
        raws.iter().map(|raw| check(raw.as_ref())).collect()
    })
}

/// Builds block `number` on `parent` at `now` (milliseconds since 1970) from the offered transactions, in order.
///
/// # Panics
/// If the runtime refuses the timestamp: a bug here, not a bad transaction.
pub fn build(parent: H256, number: u32, mut state: Storage, now: u64, offered: &[(H256, Vec<u8>)]) -> Built {
    let (mut included, mut rejected) = (Vec::new(), Vec::new());
    let (header, body) = BasicExternalities::execute_with_storage(&mut state, || {
        Executive::initialize_block(&unfinished_header(number, parent));
        let now = now.max(pallet_timestamp::Now::<Runtime>::get() + 1);
        let inherent = UncheckedExtrinsic::new_bare(RuntimeCall::Timestamp(pallet_timestamp::Call::set { now }));
        let mut body = vec![inherent.encode()];
        Executive::apply_extrinsic(inherent).expect("a bare timestamp is valid").expect("the timestamp moves on");
        for (hash, raw) in offered {
            match apply(raw) {
                Applied::Included => {
                    body.push(raw.clone());
                    included.push(*hash);
                }
                Applied::Rejected => rejected.push(*hash),
                Applied::Later => {}
            }
        }
        (Executive::finalize_block(), body)
    });
    Built { header, body, state, included, rejected }
}

enum Applied {
    Included,
    Rejected,
    Later,
}

fn apply(raw: &[u8]) -> Applied {
    let Ok(extrinsic) = decode(raw) else {
        return Applied::Rejected;
    };
    // An invalid transaction leaves half-made changes behind: roll them back.
    sp_io::storage::start_transaction();
    match Executive::apply_extrinsic(extrinsic) {
        // A call that failed is in the block all the same: its signer pays.
        Ok(_) => {
            sp_io::storage::commit_transaction();
            Applied::Included
        }
        Err(error) => {
            sp_io::storage::rollback_transaction();
            let later = error.exhausted_resources() || error == InvalidTransaction::Future.into();
            if later { Applied::Later } else { Applied::Rejected }
        }
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Catches a panic of the runtime and prints nothing about it: a client must not be able to fill the log.
fn quietly<R>(action: impl FnOnce() -> R) -> Result<R, CallError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(action));
    QUIET.set(false);
    result.map_err(|_| CallError::Panicked)
}

/// A header before the runtime has computed its roots.
fn unfinished_header(number: u32, parent_hash: H256) -> Header {
    let (state_root, extrinsics_root) = (H256::zero(), H256::zero());
    Header { parent_hash, number, state_root, extrinsics_root, digest: Default::default() }
}
