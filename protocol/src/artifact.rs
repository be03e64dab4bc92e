//! Signed tensors: plain safetensors files that any library reads, with one way to write each.
//!
//! The signature covers what the tensors are (their digest) and what they are for (chain, subnet, run, window,
//! base); these fields and the signature stand in `__metadata__`. A file has exactly one valid form: tensors in
//! name order without gaps, metadata in key order; anything else is unreadable, so nothing can hide in it.

use codec::Encode;
use safetensors::{Dtype, SafeTensors};

use crate::{
    VERSION,
    hotkey::{Hotkey, sign},
    object::{Agreement, Kind},
    tensors::{Tensor, Tensors},
};

/// Longest header that is parsed; the names and shapes of 4,000 tensors fit.
pub const MAX_HEADER: u64 = 1 << 20;
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

/// The bytes are not a file in the one valid form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a canonical safetensors file: {0}")]
pub struct Unreadable(&'static str);

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
    let mut bytes = artifact.header(tensors);
    for tensor in tensors {
        bytes.extend(tensor.data.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes
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
    let header = bytes.first_chunk().map(|n| u64::from_le_bytes(*n)).ok_or(Unreadable("no header"))?;
    if header > MAX_HEADER || header > bytes.len() as u64 - 8 {
        return Err(Unreadable("the header is too long"));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|_| Unreadable("the header or the offsets are wrong"))?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|_| Unreadable("the header is wrong"))?;
    let fields = metadata.metadata().as_ref().ok_or(Unreadable("there is no metadata"))?;
    let tensors = file.iter().map(|(name, view)| match view.dtype() {
        Dtype::F32 => Ok(Tensor { name: name.to_owned(), shape: view.shape().to_vec(), data: floats(view.data()) }),
        _ => Err(Unreadable("a tensor is not F32")),
    });
    let tensors =
        Tensors::new(tensors.collect::<Result<_, _>>()?).map_err(|_| Unreadable("the tensors do not form a set"))?;
    let field = |name: &str| fields.get(name).map(String::as_str).ok_or(Unreadable("a field is missing"));
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
    let canonical = artifact.header(&tensors);
    if bytes.get(..canonical.len()) != Some(canonical.as_slice()) {
        return Err(Unreadable("the header is not in the one valid form"));
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

    /// Length and header in the one valid form: metadata by key, then tensors by name, padded to 8 bytes with spaces.
    fn header(&self, tensors: &Tensors) -> Vec<u8> {
        let text = |s: &str| serde_json::Value::String(s.to_owned()).to_string();
        let fields = [
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
        ];
        let fields: Vec<_> = fields.iter().map(|(k, v)| format!("{}:{}", text(k), text(v))).collect();
        let mut header = format!(r#"{{"__metadata__":{{{}}}"#, fields.join(","));
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + 4 * tensor.data.len();
            let shape: Vec<_> = tensor.shape.iter().map(usize::to_string).collect();
            let entry = format!(
                r#",{}:{{"dtype":"F32","shape":[{}],"data_offsets":[{offset},{end}]}}"#,
                text(&tensor.name),
                shape.join(",")
            );
            header.push_str(&entry);
            offset = end;
        }
        header.push('}');
        while header.len() % 8 != 0 {
            header.push(' ');
        }
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
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
    use crate::{hotkey::tests::keypair, object::tests::agreement};

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
        assert_eq!(decode(&padded), Err(Unreadable("the header is not in the one valid form")));
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode(&longer).is_err(), "bytes behind the last tensor");
    }

    #[test]
    fn hostile_headers_are_refused_without_allocating() {
        for length in [u64::MAX, 1 << 40, MAX_HEADER + 1, 100] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend_from_slice(b"{}");
            assert!(decode(&bytes).is_err());
        }
        assert!(decode(&[]).is_err());
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
