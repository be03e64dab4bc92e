//! What can be wrong with somebody's model: each names the file, the place in it, and what would be right.

use crate::{
    engine::{self, ConfigError},
    failure::Failure,
};

/// Why a model cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is needed.
    #[error("{file} does not exist: {remedy}")]
    Absent {
        /// Which one.
        file: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file that is not what its name says.
    #[error("{file}: {reason}")]
    File {
        /// Which one.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A config.json that the engine cannot follow.
    #[error("{file}: {source}")]
    Config {
        /// Which one.
        file: String,
        /// Names the field and the remedy.
        source: ConfigError,
    },
    /// One tensor of a file.
    #[error("{file}: tensor {tensor} {what}")]
    Tensor {
        /// Which file.
        file: String,
        /// Its name as it stands there.
        tensor: Quoted,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor that no file has.
    #[error(
        "{place}: no tensor {tensor:?}, which the model has: take the files of the model that config.json describes"
    )]
    Missing {
        /// Where it was looked for.
        place: String,
        /// Its name in the model.
        tensor: String,
    },
    /// The tokenizer makes tokens that the model does not know.
    #[error(
        "{file} has tokens up to {tokenizer} but the model only {model}: set vocab_size to {tokenizer} or more, or take the tokenizer of this model"
    )]
    Vocabulary {
        /// Which tokenizer.
        file: String,
        /// Tokens that it makes.
        tokenizer: u32,
        /// Tokens that the model knows.
        model: usize,
    },
    /// An argument that does not go with the model.
    #[error("--{argument}: {reason}")]
    Argument {
        /// Its name.
        argument: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The model does not compute.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A file that cannot be read or written.
    #[error(transparent)]
    Files(#[from] crate::files::Error),
}

impl Error {
    /// Of a whole file.
    pub(super) fn file(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::File { file: file.into(), reason: reason.into() }
    }

    /// Of one tensor.
    pub(super) fn tensor(file: &str, tensor: &str, what: impl Into<String>) -> Self {
        Self::Tensor { file: file.to_owned(), tensor: Quoted::new(tensor), what: what.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::permanent(error)
    }
}

/// A name out of somebody's file: whatever it holds, it fills no screen and moves no cursor.
#[derive(Debug)]
pub struct Quoted(String);

impl Quoted {
    /// Most characters that are shown.
    const LENGTH: usize = 80;

    /// Shortens it.
    pub fn new(name: &str) -> Self {
        Self(name.chars().take(Self::LENGTH).collect())
    }
}

impl std::fmt::Display for Quoted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Debug escapes what cannot be printed.
        write!(f, "{:?}", self.0)
    }
}
