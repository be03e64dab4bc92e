//! The reader of a prepared dataset: pages of sequences, out of shards that are fetched once.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bistro_api::run;
use bistro_protocol::page::Pages;
use bytes::Bytes;

use super::{
    Error, INDEX, MAX_TOKENIZER, TOKENIZER,
    index::{Index, MAX_INDEX, Shard, TokenizerName},
    store::{BucketFolder, Source},
};
use crate::{bucket::Bucket, failure::Failure, files};

/// Bytes of shards that are kept in memory; pages come in random order, so more helps up to the whole dataset.
const MEMORY: u64 = 64 << 20;

/// A dataset whose index is known. Shards come from the source when they are needed, and stay in a cache on disk, under
/// the name of their digest, and in memory.
pub struct Dataset<S = BucketFolder> {
    source: S,
    index: Index,
    /// First token of each shard in the whole; as many as shards.
    offsets: Vec<u64>,
    sequence_length: usize,
    cache: PathBuf,
    memory: Mutex<Memory>,
}

/// The shards that were used last, the latest in front.
#[derive(Default)]
struct Memory(VecDeque<(usize, Bytes)>);

impl Dataset {
    /// Opens the dataset that the run names, in the bucket; shards are cached in the folder `cache`. `None`: there is no
    /// index yet.
    pub async fn open(bucket: &Bucket, dataset: &run::Dataset, cache: &Path) -> Result<Option<Self>, Failure> {
        let source = BucketFolder::new(bucket.clone(), &dataset.prefix);
        Ok(Self::open_in(source, dataset, cache).await?)
    }
}

impl<S: Source> Dataset<S> {
    /// As [`Dataset::open`], from any source.
    pub async fn open_in(source: S, dataset: &run::Dataset, cache: &Path) -> Result<Option<Self>, Error> {
        let Some(bytes) = source.get(INDEX, MAX_INDEX).await? else { return Ok(None) };
        let index = Index::from_bytes(&bytes, &dataset.digest)?;
        let starts = |next: &mut u64, shard: &Shard| {
            let start = *next;
            *next += shard.size / u64::from(index.bytes_per_token);
            Some(start)
        };
        let offsets = index.shards.iter().scan(0, starts).collect();
        std::fs::create_dir_all(cache).map_err(|source| Error::Read { path: cache.display().to_string(), source })?;
        Ok(Some(Self {
            source,
            index,
            offsets,
            sequence_length: dataset.sequence_length as usize,
            cache: cache.to_owned(),
            memory: Mutex::default(),
        }))
    }

    /// Tokens in all.
    pub fn tokens(&self) -> u64 {
        self.index.tokens
    }

    /// Every token is below this.
    pub fn vocabulary(&self) -> u32 {
        self.index.vocabulary_size
    }

    /// The tokenizer.json that made the tokens; `None` where every byte is one.
    pub async fn tokenizer(&self) -> Result<Option<Bytes>, Error> {
        let name = &self.index.tokenizer;
        if name.kind != TOKENIZER {
            return Ok(None);
        }
        let bytes = self.source.get(TOKENIZER, MAX_TOKENIZER).await?;
        let bytes = bytes.ok_or_else(|| Error::Missing(TOKENIZER.to_owned()))?;
        match *name == TokenizerName::json(&bytes) {
            true => Ok(Some(bytes)),
            false => Err(Error::Damaged(TOKENIZER.to_owned())),
        }
    }

    /// The token between two documents: the zero byte where every byte is a token.
    pub fn separator(&self) -> Option<u32> {
        if self.index.tokenizer.kind == TOKENIZER { self.index.separator } else { Some(0) }
    }

    /// The sequences of a page, each sequenceLength + 1 tokens; the last token of one is the first of the next.
    pub async fn page(&self, pages: &Pages, page: u64) -> Result<Vec<Vec<u32>>, Error> {
        let (first, count) = (pages.first_token(page), pages.tokens_per_page());
        if first.saturating_add(count) > self.index.tokens {
            return Err(Error::Page { page, tokens: self.index.tokens });
        }
        let tokens = self.tokens_at(first, count).await?;
        let (length, last) = (self.sequence_length, tokens.len() - 1);
        Ok((0..last).step_by(length).map(|at| tokens[at..=at + length].to_vec()).collect())
    }

    /// `count` tokens from token `first` on; both lie within the dataset.
    async fn tokens_at(&self, first: u64, count: u64) -> Result<Vec<u32>, Error> {
        let width = self.index.bytes_per_token as usize;
        let (mut at, end) = (first, first + count);
        let mut tokens = Vec::with_capacity(count as usize);
        while at < end {
            let number = self.offsets.partition_point(|start| *start <= at) - 1;
            let shard = self.shard(number).await?;
            let from = (at - self.offsets[number]) as usize;
            let to = (shard.len() / width).min((end - self.offsets[number]) as usize);
            tokens.extend(tokens_of(&shard[from * width..to * width], width));
            at += (to - from) as u64;
        }
        Ok(tokens)
    }

    /// The bytes of a shard: from memory, else from the cache on disk, else from the source.
    async fn shard(&self, number: usize) -> Result<Bytes, Error> {
        if let Some(bytes) = self.memory().get(number) {
            return Ok(bytes);
        }
        let shard = &self.index.shards[number];
        let path = self.cache.join(&shard.blake3);
        let bytes = match self.cached(shard, &path) {
            Some(bytes) => bytes,
            None => self.fetch(shard, &path).await?,
        };
        self.check_tokens(shard, &bytes)?;
        self.memory().put(number, bytes.clone());
        Ok(bytes)
    }

    /// A cached shard that is damaged counts as absent.
    fn cached(&self, shard: &Shard, path: &Path) -> Option<Bytes> {
        let bytes = files::read_bounded(path, shard.size).ok().flatten()?;
        shard.is(&bytes).then(|| Bytes::from(bytes))
    }

    async fn fetch(&self, shard: &Shard, path: &Path) -> Result<Bytes, Error> {
        let bytes = self.source.get(&shard.name, shard.size).await?;
        let bytes = bytes.ok_or_else(|| Error::Missing(shard.name.clone()))?;
        if !shard.is(&bytes) {
            return Err(Error::Damaged(shard.name.clone()));
        }
        // Without its cache a node is slower, not wrong.
        if let Err(error) = files::write_atomic(path, &bytes) {
            tracing::warn!("{}", crate::failure::chain(&error));
        }
        Ok(bytes)
    }

    /// The engine looks tokens up in tables: one that is out of the vocabulary must not reach it.
    fn check_tokens(&self, shard: &Shard, bytes: &[u8]) -> Result<(), Error> {
        let (width, vocabulary) = (self.index.bytes_per_token as usize, self.index.vocabulary_size);
        match tokens_of(bytes, width).find(|token| *token >= vocabulary) {
            None => Ok(()),
            Some(token) => Err(Error::Vocabulary { shard: shard.name.clone(), token, vocabulary }),
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        // A panic elsewhere cannot leave a shard half put.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens of `width` bytes each, little-endian.
fn tokens_of(bytes: &[u8], width: usize) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(width).map(|token| token.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

impl Shard {
    /// Whether these are its bytes.
    fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.size && blake3::hash(bytes).to_hex().as_str() == self.blake3
    }
}

impl Memory {
    fn get(&mut self, number: usize) -> Option<Bytes> {
        let at = self.0.iter().position(|(n, _)| *n == number)?;
        let entry = self.0.remove(at)?;
        self.0.push_front(entry);
        self.0.front().map(|(_, bytes)| bytes.clone())
    }

    /// Keeps it, and lets go of those that were not used for longest.
    fn put(&mut self, number: usize, bytes: Bytes) {
        self.0.push_front((number, bytes));
        let size = |entries: &VecDeque<(usize, Bytes)>| entries.iter().map(|(_, b)| b.len() as u64).sum::<u64>();
        while self.0.len() > 1 && size(&self.0) > MEMORY {
            self.0.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::data::{Folder, Sink};

    /// Counts what is read.
    struct Counting {
        folder: Folder,
        reads: AtomicUsize,
    }

    impl Source for &Counting {
        async fn get(&self, name: &str, most: u64) -> Result<Option<Bytes>, Error> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.folder.get(name, most).await
        }
    }

    /// 10,000 tokens in shards of 700, token i is i modulo 251.
    async fn stored() -> (tempfile::TempDir, Counting, run::Dataset) {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder(directory.path().join("dataset"));
        let tokens: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        let mut shards = Vec::new();
        for (i, bytes) in tokens.chunks(700).enumerate() {
            let (name, blake3) = (format!("s{i}"), blake3::hash(bytes).to_hex().to_string());
            folder.put(&name, Bytes::copy_from_slice(bytes)).await.expect("stored");
            shards.push(Shard { name, size: bytes.len() as u64, blake3 });
        }
        let index = Index::of_bytes(shards);
        folder.put(INDEX, index.to_bytes().into()).await.expect("stored");
        let (digest, prefix) = (index.digest(), "d".into());
        let dataset = run::Dataset { prefix, digest, sequence_length: 8, page_sequences: 2, pages_per_window: 4 };
        (directory, Counting { folder, reads: AtomicUsize::new(0) }, dataset)
    }

    #[tokio::test]
    async fn pages_are_consecutive_sequences_across_shards() {
        let (directory, source, dataset) = stored().await;
        let cache = directory.path().join("cache");
        let reader = Dataset::open_in(&source, &dataset, &cache).await.expect("opens").expect("is there");
        assert_eq!((reader.tokens(), reader.vocabulary()), (10_000, 256));
        let pages = Pages::new(&dataset, reader.tokens()).expect("large enough");
        for page in 0..624u32 {
            let token = |i: u32| (16 * page + i) % 251;
            let wanted: Vec<Vec<u32>> = (0..2).map(|s| (8 * s..=8 * s + 8).map(token).collect()).collect();
            assert_eq!(reader.page(&pages, u64::from(page)).await.expect("a page"), wanted);
        }
        assert!(matches!(reader.page(&pages, 625).await, Err(Error::Page { page: 625, .. })));
        assert!(matches!(reader.page(&pages, u64::MAX / 32).await, Err(Error::Page { .. })));

        let fetched = source.reads.load(Ordering::Relaxed);
        assert_eq!(fetched, 1 + 15, "every shard once");
        let again = Dataset::open_in(&source, &dataset, &cache).await.expect("opens").expect("is there");
        again.page(&pages, 100).await.expect("a page");
        assert_eq!(source.reads.load(Ordering::Relaxed), fetched + 1, "shards come from the cache");
    }

    #[tokio::test]
    async fn nothing_is_believed() {
        let (directory, source, mut dataset) = stored().await;
        let cache = directory.path().join("cache");
        let reader = Dataset::open_in(&source, &dataset, &cache).await.expect("opens").expect("is there");
        let pages = Pages::new(&dataset, reader.tokens()).expect("large enough");
        source.folder.put("s0", Bytes::from(vec![0; 700])).await.expect("stored");
        assert!(matches!(reader.page(&pages, 0).await, Err(Error::Damaged(name)) if name == "s0"));
        source.folder.put("s0", Bytes::from(vec![0; 701])).await.expect("stored");
        assert!(reader.page(&pages, 0).await.is_err(), "longer than the index says");
        std::fs::remove_file(source.folder.0.join("s0")).expect("removed");
        assert!(matches!(reader.page(&pages, 0).await, Err(Error::Missing(name)) if name == "s0"));

        // A damaged cache is fetched again.
        reader.page(&pages, 50).await.expect("a page");
        for file in std::fs::read_dir(&cache).expect("a folder").flatten() {
            std::fs::write(file.path(), b"rubbish").expect("written");
        }
        let again = Dataset::open_in(&source, &dataset, &cache).await.expect("opens").expect("is there");
        again.page(&pages, 50).await.expect("a page");

        dataset.digest = "0".repeat(64);
        assert!(matches!(Dataset::open_in(&source, &dataset, &cache).await, Err(Error::Digest { .. })));
        std::fs::remove_file(source.folder.0.join(INDEX)).expect("removed");
        assert!(Dataset::open_in(&source, &dataset, &cache).await.expect("no fault").is_none());
    }

    #[test]
    fn memory_forgets_what_was_not_used_for_longest() {
        let mut memory = Memory::default();
        let shard = Bytes::from(vec![0; (MEMORY / 2) as usize]);
        for number in 0..2 {
            memory.put(number, shard.clone());
        }
        assert!(memory.get(0).is_some());
        memory.put(2, shard);
        assert!(memory.get(0).is_some() && memory.get(1).is_none() && memory.get(2).is_some());
    }
}
