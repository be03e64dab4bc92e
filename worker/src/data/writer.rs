//! Cuts tokens into shards, and knows from which document on they would have to be made again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    Error, INDEX, Index, Prepared, Shard, Sink, TOKENIZER, Tokenizer,
    index::{MAX_INDEX, MAX_SHARDS},
    resume::{Agreement, STATE, State},
    sources::Place,
};

/// Bytes of a shard: some tens make a small corpus, and one is fetched in a moment. Tokens of any width fill it.
pub(super) const SHARD: usize = 4 << 20;

/// Name of the shard of this number.
pub(super) fn shard_name(number: usize) -> String {
    format!("shard-{number:05}.bin")
}

/// Writes a dataset.
pub(super) struct Writer<'a, S> {
    sink: &'a S,
    agreement: Agreement,
    /// Bytes that are in no shard yet.
    pending: BytesMut,
    shards: Vec<Shard>,
    /// The documents that end in no shard yet, after the one in which the last shard ends.
    open: VecDeque<Open>,
    /// Bytes of what comes next that earlier shards hold already.
    known: u64,
    /// The dataset that was here before. It stays while what is written is the same.
    old: Option<Index>,
    save_every: Duration,
    saved: Instant,
}

/// A document on its way into shards.
struct Open {
    /// First byte of it, or of the separator before it, in the whole.
    start: u64,
    place: Place,
    /// What was counted before it.
    before: Prepared,
}

impl<'a, S: Sink> Writer<'a, S> {
    /// Starts, or goes on from what an earlier run left.
    pub async fn new(
        sink: &'a S,
        agreement: Agreement,
        tokenizer: &Tokenizer,
        state: Option<&State>,
        save_every: Duration,
    ) -> Result<Self, Error> {
        let old = sink.get(INDEX, MAX_INDEX).await?;
        let old = old.map(|bytes| Index::from_bytes(&bytes, &blake3::hash(&bytes).to_hex()));
        let mut writer = Self {
            sink,
            agreement,
            pending: BytesMut::new(),
            shards: state.map(|state| state.shards.clone()).unwrap_or_default(),
            open: VecDeque::new(),
            known: state.map_or(0, |state| state.in_shards),
            old: None,
            save_every,
            saved: Instant::now(),
        };
        match old {
            Some(Ok(old)) if old.tokenizer == tokenizer.name() => writer.old = Some(old),
            Some(_) => sink.delete(INDEX).await?,
            None => {}
        }
        if let Some(file) = tokenizer.file() {
            sink.put(TOKENIZER, file).await?;
        }
        Ok(writer)
    }

    /// Adds a document: the separator and its tokens. `before`: what was counted before it.
    pub async fn add(&mut self, place: Place, before: Prepared, separator: &[u8], tokens: &[u8]) -> Result<(), Error> {
        self.open.push_back(Open { start: self.size() - self.known, place, before });
        for part in [separator, tokens] {
            let known = self.known.min(part.len() as u64);
            self.known -= known;
            self.pending.extend_from_slice(&part[known as usize..]);
        }
        if self.known > 0 {
            return Err(Error::Resume("a document is shorter now"));
        }
        while self.pending.len() >= SHARD {
            let bytes = self.pending.split_to(SHARD).freeze();
            self.write(bytes).await?;
            let written = self.written();
            while self.open.get(1).is_some_and(|next| next.start <= written) {
                self.open.pop_front();
            }
            if self.saved.elapsed() >= self.save_every {
                self.save().await?;
            }
        }
        Ok(())
    }

    /// Leaves the state for a later run. Before the first shard there is nothing to leave.
    pub async fn save(&mut self) -> Result<(), Error> {
        let Some(Open { start, place, before }) = self.open.front() else { return Ok(()) };
        if !self.shards.is_empty() {
            let in_shards = self.written() - start;
            self.agreement.state(*place, in_shards, before, self.shards.clone()).save(self.sink).await?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// Writes what is left and the index. The index comes last: whoever sees one finds every shard.
    pub async fn finish(mut self, tokenizer: &Tokenizer) -> Result<Index, Error> {
        if !self.pending.is_empty() {
            let bytes = self.pending.split().freeze();
            self.write(bytes).await?;
        }
        let index = Index::new(tokenizer, self.shards);
        self.sink.put(INDEX, index.to_bytes().into()).await?;
        self.sink.delete(STATE).await?;
        Ok(index)
    }

    /// Shards so far.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Bytes in shards.
    fn written(&self) -> u64 {
        (self.shards.len() * SHARD) as u64
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.written() + self.pending.len() as u64
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let number = self.shards.len();
        if number == MAX_SHARDS {
            return Err(Error::TooLarge((MAX_SHARDS * SHARD) as u64));
        }
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let shard = Shard { name: shard_name(number), size: bytes.len() as u64, blake3 };
        if self.old.as_ref().is_some_and(|old| old.shards.get(number) != Some(&shard)) {
            self.sink.delete(INDEX).await?;
            self.old = None;
        }
        self.sink.put(&shard.name, bytes).await?;
        self.shards.push(shard);
        Ok(())
    }
}
