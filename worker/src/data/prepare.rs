//! Turns texts into a dataset of tokens.
//!
//! The tokens of all documents, in the order of the files' keys and of their rows, joined by one separator, are cut into
//! shards; then the index is written. The same documents give the same digest, for any number of threads and however
//! often the run was interrupted.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Documents, Error, Sink, Tokenizer,
    resume::{Agreement, STATE},
    sources::{Batch, Place, Reader},
    tokens,
    writer::Writer,
};

/// How often the state is left for a later run: with all shards in it, it may be larger than one.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// How text is prepared.
#[derive(Clone)]
pub struct Options {
    /// What makes the tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// Which field or column has the text, in formats that name it.
    pub text_field: String,
    /// Stop before the first document that would make the text longer than so many bytes.
    pub limit: Option<u64>,
    /// Threads that make tokens.
    pub threads: usize,
    /// Start anew where an earlier run was interrupted.
    pub restart: bool,
    /// How often the state is left for a later run.
    pub save_every: Duration,
    /// Ends the run, with its state left for a later one.
    pub stop: CancellationToken,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tokenizer: Arc::new(Tokenizer::Bytes),
            text_field: "text".to_owned(),
            limit: None,
            threads: 1,
            restart: false,
            save_every: SAVE_EVERY,
            stop: CancellationToken::new(),
        }
    }
}

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
    /// Documents that did not: damaged, without text, not UTF-8, or longer than [`super::MAX_DOCUMENT`].
    pub skipped: u64,
    /// Bytes of the documents that went in.
    pub text: u64,
}

/// Reads all documents and writes the dataset of their bytes to `sink`. Stops before the first document that would make
/// it longer than `limit` bytes. `progress` sees the counts again and again; the digest is empty until the end.
pub async fn prepare<D: Documents>(
    documents: &D,
    sink: &impl Sink,
    limit: Option<u64>,
    mut progress: impl FnMut(&Prepared),
) -> Result<Prepared, Error> {
    prepare_with(documents, sink, Options { limit, ..Options::default() }, |made, _| progress(made)).await
}

/// As [`prepare()`], with all options. `progress` sees also how many bytes of the files were read.
pub async fn prepare_with<D: Documents>(
    documents: &D,
    sink: &impl Sink,
    options: Options,
    progress: impl FnMut(&Prepared, u64),
) -> Result<Prepared, Error> {
    let agreement = Agreement::new(documents, &options);
    if options.restart {
        sink.delete(STATE).await?;
    }
    let state = agreement.load(sink).await?;
    let (mut made, mut from) = (Prepared::default(), Place::default());
    if let Some(state) = &state {
        tracing::info!(shards = state.shards.len(), documents = state.documents, "goes on from {STATE}");
        made = Prepared { documents: state.documents, skipped: state.skipped, text: state.text, ..made };
        from = state.place;
    }
    let writer = Writer::new(sink, agreement, &options.tokenizer, state.as_ref(), options.save_every).await?;
    let reader = Reader::new(documents.clone(), &options.text_field, from);
    Run { options, writer, made, read: 0, progress }.run(reader).await
}

/// The documents of a batch with their tokens.
struct Encoded {
    batch: Batch,
    tokens: Vec<Result<Vec<u8>, String>>,
}

/// Reads and tokenizes ahead of the writer, in a thread of its own, until there is nothing left or nobody to hear of it.
fn read_ahead<D: Documents>(
    mut reader: Reader<D>,
    tokenizer: &Tokenizer,
    threads: usize,
    to: &mpsc::Sender<Encoded>,
) -> Result<(), Error> {
    let pool = tokens::pool(threads)?;
    let mut next = reader.batch()?;
    while let Some(mut batch) = next {
        let texts = batch.texts.iter_mut().map(|text| std::mem::take(&mut text.text)).collect();
        let (tokens, following) = pool.join(|| tokenizer.encode(texts), || reader.batch());
        if to.blocking_send(Encoded { batch, tokens }).is_err() {
            break;
        }
        next = following?;
    }
    Ok(())
}

/// How writing ended.
enum Written {
    /// With the last document that was read.
    All,
    /// At the limit.
    ToLimit,
}

struct Run<'a, S, P> {
    options: Options,
    writer: Writer<'a, S>,
    made: Prepared,
    /// Bytes of the files that were read.
    read: u64,
    progress: P,
}

impl<S: Sink, P: FnMut(&Prepared, u64)> Run<'_, S, P> {
    async fn run<D: Documents>(mut self, reader: Reader<D>) -> Result<Prepared, Error> {
        // One batch waits while one is written and one is read.
        let (to, from) = mpsc::channel(1);
        let (tokenizer, threads) = (self.options.tokenizer.clone(), self.options.threads);
        let reading = tokio::task::spawn_blocking(move || read_ahead(reader, &tokenizer, threads, &to));
        let written = self.write(from).await;
        let outcome = match written {
            Ok(Written::All) => reading.await.unwrap_or_else(|panic| Err(Error::Panic(panic.to_string()))),
            // What is wrong with text that nobody wants does not count.
            Ok(Written::ToLimit) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // The first error counts; without a state the next run only takes longer.
            if let Err(unsaved) = self.writer.save().await {
                tracing::debug!("{}", crate::failure::chain(&unsaved));
            }
            return Err(error);
        }
        let Self { options, writer, mut made, read, mut progress } = self;
        let index = writer.finish(&options.tokenizer).await?;
        made.tokens = index.tokens;
        made.shards = index.shards.len();
        made.digest = index.digest();
        progress(&made, read);
        Ok(made)
    }

    /// Writes what is read, until the end, the limit, or being asked to stop.
    async fn write(&mut self, mut from: mpsc::Receiver<Encoded>) -> Result<Written, Error> {
        let stop = self.options.stop.clone();
        let width = u64::from(super::index::bytes_per_token(self.options.tokenizer.vocabulary()));
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Error::Stopped),
                next = from.recv() => next,
            };
            let Some(Encoded { batch, tokens }) = next else { return Ok(Written::All) };
            self.read = batch.read;
            if !self.add(batch, tokens).await? {
                return Ok(Written::ToLimit);
            }
            self.made.shards = self.writer.shards();
            self.made.tokens = self.writer.size() / width;
            (self.progress)(&self.made, self.read);
        }
    }

    /// Whether there is room for more.
    async fn add(&mut self, batch: Batch, tokens: Vec<Result<Vec<u8>, String>>) -> Result<bool, Error> {
        let separator = self.options.tokenizer.separator_bytes();
        let limit = self.options.limit.unwrap_or(u64::MAX);
        for (text, tokens) in batch.texts.into_iter().zip(tokens) {
            let made = &mut self.made;
            made.skipped += text.skipped;
            let tokens = match tokens {
                Ok(tokens) => tokens,
                Err(reason) => {
                    tracing::warn!("a document is skipped: {reason}");
                    made.skipped += 1;
                    continue;
                }
            };
            // A separator counts as a byte.
            if made.text + made.documents + text.length > limit {
                return Ok(false);
            }
            if tokens.is_empty() {
                continue;
            }
            let before = made.clone();
            let separator: &[u8] = if made.documents > 0 { &separator } else { &[] };
            made.documents += 1;
            made.text += text.length;
            self.writer.add(text.place, before, separator, &tokens).await?;
        }
        self.made.skipped += batch.skipped;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::data::{Folder, FolderDocuments, INDEX, Index, Nowhere, Source, writer::SHARD};

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
        prepare(&FolderDocuments::new(folder, &extensions)?, sink, limit, |_| ()).await
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
        let documents = FolderDocuments::new(folder.path(), &[]).expect("lists");
        let made = prepare(&documents, &Nowhere, None, |p| steps.push(p.shards)).await.expect("prepares");
        assert_eq!((made.shards, made.tokens as usize), (4, 3 * SHARD + 5));
        steps.dedup();
        assert_eq!(steps, [1, 3, 4]);
        let long = vec![b'x'; super::super::MAX_DOCUMENT as usize + 1];
        write(folder.path(), &[("b.txt", &long)]);
        assert_eq!(run(folder.path(), &Nowhere, None).await.expect("prepares").skipped, 1);
    }
}
