//! The footer of a parquet file: where the pages of one column lie.
//! <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>

use super::thrift::{Compact, Fault, Field};

/// The numbers of the format that are known here.
const BYTE_ARRAY: i64 = 6;
const REPEATED: i64 = 2;
const REQUIRED: i64 = 0;

/// Most columns and most row groups.
const MAX_COLUMNS: usize = 1 << 16;
const MAX_GROUPS: usize = 1 << 20;

/// The column with the text.
#[derive(Debug, Default)]
pub struct Column {
    /// Whether a row may have none.
    pub optional: bool,
    /// In order.
    pub groups: Vec<Group>,
}

/// Some rows that are stored together.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub rows: u64,
    pub codec: i64,
    /// First byte of the pages.
    pub start: u64,
    /// Bytes of the pages.
    pub length: u64,
}

/// Why the column cannot be read.
#[derive(Debug)]
pub enum Wrong {
    Fault(Fault),
    /// There is no such column; those that are there.
    Absent(Vec<String>),
    /// It is there, but holds no text.
    NoText,
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A node of the schema.
#[derive(Default)]
struct Node {
    kind: Option<i64>,
    repetition: i64,
    name: String,
    children: usize,
}

impl Column {
    /// Finds the column `name` of text in a footer.
    pub fn find(footer: &[u8], name: &str) -> Result<Self, Wrong> {
        let mut nodes = Vec::new();
        Compact::new(footer).structure(|footer, field| {
            if field.id != 2 {
                return Ok(false);
            }
            footer.list(field, |footer, item| {
                nodes.push(node(footer, item)?);
                if nodes.len() > MAX_COLUMNS { Err(Fault::Broken("it has too many columns")) } else { Ok(()) }
            })?;
            Ok(true)
        })?;
        let (number, node) = place(&nodes, name)?;
        if node.kind != Some(BYTE_ARRAY) || node.children > 0 || node.repetition == REPEATED {
            return Err(Wrong::NoText);
        }
        // Only now, so that nothing is kept of the other columns.
        let mut groups = Vec::new();
        Compact::new(footer).structure(|footer, field| {
            if field.id != 4 {
                return Ok(false);
            }
            footer.list(field, |footer, item| {
                groups.push(group(footer, item, number)?);
                if groups.len() > MAX_GROUPS { Err(Fault::Broken("it has too many row groups")) } else { Ok(()) }
            })?;
            Ok(true)
        })?;
        Ok(Self { optional: node.repetition != REQUIRED, groups })
    }
}

/// The node of this name below the root, and how many columns are before it.
fn place<'a>(nodes: &'a [Node], name: &str) -> Result<(usize, &'a Node), Wrong> {
    let root = nodes.first().ok_or(Fault::Broken("it has no schema"))?;
    let (mut at, mut leaves, mut names) = (1, 0, Vec::new());
    for _ in 0..root.children {
        let top = nodes.get(at).ok_or(Fault::Broken("its schema has an end too early"))?;
        if top.name == name {
            return Ok((leaves, top));
        }
        names.push(top.name.clone());
        // The subtree, whose nodes follow depth first.
        let mut open = 1usize;
        while open > 0 {
            let node = nodes.get(at).ok_or(Fault::Broken("its schema has an end too early"))?;
            at += 1;
            open = (open - 1).saturating_add(node.children);
            leaves += usize::from(node.children == 0);
        }
    }
    Err(Wrong::Absent(names))
}

fn node(footer: &mut Compact<'_>, item: &Field) -> Result<Node, Fault> {
    let mut node = Node::default();
    footer.inner(item, |footer, field| {
        match field.id {
            1 => node.kind = Some(footer.integer(field)?),
            3 => node.repetition = footer.integer(field)?,
            4 => node.name = String::from_utf8_lossy(footer.binary(field)?).into_owned(),
            5 => node.children = count(footer.integer(field)?)? as usize,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(node)
}

/// The rows of a group and its column of this number.
fn group(footer: &mut Compact<'_>, item: &Field, number: usize) -> Result<Group, Fault> {
    let (mut rows, mut found, mut at) = (0, None, 0);
    footer.inner(item, |footer, field| {
        match field.id {
            1 => footer.list(field, |footer, item| {
                if at == number {
                    found = Some(chunk(footer, item)?);
                } else {
                    footer.inner(item, |_, _| Ok(false))?;
                }
                at += 1;
                Ok(())
            })?,
            3 => rows = count(footer.integer(field)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let found = found.ok_or(Fault::Broken("a row group has too few columns"))?;
    Ok(Group { rows, ..found })
}

fn chunk(footer: &mut Compact<'_>, item: &Field) -> Result<Group, Fault> {
    let mut chunk = Group::default();
    let (mut data, mut dictionary) = (0, None);
    footer.inner(item, |footer, field| {
        if field.id != 3 {
            return Ok(false);
        }
        footer.inner(field, |footer, field| {
            match field.id {
                4 => chunk.codec = footer.integer(field)?,
                7 => chunk.length = count(footer.integer(field)?)?,
                9 => data = count(footer.integer(field)?)?,
                11 => dictionary = Some(count(footer.integer(field)?)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(true)
    })?;
    // Some writers say 0 where there is no dictionary.
    chunk.start = dictionary.filter(|at| *at > 0).map_or(data, |at| at.min(data));
    Ok(chunk)
}

/// A number that counts something.
fn count(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::Broken("a count is below zero"))
}
