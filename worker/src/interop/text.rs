//! Text to tokens and back, for people: with a tokenizer.json, or byte by byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tokenizers::Tokenizer as Json;

use super::Error;
use crate::data::{MAX_TOKENIZER, Pieces, guarded};

/// What turns text into tokens.
pub struct Text {
    kind: Kind,
    /// The file that it was read from, for errors.
    name: String,
    separator: Option<u32>,
}

enum Kind {
    Bytes,
    Json { tokenizer: Box<Json>, file: Bytes },
}

impl Text {
    /// Every byte is a token; a zero byte lies between documents.
    pub fn bytes() -> Self {
        Self { kind: Kind::Bytes, name: "the byte tokenizer".to_owned(), separator: Some(0) }
    }

    /// What a tokenizer.json says; `separator` is the token that ends a text, where there is one.
    pub fn json(name: &str, file: Bytes, separator: Option<u32>) -> Result<Self, Error> {
        let failed = |reason: String| {
            let reason: String = reason.chars().filter(|c| !c.is_control()).take(160).collect();
            Error::file(name, format!("is no tokenizer.json that works ({reason})"))
        };
        if file.len() as u64 > MAX_TOKENIZER {
            return Err(failed(format!("it has more than {MAX_TOKENIZER} bytes")));
        }
        let mut tokenizer = guarded(|| Json::from_bytes(&file)).map_err(failed)?;
        tokenizer.with_truncation(None).map_err(|error| failed(error.to_string()))?;
        tokenizer.with_padding(None);
        let kind = Kind::Json { tokenizer: Box::new(tokenizer), file };
        let text = Self { kind, name: name.to_owned(), separator };
        if text.vocabulary() == 0 {
            return Err(failed("it has no tokens".to_owned()));
        }
        Ok(text)
    }

    /// Tokens are below this.
    pub fn vocabulary(&self) -> u32 {
        match &self.kind {
            Kind::Bytes => 256,
            Kind::Json { tokenizer, .. } => {
                // Numbers may have gaps, so their count says nothing.
                tokenizer.get_vocab(true).into_values().max().map_or(0, |last| last.saturating_add(1))
            }
        }
    }

    /// Refuses a model that does not know all tokens.
    pub fn check(&self, model: usize) -> Result<(), Error> {
        let tokenizer = self.vocabulary();
        if tokenizer as usize <= model {
            return Ok(());
        }
        Err(Error::Vocabulary { file: self.name.clone(), tokenizer, model })
    }

    /// The token between two documents, which ends a text.
    pub fn separator(&self) -> Option<u32> {
        self.separator
    }

    /// The tokens of a prompt. Names of special tokens in it are those tokens.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        match &self.kind {
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Kind::Json { tokenizer, .. } => self.encode(tokenizer, text),
        }
    }

    /// The tokens of a document, as a dataset has them: names of special tokens are text like all other, and long texts are
    /// cut after a line.
    pub fn document(&self, text: &str) -> Result<Vec<u32>, Error> {
        let Kind::Json { tokenizer, .. } = &self.kind else { return self.prompt(text) };
        let mut tokenizer = tokenizer.clone();
        tokenizer.set_encode_special_tokens(true);
        let mut tokens = Vec::new();
        for piece in Pieces(text) {
            tokens.extend(self.encode(&tokenizer, piece)?);
        }
        Ok(tokens)
    }

    fn encode(&self, tokenizer: &Json, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = guarded(|| tokenizer.encode_fast(text, false));
        let encoding = encoding.map_err(|error| Error::file(&self.name, format!("cannot read this text ({error})")))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn decode(&self, tokenizer: &Json, tokens: &[u32]) -> Result<String, Error> {
        let text = guarded(|| tokenizer.decode(tokens, false));
        text.map_err(|error| Error::file(&self.name, format!("cannot name a token ({error})")))
    }

    /// Turns tokens into bytes, one after the other.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { text: self, tokens: Vec::new(), shown: 0 }
    }

    /// The tokenizer.json; for bytes one that says the same.
    pub fn to_json(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Bytes => byte_tokenizer().to_string().into_bytes(),
            Kind::Json { file, .. } => file.to_vec(),
        }
    }

    /// The tokenizer_config.json beside it, for a model that sees `context` tokens.
    pub fn config(&self, context: usize) -> Value {
        // The separator of byte tokens has no name: "\0" is no text that somebody may not write.
        let end = match &self.kind {
            Kind::Bytes => None,
            Kind::Json { tokenizer, .. } => self.separator.and_then(|token| tokenizer.id_to_token(token)),
        };
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "clean_up_tokenization_spaces": false,
            "eos_token": end,
        })
    }
}

/// Bytes are tokens under their own number: the alphabet of GPT-2's kind of tokenizer, and nothing merged.
fn byte_tokenizer() -> Value {
    let vocabulary: BTreeMap<String, u32> = (0..=255u8).map(|byte| (letter(byte).to_string(), byte.into())).collect();
    let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

/// The letter that stands for a byte in a byte-level tokenizer: printable Latin-1 stands for itself, and the letters from
/// U+0100 on for the others in their order.
fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let number = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(0x100 + number).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Gives the bytes of each token as soon as they are certain.
pub struct Decoder<'a> {
    text: &'a Text,
    /// Those since the last break.
    tokens: Vec<u32>,
    /// Bytes of their text that were given already.
    shown: usize,
}

impl Decoder<'_> {
    /// Tokens after which decoding starts anew: the whole is decoded for every token.
    const BREAK: usize = 64;
    /// Tokens that are decoded with those after them: more than what is withheld, and not the first of a text, which may lose its
    /// blank.
    const KEPT: usize = 16;

    /// What `token` adds; empty while a letter is not complete.
    pub fn next(&mut self, token: u32) -> Result<Vec<u8>, Error> {
        let Kind::Json { tokenizer, .. } = &self.text.kind else {
            // The model may know more tokens than there are bytes.
            let unknown = || char::REPLACEMENT_CHARACTER.to_string().into_bytes();
            return Ok(u8::try_from(token).map_or_else(|_| unknown(), |byte| vec![byte]));
        };
        self.tokens.push(token);
        let text = self.text.decode(tokenizer, &self.tokens)?;
        let (certain, withheld) = text.split_at(certain(&text));
        // Rewriting what was shown is not possible.
        let Some(new) = certain.get(self.shown..) else { return Ok(Vec::new()) };
        self.shown = certain.len();
        if self.tokens.len() >= Self::BREAK {
            let kept = self.tokens.len() - Self::KEPT;
            let again = self.text.decode(tokenizer, &self.tokens[kept..])?;
            if again.ends_with(withheld) {
                self.shown = again.len() - withheld.len();
                self.tokens.drain(..kept);
            }
        }
        Ok(new.as_bytes().to_vec())
    }

    /// What is left: letters that stay incomplete.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        let Kind::Json { tokenizer, .. } = &self.text.kind else { return Ok(Vec::new()) };
        let text = self.text.decode(tokenizer, &self.tokens)?;
        Ok(text.as_bytes().get(self.shown..).unwrap_or_default().to_vec())
    }
}

/// Bytes of a text that more tokens do not change: not the letter of which some bytes are missing, of which each may be shown by
/// a replacement, three at most.
fn certain(text: &str) -> usize {
    let replaced = text.chars().rev().take(3).take_while(|c| *c == char::REPLACEMENT_CHARACTER).count();
    text.len() - replaced * char::REPLACEMENT_CHARACTER.len_utf8()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    fn written() -> Text {
        Text::json("tokenizer.json", Text::bytes().to_json().into(), Some(0)).expect("a sound file")
    }

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let letters: std::collections::BTreeSet<char> = (0..=255).map(letter).collect();
        assert_eq!(letters, ByteLevel::alphabet().into_iter().collect(), "as the library has it");
        assert_eq!((letter(b'a'), letter(b' '), letter(0)), ('a', 'Ġ', 'Ā'));
        assert_eq!(written().vocabulary(), 256);
    }

    #[test]
    fn what_is_no_tokenizer_is_one_line() {
        for file in [&b""[..], b"{}", b"\x1b[2J\n", b"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}"] {
            let error = Text::json("d/tokenizer.json", file.into(), None).map(|_| ()).expect_err("refused").to_string();
            assert!(error.starts_with("d/tokenizer.json: is no tokenizer.json that works ("), "{error}");
            assert!(error.lines().count() == 1 && !error.contains('\u{1b}'), "{error}");
        }
        let error = written().check(255).expect_err("one token too many").to_string();
        assert!(error.starts_with("tokenizer.json has tokens up to 256 but the model only 255: "), "{error}");
        assert!(written().check(256).is_ok());
    }

    #[test]
    fn letters_come_whole() {
        for text in [Text::bytes(), written()] {
            let mut decoder = text.decoder();
            let bytes: Vec<Vec<u8>> = "aé👍".bytes().map(|b| decoder.next(b.into()).expect("a byte")).collect();
            assert_eq!(bytes.concat(), "aé👍".as_bytes());
        }
        let text = written();
        let mut decoder = text.decoder();
        let first: Vec<_> = "é".bytes().map(|b| decoder.next(b.into()).expect("a byte")).collect();
        assert_eq!(first, [vec![], "é".as_bytes().to_vec()]);
    }

    #[test]
    fn a_token_that_is_no_byte_is_no_other_byte() {
        assert_eq!(Text::bytes().decoder().next(256).expect("no byte"), "\u{fffd}".as_bytes());
    }

    #[test]
    fn a_file_that_makes_the_library_panic_is_one_line() {
        let mut file: Value = serde_json::from_slice(&Text::bytes().to_json()).expect("JSON");
        file["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAAAA==" });
        let text = Text::json("tokenizer.json", file.to_string().into(), None).expect("it can be read");
        let error = text.document("a").expect_err("it cannot be used").to_string();
        assert_eq!(error, "tokenizer.json: cannot read this text (the library for tokenizers panicked)");
    }

    /// As a model does that has learned nothing yet.
    #[test]
    fn bytes_that_make_no_letters_are_shown_as_they_come() {
        let json = written();
        let mut decoder = json.decoder();
        let mut said = Vec::new();
        for number in 0..1000 {
            said.extend(decoder.next(0x80 + number % 0x80).expect("a byte"));
            // Three bytes stand for each, and three of them may wait.
            assert!(decoder.tokens.len() < Decoder::BREAK, "what is decoded for each token does not grow");
            assert!(said.len() + 9 >= 3 * (number as usize + 1), "{number}: {}", said.len());
        }
        said.extend(decoder.finish().expect("bytes"));
        let bytes: Vec<u8> = (0..1000).map(|number| (0x80 + number % 0x80) as u8).collect();
        assert_eq!(String::from_utf8(said).expect("letters"), String::from_utf8_lossy(&bytes));
    }

    proptest! {
        /// The file that we write says what the byte tokenizer does.
        #[test]
        fn the_file_says_the_same_as_bytes(text in "([ -~]|\\PC|\n|\0){0,200}") {
            let (bytes, json) = (Text::bytes(), written());
            let tokens = bytes.document(&text).expect("bytes");
            prop_assert_eq!(json.document(&text).expect("all bytes are there"), tokens.clone());
            prop_assert_eq!(json.prompt(&text).expect("all bytes are there"), tokens.clone());
            let mut decoder = json.decoder();
            let mut back: Vec<Vec<u8>> = tokens.iter().map(|t| decoder.next(*t).expect("a byte")).collect();
            back.push(decoder.finish().expect("bytes"));
            prop_assert_eq!(back.concat(), text.into_bytes());
        }
    }
}
