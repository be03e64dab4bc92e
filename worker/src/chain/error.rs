//! What can go wrong with the chain, in words that say what to do.

use super::{Refusal, wallet::WalletError};

/// Part of every error text of a lost connection. subxt wraps errors in many layers, some without a source; all of them
/// keep the text.
pub(super) const LOST: &str = "no chain endpoint answers";

/// Part of every error text once the chain turned out to be another one.
pub(super) const OTHER_CHAIN: &str = "another chain answers";

/// What can go wrong with the chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint answers. It will pass.
    #[error("failed to {what}: {reason}; check spec.chain.endpoints and the network")]
    Unreachable {
        /// What was tried.
        what: String,
        /// What the endpoints said.
        reason: String,
    },
    /// All endpoints that answer serve another chain than the settings or the earlier connection.
    #[error(
        "failed to {what}: {reason}; correct spec.chain.endpoints or genesisHash, or delete the node's state if the chain was started anew"
    )]
    OtherChain {
        /// What was tried.
        what: String,
        /// Which hashes differ.
        reason: String,
    },
    /// The state of that block is gone at this endpoint: ordinary nodes keep some 256 blocks.
    #[error(
        "failed to {what}: the state of block {block} is pruned; an archive node in spec.chain.endpoints still has it"
    )]
    StatePruned {
        /// What was read.
        what: String,
        /// Hash of the block in hex.
        block: String,
    },
    /// The endpoint does not know that block yet.
    #[error("failed to {what}: the chain endpoint does not know block {block} yet")]
    UnknownBlock {
        /// What was read.
        what: String,
        /// Number or hash of the block.
        block: String,
    },
    /// The chain has no such entry, or it has another type: another runtime than this node understands.
    #[error("failed to {what}: {reason}; this chain's runtime needs a newer bistro-worker")]
    Incompatible {
        /// What was read or sent.
        what: String,
        /// What did not fit.
        reason: String,
    },
    /// The endpoint answered with an error of its own.
    #[error("failed to {what}: the chain endpoint refused: {reason}")]
    Rpc {
        /// What was asked.
        what: String,
        /// What it said.
        reason: String,
    },
    /// The chain refused a call.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A call was sent several times and never became final.
    #[error("failed to {what}: sent {times} times and never finalised ({reason})")]
    NotFinalised {
        /// The call.
        what: String,
        /// How often it was sent.
        times: u32,
        /// What happened the last time.
        reason: String,
    },
    /// The hotkey has no number on the subnet.
    #[error(
        "hotkey {hotkey} is not registered on netuid {netuid}: register it with its coldkey (btcli subnet register --netuid {netuid})"
    )]
    NotRegistered {
        /// SS58 address.
        hotkey: String,
        /// The subnet.
        netuid: u16,
    },
    /// Development keys are public, and so refused anywhere else.
    #[error("wallet {{dev: true}} works on a chain named \"{wanted}\" only, this one is \"{found}\"; use wallet.secretRef", wanted = super::DEVNET)]
    NotDevnet {
        /// What `system_chain` said.
        found: String,
    },
    /// The subnet is not there.
    #[error("the chain has no subnet {netuid}; correct spec.netuid or register the subnet")]
    NoSubnet {
        /// Its number.
        netuid: u16,
    },
    /// A wallet file cannot be used.
    #[error(transparent)]
    Wallet(#[from] WalletError),
}

impl Error {
    /// Trying again later can help without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::UnknownBlock { .. } | Self::Rpc { .. } | Self::NotFinalised { .. } => true,
            Self::Refused(refusal) => refusal.is_transient(),
            Self::OtherChain { .. }
            | Self::StatePruned { .. }
            | Self::Incompatible { .. }
            | Self::NotRegistered { .. }
            | Self::NotDevnet { .. }
            | Self::NoSubnet { .. }
            | Self::Wallet(_) => false,
        }
    }

    /// Sorts an error of subxt by its text; see [`LOST`]. `block` is the one that was read, for the message.
    pub(super) fn sorted(what: &str, block: &str, error: &dyn std::error::Error) -> Self {
        let (what, block, text) = (what.to_owned(), block.to_owned(), chained(error));
        let has = |part: &str| text.contains(part);
        // Where only some endpoints lead elsewhere, the text has both.
        if has(LOST) {
            Self::Unreachable { what, reason: text }
        } else if has(OTHER_CHAIN) {
            Self::OtherChain { what, reason: text }
        } else if has("State already discarded") || has("state pruned") || has("UnknownBlock: State") {
            Self::StatePruned { what, block }
        } else if has("UnknownBlock")
            || has("nknown block")
            || has("Header was not found")
            || has("find the block header")
        {
            Self::UnknownBlock { what, block }
        } else if has("User error") || has("RPC error") {
            Self::Rpc { what, reason: text }
        } else {
            Self::Incompatible { what, reason: text }
        }
    }
}

/// Texts of the error and of its sources, bounded: they end up in logs and in `/status`.
pub(super) fn chained(error: &dyn std::error::Error) -> String {
    crate::failure::causes(error).chars().filter(|c| !c.is_control()).take(400).collect()
}
