//! Tests across crates: real nodes over a real chain client and a real S3 protocol.

mod adversaries;
mod allocator;
mod api_server;
mod attacks;
mod averagers;
mod chart;
mod cheats;
mod churn;
mod cluster;
mod convergence;
mod decoders;
mod e2e;
mod fleet;
mod history;
mod images;
mod joiner;
mod node;
mod operator;
mod operator_bench;
mod quickstart;
mod records;
mod resilience;
mod services;
mod simulate;
mod subnet;
mod support;
