//! What nodes must agree on, as pure functions over numbers and bytes. No IO, no clock, no runtime.
//!
//! One module per rule; golden vectors in the tests pin each. All multi-byte integers are little-endian,
//! tuples are hashed in SCALE encoding.

pub mod admission;
pub mod artifact;
pub mod base;
pub mod check;
pub mod clock;
pub mod draw;
pub mod hotkey;
pub mod init;
pub mod kernels;
pub mod manifest;
pub mod mechanism;
pub mod merge;
pub mod object;
pub mod page;
pub mod permutation;
pub mod record;
pub mod score;
pub mod seed;
mod simd;
pub mod slice;
pub mod tensor_file;
pub mod tensors;
pub mod topk;
mod verdict;
pub mod weights;

/// Version of the protocol; it stands in every signed object.
pub const VERSION: u16 = 1;
