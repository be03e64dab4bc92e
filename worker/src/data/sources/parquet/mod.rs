//! The texts in one column of a parquet file, page by page.
//!
//! Own code, for three reasons: the files are strangers' and what is read of them must be bounded, a column of text needs
//! little of the format, and ranges of an object are enough. The tests read what Arrow wrote.

mod footer;
mod pages;
mod thrift;
mod values;

use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;

use self::{
    footer::{Column, Group, Wrong},
    pages::{Data, Header, Page},
    thrift::Fault,
};
use super::{Row, Rows, Watched};
use crate::data::{Error, MAX_DOCUMENT, error::names};

/// Most bytes of a footer.
const MAX_FOOTER: u64 = 64 << 20;
/// How much is read to find the end of a page's header; with the texts that some writers put there as least and largest.
const HEADER: [u64; 4] = [4 << 10, 64 << 10, 1 << 20, 64 << 20];

/// Reads the texts of a column.
pub struct Parquet {
    content: Watched,
    optional: bool,
    /// Those that were not started.
    groups: std::vec::IntoIter<Group>,
    /// The one that is read: where its next page starts, its end, and its rows that are left.
    group: Group,
    end: u64,
    dictionary: Vec<Bytes>,
    page: Option<Data>,
    /// Rows that were read.
    row: u64,
    warned: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Short => "it ends within a value",
            Self::Broken(what) => what,
        })
    }
}

impl Parquet {
    /// From row `row` on of the column `field`.
    pub fn open(mut content: Watched, field: &str, row: u64) -> Result<Self, Error> {
        let watch = content.watch.clone();
        let (size, footer) = footer(&mut content)?;
        let field_error = |found| Error::Field { key: watch.key.clone(), field: field.to_owned(), found };
        let column = Column::find(&footer, field).map_err(|wrong| match wrong {
            Wrong::Fault(fault) => watch.failed(fault),
            Wrong::Absent(found) => field_error(names(found.iter().map(String::as_str))),
            Wrong::NoText => field_error("the columns with text".to_owned()),
        })?;
        if column.groups.iter().any(|group| group.start.checked_add(group.length).is_none_or(|end| end > size)) {
            return Err(watch.failed("a row group lies beyond its end"));
        }
        let mut parquet = Self {
            content,
            optional: column.optional,
            groups: column.groups.into_iter(),
            group: Group::default(),
            end: 0,
            dictionary: Vec::new(),
            page: None,
            row: 0,
            warned: false,
        };
        while let Some(group) = parquet.groups.as_slice().first() {
            let after = parquet.row.saturating_add(group.rows);
            if after > row {
                break;
            }
            (parquet.row, _) = (after, parquet.groups.next());
        }
        while parquet.row < row {
            if parquet.next()?.is_none() {
                return Err(watch.failed("it became shorter"));
            }
        }
        Ok(parquet)
    }

    fn read_at(&mut self, at: u64, length: u64) -> Result<Vec<u8>, Error> {
        read_at(&mut self.content, at, length)
    }

    /// Goes on to the next page; whether there is one.
    fn turn(&mut self) -> Result<bool, Error> {
        if self.group.rows == 0 {
            let Some(group) = self.groups.next() else { return Ok(false) };
            self.end = group.start + group.length;
            self.group = group;
            self.dictionary = Vec::new();
            return Ok(true);
        }
        let left = self.end - self.group.start;
        let (header, length) = self.header(left)?;
        if length as u64 + header.packed > left {
            return Err(self.content.watch.failed("a page lies beyond its row group"));
        }
        let packed = self.read_at(self.group.start + length as u64, header.packed)?;
        self.group.start += length as u64 + header.packed;
        let page = Page::read(&header, &packed, self.group.codec, self.optional);
        match page.map_err(|reason| self.content.watch.failed(reason))? {
            Page::Dictionary(texts) => self.dictionary = texts,
            Page::Data(data) => self.page = Some(data),
            Page::Other => {}
        }
        Ok(true)
    }

    /// The header of the next page, which has at most `left` bytes, and its length.
    fn header(&mut self, left: u64) -> Result<(Header, usize), Error> {
        for most in HEADER {
            let bytes = self.read_at(self.group.start, most.min(left))?;
            match Header::read(&bytes) {
                Err(Fault::Short) if most < left => {}
                outcome => return outcome.map_err(|fault| self.content.watch.failed(fault)),
            }
        }
        Err(self.content.watch.failed("a page has no end of its header"))
    }

    fn text(&mut self, bytes: Bytes) -> Option<String> {
        let text = if bytes.len() as u64 > MAX_DOCUMENT { None } else { String::from_utf8(bytes.into()).ok() };
        if text.is_none() && !std::mem::replace(&mut self.warned, true) {
            let (key, row) = (&self.content.watch.key, self.row + 1);
            tracing::warn!("{key} row {row} is skipped: not UTF-8 or too long; others of this file are only counted");
        }
        text
    }
}

impl Rows for Parquet {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let Some(page) = &mut self.page else {
                if self.turn()? {
                    continue;
                }
                return Ok(None);
            };
            let next = page.next(&self.dictionary).map_err(|fault| self.content.watch.failed(fault))?;
            let Some(value) = next else {
                self.page = None;
                continue;
            };
            let left = self.group.rows.checked_sub(1);
            self.group.rows = left.ok_or_else(|| self.content.watch.failed("a row group has too many rows"))?;
            let text = value.and_then(|bytes| self.text(bytes));
            self.row += 1;
            return Ok(Some(Row { text, row: self.row - 1, offset: 0 }));
        }
    }
}

/// The length of the file and its footer.
fn footer(content: &mut Watched) -> Result<(u64, Vec<u8>), Error> {
    let watch = content.watch.clone();
    let size = content.seek(SeekFrom::End(0)).map_err(|error| watch.failed(error))?;
    let tail = read_at(content, size.saturating_sub(8), 8)?;
    let length = match tail.split_first_chunk() {
        Some((length, b"PAR1")) => u64::from(u32::from_le_bytes(*length)),
        Some((_, b"PARE")) => return Err(watch.failed("it is encrypted")),
        _ => return Err(watch.failed("it does not end as parquet files do")),
    };
    if length > MAX_FOOTER || length + 12 > size {
        return Err(watch.failed("its footer is larger than is allowed"));
    }
    Ok((size, read_at(content, size - 8 - length, length)?))
}

/// The bytes from `at` on; `length` of them, or fewer at the end of the file.
fn read_at(content: &mut Watched, at: u64, length: u64) -> Result<Vec<u8>, Error> {
    let watch = content.watch.clone();
    content.seek(SeekFrom::Start(at)).map_err(|error| watch.failed(error))?;
    let mut bytes = Vec::new();
    content.take(length).read_to_end(&mut bytes).map_err(|error| watch.failed(error))?;
    Ok(bytes)
}
