//! What an interrupted run leaves beside its shards, so that the next one goes on where it stopped.
//!
//! The state names the document in which the last whole shard ends, and how much of it that shard holds. The next run
//! reads from that document on, and makes the same bits.

use serde::{Deserialize, Serialize};

use super::{
    Error, Shard, Sink,
    documents::{Documents, File},
    index::{MAX_INDEX, MAX_SHARDS, is_digest},
    prepare::{Options, Prepared},
    sources::Place,
    writer::{SHARD, shard_name},
};

/// Name of the state in the folder of a dataset; gone when the dataset is whole.
pub(super) const STATE: &str = "prepare.json";
/// Version of the state, and of what the same options make of the same text.
const VERSION: u32 = 1;

/// The content of `prepare.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    version: u32,
    /// blake3 of all that decides which tokens a text gives, in hex.
    options: String,
    /// blake3 of the keys, sizes and times of all files, in hex. Those before `place.file` are finished.
    sources: String,
    /// The document in which the last shard ends.
    pub place: Place,
    /// Bytes of it, with the separator before it, that are in shards.
    pub in_shards: u64,
    /// What was counted before it.
    pub documents: u64,
    pub skipped: u64,
    pub text: u64,
    /// The shards up to here, all of them full.
    pub shards: Vec<Shard>,
}

/// What a state must be about to be of any use.
pub(super) struct Agreement {
    options: String,
    sources: String,
    files: usize,
}

impl Agreement {
    pub fn new(documents: &impl Documents, options: &Options) -> Self {
        let Options { tokenizer, text_field, limit, threads: _, restart: _, save_every: _, stop: _ } = options;
        let decisive = (VERSION, tokenizer.name(), tokenizer.separator(), text_field, limit);
        let mut sources = blake3::Hasher::new();
        for File { key, size, modified } in documents.files() {
            sources.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes());
            sources.update(&size.to_le_bytes()).update(&modified.to_le_bytes());
        }
        Self {
            options: digest(&serde_json::to_vec(&decisive).expect("strings and integers always serialise")),
            sources: sources.finalize().to_hex().to_string(),
            files: documents.files().len(),
        }
    }

    /// The state at a place.
    pub fn state(&self, place: Place, in_shards: u64, before: &Prepared, shards: Vec<Shard>) -> State {
        let Self { options, sources, files: _ } = self;
        let Prepared { digest: _, tokens: _, shards: _, documents, skipped, text } = *before;
        let (options, sources) = (options.clone(), sources.clone());
        State { version: VERSION, options, sources, place, in_shards, documents, skipped, text, shards }
    }

    /// What an earlier run left in `sink`, if it can be gone on from.
    pub async fn load(&self, sink: &impl Sink) -> Result<Option<State>, Error> {
        let Some(bytes) = sink.get(STATE, MAX_INDEX).await? else { return Ok(None) };
        let state: State = serde_json::from_slice(&bytes).map_err(|_| Error::Resume("it is damaged"))?;
        if state.version != VERSION {
            return Err(Error::Resume("it is of another version of bistro-worker"));
        }
        if state.options != self.options {
            return Err(Error::Resume("the options were others"));
        }
        if state.sources != self.sources {
            return Err(Error::Resume("the files in --from were others"));
        }
        let whole = |(i, shard): (usize, &Shard)| {
            shard.name == shard_name(i) && shard.size == SHARD as u64 && is_digest(&shard.blake3)
        };
        let counts = [state.documents, state.skipped, state.text, state.in_shards];
        let sane = state.place.file < self.files
            && state.shards.len() <= MAX_SHARDS
            && state.shards.iter().enumerate().all(whole)
            && state.in_shards <= (state.shards.len() * SHARD) as u64
            && counts.iter().all(|count| *count < 1 << 60);
        if !sane {
            return Err(Error::Resume("it is damaged"));
        }
        // A crash may have kept the state and lost what was written last.
        if let Some(last) = state.shards.last() {
            let bytes = sink.get(&last.name, last.size).await?;
            if bytes.is_none_or(|bytes| digest(&bytes) != last.blake3) {
                return Err(Error::Resume("its last shard is not there"));
            }
        }
        Ok(Some(state))
    }
}

impl State {
    pub async fn save(&self, sink: &impl Sink) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).expect("strings and integers always serialise");
        sink.put(STATE, bytes.into()).await
    }
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
