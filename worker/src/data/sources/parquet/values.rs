//! The values in a page: texts as they are, by their number in a dictionary, or by what they share with the last one.
//! <https://github.com/apache/parquet-format/blob/master/Encodings.md>

use bytes::Bytes;

use super::thrift::{Fault, varint, zigzag};

type Result<T> = std::result::Result<T, Fault>;

/// Numbers of the encodings.
pub mod encoding {
    pub const PLAIN: i64 = 0;
    pub const PLAIN_DICTIONARY: i64 = 2;
    pub const RLE_DICTIONARY: i64 = 8;
    pub const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;
    pub const DELTA_BYTE_ARRAY: i64 = 7;
}

pub const SHORT: Fault = Fault::Broken("a page ends within a value");

/// Takes `count` bytes from the front.
pub fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(SHORT)?;
    *bytes = rest;
    Ok(taken)
}

/// Takes a length of four bytes and as many bytes.
pub fn take_counted<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = take(bytes, 4)?.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte));
    take(bytes, length)
}

/// Small numbers as runs and as packed bits.
pub struct Hybrid<'a> {
    bytes: &'a [u8],
    /// Bits of a number: 0 to 32.
    width: u32,
    run: Run<'a>,
}

enum Run<'a> {
    /// The same number so many times more.
    Same { value: u32, left: u64 },
    /// Packed, and which one is next.
    Packed { bytes: &'a [u8], next: u64 },
}

impl<'a> Hybrid<'a> {
    pub fn new(bytes: &'a [u8], width: u32) -> Result<Self> {
        if width > 32 {
            return Err(Fault::Broken("a number has more than 32 bits"));
        }
        Ok(Self { bytes, width, run: Run::Same { value: 0, left: 0 } })
    }

    pub fn next(&mut self) -> Result<u32> {
        loop {
            match &mut self.run {
                Run::Same { value, left } if *left > 0 => {
                    *left -= 1;
                    return Ok(*value);
                }
                Run::Packed { bytes, next } if (*next + 1) * u64::from(self.width) <= 8 * bytes.len() as u64 => {
                    *next += 1;
                    return Ok(bits(bytes, *next - 1, self.width) as u32);
                }
                _ => self.start_run()?,
            }
        }
    }

    fn start_run(&mut self) -> Result<()> {
        let head = varint(&mut self.bytes).map_err(|_| SHORT)?;
        let count = head >> 1;
        self.run = if head & 1 == 0 {
            let value = take(&mut self.bytes, self.width.div_ceil(8) as usize)?;
            Run::Same { value: value.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)), left: count }
        } else if self.width == 0 {
            Run::Same { value: 0, left: count.saturating_mul(8) }
        } else {
            // Groups of eight; the last may be cut off at the end of a page.
            let length = usize::try_from(count.saturating_mul(u64::from(self.width))).unwrap_or(usize::MAX);
            let length = length.min(self.bytes.len());
            Run::Packed { bytes: take(&mut self.bytes, length)?, next: 0 }
        };
        match &self.run {
            // Runs without end and without numbers would keep us here until the bytes run out, no longer.
            Run::Packed { bytes: [], .. } => Err(SHORT),
            _ => Ok(()),
        }
    }
}

/// Number `at` of those that are packed with `width` bits, at most 64, the lowest bit first.
fn bits(bytes: &[u8], at: u64, width: u32) -> u64 {
    let first = at * u64::from(width);
    let (byte, shift) = ((first / 8) as usize, (first % 8) as u32);
    let mut wide = 0u128;
    for (i, byte) in bytes[byte..].iter().take(9).enumerate() {
        wide |= u128::from(*byte) << (8 * i);
    }
    (wide >> shift) as u64 & if width == 64 { u64::MAX } else { (1 << width) - 1 }
}

/// Takes integers that are packed as differences from the front; at most `most`, and not below zero.
pub fn deltas(bytes: &mut &[u8], most: usize) -> Result<Vec<usize>> {
    let mut head = || varint(bytes).map_err(|_| SHORT);
    let (block, minis, count, first) = (head()?, head()?, head()?, zigzag(head()?));
    let mini = block.checked_div(minis).unwrap_or(0);
    if mini == 0 || !mini.is_multiple_of(8) || mini > 1 << 20 || minis > 1 << 10 || count > most as u64 {
        return Err(Fault::Broken("a page has differences that make no sense"));
    }
    let length = |value: i64| usize::try_from(value).map_err(|_| Fault::Broken("a text has a length below zero"));
    let (mut values, mut last) = (Vec::new(), first);
    if count > 0 {
        values.push(length(first)?);
    }
    while (values.len() as u64) < count {
        let least = zigzag(varint(bytes).map_err(|_| SHORT)?);
        let widths = take(bytes, minis as usize)?;
        for width in widths {
            if values.len() as u64 >= count {
                break;
            }
            if *width > 64 {
                return Err(Fault::Broken("a number has more than 64 bits"));
            }
            let packed = take(bytes, (mini / 8) as usize * usize::from(*width))?;
            for at in 0..mini.min(count - values.len() as u64) {
                let step = least.wrapping_add(bits(packed, at, u32::from(*width)) as i64);
                last = last.wrapping_add(step);
                values.push(length(last)?);
            }
        }
    }
    Ok(values)
}

/// The texts of a page, one after the other.
pub enum Values {
    Plain(Bytes),
    Dictionary(std::vec::IntoIter<u32>),
    Delta { prefixes: std::vec::IntoIter<usize>, suffixes: std::vec::IntoIter<usize>, bytes: Bytes, last: Vec<u8> },
}

impl Values {
    /// `count` values of `encoding`.
    pub fn new(encoding: i64, bytes: &Bytes, count: usize) -> Result<Self> {
        let mut rest = &bytes[..];
        Ok(match encoding {
            encoding::PLAIN => Self::Plain(bytes.clone()),
            encoding::PLAIN_DICTIONARY | encoding::RLE_DICTIONARY => {
                // Pages of nothing but nulls may have no byte at all.
                let width = if rest.is_empty() { 0 } else { take(&mut rest, 1)?[0] };
                let mut numbers = Hybrid::new(rest, u32::from(width))?;
                let numbers: Result<Vec<u32>> = (0..count).map(|_| numbers.next()).collect();
                Self::Dictionary(numbers?.into_iter())
            }
            encoding::DELTA_LENGTH_BYTE_ARRAY => {
                let suffixes = deltas(&mut rest, count)?.into_iter();
                Self::Delta {
                    prefixes: Vec::new().into_iter(),
                    suffixes,
                    bytes: bytes.slice_ref(rest),
                    last: Vec::new(),
                }
            }
            encoding::DELTA_BYTE_ARRAY => {
                let prefixes = deltas(&mut rest, count)?.into_iter();
                let suffixes = deltas(&mut rest, count)?.into_iter();
                Self::Delta { prefixes, suffixes, bytes: bytes.slice_ref(rest), last: Vec::new() }
            }
            _ => return Err(Fault::Broken("a page has an encoding that texts do not have")),
        })
    }

    /// The next one; `texts` is the dictionary.
    pub fn next(&mut self, texts: &[Bytes]) -> Result<Bytes> {
        match self {
            Self::Plain(bytes) => {
                let mut rest = &bytes[..];
                let length = take_counted(&mut rest)?.len();
                Ok(bytes.split_to(4 + length).slice(4..))
            }
            Self::Dictionary(numbers) => {
                let text = texts.get(numbers.next().ok_or(SHORT)? as usize);
                text.cloned().ok_or(Fault::Broken("a text is not in the dictionary"))
            }
            Self::Delta { prefixes, suffixes, bytes, last } => {
                let suffix = suffixes.next().ok_or(SHORT)?;
                let suffix = if suffix > bytes.len() { return Err(SHORT) } else { bytes.split_to(suffix) };
                let prefix = prefixes.next().unwrap_or(0);
                if prefix > last.len() {
                    return Err(Fault::Broken("a text shares more than the last one has"));
                }
                last.truncate(prefix);
                last.extend_from_slice(&suffix);
                Ok(Bytes::copy_from_slice(last))
            }
        }
    }
}
