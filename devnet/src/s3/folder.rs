//! Objects as files: a key is a path below the root.
//!
//! An object is written beside the root first and moved into place whole, so a reader never sees half of one.
//! Moving, deleting and opening take one short lock: that is what makes a conditional write atomic.

use super::access::CORPUS;
use s3s::{S3Result, dto::Metadata, s3_error};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The most bytes of a part of a key: what file systems allow.
const MAX_PART_BYTES: usize = 255;

/// What a client said about an object, beside its bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Attributes {
    pub content_type: Option<String>,
    /// The headers x-amz-meta-*.
    pub user: Option<Metadata>,
}

impl Attributes {
    fn is_empty(&self) -> bool {
        self.content_type.is_none() && self.user.as_ref().is_none_or(|user| user.is_empty())
    }
}

/// An object's size in bytes, when it was written (whole seconds) and what changes when its bytes do.
#[derive(Clone, Debug)]
pub struct Stat {
    pub size: u64,
    pub modified: SystemTime,
    pub e_tag: String,
}

/// An object opened for reading.
pub struct Opened {
    pub file: File,
    pub stat: Stat,
    pub attributes: Attributes,
}

/// When a write counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    Always,
    /// Only if there is no object: `If-None-Match: *`.
    Absent,
    /// Only if there is an object, with this ETag if one is named: `If-Match`.
    Present(Option<String>),
}

/// The folder of the bucket.
pub struct Folder {
    objects: PathBuf,
    attributes: PathBuf,
    temporary: PathBuf,
    corpus: Option<PathBuf>,
    written: AtomicU64,
    moving: Mutex<()>,
}

impl Folder {
    /// Opens or makes the folder. What an earlier run left unfinished is deleted.
    pub fn open(root: &Path, corpus: Option<&Path>) -> io::Result<Folder> {
        let temporary = root.join("temporary");
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (objects, attributes) = (root.join("objects"), root.join("attributes"));
        for folder in [&objects, &attributes, &temporary] {
            fs::create_dir_all(folder)?;
        }
        let corpus = corpus.map(fs::canonicalize).transpose()?;
        Ok(Folder { objects, attributes, temporary, corpus, written: AtomicU64::new(0), moving: Mutex::new(()) })
    }

    /// A path for something unfinished; nobody else gets the same.
    pub fn temporary_path(&self) -> PathBuf {
        self.temporary.join(self.written.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Where keys with this prefix lie: the root of their tree and the key of that root (empty or `corpus/`).
    pub fn trees(&self) -> Vec<(&Path, &'static str)> {
        let corpus = self.corpus.as_deref().map(|corpus| (corpus, "corpus/"));
        std::iter::once((self.objects.as_path(), "")).chain(corpus).collect()
    }

    /// Moves a finished file to its key and dates it now.
    ///
    /// # Errors
    /// `PreconditionFailed` if the condition does not hold; the file is gone all the same.
    pub fn commit(&self, file: &Path, key: &str, attributes: &Attributes, condition: &Condition) -> S3Result<Stat> {
        let committed = self.try_commit(file, key, attributes, condition);
        if committed.is_err() {
            // Otherwise it is deleted at the next start.
            let _ = fs::remove_file(file);
        }
        committed
    }

    fn try_commit(&self, file: &Path, key: &str, attributes: &Attributes, condition: &Condition) -> S3Result<Stat> {
        let path = self.path(key)?;
        let _moving = self.lock();
        let old = self.stat(&path)?;
        let holds = match (condition, &old) {
            (Condition::Always, _) | (Condition::Absent, None) | (Condition::Present(None), Some(_)) => true,
            (Condition::Present(Some(e_tag)), Some(old)) => old.e_tag == *e_tag,
            (Condition::Absent, Some(_)) | (Condition::Present(_), None) => false,
        };
        if !holds {
            return Err(s3_error!(PreconditionFailed, "the object {key} does not meet the condition"));
        }
        let modified = File::options().write(true).open(file).and_then(|file| file.set_modified(SystemTime::now()));
        modified.map_err(internal)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| conflict_or_internal(error, key))?;
        }
        self.write_attributes(key, attributes).map_err(internal)?;
        fs::rename(file, &path).map_err(|error| conflict_or_internal(error, key))?;
        self.stat(&path)?.ok_or_else(|| s3_error!(InternalError, "the object vanished"))
    }

    /// Opens an object; `NoSuchKey` if there is none.
    pub fn read(&self, key: &str) -> S3Result<Opened> {
        let no_such_key = || s3_error!(NoSuchKey, "no object has the key {key}");
        let path = self.path(key).map_err(|_| no_such_key())?;
        let _moving = self.lock();
        let stat = self.stat(&path)?.ok_or_else(no_such_key)?;
        let file = File::open(&path).map_err(internal)?;
        Ok(Opened { file, stat, attributes: self.read_attributes(key) })
    }

    /// Deletes an object if there is one, and the folders that become empty.
    pub fn delete(&self, key: &str) -> S3Result<()> {
        let path = self.path(key)?;
        let _moving = self.lock();
        if self.stat(&path)?.is_none() {
            return Ok(());
        }
        fs::remove_file(&path).map_err(internal)?;
        let _ = fs::remove_file(self.attributes_path(key));
        for parent in path.ancestors().skip(1).take_while(|parent| *parent != self.objects) {
            // The first that is not empty ends it.
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The path of a key. Every part is a plain name: nothing leads out of the root.
    fn path(&self, key: &str) -> S3Result<PathBuf> {
        let plain = |part: &str| {
            let control = part.chars().any(char::is_control);
            !(part.is_empty() || part == "." || part == ".." || part.len() > MAX_PART_BYTES || control)
        };
        if !key.split('/').all(plain) {
            return Err(s3_error!(InvalidArgument, "a key is names of 1 to {MAX_PART_BYTES} bytes, separated by /"));
        }
        match (key.split_once('/'), &self.corpus) {
            (Some((CORPUS, rest)), Some(corpus)) => Ok(corpus.join(rest)),
            _ => Ok(self.objects.join(key)),
        }
    }

    /// `None` if no plain file is there. A link, or a path through one, is not followed.
    fn stat(&self, path: &Path) -> S3Result<Option<Stat>> {
        let roots = [Some(self.objects.as_path()), self.corpus.as_deref()];
        let inside = path.ancestors().skip(1).take_while(|parent| !roots.contains(&Some(*parent)));
        if inside.into_iter().any(Path::is_symlink) {
            return Ok(None);
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(stat_of(&metadata))),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(internal(error)),
        }
    }

    fn attributes_path(&self, key: &str) -> PathBuf {
        self.attributes.join(blake3::hash(key.as_bytes()).to_hex().as_str())
    }

    fn write_attributes(&self, key: &str, attributes: &Attributes) -> io::Result<()> {
        let path = self.attributes_path(key);
        if attributes.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let temporary = self.temporary_path();
        fs::write(&temporary, serde_json::to_vec(attributes)?)?;
        fs::rename(temporary, path)
    }

    fn read_attributes(&self, key: &str) -> Attributes {
        let bytes = fs::read(self.attributes_path(key)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Guards no data of its own: a panic under it has broken nothing.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Size, time and ETag of a file. The ETag looks like that of a multipart upload, which is no MD5.
pub fn stat_of(metadata: &fs::Metadata) -> Stat {
    let parts =
        [metadata.ino(), metadata.len(), metadata.mtime().cast_unsigned(), metadata.mtime_nsec().cast_unsigned()];
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
    let modified = UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.mtime()).unwrap_or(0));
    let digest = blake3::hash(&bytes).to_hex();
    Stat { size: metadata.len(), modified, e_tag: format!("{}-1", &digest[..32]) }
}

fn conflict_or_internal(error: io::Error, key: &str) -> s3s::S3Error {
    let conflicts = [ErrorKind::NotADirectory, ErrorKind::IsADirectory, ErrorKind::AlreadyExists];
    if conflicts.contains(&error.kind()) {
        return s3_error!(InvalidArgument, "{key}: a key cannot be an object and the start of another key");
    }
    internal(error)
}

/// A fault of this machine: logged here, told to the client without paths.
pub fn internal(error: io::Error) -> s3s::S3Error {
    tracing::error!(%error, "failed to use the bucket's folder");
    s3_error!(InternalError, "the bucket's folder cannot be used: {}", error.kind())
}
