//! Every decoder of bytes from outside, with valid inputs and the most memory that it may take.
//!
//! One table serves the tests with a million inputs and the fuzzer: who adds a decoder adds one line.

mod api;
mod operator;
mod protocol;
mod worker;

use crate::mutate::Form;

/// One decoder.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// In outputs and as fuzz target.
    pub name: &'static str,
    /// Decodes; says whether it accepted.
    pub decode: fn(&[u8]) -> bool,
    /// Most bytes that it may hold at once while it decodes an input of this length.
    pub bound: fn(usize) -> usize,
    /// How its inputs are built.
    pub form: Form,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub fn all() -> Vec<Decoder> {
    [protocol::DECODERS, api::DECODERS, worker::DECODERS, operator::DECODERS].concat()
}

/// The key that signs valid inputs: //Alice.
pub fn keypair() -> schnorrkel::Keypair {
    static KEYPAIR: std::sync::LazyLock<schnorrkel::Keypair> =
        std::sync::LazyLock::new(|| bistro_worker::chain::Hotkey::development("//Alice").keypair().clone());
    KEYPAIR.clone()
}

/// Memory for values that are no larger than their text, and the growth of lists: twice while they grow, and once
/// more while they move.
fn plain(length: usize) -> usize {
    8 * length + 4096
}
