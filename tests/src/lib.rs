//! What the tests across crates share: nodes as processes, and faults between them and the world.

pub mod process;
pub mod proxy;
pub mod shim;
