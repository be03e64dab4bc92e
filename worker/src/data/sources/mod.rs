//! Rows of text out of files of every format, one after the other, in bounded memory.
//!
//! Everything here blocks and is meant for a thread of its own.

mod jsonl;
mod parquet;
mod plain;
mod zstd;

use std::{
    io::{self, Read, Seek, SeekFrom},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::{Error, documents::Content, documents::Documents};
use crate::bucket;

/// Bytes of text that are handed on together, give or take a document.
const BATCH_BYTES: usize = 4 << 20;
/// Rows that are looked at for one batch.
const BATCH_ROWS: usize = 1 << 14;

/// Where a row starts: enough to come back to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Number of the file.
    pub file: usize,
    /// Rows of the file before this one.
    pub row: u64,
    /// Bytes of the file, unpacked, before this one; 0 where the format counts rows only.
    pub offset: u64,
}

/// One row: a document, or what stands where one should.
struct Row {
    /// `None`: too long, damaged, or nothing there.
    text: Option<String>,
    row: u64,
    offset: u64,
}

/// The rows of a file.
trait Rows: Send {
    fn next(&mut self) -> Result<Option<Row>, Error>;
}

/// A document that is not empty.
#[derive(Debug)]
pub(super) struct Text {
    pub text: String,
    /// Its bytes.
    pub length: u64,
    pub place: Place,
    /// Rows before it, and after the document before it, that gave no document.
    pub skipped: u64,
}

/// Documents that are handed on together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub texts: Vec<Text>,
    /// Rows after the last document that gave none.
    pub skipped: u64,
    /// Bytes of all files up to here, as they are stored.
    pub read: u64,
}

/// Reads all files from a place on.
pub(super) struct Reader<D> {
    documents: D,
    field: String,
    /// Where the next file starts.
    next: Place,
    open: Option<(Box<dyn Rows>, Watch)>,
    /// Bytes of the files before the open one.
    finished: u64,
}

impl<D: Documents> Reader<D> {
    /// `field` names the text in formats with named fields.
    pub fn new(documents: D, field: &str, from: Place) -> Self {
        let finished = documents.files().iter().take(from.file).map(|file| file.size).sum();
        Self { documents, field: field.to_owned(), next: from, open: None, finished }
    }

    /// The next documents, at least one row of them; `None` at the end.
    pub fn batch(&mut self) -> Result<Option<Batch>, Error> {
        let mut batch = Batch::default();
        let (mut rows, mut size) = (0, 0);
        while rows < BATCH_ROWS && size < BATCH_BYTES {
            let Some((file, Row { text, row, offset })) = self.row()? else { break };
            rows += 1;
            match text {
                None => batch.skipped += 1,
                Some(text) if text.is_empty() => {}
                Some(text) => {
                    size += text.len();
                    let skipped = std::mem::take(&mut batch.skipped);
                    let (length, place) = (text.len() as u64, Place { file, row, offset });
                    batch.texts.push(Text { text, length, place, skipped });
                }
            }
        }
        batch.read = self.finished + self.open.as_ref().map_or(0, |(_, watch)| watch.position());
        Ok((rows > 0).then_some(batch))
    }

    /// The next row and the number of its file.
    fn row(&mut self) -> Result<Option<(usize, Row)>, Error> {
        loop {
            if let Some((rows, _)) = &mut self.open {
                let file = self.next.file - 1;
                if let Some(row) = rows.next()? {
                    return Ok(Some((file, row)));
                }
                self.finished += self.documents.files()[file].size;
                self.open = None;
            }
            if self.next.file >= self.documents.files().len() {
                return Ok(None);
            }
            self.open = Some(self.open_next()?);
            self.next = Place { file: self.next.file + 1, row: 0, offset: 0 };
        }
    }

    fn open_next(&self) -> Result<(Box<dyn Rows>, Watch), Error> {
        let Place { file, row, offset } = self.next;
        let key = self.documents.files()[file].key.clone();
        // Gone since it was listed: files that change meanwhile have no digest worth having.
        let content = self.documents.open(file).map_err(|error| unreadable(&key, error))?;
        let watch = Watch { key, state: Arc::default() };
        let content = Watched { content, watch: watch.clone() };
        Ok((open(content, &self.field, row, offset)?, watch))
    }
}

/// The rows of a file from one on; the end of the key says what they look like.
fn open(content: Watched, field: &str, row: u64, offset: u64) -> Result<Box<dyn Rows>, Error> {
    let key = content.watch.key.as_str();
    if key.ends_with(".parquet") {
        Ok(Box::new(parquet::Parquet::open(content, field, row)?))
    } else if let Some(packed) = jsonl::Packed::of(key) {
        Ok(Box::new(jsonl::Jsonl::open(content, packed, field, row, offset)?))
    } else {
        Ok(Box::new(plain::Plain::new(content, row)))
    }
}

fn unreadable(key: &str, error: io::Error) -> Error {
    match error.downcast::<bucket::Error>() {
        Ok(error) => Error::Bucket(error),
        Err(source) => Error::Read { path: key.to_owned(), source },
    }
}

/// What is known about a file that others read: how far they are, and what really went wrong. Decoders put errors of
/// their own around those of a read, and a bucket that does not answer must not pass for a damaged file.
#[derive(Clone)]
struct Watch {
    key: String,
    state: Arc<(AtomicU64, Mutex<Option<io::Error>>)>,
}

impl Watch {
    fn position(&self) -> u64 {
        self.state.0.load(Ordering::Relaxed)
    }

    /// What to say where reading failed: the fault of the read if there was one, else that the file is damaged.
    fn failed(&self, reason: impl ToString) -> Error {
        match self.state.1.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(fault) => unreadable(&self.key, fault),
            None => Error::Source { key: self.key.clone(), reason: reason.to_string() },
        }
    }
}

/// The bytes of a file under a watch.
struct Watched {
    content: Box<dyn Content>,
    watch: Watch,
}

impl Watched {
    fn noted<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let seen = io::Error::new(error.kind(), error.to_string());
            *self.watch.state.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            seen
        })
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.content.read(buffer);
        let count = self.noted(outcome)?;
        self.watch.state.0.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Watched {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let outcome = self.content.seek(to);
        let at = self.noted(outcome)?;
        self.watch.state.0.store(at, Ordering::Relaxed);
        Ok(at)
    }
}

#[cfg(test)]
pub(super) mod tests;
