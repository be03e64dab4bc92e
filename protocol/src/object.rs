//! Signed objects in the bucket: their kinds, their keys, and JSON objects with a signature.
//!
//! A JSON object is one line that starts with what it belongs to, a newline, and the hex of the signature over
//! `blake3("bistro/<kind>" || line)`: over the exact bytes, never over a re-serialisation.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    VERSION,
    check::Verdict,
    hotkey::{Hotkey, sign},
};

/// What all objects of one subnet and run share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Hash of the chain's first block.
    pub genesis: [u8; 32],
    /// Number of the subnet.
    pub netuid: u16,
    /// Id of the run.
    pub run: u32,
    /// Digest of the run.
    pub run_digest: [u8; 32],
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Digest and size of a miner's work.
    Commit = 1,
    /// Local parameters minus base, or a slice of it.
    Delta = 2,
    /// The gradient at the base, or a slice of it.
    Gradient = 3,
    /// Local parameters, or a slice of them.
    Weights = 4,
    /// A whole model.
    Model = 5,
    /// A validator's verdicts.
    Verdicts = 6,
    /// A validator's scores.
    Scores = 7,
    /// The averager's account of a window.
    Manifest = 8,
    /// The merged slice of a window.
    Aggregate = 9,
    /// The whole base before a window.
    Base = 10,
}

impl Kind {
    /// The word in signatures and JSON objects.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::Delta => "delta",
            Kind::Gradient => "gradient",
            Kind::Weights => "weights",
            Kind::Model => "model",
            Kind::Verdicts => "verdicts",
            Kind::Scores => "scores",
            Kind::Manifest => "manifest",
            Kind::Aggregate => "aggregate",
            Kind::Base => "base",
        }
    }

    /// Last part of the object's key.
    pub fn file_name(self) -> String {
        let extension = match self {
            Kind::Commit | Kind::Verdicts | Kind::Scores | Kind::Manifest => "json",
            Kind::Delta | Kind::Gradient | Kind::Weights | Kind::Model | Kind::Aggregate | Kind::Base => "safetensors",
        };
        format!("{}.{extension}", self.as_str())
    }
}

impl Agreement {
    /// Key of an object, behind the bucket's prefix: `{netuid}/{run}/{hotkey}/{window:08}/{name}`.
    pub fn key(&self, hotkey: &Hotkey, window: u64, kind: Kind) -> String {
        format!("{}{window:08}/{}", self.folder(hotkey), kind.file_name())
    }

    /// What the keys of all objects of a hotkey start with.
    pub fn folder(&self, hotkey: &Hotkey) -> String {
        format!("{}/{}/{}/", self.netuid, self.run, hotkey.ss58())
    }
}

/// What stands first in every JSON object.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    protocol: u16,
    genesis: Hex32,
    netuid: u16,
    run: u32,
    run_digest: Hex32,
    window: u64,
    kind: String,
    hotkey: Hotkey,
}

/// The whole line. Only written: to read a flattened body serde would first keep every member of the line as a tree,
/// forty times as large as its bytes.
#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(flatten)]
    head: Head,
    #[serde(flatten)]
    body: &'a T,
}

/// A JSON object that passed its checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened<T> {
    /// The content.
    pub body: T,
    /// blake3 of the line: names the content, whichever of its signatures is stored.
    pub digest: [u8; 32],
}

/// The bytes of a signed JSON object.
pub fn seal<T: Serialize>(
    agreement: &Agreement,
    window: u64,
    kind: Kind,
    keypair: &schnorrkel::Keypair,
    body: &T,
) -> Vec<u8> {
    let head = Head {
        protocol: VERSION,
        genesis: Hex32(agreement.genesis),
        netuid: agreement.netuid,
        run: agreement.run,
        run_digest: Hex32(agreement.run_digest),
        window,
        kind: kind.as_str().to_owned(),
        hotkey: Hotkey::from(keypair),
    };
    let line = serde_json::to_vec(&Line { head, body }).expect("plain data serialises");
    seal_line(kind, keypair, line)
}

/// The bytes of a signed JSON object whose line is written already.
pub fn seal_line(kind: Kind, keypair: &schnorrkel::Keypair, mut line: Vec<u8>) -> Vec<u8> {
    let signature = sign(keypair, &signed_digest(kind, &line));
    line.push(b'\n');
    line.extend_from_slice(hex::encode(signature).as_bytes());
    line
}

/// Checks a JSON object in the order unreadable, forged, run-mismatch, wrong-window. The caller bounds its size.
/// `T` ignores members that it does not know: those of the head are among them.
pub fn open<T: DeserializeOwned>(
    agreement: &Agreement,
    hotkey: &Hotkey,
    window: u64,
    kind: Kind,
    bytes: &[u8],
) -> Result<Opened<T>, Verdict> {
    let (line, signature) = split(bytes).ok_or(Verdict::Unreadable)?;
    let head: Head = serde_json::from_slice(line).map_err(|_| Verdict::Unreadable)?;
    let body: T = serde_json::from_slice(line).map_err(|_| Verdict::Unreadable)?;
    let ours = head.hotkey == *hotkey && head.kind == kind.as_str();
    if !ours || !hotkey.verifies(&signed_digest(kind, line), &signature) {
        return Err(Verdict::Forged);
    }
    let same_run = head.protocol == VERSION
        && head.genesis.0 == agreement.genesis
        && head.netuid == agreement.netuid
        && head.run == agreement.run
        && head.run_digest.0 == agreement.run_digest;
    if !same_run {
        return Err(Verdict::RunMismatch);
    }
    if head.window != window {
        return Err(Verdict::WrongWindow);
    }
    Ok(Opened { body, digest: *blake3::hash(line).as_bytes() })
}

/// The run digest that an object says it belongs to; nothing of it is checked. For manifests of another run, whose
/// settings the reader does not have.
pub fn claimed_run_digest(bytes: &[u8]) -> Option<[u8; 32]> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Claim {
        run_digest: Hex32,
    }
    let (line, _) = split(bytes)?;
    serde_json::from_slice::<Claim>(line).ok().map(|claim| claim.run_digest.0)
}

fn split(bytes: &[u8]) -> Option<(&[u8], [u8; 64])> {
    let newline = bytes.iter().position(|b| *b == b'\n')?;
    let mut signature = [0; 64];
    hex::decode_to_slice(&bytes[newline + 1..], &mut signature).ok()?;
    Some((&bytes[..newline], signature))
}

fn signed_digest(kind: Kind, line: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(b"bistro/").update(kind.as_str().as_bytes()).update(line).finalize().as_bytes()
}

/// 32 bytes that are hex in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hex32(pub [u8; 32]);

impl fmt::Display for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Hex32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Hex32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fixed(&String::deserialize(deserializer)?).map(Self)
    }
}

/// An f64 that is the hex of its bits in JSON: decimal text is not the same on every side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bits64(pub f64);

impl Serialize for Bits64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:016x}", self.0.to_bits()))
    }
}

impl<'de> Deserialize<'de> for Bits64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fixed(&String::deserialize(deserializer)?).map(|b| Self(f64::from_bits(u64::from_be_bytes(b))))
    }
}

/// An f32 that is the hex of its bits in JSON.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bits32(pub f32);

impl Serialize for Bits32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:08x}", self.0.to_bits()))
    }
}

impl<'de> Deserialize<'de> for Bits32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fixed(&String::deserialize(deserializer)?).map(|b| Self(f32::from_bits(u32::from_be_bytes(b))))
    }
}

fn fixed<const N: usize, E: serde::de::Error>(text: &str) -> Result<[u8; N], E> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| E::custom(format!("expected {} hex digits", 2 * N)))?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hotkey::tests::keypair;

    pub(crate) fn agreement() -> Agreement {
        Agreement { genesis: [1; 32], netuid: 1, run: 1, run_digest: [2; 32] }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Body {
        size: u64,
        norm: Bits64,
    }

    fn body() -> Body {
        Body { size: 7, norm: Bits64(0.1) }
    }

    fn sealed() -> Vec<u8> {
        seal(&agreement(), 5, Kind::Commit, &keypair(1), &body())
    }

    fn open_as(agreement: &Agreement, hotkey: u8, window: u64, kind: Kind, bytes: &[u8]) -> Result<Body, Verdict> {
        open(agreement, &Hotkey::from(&keypair(hotkey)), window, kind, bytes).map(|o| o.body)
    }

    #[test]
    fn what_was_sealed_opens() {
        assert_eq!(open_as(&agreement(), 1, 5, Kind::Commit, &sealed()), Ok(body()));
    }

    /// Two nodes must agree on this for ever: the line's exact bytes.
    #[test]
    fn the_line_is_pinned() {
        let bytes = sealed();
        let line = String::from_utf8(bytes[..bytes.len() - 129].to_vec()).expect("text");
        assert_eq!(
            line,
            format!(
                r#"{{"protocol":1,"genesis":"{}","netuid":1,"run":1,"runDigest":"{}","window":5,"kind":"commit","hotkey":"{}","size":7,"norm":"3fb999999999999a"}}"#,
                "01".repeat(32),
                "02".repeat(32),
                Hotkey::from(&keypair(1))
            )
        );
    }

    #[test]
    fn each_difference_has_its_reason_and_their_order_holds() {
        let bytes = sealed();
        assert_eq!(open_as(&agreement(), 2, 5, Kind::Commit, &bytes), Err(Verdict::Forged), "another key's object");
        assert_eq!(open_as(&agreement(), 1, 5, Kind::Manifest, &bytes), Err(Verdict::Forged), "another kind");
        assert_eq!(open_as(&agreement(), 1, 6, Kind::Commit, &bytes), Err(Verdict::WrongWindow));
        for other in [
            Agreement { genesis: [9; 32], ..agreement() },
            Agreement { netuid: 2, ..agreement() },
            Agreement { run: 2, ..agreement() },
            Agreement { run_digest: [9; 32], ..agreement() },
        ] {
            assert_eq!(open_as(&other, 1, 6, Kind::Commit, &bytes), Err(Verdict::RunMismatch), "before the window");
        }
    }

    #[test]
    fn a_changed_byte_is_never_accepted() {
        let bytes = sealed();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            let verdict = open_as(&agreement(), 1, 5, Kind::Commit, &changed);
            assert!(matches!(verdict, Err(Verdict::Unreadable | Verdict::Forged)), "byte {i}: {verdict:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_unreadable_and_never_panics(bytes: Vec<u8>) {
            prop_assert!(open_as(&agreement(), 1, 5, Kind::Commit, &bytes).is_err());
        }

        #[test]
        fn bits_and_hashes_come_back(bytes: [u8; 32], double: u64, single: u32) {
            fn again<T: Serialize + DeserializeOwned>(value: &T) -> T {
                serde_json::from_str(&serde_json::to_string(value).expect("plain")).expect("read back")
            }
            prop_assert_eq!(again(&Hex32(bytes)), Hex32(bytes));
            prop_assert_eq!(again(&Hotkey(bytes)), Hotkey(bytes));
            // Every pattern of bits, those that are no number too.
            prop_assert_eq!(again(&Bits64(f64::from_bits(double))).0.to_bits(), double);
            prop_assert_eq!(again(&Bits32(f32::from_bits(single))).0.to_bits(), single);
        }
    }

    #[test]
    fn the_claimed_run_is_read_and_garbage_claims_none() {
        assert_eq!(claimed_run_digest(&sealed()), Some(agreement().run_digest));
        assert_eq!(claimed_run_digest(b"{}\n"), None);
    }

    #[test]
    fn keys_are_pinned() {
        let key = agreement().key(&Hotkey::from(&keypair(1)), 5, Kind::Delta);
        assert_eq!(key, format!("1/1/{}/00000005/delta.safetensors", Hotkey::from(&keypair(1))));
    }
}
