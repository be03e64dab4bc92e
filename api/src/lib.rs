//! The nouns of Bistro: custom resources, the settings that a worker reads and the status that it answers.
//!
//! Everything else depends on this crate and it depends on nothing of Bistro: no IO, no tensors, no runtime.

pub mod compression;
pub mod conditions;
pub mod decimal;
pub mod digest;
pub mod mechanism;
pub mod pod;
pub mod run;
pub mod settings;
pub mod status;
pub mod subnet;
pub mod workload;

pub use decimal::Decimal;
pub use run::Run;
pub use settings::{Role, Settings};
pub use status::NodeStatus;
pub use subnet::Subnet;
pub use workload::{Averager, Miner, Node, Validator};

/// Group of the custom resources.
pub const GROUP: &str = "bistro.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
