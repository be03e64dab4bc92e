//! The pages of a column: found, unpacked within bounds, and taken apart.

use std::io::Read;

use bytes::Bytes;

use super::{
    thrift::{Compact, Fault},
    values::{Hybrid, SHORT, Values, encoding, take, take_counted},
};
use crate::data::sources::zstd::Zstd;

/// Most bytes of a page, packed and unpacked: writers look at its size after every thousand rows only.
pub const MAX_PAGE: u64 = 256 << 20;
/// Most rows of a page; the usual limit of writers is 20,000.
const MAX_ROWS: u64 = 1 << 22;

/// What a page says about itself.
#[derive(Debug, Default)]
pub struct Header {
    kind: i64,
    unpacked: u64,
    /// Bytes that follow the header.
    pub packed: u64,
    rows: u64,
    encoding: i64,
    /// Version 2: bytes of levels, which are never packed.
    levels: Option<(u64, u64)>,
    is_packed: bool,
}

mod kind {
    pub const DATA: i64 = 0;
    pub const DICTIONARY: i64 = 2;
    pub const DATA_2: i64 = 3;
}

impl Header {
    /// Reads it from the front of `bytes`, and how many bytes it has.
    pub fn read(bytes: &[u8]) -> Result<(Self, usize), Fault> {
        let size = |number: i64, most: u64| {
            let size = u64::try_from(number).ok().filter(|size| *size <= most);
            size.ok_or(Fault::Broken("a page is larger than is allowed"))
        };
        let mut header = Self { is_packed: true, ..Self::default() };
        let mut compact = Compact::new(bytes);
        compact.structure(|compact, field| {
            match field.id {
                1 => header.kind = compact.integer(field)?,
                2 => header.unpacked = size(compact.integer(field)?, MAX_PAGE)?,
                3 => header.packed = size(compact.integer(field)?, MAX_PAGE)?,
                // Data, dictionary, and data of version 2.
                5 | 7 | 8 => {
                    let second = field.id == 8;
                    let (mut definition, mut repetition) = (0, 0);
                    compact.inner(field, |compact, field| {
                        match (field.id, second) {
                            (1, _) => header.rows = size(compact.integer(field)?, MAX_ROWS)?,
                            (2, false) | (4, true) => header.encoding = compact.integer(field)?,
                            (5, true) => definition = size(compact.integer(field)?, MAX_PAGE)?,
                            (6, true) => repetition = size(compact.integer(field)?, MAX_PAGE)?,
                            (7, true) => header.is_packed = compact.boolean(field)?,
                            _ => return Ok(false),
                        }
                        Ok(true)
                    })?;
                    header.levels = second.then_some((repetition, definition));
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok((header, bytes.len() - compact.rest()))
    }
}

/// What follows a header.
pub enum Page {
    Dictionary(Vec<Bytes>),
    Data(Data),
    /// Of no use here.
    Other,
}

/// The rows of a page.
pub struct Data {
    /// Whether each row has a text; absent: every one.
    present: Option<std::vec::IntoIter<bool>>,
    rows: u64,
    values: Values,
}

impl Page {
    /// Takes a page apart. `optional`: rows may have no text.
    pub fn read(header: &Header, packed: &[u8], codec: i64, optional: bool) -> Result<Self, String> {
        let words = |fault: Fault| fault.to_string();
        match header.kind {
            kind::DICTIONARY => {
                let bytes = Bytes::from(unpack(codec, packed, header.unpacked)?);
                let (mut rest, mut texts) = (&bytes[..], Vec::new());
                for _ in 0..header.rows {
                    let text = take_counted(&mut rest).map_err(words)?;
                    texts.push(bytes.slice_ref(text));
                }
                if ![encoding::PLAIN, encoding::PLAIN_DICTIONARY].contains(&header.encoding) {
                    return Err("a dictionary has an encoding that dictionaries do not have".to_owned());
                }
                Ok(Self::Dictionary(texts))
            }
            kind::DATA | kind::DATA_2 => Data::read(header, packed, codec, optional).map(Self::Data),
            _ => Ok(Self::Other),
        }
    }
}

impl Data {
    fn read(header: &Header, packed: &[u8], codec: i64, optional: bool) -> Result<Self, String> {
        let words = |fault: Fault| fault.to_string();
        let rows = header.rows as usize;
        let (levels, bytes) = match header.levels {
            None => {
                let bytes = Bytes::from(unpack(codec, packed, header.unpacked)?);
                let mut rest = &bytes[..];
                let levels = if optional { take_counted(&mut rest).map_err(words)?.to_vec() } else { Vec::new() };
                (levels, bytes.slice_ref(rest))
            }
            Some((repetition, definition)) => {
                let mut rest = packed;
                take(&mut rest, repetition as usize).map_err(words)?;
                let levels = take(&mut rest, definition as usize).map_err(words)?.to_vec();
                let size = header.unpacked.checked_sub(repetition + definition).ok_or(SHORT).map_err(words)?;
                let codec = if header.is_packed { codec } else { 0 };
                (levels, Bytes::from(unpack(codec, rest, size)?))
            }
        };
        let present: Option<Vec<bool>> = match optional {
            false => None,
            true => {
                let mut levels = Hybrid::new(&levels, 1).map_err(words)?;
                let present: Result<_, Fault> = (0..rows).map(|_| levels.next().map(|level| level == 1)).collect();
                Some(present.map_err(words)?)
            }
        };
        let count = present.as_ref().map_or(rows, |present| present.iter().filter(|present| **present).count());
        let values = Values::new(header.encoding, &bytes, count).map_err(words)?;
        Ok(Self { present: present.map(Vec::into_iter), rows: header.rows, values })
    }

    /// The text of the next row, or `Some(None)` where it has none; `None` at the end of the page.
    pub fn next(&mut self, dictionary: &[Bytes]) -> Result<Option<Option<Bytes>>, Fault> {
        if self.rows == 0 {
            return Ok(None);
        }
        self.rows -= 1;
        let present = self.present.as_mut().is_none_or(|present| present.next().unwrap_or(false));
        Ok(Some(if present { Some(self.values.next(dictionary)?) } else { None }))
    }
}

/// Unpacks a page to `size` bytes, no fewer and no more.
fn unpack(codec: i64, packed: &[u8], size: u64) -> Result<Vec<u8>, String> {
    let bounded = |reader: &mut dyn Read| {
        let mut bytes = Vec::new();
        reader.take(size + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok::<_, String>(bytes)
    };
    let bytes = match codec {
        0 => packed.to_vec(),
        1 => match snap::raw::decompress_len(packed) {
            Ok(length) if length as u64 == size => {
                snap::raw::Decoder::new().decompress_vec(packed).map_err(|error| error.to_string())?
            }
            _ => return Err("a page does not unpack to its size".to_owned()),
        },
        2 => bounded(&mut flate2::read::MultiGzDecoder::new(packed))?,
        6 => bounded(&mut Zstd::new(packed))?,
        _ => {
            let name = ["", "", "", "lzo", "brotli", "lz4", "", "lz4"].get(codec as usize).copied().unwrap_or("");
            return Err(format!("it is packed with {name} ({codec}): write it with snappy, gzip, zstd or nothing"));
        }
    };
    if bytes.len() as u64 == size { Ok(bytes) } else { Err("a page does not unpack to its size".to_owned()) }
}
