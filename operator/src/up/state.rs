//! The folder of one `up`: the devnet's data, one folder per pod, and a lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be written.
    #[error("failed to write {0}")]
    Write(String, #[source] io::Error),
    /// Another `up` runs in it.
    #[error("another bistro up runs in {0}: stop it, or choose another folder with --state")]
    Locked(String),
    /// There is no place for it.
    #[error("no HOME to keep state in: choose a folder with --state")]
    NoHome,
}

/// An open state folder; it is locked as long as this lives.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Opens the folder, or a fresh one named after the subnet and the time.
    pub fn open(chosen: Option<&Path>, subnet: &str) -> Result<Self, StateError> {
        let path = match chosen {
            Some(path) => path.to_owned(),
            None => home()?.join(format!("{subnet}-{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"))),
        };
        create_folder(&path)?;
        // Programs get it as an argument and run elsewhere.
        let path = path.canonicalize().map_err(|e| StateError::Write(path.display().to_string(), e))?;
        let lock = path.join("lock");
        let file = File::create(&lock).map_err(|e| StateError::Write(lock.display().to_string(), e))?;
        file.try_lock().map_err(|_| StateError::Locked(path.display().to_string()))?;
        Ok(Self { path, _lock: file })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The devnet's data.
    pub fn devnet(&self) -> PathBuf {
        self.path.join("devnet")
    }

    /// The folder of a pod.
    pub fn pod(&self, id: &str) -> PathBuf {
        self.path.join("pods").join(id)
    }
}

/// `$XDG_STATE_HOME/bistro`, by default `~/.local/state/bistro`.
fn home() -> Result<PathBuf, StateError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    Ok(state.ok_or(StateError::NoHome)?.join("bistro"))
}

/// A folder that only its owner can open: it holds keys.
pub fn create_folder(path: &Path) -> Result<(), StateError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| StateError::Write(path.display().to_string(), error))
}

/// A file that only its owner can read.
pub fn write_file(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let write = || {
        // Another file under the same name could be readable by others.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
    };
    write().map_err(|error| StateError::Write(path.display().to_string(), error))
}
