//! Signed tensors: plain safetensors files in their one valid form ([`tensor_file`]).
//!
//! The signature covers what the tensors are (their digest) and what they are for (chain, subnet, run, window,
//! base); these fields and the signature stand in `__metadata__`, and nothing else does.

use codec::Encode;

pub use crate::tensor_file::Unreadable;
use crate::{
    VERSION,
    hotkey::{Hotkey, sign},
    object::{Agreement, Kind},
    tensor_file,
    tensors::Tensors,
};

/// Metadata, signature and padding need less than this.
const ENVELOPE_BYTES: u64 = 2048;
/// A tensor's entry in the header without its name: type, shape and offsets.
const ENTRY_BYTES: u64 = 160;

/// What a file says of itself; nothing of it is trusted before [`Artifact::is_signed_by`].
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Version of the protocol.
    pub protocol: u16,
    /// The agreement that it claims to follow.
    pub agreement: Agreement,
    /// The window that it is for.
    pub window: u64,
    /// What it is.
    pub kind: u8,
    /// Who says so.
    pub hotkey: Hotkey,
    /// Digest of the base that the work started from.
    pub base: [u8; 32],
    /// The tensors.
    pub tensors: Tensors,
    signature: [u8; 64],
}

/// The bytes of a signed file.
pub fn encode(
    agreement: &Agreement,
    window: u64,
    kind: Kind,
    keypair: &schnorrkel::Keypair,
    base: [u8; 32],
    tensors: &Tensors,
) -> Vec<u8> {
    let mut artifact = Artifact {
        protocol: VERSION,
        agreement: agreement.clone(),
        window,
        kind: kind as u8,
        hotkey: Hotkey::from(keypair),
        base,
        tensors: Tensors::default(),
        signature: [0; 64],
    };
    artifact.signature = sign(keypair, &artifact.message(tensors.digest()));
    tensor_file::write(&artifact.fields(), tensors)
}

/// Upper bound of the size of a file with tensors of these names and shapes, known before any is seen.
pub fn max_bytes(shape: &[(String, Vec<usize>)]) -> u64 {
    let one = |(name, dimensions): &(String, Vec<usize>)| {
        // A byte of a name can take six in JSON.
        ENTRY_BYTES + 6 * name.len() as u64 + 4 * dimensions.iter().product::<usize>() as u64
    };
    ENVELOPE_BYTES + shape.iter().map(one).sum::<u64>()
}

/// Reads a file. The caller bounds its size; everything in it is checked here against that size.
pub fn decode(bytes: &[u8]) -> Result<Artifact, Unreadable> {
    let (fields, tensors) = tensor_file::read(bytes)?;
    let field = |name: &str| {
        let found = fields.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).ok_or(Unreadable("a field is missing"))
    };
    let artifact = Artifact {
        protocol: number(field("protocol")?)?,
        agreement: Agreement {
            genesis: bytes_of(field("genesis")?)?,
            netuid: number(field("netuid")?)?,
            run: number(field("run")?)?,
            run_digest: bytes_of(field("runDigest")?)?,
        },
        window: number(field("window")?)?,
        kind: number(field("kind")?)?,
        hotkey: Hotkey::from_ss58(field("hotkey")?).map_err(|_| Unreadable("the hotkey is no address"))?,
        base: bytes_of(field("base")?)?,
        signature: bytes_of(field("signature")?)?,
        tensors: Tensors::default(),
    };
    // The same value written in another way, or a field that nobody knows, would be another file that means the same.
    let written = artifact.fields();
    if fields.len() != written.len() || !fields.iter().zip(&written).all(|(a, b)| a.0 == b.0 && a.1 == b.1) {
        return Err(Unreadable("a field is not written in its one valid form"));
    }
    Ok(Artifact { tensors, ..artifact })
}

impl Artifact {
    /// Whether `hotkey` signed this file, all of it.
    pub fn is_signed_by(&self, hotkey: &Hotkey) -> bool {
        self.hotkey == *hotkey && hotkey.verifies(&self.message(self.tensors.digest()), &self.signature)
    }

    /// Whether `hotkey` signed it as a `kind` of this `window` of the run, over this base.
    pub fn is_for(&self, agreement: &Agreement, hotkey: &Hotkey, window: u64, kind: Kind, base: [u8; 32]) -> bool {
        self.protocol == VERSION
            && self.agreement == *agreement
            && self.window == window
            && self.kind == kind as u8
            && self.base == base
            && self.is_signed_by(hotkey)
    }

    /// What is signed.
    fn message(&self, tensors: [u8; 32]) -> Vec<u8> {
        let Self {
            protocol,
            agreement: Agreement { genesis, netuid, run, run_digest },
            window,
            kind,
            hotkey,
            base,
            ..
        } = self;
        ("bistro/artifact", protocol, genesis, netuid, run, run_digest, window, kind, hotkey.0, base, tensors).encode()
    }

    /// The fields of the metadata by key, the signature among them.
    fn fields(&self) -> [(&'static str, String); 10] {
        [
            ("base", hex::encode(self.base)),
            ("genesis", hex::encode(self.agreement.genesis)),
            ("hotkey", self.hotkey.ss58()),
            ("kind", self.kind.to_string()),
            ("netuid", self.agreement.netuid.to_string()),
            ("protocol", self.protocol.to_string()),
            ("run", self.agreement.run.to_string()),
            ("runDigest", hex::encode(self.agreement.run_digest)),
            ("signature", hex::encode(self.signature)),
            ("window", self.window.to_string()),
        ]
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Unreadable> {
    text.parse().map_err(|_| Unreadable("a number is wrong"))
}

fn bytes_of<const N: usize>(text: &str) -> Result<[u8; N], Unreadable> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| Unreadable("a field is not hex of the right length"))?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{hotkey::tests::keypair, object::tests::agreement, tensors::Tensor};

    pub(crate) fn tensors() -> Tensors {
        let tensor =
            |name: &str, data: &[f32]| Tensor { name: name.into(), shape: vec![data.len()], data: data.into() };
        Tensors::new(vec![tensor("b", &[1.0, -2.0, 3.5]), tensor("a\"\u{e9}", &[0.0])]).expect("valid")
    }

    fn file() -> Vec<u8> {
        encode(&agreement(), 5, Kind::Delta, &keypair(1), [3; 32], &tensors())
    }

    #[test]
    fn what_was_encoded_is_read_back_and_signed() {
        let artifact = decode(&file()).expect("canonical");
        assert_eq!((&artifact.tensors, artifact.window, artifact.kind, artifact.base), (&tensors(), 5, 2, [3; 32]));
        assert_eq!(artifact.agreement, agreement());
        assert!(artifact.is_signed_by(&Hotkey::from(&keypair(1))));
        assert!(!artifact.is_signed_by(&Hotkey::from(&keypair(2))));
    }

    #[test]
    fn the_bound_holds() {
        let shape: Vec<_> = tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        assert!(file().len() as u64 <= max_bytes(&shape));
    }

    #[test]
    fn a_changed_byte_is_never_accepted() {
        let bytes = file();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            let accepted = decode(&changed).is_ok_and(|a| a.is_signed_by(&Hotkey::from(&keypair(1))));
            assert!(!accepted, "byte {i}");
        }
    }

    /// The same content with other spacing or order is another file with the same meaning: not accepted.
    #[test]
    fn only_the_one_form_is_read() {
        let bytes = file();
        let length = u64::from_le_bytes(*bytes.first_chunk().expect("length")) as usize;
        let mut padded = (length as u64 + 8).to_le_bytes().to_vec();
        padded.extend_from_slice(&bytes[8..8 + length]);
        padded.extend_from_slice(b"        ");
        padded.extend_from_slice(&bytes[8 + length..]);
        assert!(decode(&padded).is_err(), "more blanks than needed");
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode(&longer).is_err(), "bytes behind the last tensor");
    }

    #[test]
    fn fields_have_one_way_to_be_written() {
        let (fields, tensors) = tensor_file::read(&file()).expect("canonical");
        let with = |name: &str, value: &str| {
            let change = |(k, v): &(String, String)| if k == name { value.to_owned() } else { v.clone() };
            let changed: Vec<_> = fields.iter().map(|field| (field.0.as_str(), change(field))).collect();
            decode(&tensor_file::write(&changed, &tensors)).map(|a| a.window)
        };
        assert_eq!(with("window", "6"), Ok(6));
        for (name, value) in [("window", "05"), ("window", "+5"), ("base", "AB"), ("base", ""), ("netuid", "65536")] {
            assert!(with(name, value).is_err(), "{name} {value}");
        }
        let upper = fields.iter().find(|(k, _)| k == "signature").map(|(_, v)| v.to_uppercase()).expect("is there");
        assert!(with("signature", &upper).is_err());
        let mut more: Vec<_> = fields.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        more.push(("zeal", String::new()));
        assert!(decode(&tensor_file::write(&more, &tensors)).is_err(), "a field that nobody knows");
        assert!(decode(&tensor_file::write(&more[1..10], &tensors)).is_err(), "a field is missing");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, header: String) {
            prop_assert!(decode(&bytes).is_err());
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend_from_slice(header.as_bytes());
            prop_assert!(decode(&file).is_err());
        }

        #[test]
        fn any_tensors_survive(data in proptest::collection::vec(any::<f32>().prop_filter("comparable", |x| !x.is_nan()), 1..50), name in "\\PC{1,20}") {
            let tensors = Tensors::new(vec![Tensor { name, shape: vec![data.len()], data }]).expect("valid");
            let bytes = encode(&agreement(), 5, Kind::Delta, &keypair(1), [3; 32], &tensors);
            prop_assert_eq!(decode(&bytes).map(|a| a.tensors), Ok(tensors));
        }
    }

    /// Two nodes must agree on this for ever: what is signed.
    #[test]
    fn the_signed_message_is_pinned() {
        let artifact = decode(&file()).expect("canonical");
        assert_eq!(
            hex::encode(blake3::hash(&artifact.message([4; 32])).as_bytes()),
            "7abb37261c3f04a6ae82fd59209c1532eef85833f9229d37ac886c4622bfb0fc"
        );
    }
}
