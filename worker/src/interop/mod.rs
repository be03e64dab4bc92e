//! Models between a run and Hugging Face's libraries: out of a run into a folder that `transformers` loads, out of such a
//! folder into a run, measured on a text, and asked to write on. For people: nothing here signs or writes to a bucket.
//!
//! Parameters have the names and shapes of `transformers`, so they go there and back as they are; what differs stands in
//! [`names`]. Files of others are hostile: bounded before they are read, and checked against the model of their config.json.

mod choice;
mod error;
mod evaluate;
mod export;
mod folder;
mod generate;
mod import;
mod names;
mod safetensors;
mod sample;
mod text;

#[cfg(test)]
mod tests;

pub(crate) use self::names::Gathered;
pub use self::{
    choice::{Choice, Loaded},
    error::{Error, Quoted},
    evaluate::{Evaluate, evaluate},
    export::{Export, export},
    generate::{Generate, Shape, generate},
    import::{Import, import},
    text::Text,
};

/// Whether a file is one that parameters can be taken from: for the table of decoders.
#[doc(hidden)]
pub fn is_readable(bytes: &[u8]) -> bool {
    safetensors::read("file", bytes).is_ok_and(|file| {
        file.iter().for_each(|(_, view)| drop(safetensors::floats(view)));
        true
    })
}
