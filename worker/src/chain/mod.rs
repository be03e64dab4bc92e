//! The chain, and the only place that knows subxt.
//!
//! [`Chain`] is one connection that fails over between the settings' endpoints, follows finalised heads in the background
//! and reads state at blocks that the caller names. Nothing here ever looks at a block that is not finalised, except to
//! wait until it is. Storage is read dynamically, by name: fields that a runtime upgrade adds are skipped, so an upgrade
//! of the chain does not stop a node.

mod bootstrap;
mod client;
mod clock;
mod commitments;
mod error;
mod refusal;
mod state;
mod submit;
mod transport;
pub(crate) mod wallet;
mod weights;

pub use bootstrap::{Identity, bootstrap};
pub use client::Chain;
pub use clock::Head;
pub use commitments::Committed;
pub use error::Error;
pub use refusal::Refusal;
pub use state::Neuron;
pub use submit::FinalisedAt;
pub use wallet::{DevWallet, Hotkey, WalletError, ss58};

/// What `system_chain` answers on a devnet. Development keys are refused anywhere else.
pub const DEVNET: &str = "Bistro devnet";
