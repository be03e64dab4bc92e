//! Work that is sent as its largest entries: `k` of every 4096 of a tensor, picked by magnitude, and what was not sent
//! carried into the next window.
//!
//! ```text
//! x = delta + decay * residual        sent = the k largest of each chunk, rounded        residual' = x - sent
//! ```
//!
//! A tensor is flattened row by row and cut into chunks of 4096; of a shorter last one max(1, ceil(k len / 4096)) entries
//! are picked. The bytes of a set are those of its tensors in name order, one behind the other, nothing before and
//! nothing after: names, shapes, k and the kind of values are agreed on and not sent. Of a tensor with entries:
//!
//! ```text
//! u8                     parameter of the Rice code: the one that takes least, the smallest of several
//! twoBit: 2 f32, u8 *    the two levels; a byte for each chunk (levels.rs)
//! values                 chunk by chunk in the order of their places: 2 bits, bf16 or f32; a last byte filled with zeros
//! indices                chunk by chunk Rice codes of the gaps between places; a last byte filled with zeros (bits.rs)
//! ```
//!
//! There is one way to write each set: what is read writes again as the same bytes, and everything else is refused.
//! At k = 64 and two bits 4096 random entries take 618 bits of 131,072, a 212th.

mod bits;
mod levels;
mod select;
mod wire;

pub use select::{Picked, select};
pub use wire::Sparse;

use crate::tensors::Tensors;

/// Entries that are picked from together.
pub const CHUNK: usize = 4096;

/// How the value of an entry is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Sign and one of two magnitudes.
    TwoBit,
    /// The upper half of an f32, rounded to nearest.
    Bf16,
    /// As it is.
    F32,
}

impl Values {
    /// Bytes of so many values.
    fn bytes(self, count: usize) -> usize {
        match self {
            Self::TwoBit => count.div_ceil(4),
            Self::Bf16 => 2 * count,
            Self::F32 => 4 * count,
        }
    }
}

/// What nodes agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Entries of a whole chunk that are sent, 1..=4096.
    pub k: u32,
    /// How their values are.
    pub values: Values,
}

impl Settings {
    fn k(self) -> usize {
        (self.k as usize).clamp(1, CHUNK)
    }
}

/// What was not sent, and the share of it that the next window starts with.
#[derive(Debug)]
pub struct Carried<'a> {
    /// Names and shapes are those of the delta; zero before the first window.
    pub residual: &'a mut Tensors,
    /// In 0..=1.
    pub decay: f32,
}

/// Why work is not compressed, or bytes are not compressed work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// NaN and infinities have no place among magnitudes.
    #[error("an entry of tensor {0} in name order is not finite: give only work that is")]
    NotFinite(usize),
    /// The residual is of something else.
    #[error("the residual has not the names and shapes of the work: start with zeros")]
    Residual,
    /// Too few bytes, or too many.
    #[error("not compressed work of these shapes: the length is wrong")]
    Length,
    /// A value, level or scale that no writer sends.
    #[error("not compressed work of these shapes: a value is not finite or not in its one valid form")]
    Value,
    /// An index behind its chunk.
    #[error("not compressed work of these shapes: an index is too large")]
    Index,
    /// Not the parameter that takes least.
    #[error("not compressed work of these shapes: another parameter of the code takes less")]
    Parameter,
    /// Bits behind the last index.
    #[error("not compressed work of these shapes: the last byte is not filled with zeros")]
    Filling,
}

/// Entries that are kept of a chunk of `len`, which is not 0: max(1, ceil(k len / 4096)).
pub fn kept(len: usize, k: usize) -> usize {
    (k * len).div_ceil(CHUNK).clamp(1, len.max(1))
}

/// Entries that are kept of a tensor of `len`.
fn kept_of(len: usize, k: usize) -> usize {
    let last = len % CHUNK;
    len / CHUNK * k + if last > 0 { kept(last, k) } else { 0 }
}

/// Upper bound of the bytes of tensors of these shapes, known before any is seen. Of random places three in a hundred are
/// not used.
pub fn max_bytes(shape: &[(String, Vec<usize>)], settings: Settings) -> u64 {
    let one = |(_, dimensions): &(String, Vec<usize>)| {
        let (len, k) = (dimensions.iter().product::<usize>(), settings.k());
        if len == 0 {
            return 0;
        }
        let (chunks, last) = (len / CHUNK, len % CHUNK);
        let kept_last = if last > 0 { kept(last, k) } else { 0 };
        let indices = bits::Cost::most(chunks as u64, CHUNK as u64, k as u64, last as u64, kept_last as u64);
        let levels = if settings.values == Values::TwoBit { 8 + len.div_ceil(CHUNK) } else { 0 };
        (1 + levels + settings.values.bytes(kept_of(len, k))) as u64 + indices.div_ceil(8)
    };
    shape.iter().map(one).sum()
}

/// Picks and rounds what is sent of `delta` and what was carried; what is not sent, the rounding with it, is carried on.
/// On `threads` threads, whose number changes nothing. After an error start again with a residual of zeros.
pub fn compress(
    delta: &Tensors,
    carried: Option<Carried<'_>>,
    settings: Settings,
    threads: usize,
) -> Result<Sparse, Error> {
    let k = settings.k();
    let (mut residual, decay) = match carried {
        Some(carried) if !carried.residual.same_schema(delta) => return Err(Error::Residual),
        Some(Carried { residual, decay }) => (Some(residual), decay),
        None => (None, 0.0),
    };
    let mut picked: Vec<_> = delta.iter().map(|t| Picked::of(t.data.len(), k)).collect();
    let mut jobs = Vec::new();
    let mut residuals = residual.as_deref_mut().map(Tensors::data_mut);
    for (number, (tensor, picked)) in delta.iter().zip(&mut picked).enumerate() {
        let residual = residuals.as_mut().and_then(Iterator::next);
        select::divide(&mut jobs, number, &tensor.data, residual, k, picked);
    }
    if let Some(tensor) = select::work(jobs, k, decay, threads) {
        return Err(Error::NotFinite(tensor));
    }
    drop(residuals);
    let part = |(tensor, picked): (&crate::tensors::Tensor, Picked)| part(tensor.data.len(), picked, settings);
    let sparse = Sparse { settings, parts: delta.iter().zip(picked).map(part).collect() };
    if let Some(residual) = residual {
        sparse.add_to(residual, -1.0);
    }
    Ok(sparse)
}

/// Rounds what was picked of a tensor of `len`.
fn part(len: usize, picked: Picked, settings: Settings) -> wire::Part {
    let (levels, scales, values) = match settings.values {
        Values::TwoBit => {
            let levels::Levels { levels, scales, values } = levels::Levels::of(&picked, settings.k());
            (levels, scales, values)
        }
        Values::Bf16 => ([0.0; 2], Vec::new(), picked.values.iter().flat_map(|x| wire::to_bf16(*x)).collect()),
        Values::F32 => ([0.0; 2], Vec::new(), picked.values.iter().flat_map(|x| x.to_le_bytes()).collect()),
    };
    wire::Part { len, levels, scales, values, indices: picked.indices }
}

/// Tensors of these shapes out of bytes that [`Sparse::write`] gave: zero where nothing was sent.
pub fn decompress(bytes: &[u8], shape: &[(String, Vec<usize>)], settings: Settings) -> Result<Tensors, Error> {
    Sparse::read(bytes, shape, settings).map(|sparse| sparse.dense(shape))
}

/// The `i`-th value of two bits.
#[inline(always)]
fn unpack(values: &[u8], i: usize) -> u8 {
    values[i / 4] >> (2 * (i % 4)) & 3
}

#[cfg(test)]
pub(crate) mod tests;
