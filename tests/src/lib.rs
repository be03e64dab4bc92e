//! A subnet without bucket and chain: the protocol's own functions, window by window, in one process.
//!
//! [`arena`] runs honest miners and watched cheats, [`cheat`] says what each cheat publishes, [`judge`] scores
//! them as a validator does, [`text`] is what they train on. The same cheats run as real nodes elsewhere: nothing
//! in [`cheat`] knows the arena.

pub mod arena;
pub mod cheat;
pub mod judge;
pub mod runs;
pub mod text;
