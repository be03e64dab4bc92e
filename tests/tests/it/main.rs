//! Tests across crates: real nodes over a real chain client and a real S3 protocol.

mod adversaries;
mod convergence;
mod quickstart;
mod subnet;
mod support;
