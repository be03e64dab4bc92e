//! The objects under a prefix of a bucket, read in ranges: none has to fit into memory or onto a disk.

use std::{
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    Error,
    documents::{Content, Documents, File, has_extension},
};
use crate::bucket::{self, Bucket};

/// Most objects that are looked at in a bucket.
const MAX_OBJECTS: usize = 1_000_000;
/// Bytes that are asked for at once.
const RANGE: u64 = 8 << 20;

/// The objects under a prefix of a bucket.
#[derive(Clone)]
pub struct BucketDocuments {
    bucket: Bucket,
    /// Ends in a slash, or is empty.
    prefix: String,
    files: Arc<[File]>,
    /// Where the requests of a thread that may block are run.
    runtime: Handle,
}

impl BucketDocuments {
    /// Lists the objects.
    pub async fn new(bucket: Bucket, prefix: &str, extensions: &[String]) -> Result<Self, Error> {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let listed = bucket.list_objects(&prefix, MAX_OBJECTS).await?;
        if listed.len() == MAX_OBJECTS {
            return Err(Error::TooMany(MAX_OBJECTS));
        }
        let file = |object: bucket::Listed| {
            let key = object.key.strip_prefix(&prefix)?.to_owned();
            has_extension(&key, extensions).then_some(File { key, size: object.size, modified: object.last_modified })
        };
        let mut files: Vec<File> = listed.into_iter().filter_map(file).collect();
        // Services differ in the order of their listings.
        files.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
        Ok(Self { bucket, prefix, files: files.into(), runtime: Handle::current() })
    }
}

impl Documents for BucketDocuments {
    fn files(&self) -> &[File] {
        &self.files
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Content>> {
        let File { key, size, modified: _ } = &self.files[number];
        Ok(Box::new(Ranges {
            bucket: self.bucket.clone(),
            key: format!("{}{key}", self.prefix),
            size: *size,
            last_modified: None,
            at: 0,
            held: (0, Bytes::new()),
            runtime: self.runtime.clone(),
        }))
    }
}

/// One object.
struct Ranges {
    bucket: Bucket,
    key: String,
    size: u64,
    /// Of the first range; the others must be of the same object.
    last_modified: Option<i64>,
    /// Where the next read starts.
    at: u64,
    /// The range that was fetched last, and where it starts.
    held: (u64, Bytes),
    runtime: Handle,
}

impl Ranges {
    fn fetch(&mut self) -> io::Result<()> {
        let length = RANGE.min(self.size - self.at);
        let object =
            self.runtime.block_on(self.bucket.get_range(&self.key, self.at, length)).map_err(io::Error::other)?;
        let changed = || io::Error::other(format!("{} changed while it was read", self.key));
        let object = object.ok_or_else(changed)?;
        if object.size != length || self.last_modified.is_some_and(|time| time != object.last_modified) {
            return Err(changed());
        }
        self.last_modified = Some(object.last_modified);
        self.held = (self.at, object.bytes);
        Ok(())
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let held = |(start, bytes): &(u64, Bytes), at: u64| (*start..start + bytes.len() as u64).contains(&at);
        if !held(&self.held, self.at) {
            self.fetch()?;
        }
        let bytes = &self.held.1[(self.at - self.held.0) as usize..];
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Ranges {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
