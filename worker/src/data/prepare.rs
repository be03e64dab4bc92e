//! Turns texts into a dataset of byte tokens.
//!
//! The bytes of all documents, in the order of their keys and joined by one zero byte, are cut into shards; then the
//! index is written. It comes last: whoever sees an index finds every shard. The same documents give the same digest.

use bytes::{Bytes, BytesMut};

use super::{Document, Documents, Error, INDEX, Index, Shard, Sink, index::MAX_SHARDS};

/// Bytes of a shard: some tens make a small corpus, and one is fetched in a moment.
const SHARD: usize = 4 << 20;
/// Between two documents. Text has no such byte of its own.
const SEPARATOR: u8 = 0;

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// For `run.dataset.digest`, in hex.
    pub digest: String,
    /// Tokens in all.
    pub tokens: u64,
    /// Files of tokens.
    pub shards: usize,
    /// Documents that went in.
    pub documents: u64,
    /// Documents that did not: not UTF-8, or longer than [`super::MAX_DOCUMENT`].
    pub skipped: u64,
}

/// Reads all documents and writes the dataset to `sink`. Stops before the first document that would make it longer than
/// `limit` bytes. `progress` sees the counts after each shard; the digest is empty until the end.
pub async fn prepare(
    documents: &mut impl Documents,
    sink: &impl Sink,
    limit: Option<u64>,
    mut progress: impl FnMut(&Prepared),
) -> Result<Prepared, Error> {
    let limit = limit.unwrap_or(u64::MAX);
    let mut writer = Writer { sink, pending: BytesMut::new(), shards: Vec::new() };
    let mut made = Prepared::default();
    while let Some(Document { key, bytes }) = documents.next().await? {
        let Some(text) = bytes.filter(|bytes| std::str::from_utf8(bytes).is_ok()) else {
            tracing::debug!("skipped {key}: not UTF-8 or too long");
            made.skipped += 1;
            continue;
        };
        if text.is_empty() {
            continue;
        }
        let separator = u64::from(made.documents > 0);
        let after = made.tokens + separator + text.len() as u64;
        if after > limit {
            break;
        }
        if separator == 1 {
            writer.pending.extend_from_slice(&[SEPARATOR]);
        }
        writer.pending.extend_from_slice(&text);
        made.documents += 1;
        made.tokens = after;
        if writer.write_full_shards().await? {
            made.shards = writer.shards.len();
            progress(&made);
        }
    }
    let index = writer.finish().await?;
    made.shards = index.shards.len();
    made.digest = index.digest();
    progress(&made);
    Ok(made)
}

struct Writer<'a, S> {
    sink: &'a S,
    /// Bytes that are in no shard yet.
    pending: BytesMut,
    shards: Vec<Shard>,
}

impl<S: Sink> Writer<'_, S> {
    /// Whether there were any.
    async fn write_full_shards(&mut self) -> Result<bool, Error> {
        let before = self.shards.len();
        while self.pending.len() >= SHARD {
            let bytes = self.pending.split_to(SHARD).freeze();
            self.write(bytes).await?;
        }
        Ok(self.shards.len() > before)
    }

    async fn finish(mut self) -> Result<Index, Error> {
        if !self.pending.is_empty() {
            let bytes = self.pending.split().freeze();
            self.write(bytes).await?;
        }
        let index = Index::of_bytes(self.shards);
        self.sink.put(INDEX, index.to_bytes().into()).await?;
        Ok(index)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        if self.shards.len() == MAX_SHARDS {
            return Err(Error::TooLarge((MAX_SHARDS * SHARD) as u64));
        }
        let name = format!("shard-{:05}.bin", self.shards.len());
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let shard = Shard { name, size: bytes.len() as u64, blake3 };
        self.sink.put(&shard.name, bytes).await?;
        self.shards.push(shard);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::data::{Folder, FolderDocuments, Nowhere, Source};

    fn write(root: &Path, files: &[(&str, &[u8])]) {
        for (name, content) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("inside the root")).expect("created");
            fs::write(path, content).expect("written");
        }
    }

    fn corpus() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(
            folder.path(),
            &[
                ("b.rs", b"fn b() {}"),
                ("a/z.md", b"# z"),
                ("a.txt", b"first: a dot sorts before a slash"),
                ("a/empty.rs", b""),
                ("a/not-text.rs", &[0xff, 0xfe]),
                ("a/image.png", b"not asked for"),
            ],
        );
        folder
    }

    async fn run(folder: &Path, sink: &impl Sink, limit: Option<u64>) -> Result<Prepared, Error> {
        let extensions = ["rs", "txt", "md"].map(str::to_owned);
        prepare(&mut FolderDocuments::new(folder, &extensions)?, sink, limit, |_| ()).await
    }

    #[tokio::test]
    async fn documents_are_joined_in_the_order_of_their_keys() {
        let (corpus, out) = (corpus(), tempfile::tempdir().expect("a temporary folder"));
        let out = Folder(out.path().join("new/folder"));
        let made = run(corpus.path(), &out, None).await.expect("prepares");
        let shard = out.get("shard-00000.bin", 1 << 20).await.expect("reads").expect("is there");
        assert_eq!(shard, "first: a dot sorts before a slash\0# z\0fn b() {}".as_bytes());
        assert_eq!((made.documents, made.skipped, made.shards, made.tokens), (3, 1, 1, shard.len() as u64));
        let index = out.get(INDEX, 1 << 20).await.expect("reads").expect("is there");
        assert_eq!(Index::from_bytes(&index, &made.digest).expect("reads").tokens, made.tokens);
        assert_eq!(run(corpus.path(), &Nowhere, None).await.expect("prepares"), made, "the digest needs no place");
    }

    /// Nodes and people must agree on this for ever.
    #[tokio::test]
    async fn the_digest_is_pinned() {
        let made = run(corpus().path(), &Nowhere, None).await.expect("prepares");
        assert_eq!(made.digest, "c5224a5e3e40cf07f0d3330494954d686b4dae419f7c7b6d9e8f194bafd0432f");
    }

    #[tokio::test]
    async fn a_limit_ends_at_a_document() {
        let corpus = corpus();
        let tokens = |limit| {
            let path = corpus.path().to_owned();
            async move { run(&path, &Nowhere, Some(limit)).await.expect("prepares").tokens }
        };
        assert_eq!([tokens(0).await, tokens(33).await, tokens(36).await, tokens(37).await], [0, 33, 33, 37]);
    }

    #[tokio::test]
    async fn long_texts_fill_several_shards_and_too_long_ones_are_skipped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), &[("a.txt", &vec![b'a'; SHARD]), ("b.txt", &vec![b'b'; 2 * SHARD]), ("c.txt", b"end")]);
        let mut steps = Vec::new();
        let mut documents = FolderDocuments::new(folder.path(), &[]).expect("lists");
        let made = prepare(&mut documents, &Nowhere, None, |p| steps.push(p.shards)).await.expect("prepares");
        assert_eq!((made.shards, made.tokens as usize), (4, 3 * SHARD + 5));
        assert_eq!(steps, [1, 3, 4]);
        let long = vec![b'x'; super::super::MAX_DOCUMENT as usize + 1];
        write(folder.path(), &[("b.txt", &long)]);
        assert_eq!(run(folder.path(), &Nowhere, None).await.expect("prepares").skipped, 1);
    }
}
