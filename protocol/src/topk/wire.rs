//! What was picked of a set of tensors, as bytes and back.

use super::{
    CHUNK, Error, Settings, Values,
    bits::{Cost, Reader, Writer},
    kept, kept_of,
    levels::{are_sound, decode},
};
use crate::tensors::{Tensor, Tensors};

/// Bytes of the two levels of a tensor.
const LEVELS: usize = 8;

/// Some entries of each tensor of a set: what [`super::compress`] gives and what goes over the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    pub(super) settings: Settings,
    pub(super) parts: Vec<Part>,
}

/// Of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// Its entries, all of them.
    pub(super) len: usize,
    /// Of two bits: the two magnitudes of the chunk with the largest; else zeros.
    pub(super) levels: [f32; 2],
    /// Of two bits: a byte for each chunk.
    pub(super) scales: Vec<u8>,
    /// As they are sent.
    pub(super) values: Vec<u8>,
    /// Chunk by chunk.
    pub(super) indices: Vec<u16>,
}

impl Sparse {
    /// The bytes; no more than [`super::max_bytes`] says.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in self.parts.iter().filter(|part| part.len > 0) {
            part.write(&mut bytes, self.settings);
        }
        bytes
    }

    /// Reads bytes that must be of tensors of these shapes, with these settings, in the one form that [`Sparse::write`]
    /// gives. It holds little more than the bytes: two for each index.
    pub fn read(bytes: &[u8], shape: &[(String, Vec<usize>)], settings: Settings) -> Result<Self, Error> {
        if bytes.len() as u64 > super::max_bytes(shape, settings) {
            return Err(Error::Length);
        }
        let mut rest = bytes;
        let mut parts = Vec::with_capacity(shape.len());
        for (_, dimensions) in shape {
            parts.push(Part::read(&mut rest, dimensions.iter().product(), settings)?);
        }
        if rest.is_empty() { Ok(Self { settings, parts }) } else { Err(Error::Length) }
    }

    /// Number of entries.
    pub fn entries(&self) -> usize {
        self.parts.iter().map(|part| part.indices.len()).sum()
    }

    /// `full[index] += factor * value` for every entry; the product is rounded before the sum. The tensors are those of
    /// the shapes that this was read with.
    pub fn add_to(&self, full: &mut Tensors, factor: f32) {
        for (part, data) in self.parts.iter().zip(full.data_mut()) {
            debug_assert_eq!(part.len, data.len());
            part.each(self.settings, |place, x| {
                let step = factor * x;
                data[place] += step;
            });
        }
    }

    /// Tensors of these shapes, zero where nothing was sent.
    pub fn dense(&self, shape: &[(String, Vec<usize>)]) -> Tensors {
        let tensors = shape.iter().zip(&self.parts).map(|((name, dimensions), part)| {
            let mut data = vec![0.0; part.len];
            part.each(self.settings, |place, x| data[place] = x);
            Tensor { name: name.clone(), shape: dimensions.clone(), data }
        });
        Tensors::new(tensors.collect()).expect("read with these shapes")
    }
}

impl Part {
    fn write(&self, bytes: &mut Vec<u8>, settings: Settings) {
        let mut cost = Cost::default();
        self.indices.chunks(settings.k()).for_each(|indices| cost.add(indices));
        let parameter = cost.best();
        bytes.push(parameter);
        if settings.values == Values::TwoBit {
            self.levels.iter().for_each(|level| bytes.extend_from_slice(&level.to_le_bytes()));
            bytes.extend_from_slice(&self.scales);
        }
        bytes.extend_from_slice(&self.values);
        let mut writer = Writer::new(bytes);
        self.indices.chunks(settings.k()).for_each(|indices| writer.chunk(indices, parameter));
        writer.finish();
    }

    fn read(rest: &mut &[u8], len: usize, settings: Settings) -> Result<Self, Error> {
        let mut part = Self { len, levels: [0.0; 2], scales: Vec::new(), values: Vec::new(), indices: Vec::new() };
        if len == 0 {
            return Ok(part);
        }
        let (k, count) = (settings.k(), kept_of(len, settings.k()));
        let parameter = take(rest, 1)?[0];
        if settings.values == Values::TwoBit {
            let levels = take(rest, LEVELS)?.as_chunks::<4>().0;
            part.levels = [0, 1].map(|i: usize| f32::from_le_bytes(levels[i]));
            part.scales = take(rest, len.div_ceil(CHUNK))?.to_vec();
        }
        part.values = take(rest, settings.values.bytes(count))?.to_vec();
        if !part.values_are_sound(settings) {
            return Err(Error::Value);
        }
        // The least that indices take: checked before there is room for them.
        if rest.len() < count.div_ceil(8) {
            return Err(Error::Length);
        }
        part.indices = vec![0; count];
        let (mut reader, mut cost) = (Reader::new(rest), Cost::default());
        if usize::from(parameter) >= super::bits::PARAMETERS {
            return Err(Error::Parameter);
        }
        for (number, indices) in part.indices.chunks_mut(k).enumerate() {
            reader.chunk(indices, (len - number * CHUNK).min(CHUNK), parameter)?;
            cost.add(indices);
        }
        take(rest, reader.finish()?)?;
        if cost.best() == parameter { Ok(part) } else { Err(Error::Parameter) }
    }

    fn values_are_sound(&self, settings: Settings) -> bool {
        match settings.values {
            Values::TwoBit => {
                let chunks = 0..self.len.div_ceil(CHUNK);
                let kept = chunks.map(|number| kept((self.len - number * CHUNK).min(CHUNK), settings.k()));
                are_sound(self.levels, &self.scales, &self.values, kept)
            }
            Values::Bf16 => self.values.as_chunks::<2>().0.iter().all(|b| bf16(*b).is_finite()),
            Values::F32 => self.values.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()),
        }
    }

    /// Calls `each` with place and value of every entry, in the order of their places.
    fn each(&self, settings: Settings, mut each: impl FnMut(usize, f32)) {
        let k = settings.k();
        for (number, indices) in self.indices.chunks(k).enumerate() {
            let mut all = |value: &dyn Fn(usize) -> f32| {
                for (i, index) in indices.iter().enumerate() {
                    each(number * CHUNK + usize::from(*index), value(i));
                }
            };
            let first = number * k;
            match settings.values {
                Values::TwoBit => all(&decode(self.levels, self.scales[number], &self.values, first)),
                Values::Bf16 => all(&|i| bf16(self.values.as_chunks().0[first + i])),
                Values::F32 => all(&|i| f32::from_le_bytes(self.values.as_chunks().0[first + i])),
            }
        }
    }
}

/// The first bytes of what is left.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Error> {
    let (own, others) = rest.split_at_checked(count).ok_or(Error::Length)?;
    *rest = others;
    Ok(own)
}

/// The number whose upper half these bytes are.
fn bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// The upper half of the nearest number that has no lower one, of two the even; no finite number becomes infinite.
pub(super) fn to_bf16(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    let largest = bits >> 31 << 15 | 0x7f7f;
    // 16 bits remain.
    (rounded.min(largest) as u16).to_le_bytes()
}
