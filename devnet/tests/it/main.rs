//! The devnet as its clients see it: a real chain client, a real S3 client, real processes.

mod access;
mod bucket;
mod chain;
mod contract;
mod restart;
mod s3;
mod subnet;
mod support;
