//! Fuzzes the decoder that the variable DECODER names. One program for all of them: they share what takes long to build,
//! and the table in tests/src/decoders is the only list.

#![no_main]

#[path = "../../tests/src/decoders/mod.rs"]
#[allow(dead_code)]
mod decoders;
#[path = "../../tests/src/mutate.rs"]
#[allow(dead_code)]
mod mutate;

use std::sync::LazyLock;

use decoders::{Decoder, all};

static DECODER: LazyLock<Decoder> = LazyLock::new(|| {
    let name = std::env::var("DECODER").unwrap_or_default();
    let found = all().into_iter().find(|decoder| decoder.name == name);
    found.unwrap_or_else(|| panic!("DECODER={name} is no decoder: `make fuzz` lists them"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (DECODER.decode)(input);
});
