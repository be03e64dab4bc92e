//! Endpoints whose host is `devnet` become the addresses of the devnet that `up` started.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The host that stands for a devnet in manifests.
const HOST: &str = "devnet";

/// Where the devnet listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The chain, like `ws://127.0.0.1:9944`.
    pub chain: String,
    /// The bucket, like `http://127.0.0.1:9000`.
    pub bucket: String,
}

impl Endpoints {
    /// Every endpoint of host `devnet` replaced: `ws` and `wss` by the chain, `http` and `https` by the bucket.
    pub fn replace(&self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((start, end, is_chain)) = find(rest) {
            replaced.push_str(&rest[..start]);
            replaced.push_str(if is_chain { &self.chain } else { &self.bucket });
            rest = &rest[end..];
        }
        replaced + rest
    }

    /// The same in every text of an object.
    pub fn replace_in<T: Serialize + DeserializeOwned>(&self, object: &T) -> T {
        let mut value = serde_json::to_value(object).expect("a resource is JSON");
        self.replace_texts(&mut value);
        serde_json::from_value(value).expect("a text was replaced by a text")
    }

    fn replace_texts(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.replace(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.replace_texts(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.replace_texts(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Whether a text names an endpoint of host `devnet`.
pub fn names_devnet(text: &str) -> bool {
    find(text).is_some()
}

/// Begin and end of the first such endpoint (scheme, host and port, not the path), and whether it is the chain's.
fn find(text: &str) -> Option<(usize, usize, bool)> {
    let schemes = [("ws://", true), ("wss://", true), ("http://", false), ("https://", false)];
    text.match_indices("://").find_map(|(colon, _)| {
        let (scheme, is_chain) = schemes
            .into_iter()
            .filter(|(scheme, _)| text[..colon + 3].ends_with(scheme))
            .max_by_key(|(scheme, _)| scheme.len())?;
        let start = colon + 3 - scheme.len();
        // "xws://" is no "ws://".
        if text[..start].ends_with(|c: char| c.is_ascii_alphanumeric()) {
            return None;
        }
        let after_host = text[colon + 3..].strip_prefix(HOST)?;
        let port =
            after_host.strip_prefix(':').map_or(0, |digits| 1 + digits.bytes().take_while(u8::is_ascii_digit).count());
        let after = &after_host[port..];
        // "devnet.example.org" and "devnet-2" are other hosts.
        if after.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_' | '@')) {
            return None;
        }
        Some((start, text.len() - after.len(), is_chain))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devnet() -> Endpoints {
        Endpoints { chain: "ws://127.0.0.1:1".to_owned(), bucket: "http://127.0.0.1:2".to_owned() }
    }

    #[test]
    fn every_endpoint_of_the_devnet_is_replaced() {
        for (text, replaced) in [
            ("ws://devnet:9944", "ws://127.0.0.1:1"),
            ("http://devnet:9000", "http://127.0.0.1:2"),
            ("http://devnet", "http://127.0.0.1:2"),
            ("https://devnet/path", "http://127.0.0.1:2/path"),
            ("wss://devnet", "ws://127.0.0.1:1"),
            ("a=http://devnet:9000,b=ws://devnet:9944/x", "a=http://127.0.0.1:2,b=ws://127.0.0.1:1/x"),
        ] {
            assert_eq!(devnet().replace(text), replaced);
            assert!(names_devnet(text));
        }
    }

    #[test]
    fn other_hosts_stay() {
        for text in [
            "ws://devnet.example.org:9944",
            "http://devnet-2:9000",
            "http://mydevnet",
            "devnet:9000",
            "s3://devnet/x",
            "xws://devnet",
        ] {
            assert_eq!(devnet().replace(text), text);
            assert!(!names_devnet(text));
        }
    }
}
