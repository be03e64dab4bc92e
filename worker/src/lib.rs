//! The worker: one node of a subnet.
//!
//! [`roles`] holds one loop a role; everything below serves them. [`bucket`] is the only place that knows S3,
//! [`chain`] the only one that knows subxt, [`engine`] the only one that trains.

pub mod bucket;
pub mod chain;
pub mod cli;
pub mod collect;
pub mod data;
pub mod dataset;
#[doc(hidden)]
pub mod decoders;
pub mod engine;
pub mod environment;
pub mod facts;
pub mod failure;
pub mod files;
pub mod follow;
pub mod interop;
pub mod look;
pub mod mechanism;
pub mod models;
pub mod node;
pub mod origin;
pub mod retry;
pub mod roles;
pub mod snapshot;
pub mod state;
pub mod telemetry;
