//! What turns text into tokens: its bytes, or a `tokenizer.json`.

use std::num::NonZeroUsize;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::tokenizer::Tokenizer as Json;

use super::{
    Error, TokenizerName,
    index::{self, MAX_VOCABULARY},
};

/// Most bytes of a tokenizer.json; those of the largest vocabularies have 35 MB.
pub const MAX_TOKENIZER: u64 = 128 << 20;

/// Names of the token that ends a text, the usual one first.
const SEPARATORS: [&str; 4] = ["<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>"];

/// Longest text that a tokenizer sees at once: it takes some hundred bytes of memory for every token.
const PIECE: usize = 1 << 20;

/// Turns text into tokens.
pub enum Tokenizer {
    /// Every byte of UTF-8 is a token; documents are joined by one zero byte, which text has none of.
    Bytes,
    /// What a file of Hugging Face's format says.
    Json(Box<FromFile>),
}

/// A tokenizer.json, read.
pub struct FromFile {
    tokenizer: Json,
    file: Bytes,
    vocabulary: u32,
    separator: u32,
}

impl Tokenizer {
    /// Reads a tokenizer.json. `separator` names the token between two documents; without it one of the usual names is
    /// looked for.
    pub fn from_json(file: Bytes, separator: Option<&str>) -> Result<Self, Error> {
        check_normalizers(&file).map_err(Error::Tokenizer)?;
        let mut tokenizer = guarded(|| Json::from_bytes(&file)).map_err(Error::Tokenizer)?;
        // A dataset wants the whole text and nothing else, whatever the file says for other uses.
        tokenizer.with_truncation(None).map_err(|error| Error::Tokenizer(error.to_string()))?;
        tokenizer.with_padding(None);
        // "</s>" within a document is text: documents must not end each other.
        tokenizer.set_encode_special_tokens(true);
        // Numbers may have gaps, so their count says nothing.
        let last = tokenizer.get_vocab(true).into_values().max();
        let vocabulary = last.and_then(|last| last.checked_add(1)).filter(|size| *size <= MAX_VOCABULARY);
        let vocabulary = vocabulary
            .ok_or_else(|| Error::Tokenizer(format!("it has no tokens, or numbers from {MAX_VOCABULARY} on")))?;
        let separator = match separator {
            Some(name) => tokenizer.token_to_id(name).ok_or_else(|| Error::Separator(name.to_owned()))?,
            None => SEPARATORS
                .into_iter()
                .find_map(|name| tokenizer.token_to_id(name))
                .ok_or_else(|| Error::Separator(SEPARATORS.join(", ")))?,
        };
        Ok(Self::Json(Box::new(FromFile { tokenizer, file, vocabulary, separator })))
    }

    /// How an index names it.
    pub fn name(&self) -> TokenizerName {
        match self {
            Self::Bytes => TokenizerName::bytes(),
            Self::Json(json) => TokenizerName::json(&json.file),
        }
    }

    /// Tokens are below this.
    pub fn vocabulary(&self) -> u32 {
        match self {
            Self::Bytes => 256,
            Self::Json(json) => json.vocabulary,
        }
    }

    /// Token between two documents, where the kind alone does not say it.
    pub fn separator(&self) -> Option<u32> {
        match self {
            Self::Bytes => None,
            Self::Json(json) => Some(json.separator),
        }
    }

    /// The file that others need to turn tokens into text.
    pub fn file(&self) -> Option<Bytes> {
        match self {
            Self::Bytes => None,
            Self::Json(json) => Some(json.file.clone()),
        }
    }

    /// The bytes between two documents.
    pub(super) fn separator_bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes => vec![0],
            Self::Json(json) => {
                let mut bytes = Vec::new();
                write(&[json.separator], self.width(), &mut bytes);
                bytes
            }
        }
    }

    /// Bytes of a token.
    fn width(&self) -> usize {
        index::bytes_per_token(self.vocabulary()) as usize
    }

    /// The tokens of each text, little-endian, or why there are none. The same for any number of threads: texts are cut
    /// into pieces by their content alone, and what becomes of the pieces is put together in order.
    pub(super) fn encode(&self, texts: Vec<String>) -> Vec<Result<Vec<u8>, String>> {
        let Self::Json(json) = self else {
            return texts.into_iter().map(|text| Ok(text.into_bytes())).collect();
        };
        let width = self.width();
        let encode = |text: &String| {
            let pieces: Vec<&str> = Pieces(text).collect();
            let encoded: Result<Vec<_>, String> = pieces.par_iter().map(|piece| json.encode(piece, width)).collect();
            encoded.map(|pieces| pieces.concat())
        };
        texts.par_iter().map(encode).collect()
    }
}

/// The library makes room for as much as a table of a normalizer says that it has, up to 8 GiB, before it looks for it.
fn check_normalizers(file: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Parts {
        #[serde(default)]
        normalizer: Value,
    }
    let Parts { normalizer } = serde_json::from_slice(file).map_err(|error| error.to_string())?;
    let mut left = vec![&normalizer];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                left.extend(fields.values());
                let table = fields.get("precompiled_charsmap").and_then(Value::as_str).unwrap_or_default();
                // Eight letters are six bytes, and the first four of them the size of what follows.
                let head = table.get(..8).and_then(|head| STANDARD.decode(head).ok()).unwrap_or_default();
                let (size, there) =
                    (head.first_chunk().map_or(0, |size| u32::from_le_bytes(*size)), table.len() / 4 * 3);
                if size as usize > there {
                    return Err(format!(
                        "normalizer.precompiled_charsmap promises {size} bytes and has at most {there}"
                    ));
                }
            }
            _ => (),
        }
    }
    Ok(())
}

/// Asks the library. A file from outside may make it panic, while it is read or later: that is a fault of the file.
pub fn guarded<T>(ask: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask));
    answer.map_err(|_| "the library for tokenizers panicked".to_owned())?.map_err(|error| error.to_string())
}

impl FromFile {
    fn encode(&self, piece: &str, width: usize) -> Result<Vec<u8>, String> {
        let encoding = guarded(|| self.tokenizer.encode_fast(piece, false))?;
        let tokens = encoding.get_ids();
        if let Some(token) = tokens.iter().find(|token| **token >= self.vocabulary) {
            return Err(format!("token {token} is not in the vocabulary"));
        }
        let mut bytes = Vec::with_capacity(tokens.len() * width);
        write(tokens, width, &mut bytes);
        Ok(bytes)
    }
}

/// Appends tokens that are known to fit, little-endian.
fn write(tokens: &[u32], width: usize, bytes: &mut Vec<u8>) {
    for token in tokens {
        bytes.extend_from_slice(&token.to_le_bytes()[..width]);
    }
}

/// A text in pieces of at most [`PIECE`] bytes that end after a line where they can.
pub(crate) struct Pieces<'a>(pub(crate) &'a str);

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0;
        if text.is_empty() {
            return None;
        }
        let most = text.floor_char_boundary(PIECE);
        let end = match text.len() > most {
            true => text[..most].rfind('\n').map_or(most, |line| line + 1),
            false => text.len(),
        };
        let (piece, rest) = text.split_at(end);
        self.0 = rest;
        Some(piece)
    }
}

/// Threads for tokenizing; 0 is taken for 1.
pub(super) fn pool(threads: usize) -> Result<ThreadPool, Error> {
    let threads = NonZeroUsize::new(threads).map_or(1, NonZeroUsize::get);
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("tokens-{i}")).build();
    pool.map_err(|error| Error::Threads(error.to_string()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The tokenizer of GPT-2's kind for all bytes, a few merges, and `extra` tokens that nothing makes.
    pub fn file(special: &str, extra: u32) -> Bytes {
        let mut alphabet: Vec<String> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from).collect();
        alphabet.sort();
        let merges = ["t h", "th e", "Ġ the", "i n", "e r", "Ċ Ċ"];
        let merged = merges.iter().map(|merge| merge.replace(' ', ""));
        let unused = (0..extra).map(|i| format!("unused{i}"));
        let tokens = alphabet.into_iter().chain(merged).chain(unused);
        let vocabulary: BTreeMap<String, usize> = tokens.enumerate().map(|(i, token)| (token, i)).collect();
        let added = json!({
            "id": vocabulary.len(), "content": special, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        });
        let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let file = json!({
            "version": "1.0", "truncation": { "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 },
            "padding": null, "added_tokens": [added], "normalizer": null, "pre_tokenizer": level,
            "post_processor": null, "decoder": level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocabulary, "merges": merges,
            },
        });
        file.to_string().into()
    }

    fn tokens(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(2).map(|t| u32::from(t[0]) + 256 * u32::from(t[1])).collect()
    }

    fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokens(tokenizer.encode(vec![text.to_owned()]).remove(0).as_ref().expect("every byte has a token"))
    }

    proptest! {
        #[test]
        fn text_comes_back(text in "(the |in|\n\n|[ -~]|\\PC){0,64}") {
            let file = file("</s>", 0);
            let Ok(Tokenizer::Json(json)) = Tokenizer::from_json(file.clone(), None) else { panic!("it is sound") };
            let ids = encode(&Tokenizer::from_json(file, None).expect("it is sound"), &text);
            prop_assert!(ids.iter().all(|id| *id < json.vocabulary));
            prop_assert_eq!(json.tokenizer.decode(&ids, false).expect("known tokens"), text);
        }

        #[test]
        fn pieces_are_the_text(lines in prop::collection::vec((0..PIECE / 2, any::<bool>()), 0..8)) {
            let text: String = lines.iter().map(|(n, line)| "ä".repeat(*n) + if *line { "\n" } else { "" }).collect();
            let pieces: Vec<&str> = Pieces(&text).collect();
            prop_assert!(pieces.iter().all(|piece| (1..=PIECE).contains(&piece.len())));
            prop_assert_eq!(pieces.concat(), text);
        }
    }

    #[test]
    fn documents_cannot_end_each_other() {
        let tokenizer = Tokenizer::from_json(file("<|endoftext|>", 0), None).expect("it is sound");
        let separator = tokenizer.separator().expect("it has one");
        assert_eq!((separator, tokenizer.vocabulary()), (262, 263));
        assert_eq!(tokenizer.separator_bytes(), [6, 1]);
        let ids = encode(&tokenizer, "a<|endoftext|>b");
        assert!(ids.len() > 3 && !ids.contains(&separator), "spelled out, and not cut to three tokens: {ids:?}");
    }

    #[test]
    fn a_separator_is_found_or_named() {
        assert!(
            matches!(Tokenizer::from_json(file("[SEP]", 0), None), Err(Error::Separator(names)) if names.contains("</s>"))
        );
        let named = Tokenizer::from_json(file("[SEP]", 0), Some("[SEP]")).expect("it is there");
        assert_eq!(named.separator(), Some(262));
        assert!(
            matches!(Tokenizer::from_json(file("[SEP]", 0), Some("</s>")), Err(Error::Separator(name)) if name == "</s>")
        );
        assert!(matches!(Tokenizer::from_json(Bytes::from_static(b"{}"), None), Err(Error::Tokenizer(_))));
    }

    /// Room for 8 GiB would be asked for, and the process ended where there is less.
    #[test]
    fn a_normalizer_that_promises_more_than_it_has_is_refused() {
        let mut sound: Value = serde_json::from_slice(&file("</s>", 0)).expect("JSON");
        let table = |size: u32| STANDARD.encode([&size.to_le_bytes()[..], &[0; 8]].concat());
        let one = |size| json!({ "type": "Precompiled", "precompiled_charsmap": table(size) });
        for (size, inside) in [(8, false), (8, true), (13, false), (u32::MAX, true)] {
            sound["normalizer"] =
                if inside { json!({ "type": "Sequence", "normalizers": [one(size)] }) } else { one(size) };
            let read = Tokenizer::from_json(sound.to_string().into(), None).err().map(|error| error.to_string());
            match size {
                8 => assert_eq!(read, None),
                _ => assert!(read.is_some_and(|line| line.contains("precompiled_charsmap promises")), "{size}"),
            }
        }
        let twice = sound.to_string().replacen('{', r#"{"normalizer": null,"#, 1);
        let read =
            Tokenizer::from_json(twice.into(), None).err().expect("one of them would not be looked at").to_string();
        assert!(read.contains("duplicate field `normalizer`"), "{read}");
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let tokenizer = Tokenizer::from_json(file("</s>", 70_000), None).expect("it is sound");
        assert_eq!(tokenizer.separator_bytes().len(), 4);
        let long = "in the beginning\n".repeat(100_000);
        let texts: Vec<String> = (0..40).map(|i| long[i * 17..i * 5000].to_owned()).chain([long.clone()]).collect();
        let with = |threads| pool(threads).expect("threads").install(|| tokenizer.encode(texts.clone()));
        assert_eq!(with(1), with(3));
    }
}
