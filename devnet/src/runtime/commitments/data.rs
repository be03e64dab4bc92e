//! The data of a commitment in mainnet's encoding: bytes of each length up to 128 are a variant of their own.

use codec::{Decode, DecodeWithMemTracking, Encode, Error, Input, MaxEncodedLen, Output};
use frame_support::{BoundedVec, traits::ConstU32};
use scale_info::{
    Path, Type, TypeInfo,
    build::{Fields, Variants},
};

/// Most bytes of [`Data::Raw`].
const RAW: u8 = 128;
/// Index of the first variant behind those of [`Data::Raw`].
const BEHIND: u8 = RAW + 2;

type Hash = [u8; 32];

/// One piece of data.
#[derive(Clone, Debug, PartialEq, Eq, DecodeWithMemTracking)]
pub enum Data {
    /// Nothing.
    None,
    /// Bytes.
    Raw(BoundedVec<u8, ConstU32<128>>),
    /// A hash by the function with this number: Blake2, SHA-256, Keccak, SHA-3.
    Hash(HashKind, Hash),
    /// Bytes that can be read from a round of the beacon on.
    TimelockEncrypted {
        /// The bytes.
        encrypted: BoundedVec<u8, ConstU32<1024>>,
        /// The round.
        reveal_round: u64,
    },
    /// A wish to reset bonds.
    ResetBondsFlag,
    /// More bytes.
    BigRaw(BoundedVec<u8, ConstU32<512>>),
}

/// Hash functions that a commitment may name, by their variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, DecodeWithMemTracking, Encode, Decode)]
pub enum HashKind {
    /// Blake2, 256 bits.
    BlakeTwo256,
    /// SHA-256.
    Sha256,
    /// Keccak, 256 bits.
    Keccak256,
    /// SHA-3, 256 bits.
    ShaThree256,
}

impl HashKind {
    const ALL: [Self; 4] = [Self::BlakeTwo256, Self::Sha256, Self::Keccak256, Self::ShaThree256];
}

impl Data {
    /// Bytes that count against a hotkey's space.
    pub fn len(&self) -> usize {
        match self {
            Data::None | Data::ResetBondsFlag => 0,
            Data::Raw(bytes) => bytes.len(),
            Data::Hash(..) => 32,
            Data::TimelockEncrypted { encrypted, .. } => encrypted.len(),
            Data::BigRaw(bytes) => bytes.len(),
        }
    }
}

impl Encode for Data {
    fn encode_to<W: Output + ?Sized>(&self, out: &mut W) {
        match self {
            Data::None => out.push_byte(0),
            Data::Raw(bytes) => {
                // Bounded by 128.
                out.push_byte(bytes.len() as u8 + 1);
                out.write(bytes);
            }
            Data::Hash(kind, hash) => {
                out.push_byte(BEHIND + *kind as u8);
                out.write(hash);
            }
            Data::TimelockEncrypted { encrypted, reveal_round } => {
                out.push_byte(BEHIND + 4);
                (encrypted, reveal_round).encode_to(out);
            }
            Data::ResetBondsFlag => out.push_byte(BEHIND + 5),
            Data::BigRaw(bytes) => {
                out.push_byte(BEHIND + 6);
                bytes.encode_to(out);
            }
        }
    }
}

impl Decode for Data {
    fn decode<I: Input>(input: &mut I) -> Result<Self, Error> {
        let index = input.read_byte()?;
        Ok(match index {
            0 => Data::None,
            1..BEHIND => {
                let mut bytes = vec![0; usize::from(index - 1)];
                input.read(&mut bytes)?;
                Data::Raw(BoundedVec::truncate_from(bytes))
            }
            _ => match (index - BEHIND, HashKind::ALL.get(usize::from(index - BEHIND))) {
                (_, Some(kind)) => Data::Hash(*kind, Decode::decode(input)?),
                (4, _) => {
                    let (encrypted, reveal_round) = Decode::decode(input)?;
                    Data::TimelockEncrypted { encrypted, reveal_round }
                }
                (5, _) => Data::ResetBondsFlag,
                (6, _) => Data::BigRaw(Decode::decode(input)?),
                _ => return Err("no such kind of data".into()),
            },
        })
    }
}

impl MaxEncodedLen for Data {
    fn max_encoded_len() -> usize {
        1 + <(BoundedVec<u8, ConstU32<1024>>, u64)>::max_encoded_len()
    }
}

macro_rules! raw_variants {
    ($($length:literal)*) => {
        Variants::new()
            .variant("None", |v| v.index(0))
            $(.variant(concat!("Raw", $length), |v| {
                v.index($length + 1).fields(Fields::unnamed().field(|f| f.ty::<[u8; $length]>()))
            }))*
    };
}

impl TypeInfo for Data {
    type Identity = Self;

    fn type_info() -> Type {
        let hash = |index: u8| {
            move |v: scale_info::build::VariantBuilder<_>| {
                v.index(index).fields(Fields::unnamed().field(|f| f.ty::<Hash>()))
            }
        };
        let variants = raw_variants!(
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38
            39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74
            75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107
            108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127 128
        );
        let variants = variants
            .variant("BlakeTwo256", hash(BEHIND))
            .variant("Sha256", hash(BEHIND + 1))
            .variant("Keccak256", hash(BEHIND + 2))
            .variant("ShaThree256", hash(BEHIND + 3))
            .variant("TimelockEncrypted", |v| {
                v.index(BEHIND + 4).fields(
                    Fields::named()
                        .field(|f| f.name("encrypted").ty::<BoundedVec<u8, ConstU32<1024>>>())
                        .field(|f| f.name("reveal_round").ty::<u64>()),
                )
            })
            .variant("ResetBondsFlag", |v| v.index(BEHIND + 5))
            .variant("BigRaw", |v| {
                v.index(BEHIND + 6).fields(Fields::unnamed().field(|f| f.ty::<BoundedVec<u8, ConstU32<512>>>()))
            });
        Type::builder().path(Path::new("Data", "pallet_commitments::types")).variant(variants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_data_survives_and_has_mainnets_bytes() {
        let hello = Data::Raw(BoundedVec::truncate_from(b"hello".to_vec()));
        assert_eq!(hello.encode(), b"\x06hello");
        let all = [
            Data::None,
            Data::Raw(BoundedVec::default()),
            Data::Raw(BoundedVec::truncate_from(vec![7; 128])),
            Data::Hash(HashKind::ShaThree256, [3; 32]),
            Data::TimelockEncrypted { encrypted: BoundedVec::truncate_from(vec![1; 1024]), reveal_round: 9 },
            Data::ResetBondsFlag,
            Data::BigRaw(BoundedVec::truncate_from(vec![2; 512])),
        ];
        for (data, index) in all.into_iter().zip([0, 1, 129, 133, 134, 135, 136]) {
            let bytes = data.encode();
            assert_eq!(bytes[0], index);
            assert!(bytes.len() <= Data::max_encoded_len());
            assert_eq!(Data::decode(&mut &bytes[..]), Ok(data));
        }
        assert!(Data::decode(&mut &[137u8][..]).is_err());
    }
}
