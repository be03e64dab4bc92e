//! The worker against real services: the devnet's chain and bucket, in this process and on free ports.

mod bucket;
mod chain;
mod dataset;
mod support;
mod telemetry;
