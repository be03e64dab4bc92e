//! Tests across crates: real nodes over a real chain client and a real S3 protocol.

mod allocator;
mod convergence;
mod decoders;
mod quickstart;
mod subnet;
mod support;
