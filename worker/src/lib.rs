//! The worker: what one pod runs.

pub mod bucket;
pub mod chain;
pub mod files;
pub mod retry;
pub mod telemetry;
