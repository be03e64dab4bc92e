//! Times that differ between objects and replicas, so that they do not all come at once.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

/// A time between two others, both included.
pub fn between(least: Duration, most: Duration) -> Duration {
    // The standard library's hasher starts from a new random key each time: enough for spreading load.
    let random = RandomState::new().build_hasher().finish();
    let share = (random >> 11) as f64 / (1u64 << 53) as f64;
    least + most.saturating_sub(least).mul_f64(share)
}
