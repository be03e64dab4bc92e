//! The chain on disk: what a restart, after whatever end, continues from.
//!
//! `blocks.log` holds every header and body. `state-<number>.log` holds the whole state after block `number`
//! and then, block by block, what changed; every [`SEGMENT`] blocks a new one is begun and all but the last two
//! are deleted, so that the states of the last [`SEGMENT`] blocks can always be rebuilt without running anything.
//!
//! Both are lists of records (length, checksum, SCALE bytes). Appending needs no fsync to survive a kill; a
//! record that a power cut tore is recognised by its checksum and cut off. Files appear by rename, after fsync.
//! A block goes to `blocks.log` first: one that has no change record never happened and is cut off too. Records
//! of states name their block by its hash, so that what a cut off block left behind is never taken for the state
//! of the block that came in its place.

use super::Error;
use crate::runtime::Header;
use codec::{Decode, Encode};
use sp_core::{H256, storage::Storage};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufReader, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Blocks between two whole states on disk, and the number of states that survive a restart at least.
pub const SEGMENT: u32 = 256;

const MAGIC: &[u8; 16] = b"bistro-devnet 1\n";
const BLOCKS: &str = "blocks.log";
/// No record of an honest chain is larger; a torn length may be anything.
const MAX_RECORD: u32 = 1 << 30;
const RECORD_HEAD: usize = 12;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Header and encoded extrinsics of a block.
pub type StoredBlock = (Header, Vec<Vec<u8>>);

/// What a data folder held.
pub struct Loaded {
    pub headers: Vec<Header>,
    /// The states that can be rebuilt, oldest first; the last one is that of the last header.
    pub states: Vec<(u32, Arc<Storage>)>,
}

pub struct Store {
    folder: PathBuf,
    blocks: File,
    /// Where the record of block n begins.
    offsets: Vec<u64>,
    /// Where the next record of blocks.log goes.
    end: u64,
    state: File,
}

impl Store {
    /// Begins a chain in a folder that has none.
    pub fn create(folder: &Path, genesis: &Header, state: &Storage) -> Result<Store, Error> {
        for number in segments(folder)? {
            std::fs::remove_file(segment_path(folder, number)).map_err(|source| failed(folder, source))?;
        }
        write_segment(folder, genesis, state)?;
        let mut bytes = MAGIC.to_vec();
        let offset = bytes.len() as u64;
        push_record(&mut bytes, &(genesis, Vec::<Vec<u8>>::new()).encode());
        let end = bytes.len() as u64;
        let path = folder.join(BLOCKS);
        write_atomically(&path, &bytes)?;
        Ok(Store {
            folder: folder.to_path_buf(),
            blocks: open(&path)?,
            offsets: vec![offset],
            end,
            state: open_to_append(&segment_path(folder, 0))?,
        })
    }

    /// Reads what an earlier run left; `None`: nothing.
    pub fn load(folder: &Path) -> Result<Option<(Store, Loaded)>, Error> {
        let path = folder.join(BLOCKS);
        if !path.exists() {
            return Ok(None);
        }
        let (mut headers, mut offsets) = (Vec::new(), Vec::new());
        let mut end = for_each_record(&path, |offset, bytes| {
            let (header, _body) = <(Header, Vec<Vec<u8>>)>::decode(&mut &bytes[..]).ok()?;
            (header.number as usize == headers.len()).then(|| {
                headers.push(header);
                offsets.push(offset);
            })
        })?;
        let states = load_states(folder, &headers)?;
        let Some((last, newest)) = states.last() else {
            return Err(Error::Damaged { path });
        };
        let kept = *last as usize + 1;
        if kept < headers.len() {
            end = offsets[kept];
            headers.truncate(kept);
            offsets.truncate(kept);
        }
        for stale in segments(folder)?.into_iter().filter(|start| start > last) {
            let path = segment_path(folder, stale);
            std::fs::remove_file(&path).map_err(|source| failed(&path, source))?;
        }
        let blocks = open(&path)?;
        blocks.set_len(end).and_then(|()| blocks.sync_data()).map_err(|source| failed(&path, source))?;
        // A new segment, so that nothing is ever appended after a torn record.
        write_segment(folder, &headers[*last as usize], newest)?;
        let store = Store {
            folder: folder.to_path_buf(),
            blocks,
            offsets,
            end,
            state: open_to_append(&segment_path(folder, *last))?,
        };
        Ok(Some((store, Loaded { headers, states })))
    }

    /// Adds a block and what it changed. On an error the block has not happened.
    pub fn append(&mut self, header: &Header, body: &[Vec<u8>], old: &Storage, new: &Storage) -> Result<(), Error> {
        let mut bytes = Vec::new();
        push_record(&mut bytes, &(header, body).encode());
        let path = self.folder.join(BLOCKS);
        self.blocks.write_all_at(&bytes, self.end).map_err(|source| failed(&path, source))?;
        let mut record = Vec::new();
        push_record(&mut record, &(header.number, header.hash(), changes(&old.top, &new.top)).encode());
        self.state.write_all(&record).map_err(|source| failed(&self.folder, source))?;
        self.offsets.push(self.end);
        self.end += bytes.len() as u64;
        if header.number.is_multiple_of(SEGMENT) {
            self.begin_segment(header, new)?;
        }
        Ok(())
    }

    /// A block; `None`: no such block.
    pub fn block(&self, number: u32) -> Result<Option<StoredBlock>, Error> {
        let Some(offset) = self.offsets.get(number as usize) else {
            return Ok(None);
        };
        let end = self.offsets.get(number as usize + 1).unwrap_or(&self.end);
        let path = self.folder.join(BLOCKS);
        let mut record = vec![0; usize::try_from(end - offset).map_err(|_| Error::Damaged { path: path.clone() })?];
        self.blocks.read_exact_at(&mut record, *offset).map_err(|source| failed(&path, source))?;
        let mut payload = record.get(RECORD_HEAD..).unwrap_or_default();
        Decode::decode(&mut payload).map(Some).map_err(|_| Error::Damaged { path })
    }

    fn begin_segment(&mut self, header: &Header, state: &Storage) -> Result<(), Error> {
        let number = header.number;
        // A whole state on disk must never be ahead of the blocks that led to it.
        self.blocks.sync_data().map_err(|source| failed(&self.folder, source))?;
        write_segment(&self.folder, header, state)?;
        self.state = open_to_append(&segment_path(&self.folder, number))?;
        let all = segments(&self.folder)?;
        // The second newest that is at least SEGMENT blocks old still serves; everything before it does not.
        let keep = all.iter().rev().find(|start| **start + SEGMENT <= number).copied().unwrap_or(0);
        for old in all.into_iter().filter(|start| *start < keep) {
            std::fs::remove_file(segment_path(&self.folder, old)).map_err(|source| failed(&self.folder, source))?;
        }
        Ok(())
    }
}

/// Rebuilds the states of the newest blocks, at most [`SEGMENT`], oldest first and without gaps.
fn load_states(folder: &Path, headers: &[Header]) -> Result<Vec<(u32, Arc<Storage>)>, Error> {
    let mut states: BTreeMap<u32, Arc<Storage>> = BTreeMap::new();
    for start in segments(folder)? {
        let mut current: Option<(u32, Storage)> = None;
        for_each_record(&segment_path(folder, start), |_, bytes| {
            let (number, hash, state) = match current.take() {
                None => {
                    let (number, hash, pairs) = <(u32, H256, Pairs)>::decode(&mut &bytes[..]).ok()?;
                    (number, hash, storage(pairs))
                }
                Some((previous, mut state)) => {
                    let (number, hash, changes) = <(u32, H256, Changes)>::decode(&mut &bytes[..]).ok()?;
                    apply(&mut state.top, changes);
                    (number == previous + 1).then_some((number, hash, state))?
                }
            };
            let header = headers.get(number as usize)?;
            // A clone each: only of those that are still needed.
            if headers.len() - number as usize <= SEGMENT as usize + 1 {
                if header.hash() != hash {
                    return None;
                }
                states.insert(number, Arc::new(state.clone()));
            }
            current = Some((number, state));
            Some(())
        })?;
    }
    let mut newest: Vec<(u32, Arc<Storage>)> = Vec::new();
    for (number, state) in states.into_iter().rev().take(SEGMENT as usize) {
        if newest.last().is_some_and(|(next, _)| number + 1 != *next) {
            break;
        }
        newest.push((number, state));
    }
    newest.reverse();
    Ok(newest)
}

fn storage(pairs: Pairs) -> Storage {
    Storage { top: pairs.into_iter().collect(), children_default: Default::default() }
}

fn apply(top: &mut BTreeMap<Vec<u8>, Vec<u8>>, changes: Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => top.insert(key, value),
            None => top.remove(&key),
        };
    }
}

/// What turns one state into the other. The runtime uses no child storage.
fn changes(old: &BTreeMap<Vec<u8>, Vec<u8>>, new: &BTreeMap<Vec<u8>, Vec<u8>>) -> Changes {
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), None));
    let set = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(*value))
        .map(|(key, value)| (key.clone(), Some(value.clone())));
    gone.chain(set).collect()
}

fn write_segment(folder: &Path, header: &Header, state: &Storage) -> Result<(), Error> {
    let pairs: Vec<(&Vec<u8>, &Vec<u8>)> = state.top.iter().collect();
    let mut bytes = MAGIC.to_vec();
    push_record(&mut bytes, &(header.number, header.hash(), pairs).encode());
    write_atomically(&segment_path(folder, header.number), &bytes)
}

fn segment_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("state-{number:010}.log"))
}

/// The blocks at which segments begin, in order.
fn segments(folder: &Path) -> Result<Vec<u32>, Error> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| failed(folder, source))? {
        let name = entry.map_err(|source| failed(folder, source))?.file_name();
        let parse = |name: &str| name.strip_prefix("state-")?.strip_suffix(".log")?.parse::<u32>().ok();
        let number = name.to_str().and_then(parse);
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn push_record(bytes: &mut Vec<u8>, payload: &[u8]) {
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(checksum(payload));
    bytes.extend(payload);
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    short
}

/// Visits records until the end, a torn one or a `None`; answers where the last good one ends.
fn for_each_record(path: &Path, mut visit: impl FnMut(u64, &[u8]) -> Option<()>) -> Result<u64, Error> {
    let mut file = BufReader::new(File::open(path).map_err(|source| failed(path, source))?);
    let mut magic = [0; 16];
    if file.read_exact(&mut magic).is_err() || magic != *MAGIC {
        return Err(Error::OtherFormat { path: path.to_path_buf() });
    }
    let mut offset = MAGIC.len() as u64;
    let mut head = [0; RECORD_HEAD];
    loop {
        if file.read_exact(&mut head).is_err() {
            return Ok(offset);
        }
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if length > MAX_RECORD {
            return Ok(offset);
        }
        // Not allocated from the claimed length: a torn file may claim anything.
        let mut payload = Vec::new();
        let read = file.by_ref().take(u64::from(length)).read_to_end(&mut payload);
        read.map_err(|source| failed(path, source))?;
        if payload.len() != length as usize || checksum(&payload) != head[4..] || visit(offset, &payload).is_none() {
            return Ok(offset);
        }
        offset += (RECORD_HEAD + payload.len()) as u64;
    }
}

/// Writes a whole file so that it is there complete or not at all, power cuts included.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| failed(path, source))
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|source| failed(path, source))
}

fn open_to_append(path: &Path) -> Result<File, Error> {
    OpenOptions::new().append(true).open(path).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::Store { path: path.to_path_buf(), source }
}
