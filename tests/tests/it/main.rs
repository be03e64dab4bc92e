//! Tests across crates: real nodes over a real chain client and a real S3 protocol.

mod adversaries;
mod allocator;
mod attacks;
mod averagers;
mod cheats;
mod churn;
mod convergence;
mod decoders;
mod fleet;
mod history;
mod images;
mod joiner;
mod quickstart;
mod records;
mod resilience;
mod services;
mod subnet;
mod support;
