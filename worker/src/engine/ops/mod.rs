//! The operations of a transformer over flat f32 buffers, each with its exact derivative.
//!
//! Written so that the compiler vectorises them: contiguous rows, fixed numbers of accumulators, no
//! branches inside loops. Every sum has one fixed order, so the same input gives the same bits on every
//! call and in every thread. Each takes the [`Team`](super::team::Team) that computes it.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
pub mod cross_entropy;
pub mod gelu;
#[cfg(target_arch = "x86_64")]
mod kernel;
pub mod layer_norm;
pub mod linear;
pub mod math;
pub mod matmul;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
