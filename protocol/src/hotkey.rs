//! Hotkeys and their sr25519 signatures, and SS58 addresses.

use blake2::{Blake2b512, Digest};
use schnorrkel::{Keypair, PublicKey, Signature};

/// Substrate's signing context.
const CONTEXT: &[u8] = b"substrate";
/// Address format of the chain, one byte.
const FORMAT: u8 = 42;

/// A public key as registered on the chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hotkey(pub [u8; 32]);

/// A text is not an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an SS58 address of format 42: it starts with 5 and has 48 letters and digits")]
pub struct NotAnAddress(String);

impl Hotkey {
    /// The SS58 address.
    pub fn ss58(&self) -> String {
        let mut bytes = Vec::with_capacity(35);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.0);
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bs58::encode(bytes).into_string()
    }

    /// Reads an SS58 address and checks format and checksum.
    pub fn from_ss58(text: &str) -> Result<Self, NotAnAddress> {
        let refuse = || NotAnAddress(text.chars().take(64).collect());
        // 35 bytes are at most 48 digits in base 58; longer texts are not decoded at all.
        if text.len() > 48 {
            return Err(refuse());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| refuse())?;
        match bytes.split_at_checked(33) {
            Some((body, check)) if body[0] == FORMAT && check == checksum(body) => {
                let mut key = [0; 32];
                key.copy_from_slice(&body[1..]);
                Ok(Self(key))
            }
            _ => Err(refuse()),
        }
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let (Ok(public), Ok(signature)) = (PublicKey::from_bytes(&self.0), Signature::from_bytes(signature)) else {
            return false;
        };
        public.verify_simple(CONTEXT, message, &signature).is_ok()
    }
}

/// Signs `message`; the signature is randomised, so two signatures over the same bytes differ.
pub fn sign(keypair: &Keypair, message: &[u8]) -> [u8; 64] {
    keypair.sign_simple(CONTEXT, message).to_bytes()
}

fn checksum(body: &[u8]) -> [u8; 2] {
    let hash = Blake2b512::new().chain_update(b"SS58PRE").chain_update(body).finalize();
    [hash[0], hash[1]]
}

impl From<&Keypair> for Hotkey {
    fn from(keypair: &Keypair) -> Self {
        Self(keypair.public.to_bytes())
    }
}

impl std::fmt::Display for Hotkey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.ss58())
    }
}

impl std::fmt::Debug for Hotkey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.ss58())
    }
}

/// In JSON a hotkey is its address.
impl serde::Serialize for Hotkey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.ss58())
    }
}

impl<'de> serde::Deserialize<'de> for Hotkey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_ss58(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A key for tests, from one byte.
    pub(crate) fn keypair(n: u8) -> Keypair {
        schnorrkel::MiniSecretKey::from_bytes(&[n; 32])
            .expect("32 bytes")
            .expand_to_keypair(schnorrkel::ExpansionMode::Ed25519)
    }

    /// //Alice, as every Substrate tool prints her.
    #[test]
    fn addresses_are_those_of_the_chain() {
        let text = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
        let alice = Hotkey::from_ss58(text).expect("valid");
        assert_eq!(hex::encode(alice.0), "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d");
        assert_eq!(alice.ss58(), text);
    }

    #[test]
    fn damaged_addresses_are_refused() {
        for text in [
            "",
            "5",
            "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQX",
            "0GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
            &"5".repeat(1000),
        ] {
            assert!(Hotkey::from_ss58(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_signer_and_the_message_verify() {
        let (a, b) = (keypair(1), keypair(2));
        let signature = sign(&a, b"work");
        assert!(Hotkey::from(&a).verifies(b"work", &signature));
        assert!(!Hotkey::from(&b).verifies(b"work", &signature));
        assert!(!Hotkey::from(&a).verifies(b"worK", &signature));
        assert!(!Hotkey::from(&a).verifies(b"work", &[255; 64]));
        assert!(!Hotkey([255; 32]).verifies(b"work", &signature), "bytes that are no key");
    }
}
