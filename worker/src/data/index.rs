//! `index.json`: what a dataset consists of.
//!
//! It is written as one line of JSON with its fields in the order below and a newline, so the same text gives the same
//! bytes and the same digest everywhere.

use serde::{Deserialize, Serialize};

use super::{Error, TOKENIZER, Tokenizer};

/// Version of the format.
const VERSION: u32 = 1;
/// Most bytes of an index: room for [`MAX_SHARDS`].
pub(super) const MAX_INDEX: u64 = 32 << 20;
/// Most shards of a dataset.
pub(super) const MAX_SHARDS: usize = 1 << 17;
/// Most bytes of a shard that a reader accepts.
const MAX_SHARD: u64 = 64 << 20;
/// Most tokens of a vocabulary.
pub(super) const MAX_VOCABULARY: u32 = 1 << 24;

/// The content of `index.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    version: u32,
    /// What made the tokens.
    pub tokenizer: TokenizerName,
    /// Tokens are below this.
    pub vocabulary_size: u32,
    /// 1, 2 or 4: the smallest that holds the vocabulary; little-endian.
    pub bytes_per_token: u32,
    /// Tokens of all shards together.
    pub tokens: u64,
    /// Token between two documents; absent where the kind of the tokenizer says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<u32>,
    /// One after the other.
    pub shards: Vec<Shard>,
}

/// What made the tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerName {
    /// `bytes`: every byte is a token, documents are joined by one zero byte. `tokenizer.json`: what the file of that
    /// name says; it lies beside the index.
    pub kind: String,
    /// blake3 of the tokenizer's definition in hex; of its kind where there is nothing else to define.
    pub digest: String,
}

/// One file of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Name of the file beside the index.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Its digest in hex.
    pub blake3: String,
}

impl TokenizerName {
    /// The byte tokenizer.
    pub fn bytes() -> Self {
        Self { kind: "bytes".into(), digest: blake3::hash(b"bytes").to_hex().to_string() }
    }

    /// The tokenizer in a file of Hugging Face's format.
    pub fn json(file: &[u8]) -> Self {
        Self { kind: TOKENIZER.into(), digest: blake3::hash(file).to_hex().to_string() }
    }
}

/// Bytes of a token: 1, 2 or 4, the smallest that holds the vocabulary.
pub(super) fn bytes_per_token(vocabulary: u32) -> u32 {
    match vocabulary {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Index {
    /// The index of what `tokenizer` made of some text.
    pub fn new(tokenizer: &Tokenizer, shards: Vec<Shard>) -> Self {
        let bytes_per_token = bytes_per_token(tokenizer.vocabulary());
        Self {
            version: VERSION,
            tokenizer: tokenizer.name(),
            vocabulary_size: tokenizer.vocabulary(),
            bytes_per_token,
            tokens: shards.iter().map(|s| s.size).sum::<u64>() / u64::from(bytes_per_token),
            separator: tokenizer.separator(),
            shards,
        }
    }

    /// The index of byte tokens in these shards.
    pub fn of_bytes(shards: Vec<Shard>) -> Self {
        Self::new(&Tokenizer::Bytes, shards)
    }

    /// The bytes of `index.json`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("strings and integers always serialise");
        bytes.push(b'\n');
        bytes
    }

    /// blake3 of `index.json` in hex: what the run agrees on.
    pub fn digest(&self) -> String {
        blake3::hash(&self.to_bytes()).to_hex().to_string()
    }

    /// Reads `index.json`. First the digest, then the rest: what does not match is not parsed.
    pub fn from_bytes(bytes: &[u8], digest: &str) -> Result<Self, Error> {
        let found = blake3::hash(bytes).to_hex();
        if found.as_str() != digest {
            return Err(Error::Digest { found: found.to_string(), wanted: digest.to_owned() });
        }
        let index: Self = serde_json::from_slice(bytes).map_err(|e| Error::Index(e.to_string()))?;
        index.check().map_err(Error::Index)?;
        Ok(index)
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("version is {}, known is {VERSION}", self.version));
        }
        self.check_tokenizer()?;
        if self.shards.len() > MAX_SHARDS {
            return Err(format!("it has more than {MAX_SHARDS} shards"));
        }
        for Shard { name, size, blake3 } in &self.shards {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(plain) {
                return Err(format!("{name:?} is no name for a shard"));
            }
            if !is_digest(blake3)
                || !(1..=MAX_SHARD).contains(size)
                || !size.is_multiple_of(u64::from(self.bytes_per_token))
            {
                return Err(format!("size or digest of shard {name} is not valid"));
            }
        }
        // At most 2^17 shards of 2^26 bytes: no overflow.
        let size: u64 = self.shards.iter().map(|s| s.size).sum();
        if Some(size) != self.tokens.checked_mul(u64::from(self.bytes_per_token)) {
            return Err(format!("its shards hold {size} bytes but it names {} tokens", self.tokens));
        }
        Ok(())
    }

    fn check_tokenizer(&self) -> Result<(), String> {
        let Self { tokenizer, vocabulary_size: vocabulary, bytes_per_token: bytes, separator, .. } = self;
        if *tokenizer == TokenizerName::bytes() {
            if (*vocabulary, *bytes, *separator) != (256, 1, None) {
                return Err("a byte tokenizer has 256 tokens of 1 byte and no separator of its own".into());
            }
        } else if tokenizer.kind != TOKENIZER || !is_digest(&tokenizer.digest) {
            return Err(format!("tokenizer {:?} is not known", tokenizer.kind));
        }
        if !(1..=MAX_VOCABULARY).contains(vocabulary) || *bytes != bytes_per_token(*vocabulary) {
            return Err(format!("a vocabulary of {vocabulary} does not go with {bytes} bytes a token"));
        }
        if separator.is_some_and(|token| token >= *vocabulary) {
            return Err("its separator is not in its vocabulary".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let shard = |name: &str, size| Shard { name: name.into(), size, blake3: "ab".repeat(32) };
        Index::of_bytes(vec![shard("shard-00000.bin", 5), shard("shard-00001.bin", 2)])
    }

    fn read(change: impl Fn(&mut serde_json::Value)) -> Result<Index, Error> {
        let mut value = serde_json::to_value(index()).expect("serialises");
        change(&mut value);
        let bytes = value.to_string().into_bytes();
        Index::from_bytes(&bytes, blake3::hash(&bytes).to_hex().as_str())
    }

    /// Nodes must agree on these bytes for ever.
    #[test]
    fn the_bytes_are_pinned() {
        let bytes = String::from_utf8(index().to_bytes()).expect("JSON is UTF-8");
        let tokenizer = TokenizerName::bytes().digest;
        let shard = |name: &str, size| format!(r#"{{"name":"{name}","size":{size},"blake3":"{}"}}"#, "ab".repeat(32));
        let (first, second) = (shard("shard-00000.bin", 5), shard("shard-00001.bin", 2));
        assert_eq!(
            bytes,
            format!(
                "{{\"version\":1,\"tokenizer\":{{\"kind\":\"bytes\",\"digest\":\"{tokenizer}\"}},\"vocabularySize\":256,\"bytesPerToken\":1,\"tokens\":7,\"shards\":[{first},{second}]}}\n"
            )
        );
        assert_eq!(Index::from_bytes(bytes.as_bytes(), &index().digest()).expect("reads"), index());
    }

    #[test]
    fn tokens_are_as_wide_as_their_vocabulary_needs() {
        let wide = |vocabulary: u32, bytes: u32, separator: u32| {
            read(|v| {
                v["tokenizer"]["kind"] = TOKENIZER.into();
                v["vocabularySize"] = vocabulary.into();
                v["bytesPerToken"] = bytes.into();
                v["separator"] = separator.into();
                v["tokens"] = (8 / bytes).into();
                v["shards"][0]["size"] = 4.into();
                v["shards"][1]["size"] = 4.into();
            })
        };
        for (vocabulary, bytes) in [(1, 1), (256, 1), (257, 2), (1 << 16, 2), ((1 << 16) + 1, 4), (1 << 24, 4)] {
            let index = wide(vocabulary, bytes, 0).expect("follows the rule");
            assert_eq!(Index::from_bytes(&index.to_bytes(), &index.digest()).expect("reads what it wrote"), index);
            assert!(wide(vocabulary, bytes, vocabulary).is_err(), "a separator out of the vocabulary");
            for other in [1, 2, 4].into_iter().filter(|other| *other != bytes) {
                assert!(wide(vocabulary, other, 0).is_err(), "{vocabulary} tokens in {other} bytes");
            }
        }
        assert!(wide(0, 1, 0).is_err() && wide((1 << 24) + 1, 4, 0).is_err());
    }

    #[test]
    fn another_digest_is_refused_before_anything_is_parsed() {
        let error = Index::from_bytes(b"not even JSON", &index().digest()).expect_err("another digest");
        assert!(matches!(error, Error::Digest { .. }));
    }

    #[test]
    fn an_index_that_cannot_be_followed_is_refused() {
        assert!(read(|_| ()).is_ok());
        let wrong: [fn(&mut serde_json::Value); 11] = [
            |v| v["version"] = 2.into(),
            |v| v["tokenizer"]["kind"] = "bpe".into(),
            |v| v["vocabularySize"] = 257.into(),
            |v| v["bytesPerToken"] = 2.into(),
            |v| v["tokens"] = 8.into(),
            |v| v["tokens"] = u64::MAX.into(),
            |v| v["separator"] = 0.into(),
            |v| v["shards"][0]["name"] = "../../etc/passwd".into(),
            |v| v["shards"][0]["size"] = u64::MAX.into(),
            |v| v["shards"][0]["blake3"] = "AB".into(),
            |v| v["shards"] = "none".into(),
        ];
        for (i, change) in wrong.into_iter().enumerate() {
            assert!(matches!(read(change), Err(Error::Index(_))), "change {i}");
        }
    }
}
