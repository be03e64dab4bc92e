//! Tests across crates: real nodes over a real chain client and a real S3 protocol.

mod adversaries;
mod allocator;
mod attacks;
mod averagers;
mod cheats;
mod convergence;
mod decoders;
mod history;
mod joiner;
mod quickstart;
mod records;
mod subnet;
mod support;
