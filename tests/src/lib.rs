//! What the tests across crates share.

pub mod decoders;
pub mod mutate;
