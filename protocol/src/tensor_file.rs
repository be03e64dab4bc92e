//! Plain safetensors files that any library reads, with exactly one way to write each.
//!
//! Metadata stands in key order, tensors in name order and without gaps, and the only blanks are those that fill the
//! header up to 8 bytes. The reader takes this form alone, so nothing can hide in a file. It goes through the header
//! once and builds no tree of it: what it holds is bounded by what the file holds, whatever the header says.
//!
//! Tensors are in F32. A file may hold one row of U8 instead: bytes that another module gives a meaning.

use std::{borrow::Cow, fmt::Write};

use crate::tensors::{Tensor, Tensors};

/// Longest header that is read; the names and shapes of 8,000 tensors fit.
pub const MAX_HEADER: u64 = 1 << 20;
/// Member of the header that is no tensor.
const METADATA: &str = "__metadata__";
/// Blanks that fill a header up are fewer than this.
const ALIGN: usize = 8;

/// The bytes are not a file in the one valid form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a canonical safetensors file: {0}")]
pub struct Unreadable(pub(crate) &'static str);

const FORM: Unreadable = Unreadable("the header is not in the one valid form");
const OFFSETS: Unreadable = Unreadable("the offsets do not fit the shapes or the bytes");

/// Metadata by key.
pub type Fields = Vec<(String, String)>;

/// The bytes of a file. Keys of `metadata` are in the order of their bytes, each once.
pub fn write(metadata: &[(&str, String)], tensors: &Tensors) -> Vec<u8> {
    let mut entries = String::new();
    let mut offset = 0;
    for Tensor { name, shape, data } in tensors {
        let end = offset + 4 * data.len();
        let shape: Vec<_> = shape.iter().map(usize::to_string).collect();
        let (name, shape) = (quoted(name), shape.join(","));
        write!(entries, r#",{name}:{{"dtype":"F32","shape":[{shape}],"data_offsets":[{offset},{end}]}}"#)
            .expect("a String takes everything");
        offset = end;
    }
    let mut file = begin(metadata, &entries, offset);
    for tensor in tensors {
        append(&mut file, &tensor.data);
    }
    file
}

/// The bytes of a file with one row of bytes of this name.
pub fn write_row(metadata: &[(&str, String)], name: &str, row: &[u8]) -> Vec<u8> {
    let mut file = begin(metadata, &row_entry(name, row.len()), row.len());
    file.extend_from_slice(row);
    file
}

/// Length and header of a file, with room for `data` bytes behind them.
fn begin(metadata: &[(&str, String)], entries: &str, data: usize) -> Vec<u8> {
    debug_assert!(metadata.is_sorted_by(|a, b| a.0 < b.0));
    let fields: Vec<_> = metadata.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
    let mut header = format!(r#"{{"{METADATA}":{{{}}}{entries}}}"#, fields.join(","));
    while header.len() % ALIGN != 0 {
        header.push(' ');
    }
    let mut file = Vec::with_capacity(ALIGN + header.len() + data);
    file.extend_from_slice(&(header.len() as u64).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file
}

fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// What the header says of a row of so many bytes.
fn row_entry(name: &str, length: usize) -> String {
    format!(r#",{}:{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}"#, quoted(name))
}

/// Metadata and tensors of a file. The caller bounds its size; everything in it is checked here against that size.
pub fn read(bytes: &[u8]) -> Result<(Fields, Tensors), Unreadable> {
    let (mut cursor, data) = Cursor::open(bytes)?;
    let metadata = cursor.metadata()?;
    let tensors = cursor.tensors(data)?;
    cursor.close()?;
    Ok((metadata, tensors))
}

/// Metadata and bytes of a file with one row of bytes of this name; bounded as [`read`].
pub fn read_row<'a>(bytes: &'a [u8], name: &str) -> Result<(Fields, &'a [u8]), Unreadable> {
    let (mut cursor, data) = Cursor::open(bytes)?;
    let metadata = cursor.metadata()?;
    cursor.expect(&row_entry(name, data.len()))?;
    cursor.expect("}")?;
    cursor.close()?;
    Ok((metadata, data))
}

/// What of the header was not read yet.
struct Cursor<'a> {
    rest: &'a str,
    /// Bytes of the whole header.
    header: usize,
}

impl<'a> Cursor<'a> {
    /// The header of a file and what is behind it.
    fn open(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Unreadable> {
        let (length, rest) = bytes.split_first_chunk().ok_or(Unreadable("there is no header"))?;
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER || length > rest.len() as u64 {
            return Err(Unreadable("the header is too long"));
        }
        let (header, data) = rest.split_at(length as usize);
        let text = std::str::from_utf8(header).map_err(|_| FORM)?;
        Ok((Self { rest: text, header: header.len() }, data))
    }

    /// Nothing is left of the header but the blanks that fill it up.
    fn close(self) -> Result<(), Unreadable> {
        let blanks = self.rest.len() < ALIGN && self.rest.bytes().all(|b| b == b' ');
        if self.header.is_multiple_of(ALIGN) && blanks { Ok(()) } else { Err(FORM) }
    }

    /// The opening of the header and all metadata.
    fn metadata(&mut self) -> Result<Fields, Unreadable> {
        let mut fields = Fields::new();
        self.expect(r#"{"__metadata__":{"#)?;
        while !self.take("}") {
            if !fields.is_empty() {
                self.expect(",")?;
            }
            let key = self.text()?;
            self.expect(":")?;
            let value = self.text()?;
            if fields.last().is_some_and(|(last, _)| **last >= *key) {
                return Err(FORM);
            }
            fields.push((key.into_owned(), value.into_owned()));
        }
        Ok(fields)
    }

    /// All tensors up to the closing of the header; together they are `data`.
    fn tensors(&mut self, mut data: &[u8]) -> Result<Tensors, Unreadable> {
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut offset = 0;
        while !self.take("}") {
            self.expect(",")?;
            let name = self.text()?;
            if name == METADATA || tensors.last().is_some_and(|last| *last.name >= *name) {
                return Err(FORM);
            }
            let (shape, [start, end]) = self.layout()?;
            let size = shape.iter().try_fold(4usize, |n, d| n.checked_mul(*d)).ok_or(OFFSETS)?;
            if start != offset || end.checked_sub(start) != Some(size) {
                return Err(OFFSETS);
            }
            let (own, others) = data.split_at_checked(size).ok_or(OFFSETS)?;
            tensors.push(Tensor { name: name.into_owned(), shape, data: floats(own) });
            (data, offset) = (others, end);
        }
        if !data.is_empty() {
            return Err(OFFSETS);
        }
        Tensors::new(tensors).map_err(|_| FORM)
    }

    /// Shape and offsets of one tensor, behind its name.
    fn layout(&mut self) -> Result<(Vec<usize>, [usize; 2]), Unreadable> {
        self.expect(r#":{"dtype":"F32","shape":["#)?;
        let mut shape = Vec::new();
        while !self.take("]") {
            if !shape.is_empty() {
                self.expect(",")?;
            }
            shape.push(self.number()?);
        }
        self.expect(r#","data_offsets":["#)?;
        let start = self.number()?;
        self.expect(",")?;
        let end = self.number()?;
        self.expect("]}")?;
        Ok((shape, [start, end]))
    }

    fn take(&mut self, text: &str) -> bool {
        let behind = self.rest.strip_prefix(text);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }

    fn expect(&mut self, text: &str) -> Result<(), Unreadable> {
        if self.take(text) { Ok(()) } else { Err(FORM) }
    }

    /// A number as it is written: digits without zeros in front.
    fn number(&mut self) -> Result<usize, Unreadable> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, behind) = self.rest.split_at(digits);
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(FORM);
        }
        self.rest = behind;
        digits.parse().map_err(|_| FORM)
    }

    /// A JSON string as serde_json writes it; other ways to escape it are refused.
    fn text(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        self.expect("\"")?;
        let plain = |b: u8| b != b'"' && b != b'\\' && b >= b' ';
        let end = self.rest.bytes().position(|b| !plain(b)).ok_or(FORM)?;
        if self.rest.as_bytes()[end] == b'"' {
            let (text, behind) = self.rest.split_at(end);
            self.rest = &behind[1..];
            return Ok(Cow::Borrowed(text));
        }
        let mut escaped = false;
        let closing = |b: u8| {
            let closes = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            closes
        };
        let end = self.rest.bytes().position(closing).ok_or(FORM)?;
        let (text, behind) = self.rest.split_at(end);
        self.rest = &behind[1..];
        let quoted = format!("\"{text}\"");
        let text: String = serde_json::from_str(&quoted).map_err(|_| FORM)?;
        let again = serde_json::to_string(&text).map_err(|_| FORM)?;
        if again == quoted { Ok(Cow::Owned(text)) } else { Err(FORM) }
    }
}

#[cfg(target_endian = "little")]
fn append(bytes: &mut Vec<u8>, data: &[f32]) {
    bytes.extend_from_slice(bytemuck::cast_slice(data));
}

#[cfg(target_endian = "big")]
fn append(bytes: &mut Vec<u8>, data: &[f32]) {
    bytes.extend(data.iter().flat_map(|x| x.to_le_bytes()));
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    use super::*;

    fn tensors() -> Tensors {
        let tensor = |name: &str, shape: &[usize]| Tensor {
            name: name.into(),
            shape: shape.into(),
            data: (0..shape.iter().product()).map(|i| i as f32 - 1.5).collect(),
        };
        Tensors::new(vec![tensor("b", &[2, 3]), tensor("a\"\\\n\u{e9}", &[]), tensor("none", &[7, 0])]).expect("valid")
    }

    fn metadata() -> [(&'static str, String); 2] {
        [("key", "value".into()), ("z\u{1}", "a \"quote\"".into())]
    }

    /// A file with this header, filled up, and so many bytes of data.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut header = header.to_owned();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (fields, read_back) = read(&write(&metadata(), &tensors())).expect("canonical");
        assert_eq!(read_back, tensors());
        assert!(fields.iter().zip(metadata()).all(|(a, b)| (a.0.as_str(), &a.1) == (b.0, &b.1)));
        assert_eq!(read(&write(&[], &Tensors::default())), Ok((Vec::new(), Tensors::default())));
    }

    /// Any library reads it: here the reference implementation.
    #[test]
    fn the_file_is_plain_safetensors() {
        let bytes = write(&metadata(), &tensors());
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        assert_eq!(file.len(), 3);
        for tensor in &tensors() {
            let view = file.tensor(&tensor.name).expect("is there");
            assert_eq!((view.shape(), floats(view.data())), (tensor.shape.as_slice(), tensor.data.clone()));
        }
    }

    #[test]
    fn a_row_is_a_file_of_its_own_kind() {
        for row in [&b"some bytes"[..], b"", b"four"] {
            let bytes = write_row(&metadata(), "row", row);
            let (fields, read_back) = read_row(&bytes, "row").expect("canonical");
            assert_eq!((fields.len(), read_back), (2, row));
            let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
            assert_eq!(file.tensor("row").expect("is there").data(), row);
            assert!(read(&bytes).is_err(), "no tensors");
            assert!(read_row(&bytes, "raw").is_err(), "another name");
            for end in 0..bytes.len() {
                assert!(read_row(&bytes[..end], "row").is_err(), "cut at {end}");
            }
            assert!(read_row(&[&bytes[..], b"x"].concat(), "row").is_err());
        }
        assert!(read_row(&write(&metadata(), &tensors()), "row").is_err(), "no row");
        let named = Tensors::new(vec![Tensor { name: "row".into(), shape: vec![1], data: vec![1.0] }]).expect("one");
        assert!(read_row(&write(&[], &named), "row").is_err(), "a tensor of that name");
    }

    /// Each is refused by one rule alone: the file before it differs in that point only.
    #[test]
    fn other_ways_to_say_the_same_are_refused() {
        let entry = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let second = r#""b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#;
        let open = r#"{"__metadata__":{}"#;
        assert!(read(&file(&format!("{open},{entry},{second}}}"), 8)).is_ok());
        let wrong = [
            (format!("{open},{entry}}}"), 8),
            (format!("{open},{entry}}}"), 0),
            (format!("{open},{entry}}}"), 3),
            (format!("{open}, {entry}}}"), 4),
            (format!("{open},{entry}}}        "), 4),
            (format!("{open},{entry}}}x"), 4),
            (format!("{{{entry}}}"), 4),
            (format!("{open},{entry},{entry}}}"), 8),
            (format!("{open},{second},{entry}}}"), 8),
            (format!("{open},{entry}}}").replace("\"a\"", "\"\\u0061\""), 4),
            (format!("{open},{entry}}}").replace("\"a\"", "\"__metadata__\""), 4),
            (format!("{open},{entry}}}").replace("[1]", "[01]"), 4),
            (format!("{open},{entry}}}").replace("[1]", "[2]"), 4),
            (format!("{open},{entry}}}").replace("[1]", "[18446744073709551615,2]"), 4),
            (format!("{open},{entry}}}").replace("[1]", "[18446744073709551616]"), 4),
            (format!("{open},{entry}}}").replace("[0,4]", "[4,0]"), 4),
            (format!("{open},{entry}}}").replace("F32", "F64"), 4),
            (format!("{open},{entry}}}").replace("{}", r#"{"b":"","a":""}"#), 4),
            (format!("{open},{entry}}}").replace("{}", r#"{"a":1}"#), 4),
        ];
        for (header, data) in wrong {
            assert!(read(&file(&header, data)).is_err(), "{header}");
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        for length in [u64::MAX, 1 << 40, MAX_HEADER + 1, 100] {
            let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
            assert_eq!(read(&bytes), Err(Unreadable("the header is too long")));
        }
        assert!(read(&[]).is_err() && read(&[0; 7]).is_err() && read(&[0; 8]).is_err());
    }

    proptest! {
        #[test]
        fn any_names_and_texts_survive(names: Vec<String>, key: String, value: String) {
            let names: std::collections::BTreeSet<_> = names.into_iter().filter(|n| n != METADATA).collect();
            let tensor = |(i, name): (usize, String)| Tensor { name, shape: vec![i], data: vec![0.5; i] };
            let tensors = Tensors::new(names.into_iter().enumerate().map(tensor).collect()).expect("valid");
            let bytes = write(&[(&key, value.clone())], &tensors);
            prop_assert_eq!(read(&bytes), Ok((vec![(key, value)], tensors)));
            prop_assert!(SafeTensors::deserialize(&bytes).is_ok());
        }
    }
}
