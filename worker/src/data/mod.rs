//! The text that a subnet trains on: made once by [`prepare()`], read page by page by [`Dataset`].
//!
//! A prepared dataset is a folder, on disk or in the bucket, with `index.json` and shards of tokens. The run names the
//! digest of the index, the index those of the shards: so nobody has to trust the bucket.

mod bucket_documents;
mod dataset;
mod documents;
mod error;
mod index;
mod prepare;
mod progress;
mod resume;
mod sources;
mod store;
mod tokens;
mod writer;

#[cfg(test)]
mod tests;

pub use self::{
    bucket_documents::BucketDocuments,
    dataset::Dataset,
    documents::{Content, Documents, File, FolderDocuments, MAX_DOCUMENT},
    error::Error,
    index::{Index, Shard, TokenizerName},
    prepare::{Options, Prepared, prepare, prepare_with},
    progress::Progress,
    store::{BucketFolder, Folder, Nowhere, Sink, Source},
    tokens::{FromFile, MAX_TOKENIZER, Tokenizer},
};

pub(crate) use self::tokens::{Pieces, guarded};

/// Name of the index in the folder of a dataset.
pub const INDEX: &str = "index.json";

/// Name of the tokenizer's file in the folder of a dataset, where it has one.
pub const TOKENIZER: &str = "tokenizer.json";
