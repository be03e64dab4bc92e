//! Errors with the codes and texts that Substrate's RPC uses, so that clients recognise them.

use crate::chain::{
    Error, StateError, SubmitError,
    execute::{CallError, Refusal},
    pool::PoolError,
};
use jsonrpsee::types::ErrorObjectOwned;
use sp_runtime::transaction_validity::{InvalidTransaction, TransactionValidityError};

const INVALID_PARAMS: i32 = -32602;
const BAD_FORMAT: i32 = 1001;
const VERIFICATION: i32 = 1002;
const INVALID_TRANSACTION: i32 = 1010;
const UNKNOWN_VALIDITY: i32 = 1011;
const ALREADY_IMPORTED: i32 = 1013;
const TOO_LOW_PRIORITY: i32 = 1014;
const IMMEDIATELY_DROPPED: i32 = 1016;
const INVALID_COUNT: i32 = 4002;
const CLIENT: i32 = 4003;

fn error(code: i32, message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message, None::<()>)
}

fn with_data(code: i32, message: impl Into<String>, data: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message, Some(data.into()))
}

pub fn invalid_params(what: impl Into<String>) -> ErrorObjectOwned {
    with_data(INVALID_PARAMS, "Invalid params", what)
}

pub fn too_many(count: u32, max: u32) -> ErrorObjectOwned {
    error(INVALID_COUNT, format!("count exceeds maximum value. value: {count}, max: {max}"))
}

/// An error of `state_call`, which words the loss of a state in its own way.
pub fn call_state(source: &StateError) -> ErrorObjectOwned {
    error(CLIENT, format!("Client error: Api called for an unknown Block: {source}"))
}

pub fn state(source: &StateError) -> ErrorObjectOwned {
    error(CLIENT, format!("Client error: UnknownBlock: {source}"))
}

pub fn call(source: &CallError) -> ErrorObjectOwned {
    error(CLIENT, format!("Client error: Execution failed: {source}"))
}

pub fn chain(source: &Error) -> ErrorObjectOwned {
    error(CLIENT, format!("Client error: {}", crate::error_chain(source)))
}

pub fn bad_extrinsic_bytes(source: &hex::FromHexError) -> ErrorObjectOwned {
    error(BAD_FORMAT, format!("Extrinsic has invalid format: {source}"))
}

pub fn submit(source: &SubmitError) -> ErrorObjectOwned {
    match source {
        SubmitError::Refused(Refusal::Malformed) => {
            with_data(VERIFICATION, "Verification Error", Refusal::Malformed.to_string())
        }
        SubmitError::Refused(Refusal::Invalid(validity)) => invalid(validity),
        SubmitError::Pool(PoolError::AlreadyImported) => error(ALREADY_IMPORTED, "Transaction Already Imported"),
        SubmitError::Pool(pool @ PoolError::TooLowPriority { .. }) => with_data(
            TOO_LOW_PRIORITY,
            pool.to_string(),
            "The transaction has too low priority to replace another transaction already in the pool.",
        ),
        SubmitError::Pool(PoolError::Full) => with_data(
            IMMEDIATELY_DROPPED,
            "Immediately Dropped",
            "The transaction couldn't enter the pool because of the limit",
        ),
    }
}

fn invalid(validity: &TransactionValidityError) -> ErrorObjectOwned {
    match validity {
        TransactionValidityError::Invalid(InvalidTransaction::Custom(code)) => {
            with_data(INVALID_TRANSACTION, "Invalid Transaction", format!("Custom error: {code}"))
        }
        TransactionValidityError::Invalid(invalid) => {
            let text: &'static str = (*invalid).into();
            with_data(INVALID_TRANSACTION, "Invalid Transaction", text)
        }
        TransactionValidityError::Unknown(unknown) => {
            let text: &'static str = (*unknown).into();
            with_data(UNKNOWN_VALIDITY, "Unknown Transaction Validity", text)
        }
    }
}
