//! Signed tensors: plain safetensors files in their one valid form ([`tensor_file`]).
//!
//! The signature covers what the tensors are (their digest) and what they are for (chain, subnet, run, window,
//! base); these fields and the signature stand in `__metadata__`, and nothing else does.
//!
//! Work is written in the [`Form`] that the run asks for: as F32 tensors, or compressed, the bytes of [`topk`] in one U8
//! tensor of the name `topk`. Everything else is in F32.

use codec::Encode;

pub use crate::tensor_file::Unreadable;
use crate::{
    VERSION,
    hotkey::{Hotkey, sign},
    object::{Agreement, Kind},
    tensor_file,
    tensors::Tensors,
    topk::{self, Sparse},
};

/// Name of the tensor that holds compressed work.
const TOP_K: &str = "topk";
/// What its bytes are hashed under: no set of tensors has a digest that compressed work has.
const TOP_K_DIGEST: &str = "bistro/v1/topk";
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
    /// What it holds.
    pub content: Content,
    signature: [u8; 64],
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Tensors, in F32.
    Tensors(Tensors),
    /// The bytes of compressed work; what they are depends on shapes and settings ([`Form::read`]).
    TopK(Vec<u8>),
}

impl Content {
    /// The digest that the signature covers.
    fn digest(&self) -> [u8; 32] {
        match self {
            Self::Tensors(tensors) => tensors.digest(),
            Self::TopK(bytes) => digest_of_row(bytes),
        }
    }
}

fn digest_of_row(bytes: &[u8]) -> [u8; 32] {
    blake3::derive_key(TOP_K_DIGEST, bytes)
}

/// How the work of a run is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Every published entry in F32.
    Dense,
    /// The largest entries, with these settings.
    TopK(topk::Settings),
}

impl Form {
    /// Upper bound of the size of a file with work of these names and shapes, known before any is seen.
    pub fn max_bytes(self, shape: &[(String, Vec<usize>)]) -> u64 {
        match self {
            Self::Dense => max_bytes(shape),
            Self::TopK(settings) => {
                ENVELOPE_BYTES + ENTRY_BYTES + TOP_K.len() as u64 + topk::max_bytes(shape, settings)
            }
        }
    }

    /// The work in a file: tensors of these names and shapes, zero where nothing was sent. `None` where it is of another
    /// form, or of other names and shapes.
    pub fn read(self, content: Content, shape: &[(String, Vec<usize>)]) -> Option<Tensors> {
        match (self, content) {
            (Self::Dense, Content::Tensors(tensors)) => Some(tensors).filter(|tensors| tensors.has_shape(shape)),
            (Self::TopK(settings), Content::TopK(bytes)) => topk::decompress(&bytes, shape, settings).ok(),
            _ => None,
        }
    }
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
    let fields = signed(agreement, window, kind, keypair, base, tensors.digest());
    tensor_file::write(&fields, tensors)
}

/// The bytes of a signed file of compressed work.
pub fn encode_sparse(
    agreement: &Agreement,
    window: u64,
    kind: Kind,
    keypair: &schnorrkel::Keypair,
    base: [u8; 32],
    work: &Sparse,
) -> Vec<u8> {
    let row = work.write();
    let fields = signed(agreement, window, kind, keypair, base, digest_of_row(&row));
    tensor_file::write_row(&fields, TOP_K, &row)
}

/// The metadata of a file whose content has this digest.
fn signed(
    agreement: &Agreement,
    window: u64,
    kind: Kind,
    keypair: &schnorrkel::Keypair,
    base: [u8; 32],
    digest: [u8; 32],
) -> [(&'static str, String); 10] {
    let mut artifact = Artifact {
        protocol: VERSION,
        agreement: agreement.clone(),
        window,
        kind: kind as u8,
        hotkey: Hotkey::from(keypair),
        base,
        content: Content::Tensors(Tensors::default()),
        signature: [0; 64],
    };
    artifact.signature = sign(keypair, &artifact.message(digest));
    artifact.fields()
}

/// Upper bound of the size of a file with tensors of these names and shapes, known before any is seen.
pub fn max_bytes(shape: &[(String, Vec<usize>)]) -> u64 {
    let one = |(name, dimensions): &(String, Vec<usize>)| {
        // A byte of a name can take six in JSON.
        ENTRY_BYTES + 6 * name.len() as u64 + 4 * dimensions.iter().product::<usize>() as u64
    };
    ENVELOPE_BYTES + shape.iter().map(one).sum::<u64>()
}

/// Reads a file. The caller bounds its size; everything in it is checked here against that size. Compressed work stays as
/// it is: what it holds may be many times its bytes, and nobody has looked at the signature yet.
pub fn decode(bytes: &[u8]) -> Result<Artifact, Unreadable> {
    // No file is both; what is neither is told as the form that most files have.
    let (fields, content) = match tensor_file::read(bytes) {
        Ok((fields, tensors)) => (fields, Content::Tensors(tensors)),
        Err(fault) => match tensor_file::read_row(bytes, TOP_K) {
            Ok((fields, row)) => (fields, Content::TopK(row.to_vec())),
            Err(_) => return Err(fault),
        },
    };
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
        content,
    };
    // The same value written in another way, or a field that nobody knows, would be another file that means the same.
    let written = artifact.fields();
    if fields.len() != written.len() || !fields.iter().zip(&written).all(|(a, b)| a.0 == b.0 && a.1 == b.1) {
        return Err(Unreadable("a field is not written in its one valid form"));
    }
    Ok(artifact)
}

impl Artifact {
    /// Whether `hotkey` signed this file, all of it.
    pub fn is_signed_by(&self, hotkey: &Hotkey) -> bool {
        self.hotkey == *hotkey && hotkey.verifies(&self.message(self.content.digest()), &self.signature)
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
    fn message(&self, content: [u8; 32]) -> Vec<u8> {
        let Self {
            protocol,
            agreement: Agreement { genesis, netuid, run, run_digest },
            window,
            kind,
            hotkey,
            base,
            ..
        } = self;
        ("bistro/artifact", protocol, genesis, netuid, run, run_digest, window, kind, hotkey.0, base, content).encode()
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
pub(crate) mod tests;
