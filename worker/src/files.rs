//! The one way to write a file and the one way to read one.
//!
//! A write is atomic and durable: the bytes go to a temporary file in the same folder, are synced, take the place of the
//! old file by a rename, and the folder is synced. A reader, or the same node after a crash, sees the old file or the new
//! one. A read is bounded: a file from outside never decides how much memory it takes.
//!
//! The calls block; from async code run them where blocking is allowed.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// What can go wrong with a file. Every variant names it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or the quota is full.
    #[error("failed to write {path}: no space is left; free some or enlarge the volume", path = .path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other fault of a write.
    #[error("failed to write {path}: {source}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any fault of a read, except that the file is not there.
    #[error("failed to read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than its reader allows.
    #[error("failed to read {path}: it is larger than {most} bytes", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that its reader allows.
        most: u64,
    },
}

impl Error {
    fn writing(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            _ => Self::Write { path, source },
        }
    }

    fn reading(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

/// Puts `bytes` at `path`, whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// Puts what `fill` writes at `path`, whole or not at all: for files that are too large to build in memory first.
pub fn write_atomic_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = temporary_beside(path).map_err(|e| Error::writing(path, e))?;
    let replace = || -> io::Result<()> {
        let mut file = io::BufWriter::new(File::create(&temporary)?);
        fill(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)?;
        // Without this the rename itself may be lost in a power cut.
        File::open(folder)?.sync_all()
    };
    replace().map_err(|e| {
        // The write has failed already; a leftover that cannot be removed either changes nothing about that.
        let _ = fs::remove_file(&temporary);
        Error::writing(path, e)
    })
}

/// The whole file, or `None` where there is none. More than `most` bytes is an error, found before they are in memory.
pub fn read_bounded(path: &Path, most: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::reading(path, e)),
    };
    let size = file.metadata().map_err(|e| Error::reading(path, e))?.len();
    let too_large = || Error::TooLarge { path: path.to_owned(), most };
    if size > most {
        return Err(too_large());
    }
    // The size is a hint only: a file can grow, and pipes and /proc files have none.
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(Some(bytes)) }
}

/// Removes what writes that were killed left in `folder`. Only for a folder that nobody writes to now.
pub fn forget_unfinished(folder: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(|e| Error::reading(folder, e))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            // It costs room, nothing else: the next start tries again.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// A name in the same folder that no other writer of this process uses, and that survivors of a crash can be told by.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    Ok(path.with_file_name(format!(".{}.{}-{number}.tmp", name.to_string_lossy(), std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() {
        let folder = folder();
        let path = folder.path().join("state");
        write_atomic(&path, &[1; 1000]).expect("the first write");
        write_atomic(&path, b"short").expect("the second write");
        assert_eq!(read_bounded(&path, 5).expect("five bytes fit"), Some(b"short".to_vec()));
        assert_eq!(fs::read_dir(folder.path()).expect("the folder is there").count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing_else() {
        let folder = folder();
        let path = folder.path().join("state");
        write_atomic(&path, b"old").expect("the first write");
        let failed = write_atomic_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(matches!(failed, Err(Error::Full { .. })));
        assert_eq!(read_bounded(&path, 100).expect("readable"), Some(b"old".to_vec()));
        assert_eq!(fs::read_dir(folder.path()).expect("the folder is there").count(), 1);
    }

    #[test]
    fn what_a_kill_left_is_removed_and_nothing_else() {
        let folder = folder();
        let path = folder.path().join("state");
        write_atomic(&path, b"kept").expect("written");
        fs::write(temporary_beside(&path).expect("a name"), b"half").expect("written");
        fs::write(folder.path().join(".hidden"), b"kept").expect("written");
        forget_unfinished(folder.path()).expect("readable");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder is there").count(), 2);
        assert_eq!(read_bounded(&path, 10).expect("readable"), Some(b"kept".to_vec()));
    }

    #[test]
    fn errors_name_the_file() {
        let folder = folder();
        let path = folder.path().join("missing").join("state");
        let message = write_atomic(&path, b"x").expect_err("there is no such folder").to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
    }

    #[test]
    fn reads_are_bounded_and_an_absent_file_is_none() {
        let folder = folder();
        let path = folder.path().join("state");
        assert_eq!(read_bounded(&path, 10).expect("absent is no error"), None);
        write_atomic(&path, &[7; 11]).expect("written");
        assert!(matches!(read_bounded(&path, 10), Err(Error::TooLarge { most: 10, .. })));
        assert!(matches!(read_bounded(folder.path(), 1 << 20), Err(Error::Read { .. })));
    }

    #[test]
    fn a_file_that_hides_its_size_is_bounded_too() {
        let path = Path::new("/proc/self/maps");
        if path.exists() {
            assert!(matches!(read_bounded(path, 16), Err(Error::TooLarge { .. })));
        }
    }
}
