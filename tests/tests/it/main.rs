//! Tests across crates: real nodes over a real chain client and a real S3 protocol.

mod churn;
mod convergence;
mod fleet;
mod quickstart;
mod resilience;
mod services;
mod subnet;
mod support;
