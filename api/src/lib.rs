//! The nouns of Bistro: custom resources, the settings that a worker reads and the status that it answers.
//!
//! Everything else depends on this crate and it depends on nothing of Bistro: no IO, no tensors, no runtime.

pub mod decimal;
pub mod digest;
pub mod run;
pub mod settings;
pub mod status;

pub use decimal::Decimal;
pub use run::Run;
pub use settings::{Role, Settings};
pub use status::NodeStatus;
