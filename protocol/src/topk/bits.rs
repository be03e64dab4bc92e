//! Gaps between indices as Rice codes, bits from the lowest of each byte upwards.
//!
//! A gap g with parameter b is g >> b zeros, a one, and the low b bits of g. Of 64 random places in 4096 a gap takes 7.53
//! bits at b = 5; no code of such sets takes less than 7.38.

use super::Error;

/// Parameters that are tried: a gap is below 4096.
pub(super) const PARAMETERS: usize = 13;

/// What gaps take in bits with each parameter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost([u64; PARAMETERS]);

impl Cost {
    /// With the indices of one more chunk, strictly increasing.
    pub(super) fn add(&mut self, indices: &[u16]) {
        let mut quotients = [0u32; PARAMETERS];
        gaps(indices, |gap| {
            for (parameter, sum) in quotients.iter_mut().enumerate() {
                // At most 4096 in all: overflow checks would only keep the loop from being vectors.
                *sum = sum.wrapping_add(gap >> parameter);
            }
        });
        for (parameter, (cost, sum)) in self.0.iter_mut().zip(quotients).enumerate() {
            *cost += u64::from(sum) + indices.len() as u64 * (parameter as u64 + 1);
        }
    }

    /// The parameter that takes least, the smallest of several: the one that is valid.
    pub(super) fn best(&self) -> u8 {
        // At most 12.
        (0..PARAMETERS).min_by_key(|b| self.0[*b]).unwrap_or_default() as u8
    }

    /// Most bits that `kept` gaps in each of `chunks` chunks of `len` entries take with the best parameter, and then
    /// `kept_last` in one of `last`.
    pub(super) fn most(chunks: u64, len: u64, kept: u64, last: u64, kept_last: u64) -> u64 {
        let one = |len: u64, kept: u64, b: u64| kept * (b + 1) + ((len - kept) >> b);
        (0..PARAMETERS as u64).map(|b| chunks * one(len, kept, b) + one(last, kept_last, b)).min().unwrap_or_default()
    }
}

/// Calls `each` with how many entries lie before each index since the one before.
#[inline(always)]
fn gaps(indices: &[u16], mut each: impl FnMut(u32)) {
    let mut next = 0;
    for index in indices {
        each(u32::from(*index) - next);
        next = u32::from(*index) + 1;
    }
}

/// Appends bits to bytes.
pub(super) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    pending: u64,
    count: u32,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes, pending: 0, count: 0 }
    }

    /// The low `width` bits of a value that has no others; at most 32.
    fn push(&mut self, value: u32, width: u32) {
        self.pending |= u64::from(value) << self.count;
        self.count += width;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.count -= 32;
        }
    }

    /// The gaps of one chunk.
    pub(super) fn chunk(&mut self, indices: &[u16], parameter: u8) {
        let b = u32::from(parameter);
        gaps(indices, |gap| {
            let mut zeros = gap >> b;
            while zeros > 15 {
                self.push(0, 16);
                zeros -= 16;
            }
            self.push(1 << zeros | (gap & ((1 << b) - 1)) << (zeros + 1), zeros + 1 + b);
        });
    }

    /// Fills the last byte with zeros.
    pub(super) fn finish(self) {
        let bytes = self.pending.to_le_bytes();
        self.bytes.extend_from_slice(&bytes[..self.count.div_ceil(8) as usize]);
    }
}

/// Takes bits from bytes; behind the last there are zeros, and [`Reader::finish`] finds that they were taken.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Bits taken.
    place: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, place: 0 }
    }

    /// At least 57 bits from here on.
    #[inline(always)]
    fn peek(&self) -> u64 {
        let behind = self.bytes.get(self.place / 8..).unwrap_or_default();
        let word = match behind.first_chunk() {
            Some(word) => *word,
            None => {
                let mut word = [0; 8];
                word[..behind.len()].copy_from_slice(behind);
                word
            }
        };
        u64::from_le_bytes(word) >> (self.place % 8)
    }

    /// The indices of a chunk of `len` entries.
    pub(super) fn chunk(&mut self, indices: &mut [u16], len: usize, parameter: u8) -> Result<(), Error> {
        let b = u32::from(parameter);
        let mut next = 0usize;
        for index in indices {
            let mut word = self.peek();
            let mut zeros = 0;
            while word == 0 {
                // 57 of them are sure; a chunk of 4096 ends a row of them soon.
                zeros += 57;
                self.place += 57;
                if zeros >= len {
                    return Err(Error::Index);
                }
                word = self.peek();
            }
            let some = word.trailing_zeros();
            self.place += some as usize + 1;
            // Of 57 sure bits these are mostly a few.
            let word = if some + 1 + b <= 57 { word >> (some + 1) } else { self.peek() };
            let low = word & ((1 << b) - 1);
            self.place += b as usize;
            let place = next + ((zeros + some as usize) << b) + low as usize;
            if place >= len {
                return Err(Error::Index);
            }
            // Below 4096.
            *index = place as u16;
            next = place + 1;
        }
        Ok(())
    }

    /// Bytes that were taken, if they are there and what fills the last one is zero.
    pub(super) fn finish(self) -> Result<usize, Error> {
        let bytes = self.place.div_ceil(8);
        if bytes > self.bytes.len() {
            return Err(Error::Length);
        }
        let filled = self.place % 8;
        if filled > 0 && self.bytes[bytes - 1] >> filled != 0 { Err(Error::Filling) } else { Ok(bytes) }
    }
}
