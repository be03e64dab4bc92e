//! What nodes must agree on, as pure functions over numbers and bytes. No IO, no clock, no runtime.
//!
//! One module per rule; golden vectors in the tests pin each. All multi-byte integers are little-endian,
//! tuples are hashed in SCALE encoding.

pub mod init;
pub mod seed;
pub mod tensors;

/// Version of the protocol; it stands in every signed object.
pub const VERSION: u16 = 1;
