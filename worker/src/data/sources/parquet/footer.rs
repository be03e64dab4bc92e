//! The footer of a parquet file: where the pages of one column lie.
//! <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>

use super::thrift::{Compact, Fault, Field};

/// The numbers of the format that are known here.
const BYTE_ARRAY: i64 = 6;
const REPEATED: i64 = 2;
const REQUIRED: i64 = 0;

/// Columns and groups that are followed: more are no text.
const MAX_COLUMNS: usize = 1 << 16;

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
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        Compact::new(footer).structure(|footer, field| {
            match field.id {
                2 => footer.list(field, |footer, item| {
                    nodes.push(node(footer, item)?);
                    if nodes.len() > MAX_COLUMNS { Err(Fault::Broken("it has too many columns")) } else { Ok(()) }
                })?,
                4 => footer.list(field, |footer, item| {
                    groups.push(group(footer, item)?);
                    Ok(())
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let (number, node) = place(&nodes, name)?;
        if node.kind != Some(BYTE_ARRAY) || node.children > 0 || node.repetition == REPEATED {
            return Err(Wrong::NoText);
        }
        let optional = node.repetition != REQUIRED;
        let of_column = |(rows, mut chunks): (u64, Vec<Group>)| {
            let absent = Fault::Broken("a row group has too few columns");
            if number < chunks.len() { Ok(Group { rows, ..chunks.swap_remove(number) }) } else { Err(absent) }
        };
        let groups: Result<_, Fault> = groups.into_iter().map(of_column).collect();
        Ok(Self { optional, groups: groups? })
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

/// The rows of a group and its columns.
fn group(footer: &mut Compact<'_>, item: &Field) -> Result<(u64, Vec<Group>), Fault> {
    let (mut rows, mut chunks) = (0, Vec::new());
    footer.inner(item, |footer, field| {
        match field.id {
            1 => footer.list(field, |footer, item| {
                chunks.push(chunk(footer, item)?);
                Ok(())
            })?,
            3 => rows = count(footer.integer(field)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((rows, chunks))
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
