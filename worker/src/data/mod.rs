//! The text that a subnet trains on: made once by [`prepare()`], read page by page by [`Dataset`].
//!
//! A prepared dataset is a folder, on disk or in the bucket, with `index.json` and shards of tokens. The run names the
//! digest of the index, the index those of the shards: so nobody has to trust the bucket.

mod dataset;
mod documents;
mod index;
mod prepare;
mod store;

pub(crate) use self::documents::has_extension;
pub use self::{
    dataset::Dataset,
    documents::{Document, Documents, FolderDocuments, MAX_DOCUMENT},
    index::{Index, Shard, TokenizerName},
    prepare::{Prepared, prepare},
    store::{BucketFolder, Folder, Nowhere, Sink, Source},
};

/// Name of the index in the folder of a dataset.
pub const INDEX: &str = "index.json";

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
    #[error("the text is larger than {0} bytes: lower --limit")]
    TooLarge(u64),
    /// The folder with the text cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
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
            Self::Digest { .. } | Self::Missing(_) | Self::Damaged(_) | Self::Files(_) => true,
            Self::Bucket(error) => error.is_transient(),
            Self::Index(_) | Self::Page { .. } | Self::Empty(_) | Self::TooLarge(_) | Self::Read { .. } => false,
        }
    }
}

impl From<Error> for crate::failure::Failure {
    fn from(error: Error) -> Self {
        if error.is_transient() { Self::transient(error) } else { Self::permanent(error) }
    }
}
