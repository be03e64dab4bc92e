//! Interrupted runs, and datasets of wide tokens from text to page.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bistro_api::run;
use bistro_protocol::page::Pages;
use bytes::Bytes;

use super::{
    resume::STATE,
    sources::tests::{Memory, gzip, zstandard},
    writer::SHARD,
    *,
};

/// A folder in memory whose calls fail from one on, with `half` of what was given in place.
#[derive(Clone, Default)]
struct Flaky {
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
    calls: Arc<AtomicUsize>,
    fails_at: Option<usize>,
}

impl Flaky {
    fn call(&self) -> Result<(), Error> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let full =
            || crate::files::Error::Full { path: "memory".into(), source: std::io::ErrorKind::StorageFull.into() };
        if self.fails_at.is_some_and(|at| call >= at) { Err(full().into()) } else { Ok(()) }
    }

    fn files(&self) -> BTreeMap<String, Bytes> {
        self.files.lock().expect("nobody panicked").clone()
    }
}

impl Source for Flaky {
    async fn get(&self, name: &str, _: u64) -> Result<Option<Bytes>, Error> {
        self.call()?;
        Ok(self.files().get(name).cloned())
    }
}

impl Sink for Flaky {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        self.call()?;
        self.files.lock().expect("nobody panicked").insert(name.to_owned(), bytes);
        Ok(())
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        self.call()?;
        self.files.lock().expect("nobody panicked").remove(name);
        Ok(())
    }
}

/// Documents that end before, in and after shards, in files of every kind, `scale` times as long.
fn corpus(scale: usize) -> Memory {
    let text = |seed: usize, length: usize| -> String {
        (0..length * scale).map(|i| if i % 61 == 0 { '\n' } else { (b'a' + ((i * seed) % 23) as u8) as char }).collect()
    };
    let lines = |seeds: std::ops::Range<usize>, length: usize| -> Vec<u8> {
        let line = |seed| serde_json::json!({ "text": text(seed, length) }).to_string() + "\n";
        seeds.map(line).collect::<String>().into_bytes()
    };
    Memory::new([
        ("a.txt".to_owned(), text(3, 1000).into_bytes()),
        ("b.jsonl".to_owned(), [&lines(5..9, 900)[..], b"bad line\n", &lines(9..40, 30)].concat()),
        ("c.jsonl.gz".to_owned(), gzip(&lines(50..53, 2000))),
        ("d.jsonl.zst".to_owned(), zstandard(&[&b"{}\n"[..], &lines(60..90, 100)].concat())),
        ("e.md".to_owned(), vec![0xff]),
        ("f.txt".to_owned(), text(7, 500).into_bytes()),
    ])
}

fn options() -> Options {
    Options { save_every: Duration::ZERO, threads: 2, ..Options::default() }
}

fn json_options() -> Options {
    let file = tokens::tests::file("</s>", 70_000);
    let tokenizer = Tokenizer::from_json(file, None).expect("it is sound");
    Options { tokenizer: Arc::new(tokenizer), ..options() }
}

/// Interrupts the run at a call to the sink and goes on, for each of every so many calls.
async fn interrupt(documents: &Memory, options: Options, every: usize) {
    let whole = Flaky::default();
    let wanted = prepare_with(documents, &whole, options.clone(), |_, _| ()).await.expect("prepares");
    assert!(wanted.shards >= 3 && wanted.skipped == 3, "{wanted:?}");
    assert!(!whole.files().contains_key(STATE));
    let files = whole.files();
    let calls = whole.calls.load(Ordering::Relaxed);
    for fails_at in (0..calls).step_by(every) {
        let mut sink = Flaky { fails_at: Some(fails_at), ..Flaky::default() };
        let error = prepare_with(documents, &sink, options.clone(), |_, _| ()).await.expect_err("the sink fails");
        assert!(error.is_transient(), "{error}");
        if let Some(index) = sink.files().get(INDEX) {
            assert_eq!(index, &files[INDEX], "an index stands for a whole dataset");
            assert!(files.keys().all(|name| sink.files().contains_key(name)));
        }
        sink.fails_at = None;
        let made = prepare_with(documents, &sink, options.clone(), |_, _| ()).await.expect("goes on");
        assert_eq!(made, wanted, "interrupted at call {fails_at}");
        assert_eq!(sink.files(), files, "interrupted at call {fails_at}");
    }
}

#[tokio::test]
async fn an_interrupted_run_goes_on_to_the_same_bits() {
    interrupt(&corpus(900), options(), 1).await;
}

#[tokio::test]
async fn an_interrupted_run_goes_on_with_wide_tokens() {
    interrupt(&corpus(165), json_options(), 3).await;
}

#[tokio::test]
async fn a_run_that_goes_on_writes_no_shard_twice() {
    let (documents, sink) = (corpus(900), Flaky { fails_at: Some(9), ..Flaky::default() });
    prepare_with(&documents, &sink, options(), |_, _| ()).await.expect_err("the sink fails");
    let before = sink.files();
    let shards = before.keys().filter(|name| name.starts_with("shard")).count();
    assert!(shards >= 2 && before.contains_key(STATE), "{:?}", before.keys());
    let sink = Flaky { files: sink.files, ..Flaky::default() };
    let calls = |sink: &Flaky| sink.calls.load(Ordering::Relaxed);
    let made = prepare_with(&documents, &sink, options(), |_, _| ()).await.expect("goes on");
    let again = Flaky::default();
    prepare_with(&documents, &again, options(), |_, _| ()).await.expect("prepares");
    // Reading the state and the last shard costs two calls; every shard that is there saves itself and a state.
    assert!(calls(&sink) < calls(&again), "{} of {} for {}", calls(&sink), calls(&again), made.shards);
}

#[tokio::test]
async fn being_asked_to_stop_leaves_a_state() {
    let (documents, sink) = (corpus(900), Flaky::default());
    let wanted = prepare_with(&documents, &Nowhere, options(), |_, _| ()).await.expect("prepares");
    let options = Options { save_every: Duration::MAX, ..options() };
    let stop = options.stop.clone();
    let stopping = |made: &Prepared, _| {
        if made.shards > 0 {
            stop.cancel();
        }
    };
    let stopped = prepare_with(&documents, &sink, options, stopping).await;
    assert!(matches!(stopped, Err(Error::Stopped)));
    let files = sink.files();
    assert!(files.contains_key(STATE) && !files.contains_key(INDEX));
    assert_eq!(prepare(&documents, &sink, None, |_| ()).await.expect("goes on"), wanted);
}

#[tokio::test]
async fn another_run_is_not_gone_on_with() {
    let (documents, sink) = (corpus(900), Flaky { fails_at: Some(9), ..Flaky::default() });
    prepare_with(&documents, &sink, options(), |_, _| ()).await.expect_err("the sink fails");
    let sink = || Flaky { files: Arc::new(Mutex::new(sink.files())), ..Flaky::default() };
    let refused = async |documents: &Memory, sink: &Flaky, options: Options| {
        let outcome = prepare_with(documents, sink, options, |_, _| ()).await;
        assert!(matches!(outcome, Err(Error::Resume(_))), "{outcome:?}");
    };
    let damaged = |change: fn(&mut serde_json::Value)| {
        let sink = sink();
        let mut state: serde_json::Value = serde_json::from_slice(&sink.files()[STATE]).expect("JSON");
        change(&mut state);
        sink.files.lock().expect("nobody panicked").insert(STATE.to_owned(), state.to_string().into());
        sink
    };
    refused(&corpus(901), &sink(), options()).await;
    refused(&documents, &sink(), Options { limit: Some(1 << 30), ..options() }).await;
    refused(&documents, &sink(), Options { text_field: "body".into(), ..options() }).await;
    refused(&documents, &sink(), json_options()).await;
    refused(&documents, &damaged(|state| state["place"]["file"] = 6.into()), options()).await;
    refused(&documents, &damaged(|state| state["inShards"] = u64::MAX.into()), options()).await;
    refused(&documents, &damaged(|state| state["shards"][0]["name"] = "../x".into()), options()).await;
    refused(&documents, &damaged(|state| state["version"] = 2.into()), options()).await;
    refused(&documents, &damaged(|state| *state = 1.into()), options()).await;
    let lost = sink();
    lost.files.lock().expect("nobody panicked").retain(|name, _| !name.starts_with("shard"));
    refused(&documents, &lost, options()).await;

    let sink = sink();
    let made = prepare_with(&documents, &sink, Options { restart: true, ..options() }, |_, _| ()).await;
    let wanted = prepare_with(&documents, &Nowhere, options(), |_, _| ()).await.expect("prepares");
    assert_eq!(made.expect("starts anew"), wanted);
}

#[tokio::test]
async fn an_old_index_goes_before_its_shards_do() {
    let (old, new) = (corpus(800), corpus(900));
    let sink = Flaky::default();
    let first = prepare_with(&old, &sink, options(), |_, _| ()).await.expect("prepares");
    let calls = sink.calls.load(Ordering::Relaxed);
    prepare_with(&old, &sink, options(), |_, _| assert!(sink.files().contains_key(INDEX)))
        .await
        .expect("the same again");
    for fails_at in 0..calls {
        let sink = Flaky { files: Arc::new(Mutex::new(sink.files())), fails_at: Some(fails_at), ..Flaky::default() };
        let _ = prepare_with(&new, &sink, options(), |_, _| ()).await;
        let files = sink.files();
        let Some(index) = files.get(INDEX) else { continue };
        let index = Index::from_bytes(index, &blake3::hash(index).to_hex()).expect("an index");
        for shard in &index.shards {
            let is = blake3::hash(&files[&shard.name]).to_hex();
            assert_eq!(is.as_str(), shard.blake3, "{} after call {fails_at}", shard.name);
        }
    }
    assert_eq!(first.shards, prepare(&old, &Nowhere, None, |_| ()).await.expect("prepares").shards);
}

#[tokio::test]
async fn wide_tokens_come_back_as_pages() {
    let directory = tempfile::tempdir().expect("a temporary folder");
    for (extra, width) in [(0, 2), (70_000, 4)] {
        let file = tokens::tests::file("</s>", extra);
        let tokenizer = Arc::new(Tokenizer::from_json(file.clone(), None).expect("it is sound"));
        let texts = ["in the beginning\n", "", "ä日\0 the end"];
        let documents =
            Memory::new(texts.iter().enumerate().map(|(i, text)| (format!("{i}.txt"), text.as_bytes().to_vec())));
        let folder = Folder(directory.path().join(format!("{width}")));
        let options = Options { tokenizer: tokenizer.clone(), ..options() };
        let made = prepare_with(&documents, &folder, options, |_, _| ()).await.expect("prepares");
        assert_eq!(folder.get(TOKENIZER, MAX_TOKENIZER).await.expect("reads").expect("is there"), file);

        let (prefix, digest) = (String::new(), made.digest);
        let dataset = run::Dataset { prefix, digest, sequence_length: 1, page_sequences: 1, pages_per_window: 1 };
        let reader = Dataset::open_in(folder.clone(), &dataset, &directory.path().join("cache")).await;
        let reader = reader.expect("opens").expect("is there");
        assert_eq!((reader.tokens(), reader.vocabulary()), (made.tokens, tokenizer.vocabulary()));
        let pages = Pages::new(&dataset, 1 << 20).expect("large enough");
        let mut ids = reader.page(&pages, 0).await.expect("a page")[0][..1].to_vec();
        for page in 0..made.tokens - 1 {
            ids.push(reader.page(&pages, page).await.expect("a page")[0][1]);
        }
        let json = tokenizers::Tokenizer::from_bytes(&file).expect("it is sound");
        assert_eq!(json.decode(&ids, false).expect("known tokens"), "in the beginning\n</s>ä日\0 the end");

        // Whoever made this dataset made it wrong, so that its digests are right.
        let bytes = Bytes::from(vec![0xff; 40]);
        let (name, blake3) = ("shard-00000.bin".to_owned(), blake3::hash(&bytes).to_hex().to_string());
        let index = Index::new(&tokenizer, vec![Shard { name: name.clone(), size: 40, blake3 }]);
        folder.put(&name, bytes).await.expect("stored");
        folder.put(INDEX, index.to_bytes().into()).await.expect("stored");
        let dataset = run::Dataset { digest: index.digest(), ..dataset };
        let reader = Dataset::open_in(folder, &dataset, &directory.path().join("cache")).await;
        let page = reader.expect("opens").expect("is there").page(&pages, 0).await;
        assert!(matches!(page, Err(Error::Vocabulary { .. })), "{page:?}");
    }
}

#[test]
fn shards_hold_whole_tokens() {
    assert!(SHARD.is_multiple_of(4));
}
