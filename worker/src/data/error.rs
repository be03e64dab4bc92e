//! What can go wrong with text and datasets, in words that say what to do.

use super::{INDEX, resume::STATE};

/// Why text cannot be read or prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The index is not the one that the run agreed on.
    #[error(
        "{INDEX} has the digest {found} but run.dataset.digest is {wanted}: prepare the same text again or correct the digest"
    )]
    Digest {
        /// blake3 of what was read, in hex.
        found: String,
        /// What the run says.
        wanted: String,
    },
    /// The index has the right digest but this program cannot follow it.
    #[error("{INDEX} cannot be used ({0}): prepare the dataset with this version of bistro-worker")]
    Index(String),
    /// The index names a shard that is not there.
    #[error("shard {0} of the dataset is not there: prepare the same text again")]
    Missing(String),
    /// A shard is not what the index says.
    #[error("shard {0} of the dataset is damaged (its digest differs from the index): prepare the same text again")]
    Damaged(String),
    /// A shard holds what its tokenizer cannot have made.
    #[error("shard {shard} of the dataset has the token {token}, but its vocabulary is {vocabulary}: prepare it again")]
    Vocabulary {
        /// Name of the shard.
        shard: String,
        /// The first one that is too large.
        token: u32,
        /// What tokens should be below.
        vocabulary: u32,
    },
    /// A page that the dataset does not have.
    #[error("page {page} does not exist: the dataset has {tokens} tokens")]
    Page {
        /// Number of the page.
        page: u64,
        /// Tokens of the dataset.
        tokens: u64,
    },
    /// There is nothing to make a dataset of.
    #[error("no text was found in {0}: check --from and --extension")]
    Empty(String),
    /// The text makes more shards than an index may list.
    #[error("the text makes more than {0} bytes of tokens: lower --limit")]
    TooLarge(u64),
    /// The bucket has more objects than are looked at.
    #[error("more than {0} objects are in --from: name a smaller prefix")]
    TooMany(usize),
    /// The folder with the text cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file with text is not what its name says.
    #[error("{key} is damaged ({reason}): fetch it again, or take it out of --from")]
    Source {
        /// Which file.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// No row of a file has the text.
    #[error("no row of {key} has text in the field {field:?}: name one of {found} with --text-field")]
    Field {
        /// Which file.
        key: String,
        /// What was looked for.
        field: String,
        /// What is there.
        found: String,
    },
    /// The tokenizer.json cannot be used.
    #[error("--tokenizer names a file that is no tokenizer.json that works ({0}): take the one of a published model")]
    Tokenizer(String),
    /// The tokenizer has no token to put between documents.
    #[error("the tokenizer has no token {0} to put between documents: name one that it has with --separator")]
    Separator(String),
    /// Threads for tokenizing could not be started.
    #[error("failed to start threads ({0}): lower BISTRO_THREADS")]
    Threads(String),
    /// The destination holds the start of something else.
    #[error("{STATE} in --to is of another run ({0}): start anew with --restart, or name another --to")]
    Resume(&'static str),
    /// Reading or tokenizing panicked: an error of this program, or of a decoder.
    #[error("reading stopped at a fault of this program ({0}): report it with the file that it read last")]
    Panic(String),
    /// Asked to stop.
    #[error("stopped before the end")]
    Stopped,
    /// A file of the dataset or of its cache.
    #[error(transparent)]
    Files(#[from] crate::files::Error),
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] crate::bucket::Error),
}

impl Error {
    /// Trying again later can help. What lies in the bucket can still be replaced by the right bytes.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Digest { .. } | Self::Missing(_) | Self::Damaged(_) | Self::Files(_) | Self::Stopped => true,
            Self::Bucket(error) => error.is_transient(),
            // A full disk can be emptied.
            Self::Read { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            }
            Self::Index(_)
            | Self::Vocabulary { .. }
            | Self::Page { .. }
            | Self::Empty(_)
            | Self::TooLarge(_)
            | Self::TooMany(_)
            | Self::Source { .. }
            | Self::Field { .. }
            | Self::Tokenizer(_)
            | Self::Separator(_)
            | Self::Threads(_)
            | Self::Resume(_)
            | Self::Panic(_) => false,
        }
    }
}

impl From<Error> for crate::failure::Failure {
    fn from(error: Error) -> Self {
        if error.is_transient() { Self::transient(error) } else { Self::permanent(error) }
    }
}

/// Names out of a file, for an error: some of them, and none too long.
pub(super) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let short = |name: &str| name.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
    let names: Vec<String> = names.take(20).map(short).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
