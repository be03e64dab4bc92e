//! Where a prepared dataset lies: a folder on disk or in a bucket.

use std::path::PathBuf;

use bytes::Bytes;

use super::Error;
use crate::{bucket::Bucket, files};

/// A folder that files are read from.
pub trait Source: Send + Sync {
    /// The file of this name, or `None` where there is none; more than `most` bytes are an error.
    fn get(&self, name: &str, most: u64) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;
}

/// A folder that files are written to.
pub trait Sink: Source {
    /// Puts a file there, in place of one that may be there.
    fn put(&self, name: &str, bytes: Bytes) -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes a file; it is no error if there is none.
    fn delete(&self, name: &str) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A folder of the bucket.
#[derive(Clone)]
pub struct BucketFolder {
    bucket: Bucket,
    /// Without a slash at its end; may be empty.
    prefix: String,
}

impl BucketFolder {
    /// The folder `prefix` of `bucket`.
    pub fn new(bucket: Bucket, prefix: &str) -> Self {
        Self { bucket, prefix: prefix.trim_end_matches('/').to_owned() }
    }

    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

impl Source for BucketFolder {
    async fn get(&self, name: &str, most: u64) -> Result<Option<Bytes>, Error> {
        Ok(self.bucket.get(&self.key(name), most).await?.map(|object| object.bytes))
    }
}

impl Sink for BucketFolder {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        Ok(self.bucket.put(&self.key(name), bytes).await?)
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        Ok(self.bucket.delete(&self.key(name)).await?)
    }
}

/// A folder on disk. Its calls block: meant for tools and for caches.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Source for Folder {
    async fn get(&self, name: &str, most: u64) -> Result<Option<Bytes>, Error> {
        Ok(files::read_bounded(&self.0.join(name), most)?.map(Bytes::from))
    }
}

impl Sink for Folder {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let reading = |source| Error::Read { path: self.0.display().to_string(), source };
        std::fs::create_dir_all(&self.0).map_err(reading)?;
        Ok(files::write_atomic(&self.0.join(name), &bytes)?)
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        let path = self.0.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(files::Error::Write { path, source }.into())
            }
            _ => Ok(()),
        }
    }
}

/// Forgets what it is given: for the digest alone.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl Source for Nowhere {
    async fn get(&self, _: &str, _: u64) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }
}

impl Sink for Nowhere {
    async fn put(&self, _: &str, _: Bytes) -> Result<(), Error> {
        Ok(())
    }

    async fn delete(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
}
