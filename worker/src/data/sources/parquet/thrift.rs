//! Thrift's compact protocol, as far as parquet's footers and page headers need it.
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

/// What does not follow the protocol, or ends within a value.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// More bytes could mend it.
    Short,
    /// None can.
    Broken(&'static str),
}

type Result<T> = std::result::Result<T, Fault>;

/// Deepest structure that is followed.
const MAX_DEPTH: u32 = 16;

/// Kinds of values.
mod kind {
    pub const STOP: u8 = 0;
    pub const TRUE: u8 = 1;
    pub const FALSE: u8 = 2;
    pub const BYTE: u8 = 3;
    pub const I16: u8 = 4;
    pub const I32: u8 = 5;
    pub const I64: u8 = 6;
    pub const DOUBLE: u8 = 7;
    pub const BINARY: u8 = 8;
    pub const LIST: u8 = 9;
    pub const SET: u8 = 10;
    pub const MAP: u8 = 11;
    pub const STRUCT: u8 = 12;
}

/// Reads values from the front of some bytes.
pub struct Compact<'a> {
    bytes: &'a [u8],
    depth: u32,
}

/// A field of a structure, not read yet.
pub struct Field {
    /// Its number.
    pub id: i16,
    kind: u8,
}

impl<'a> Compact<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, depth: 0 }
    }

    /// Bytes that were not read.
    pub fn rest(&self) -> usize {
        self.bytes.len()
    }

    /// Reads a structure. `field` sees each field: it reads those that it wants, and says false of the others.
    pub fn structure(&mut self, mut field: impl FnMut(&mut Self, &Field) -> Result<bool>) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return Err(Fault::Broken("it is nested too deep"));
        }
        self.depth += 1;
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            let kind = head & 15;
            if kind == kind::STOP {
                break;
            }
            id = match head >> 4 {
                0 => i16::try_from(self.zigzag()?).map_err(|_| Fault::Broken("a field has no number"))?,
                step => id.checked_add(i16::from(step)).ok_or(Fault::Broken("a field has no number"))?,
            };
            let this = Field { id, kind };
            if !field(self, &this)? {
                self.skip(kind)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a list: calls `item` for each.
    pub fn list(&mut self, field: &Field, mut item: impl FnMut(&mut Self, &Field) -> Result<()>) -> Result<()> {
        expect(field.kind == kind::LIST)?;
        let (kind, count) = self.list_head()?;
        for _ in 0..count {
            item(self, &Field { id: 0, kind })?;
        }
        Ok(())
    }

    pub fn integer(&mut self, field: &Field) -> Result<i64> {
        expect(matches!(field.kind, kind::I16 | kind::I32 | kind::I64))?;
        self.zigzag()
    }

    pub fn binary(&mut self, field: &Field) -> Result<&'a [u8]> {
        expect(field.kind == kind::BINARY)?;
        let length = self.varint()?;
        self.take(length)
    }

    /// The value of a field is in its head.
    pub fn boolean(&mut self, field: &Field) -> Result<bool> {
        expect(matches!(field.kind, kind::TRUE | kind::FALSE))?;
        Ok(field.kind == kind::TRUE)
    }

    /// As [`structure`](Self::structure), of a field's value.
    pub fn inner(&mut self, field: &Field, f: impl FnMut(&mut Self, &Field) -> Result<bool>) -> Result<()> {
        expect(field.kind == kind::STRUCT)?;
        self.structure(f)
    }

    fn list_head(&mut self) -> Result<(u8, u64)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        // An item has a byte at least: so a count from outside cannot keep us longer than its bytes.
        if count > self.bytes.len() as u64 { Err(Fault::Short) } else { Ok((head & 15, count)) }
    }

    fn skip(&mut self, kind: u8) -> Result<()> {
        match kind {
            kind::TRUE | kind::FALSE => Ok(()),
            kind::BYTE => self.take(1).map(drop),
            kind::I16 | kind::I32 | kind::I64 => self.varint().map(drop),
            kind::DOUBLE => self.take(8).map(drop),
            kind::BINARY => self.varint().and_then(|length| self.take(length)).map(drop),
            kind::LIST | kind::SET => {
                let (kind, count) = self.list_head()?;
                (0..count).try_for_each(|_| self.skip_item(kind))
            }
            kind::MAP => {
                let count = self.varint()?;
                if count > self.bytes.len() as u64 {
                    return Err(Fault::Short);
                }
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| self.skip_item(kinds >> 4).and_then(|()| self.skip_item(kinds & 15)))
            }
            kind::STRUCT => self.structure(|_, _| Ok(false)),
            _ => Err(Fault::Broken("a field is of no known kind")),
        }
    }

    /// Outside of structures a boolean has a byte of its own.
    fn skip_item(&mut self, kind: u8) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return Err(Fault::Broken("it is nested too deep"));
        }
        self.depth += 1;
        match kind {
            kind::TRUE | kind::FALSE => self.take(1).map(drop)?,
            kind => self.skip(kind)?,
        }
        self.depth -= 1;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Fault::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        varint(&mut self.bytes)
    }

    fn zigzag(&mut self) -> Result<i64> {
        Ok(zigzag(self.varint()?))
    }
}

fn expect(kind: bool) -> Result<()> {
    if kind { Ok(()) } else { Err(Fault::Broken("a field is of the wrong kind")) }
}

/// Takes an integer of seven bits a byte from the front of `bytes`.
pub fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Fault::Short)?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Ok(value);
        }
    }
    Err(Fault::Broken("a number is too long"))
}

/// Signed from unsigned: 0, -1, 1, -2, ...
pub fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
