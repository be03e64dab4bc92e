//! The texts that a dataset is made of, in the order of their keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::Error;
use crate::files;

/// A longer document is skipped: more likely a dump than text.
pub const MAX_DOCUMENT: u64 = 16 << 20;
/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 64;

/// One text.
pub struct Document {
    /// Path relative to where it was looked for, with slashes; decides the order.
    pub key: String,
    /// Its content; `None` where it is longer than [`MAX_DOCUMENT`].
    pub bytes: Option<Bytes>,
}

/// Texts one after the other, sorted by the bytes of their keys.
pub trait Documents: Send {
    /// The next one, or `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Document>, Error>> + Send;
}

/// Whether a key ends in one of the extensions, given without a dot. None given: every key does.
pub(crate) fn has_extension(key: &str, extensions: &[String]) -> bool {
    let extension = Path::new(key).extension().and_then(|e| e.to_str());
    extensions.is_empty() || extension.is_some_and(|e| extensions.iter().any(|wanted| wanted == e))
}

/// The files of a folder and of the folders in it. Links are not followed; names that are not UTF-8 are left out.
pub struct FolderDocuments {
    root: PathBuf,
    keys: std::vec::IntoIter<String>,
}

impl FolderDocuments {
    /// Lists the folder.
    pub fn new(root: &Path, extensions: &[String]) -> Result<Self, Error> {
        let mut keys = Vec::new();
        list(root, "", 0, &mut keys)?;
        keys.retain(|key| has_extension(key, extensions));
        keys.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        Ok(Self { root: root.to_owned(), keys: keys.into_iter() })
    }
}

fn list(folder: &Path, prefix: &str, depth: usize, keys: &mut Vec<String>) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Read { path: folder.display().to_string(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type().map_err(failed)?;
        let key = format!("{prefix}{name}");
        if kind.is_dir() && depth < MAX_DEPTH {
            list(&entry.path(), &format!("{key}/"), depth + 1, keys)?;
        } else if kind.is_file() {
            keys.push(key);
        }
    }
    Ok(())
}

impl Documents for FolderDocuments {
    async fn next(&mut self) -> Result<Option<Document>, Error> {
        let Some(key) = self.keys.next() else { return Ok(None) };
        let bytes = match files::read_bounded(&self.root.join(&key), MAX_DOCUMENT) {
            Ok(Some(bytes)) => Some(Bytes::from(bytes)),
            // Gone since it was listed: a folder that changes meanwhile has no digest worth having.
            Ok(None) => {
                let path = self.root.join(&key).display().to_string();
                return Err(Error::Read { path, source: io::ErrorKind::NotFound.into() });
            }
            Err(files::Error::TooLarge { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Document { key, bytes }))
    }
}
