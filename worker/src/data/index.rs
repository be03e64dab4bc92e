//! `index.json`: what a dataset consists of.
//!
//! It is written as one line of JSON with its fields in the order below and a newline, so the same text gives the same
//! bytes and the same digest everywhere.

use serde::{Deserialize, Serialize};

use super::Error;

/// Version of the format.
const VERSION: u32 = 1;
/// Most bytes of an index: room for [`MAX_SHARDS`].
pub(super) const MAX_INDEX: u64 = 32 << 20;
/// Most shards of a dataset.
pub(super) const MAX_SHARDS: usize = 1 << 17;
/// Most bytes of a shard that a reader accepts.
const MAX_SHARD: u64 = 64 << 20;

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
    /// One after the other.
    pub shards: Vec<Shard>,
}

/// What made the tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerName {
    /// `bytes`: every byte is a token, documents are joined by one zero byte.
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
}

impl Index {
    /// The index of byte tokens in these shards.
    pub fn of_bytes(shards: Vec<Shard>) -> Self {
        let tokens = shards.iter().map(|s| s.size).sum();
        let tokenizer = TokenizerName::bytes();
        Self { version: VERSION, tokenizer, vocabulary_size: 256, bytes_per_token: 1, tokens, shards }
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
        if self.tokenizer != TokenizerName::bytes() {
            return Err(format!("tokenizer {:?} is not known", self.tokenizer.kind));
        }
        if self.vocabulary_size != 256 || self.bytes_per_token != 1 {
            return Err("a byte tokenizer has 256 tokens of 1 byte".into());
        }
        if self.shards.len() > MAX_SHARDS {
            return Err(format!("it has more than {MAX_SHARDS} shards"));
        }
        for Shard { name, size, blake3 } in &self.shards {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(plain) {
                return Err(format!("{name:?} is no name for a shard"));
            }
            let hex = blake3.len() == 64 && blake3.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !hex || !(1..=MAX_SHARD).contains(size) || !size.is_multiple_of(u64::from(self.bytes_per_token)) {
                return Err(format!("size or digest of shard {name} is not valid"));
            }
        }
        // At most 2^17 shards of 2^26 bytes: no overflow.
        let size: u64 = self.shards.iter().map(|s| s.size).sum();
        if size != self.tokens * u64::from(self.bytes_per_token) {
            return Err(format!("its shards hold {size} bytes but it names {} tokens", self.tokens));
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
    fn another_digest_is_refused_before_anything_is_parsed() {
        let error = Index::from_bytes(b"not even JSON", &index().digest()).expect_err("another digest");
        assert!(matches!(error, Error::Digest { .. }));
    }

    #[test]
    fn an_index_that_cannot_be_followed_is_refused() {
        assert!(read(|_| ()).is_ok());
        let wrong: [fn(&mut serde_json::Value); 9] = [
            |v| v["version"] = 2.into(),
            |v| v["tokenizer"]["kind"] = "bpe".into(),
            |v| v["vocabularySize"] = 257.into(),
            |v| v["bytesPerToken"] = 2.into(),
            |v| v["tokens"] = 8.into(),
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
