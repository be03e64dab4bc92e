//! One JSON object a line, one document an object: `.jsonl`, `.jsonl.gz` and `.jsonl.zst`.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{Row, Rows, Watch, Watched, zstd::Zstd};
use crate::data::{Error, MAX_DOCUMENT, error::names};

/// A longer line is skipped: room for a document, all of it escaped, and other fields.
const MAX_LINE: usize = 8 * MAX_DOCUMENT as usize;
/// A line that goes on so long shows that these are no lines: a bomb would keep us for ever.
const NO_LINE: u64 = 1 << 30;
/// Read at once.
const BUFFER: usize = 256 << 10;

/// How the lines are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packed {
    Not,
    Gzip,
    Zstd,
}

impl Packed {
    /// What the end of a key says; `None`: these are no lines.
    pub fn of(key: &str) -> Option<Self> {
        let endings = [(".jsonl", Self::Not), (".jsonl.gz", Self::Gzip), (".jsonl.zst", Self::Zstd)];
        endings.into_iter().find_map(|(ending, packed)| key.ends_with(ending).then_some(packed))
    }
}

/// The documents of a file with one JSON object a line.
pub struct Jsonl {
    lines: Box<dyn BufRead + Send>,
    watch: Watch,
    field: String,
    /// The line, without its end.
    line: Vec<u8>,
    /// Lines and bytes that were read.
    row: u64,
    offset: u64,
    /// Whether the reader was told about a bad line.
    warned: bool,
    /// Whether a row had the field.
    found: bool,
    /// The fields of the first row that had it not.
    fields: Option<String>,
}

impl Jsonl {
    /// From line `row` on, which starts at the unpacked byte `offset`.
    pub fn open(mut content: Watched, packed: Packed, field: &str, row: u64, offset: u64) -> Result<Self, Error> {
        let watch = content.watch.clone();
        let failed = |error: io::Error| watch.failed(error);
        if packed == Packed::Not {
            content.seek(SeekFrom::Start(offset)).map_err(failed)?;
        }
        let content = BufReader::with_capacity(BUFFER, content);
        let mut lines: Box<dyn BufRead + Send> = match packed {
            Packed::Not => Box::new(content),
            Packed::Gzip => Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(content))),
            Packed::Zstd => Box::new(BufReader::with_capacity(BUFFER, Zstd::new(content))),
        };
        if packed != Packed::Not {
            let skipped = io::copy(&mut (&mut lines).take(offset), &mut io::sink()).map_err(failed)?;
            if skipped < offset {
                return Err(watch.failed("it became shorter"));
            }
        }
        let (field, line) = (field.to_owned(), Vec::new());
        // Whoever comes back to a row saw one with the field before.
        Ok(Self { lines, watch, field, line, row, offset, warned: false, found: row > 0, fields: None })
    }

    /// Reads a line into `self.line`: whether there is one, and whether it fits.
    fn read_line(&mut self) -> io::Result<Option<bool>> {
        self.line.clear();
        let most = MAX_LINE + 1;
        let mut size = (&mut self.lines).take(most as u64).read_until(b'\n', &mut self.line)? as u64;
        let fits = self.line.pop_if(|last| *last == b'\n').is_some() || self.line.len() < most;
        if !fits {
            let rest = (&mut self.lines).take(NO_LINE).skip_until(b'\n')? as u64;
            if rest == NO_LINE {
                return Err(io::Error::other(format!("line {} does not end", self.row + 1)));
            }
            size += rest;
        }
        self.offset += size;
        Ok((size > 0).then_some(fits))
    }

    /// The text of the line that was read last.
    fn text(&mut self) -> Option<String> {
        match parse(&self.line, &self.field) {
            Ok(Found::Text(text)) => {
                self.found = true;
                if text.len() as u64 > MAX_DOCUMENT {
                    self.warn("its text is too long");
                    return None;
                }
                Some(text.into_owned())
            }
            Ok(Found::Null) => {
                self.found = true;
                None
            }
            Ok(Found::Nothing) => {
                if !self.found && self.fields.is_none() {
                    let all: Result<BTreeMap<String, IgnoredAny>, _> = serde_json::from_slice(&self.line);
                    self.fields = all.ok().map(|all| names(all.keys().map(String::as_str)));
                }
                None
            }
            Err(error) => {
                self.warn(&error.to_string());
                None
            }
        }
    }

    fn warn(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            let (key, line) = (&self.watch.key, self.row + 1);
            let reason: String = reason.chars().take(200).collect();
            tracing::warn!("{key} line {line} is skipped: {reason}; other bad lines of this file are only counted");
        }
    }
}

impl Rows for Jsonl {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let offset = self.offset;
            let Some(fits) = self.read_line().map_err(|error| self.watch.failed(error))? else { break };
            let row = self.row;
            let blank = fits && self.line.trim_ascii().is_empty();
            let text = match fits {
                true if blank => None,
                true => self.text(),
                false => {
                    self.warn("it is too long");
                    None
                }
            };
            self.row += 1;
            if !blank {
                return Ok(Some(Row { text, row, offset }));
            }
        }
        match self.fields.take() {
            Some(found) if !self.found => {
                Err(Error::Field { key: self.watch.key.clone(), field: self.field.clone(), found })
            }
            _ => Ok(None),
        }
    }
}

/// What a line has in the field.
enum Found<'a> {
    Text(Cow<'a, str>),
    Null,
    Nothing,
}

/// Takes one field of a JSON object and builds nothing of the others.
fn parse<'a>(line: &'a [u8], field: &str) -> Result<Found<'a>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let found = Object(field).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(found)
}

/// An object, of which one field counts.
struct Object<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let mut found = Found::Nothing;
        while let Some(this) = map.next_key_seed(IsName(self.0))? {
            if this {
                found = map.next_value_seed(Value)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is this one.
struct IsName<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// Text or null.
struct Value;

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("text in this field")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Found<'de>, E> {
        Ok(Found::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found<'de>, E> {
        Ok(Found::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Found<'de>, E> {
        Ok(Found::Null)
    }
}
