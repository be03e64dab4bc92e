//! The worker: what one pod runs.

pub mod bucket;
pub mod chain;
pub mod data;
pub mod engine;
pub mod files;
pub mod retry;
pub mod telemetry;
