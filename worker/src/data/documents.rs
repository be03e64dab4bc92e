//! The files that a dataset is made of, in the order of their keys.

use std::{
    fs::{self, File as Opened},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use super::Error;

/// A longer document is skipped: more likely a dump than text.
pub const MAX_DOCUMENT: u64 = 16 << 20;
/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 64;

/// One file with text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path relative to where it was looked for, with slashes; decides the order.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// When it was changed last, in any unit.
    pub modified: i64,
}

/// The bytes of a file, at any place of it. Reading may block.
pub trait Content: Read + Seek + Send {}

impl<T: Read + Seek + Send> Content for T {}

/// Files with text, sorted by the bytes of their keys.
pub trait Documents: Clone + Send + Sync + 'static {
    /// What there is.
    fn files(&self) -> &[File];

    /// Opens the file of this number in [`files`](Self::files). An error of its reads that came from the bucket has a
    /// [`crate::bucket::Error`] in it.
    fn open(&self, number: usize) -> io::Result<Box<dyn Content>>;
}

/// Whether a key ends in a dot and one of the extensions, behind a name. None given: every key does.
pub(crate) fn has_extension(key: &str, extensions: &[String]) -> bool {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    let ends = |extension: &String| {
        let stem = name.strip_suffix(extension.as_str()).and_then(|stem| stem.strip_suffix('.'));
        stem.is_some_and(|stem| !stem.is_empty())
    };
    extensions.is_empty() || extensions.iter().any(ends)
}

/// The files of a folder and of the folders in it. Links are not followed; names that are not UTF-8 are left out.
#[derive(Clone)]
pub struct FolderDocuments {
    root: PathBuf,
    files: Arc<[File]>,
}

impl FolderDocuments {
    /// Lists the folder.
    pub fn new(root: &Path, extensions: &[String]) -> Result<Self, Error> {
        let mut files = Vec::new();
        list(root, "", 0, extensions, &mut files)?;
        files.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
        Ok(Self { root: root.to_owned(), files: files.into() })
    }
}

fn list(folder: &Path, prefix: &str, depth: usize, extensions: &[String], files: &mut Vec<File>) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Read { path: folder.display().to_string(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type().map_err(failed)?;
        let key = format!("{prefix}{name}");
        if kind.is_dir() && depth < MAX_DEPTH {
            list(&entry.path(), &format!("{key}/"), depth + 1, extensions, files)?;
        } else if kind.is_file() && has_extension(&key, extensions) {
            let stat = entry.metadata().map_err(failed)?;
            // Files from before 1970 and file systems without times: the size must do.
            let modified = stat.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified = modified.map_or(0, |time| time.as_nanos() as i64);
            files.push(File { key, size: stat.len(), modified });
        }
    }
    Ok(())
}

impl Documents for FolderDocuments {
    fn files(&self) -> &[File] {
        &self.files
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Content>> {
        Ok(Box::new(Opened::open(self.root.join(&self.files[number].key))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_is_what_follows_a_name_and_a_dot() {
        let has = |key, extension: &str| has_extension(key, &[extension.to_owned()]);
        assert!(has("a/b.rs", "rs") && has("b.jsonl.gz", "jsonl.gz") && has("b.jsonl.gz", "gz"));
        assert!(!has("a/.rs", "rs") && !has("rs", "rs") && !has("a.rs/b", "rs") && !has("b.jsonl.gz", "jsonl"));
        assert!(has_extension("anything", &[]));
    }
}
