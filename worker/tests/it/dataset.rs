//! Preparing a dataset from and to a real bucket.

use std::{path::Path, sync::Arc, time::Instant};

use bistro_devnet::Devnet;
use bistro_worker::{
    bucket::{Bucket, Credentials},
    data::{
        self, BucketDocuments, BucketFolder, Folder, FolderDocuments, INDEX, Nowhere, Options, Prepared, Source,
        Tokenizer,
    },
};
use bytes::Bytes;

use crate::support::{bucket_settings, devnet, soon, telemetry};

async fn admin(devnet: &Devnet) -> Bucket {
    let keys = Credentials::Keys { access_key_id: "admin".into(), secret_access_key: "admin".into() };
    Bucket::new(&bucket_settings(&devnet.s3_url(), ""), keys, telemetry()).await.expect("the settings are sound")
}

/// Lines of JSON; as text they have about `size` bytes, a kilobyte each.
fn lines(size: usize) -> Vec<u8> {
    let words =
        |i: usize| (0..25).map(|j| format!("line {i} of many, and word {} in it\\n", i * j)).collect::<String>();
    let line = |i: usize| format!("{{\"id\":{i},\"text\":\"{}\"}}\n", words(i));
    (0..size / 1000).map(line).collect::<String>().into_bytes()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_and_a_folder_give_the_same_dataset() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let bucket = admin(&devnet).await;
    let corpus = tempfile::tempdir().expect("a temporary folder");
    // More than one range.
    let files = [("a.txt", b"text".to_vec()), ("b.jsonl", lines(10 << 20)), ("empty.txt", Vec::new())];
    for (name, bytes) in files {
        write(corpus.path(), name, &bytes);
        bucket.put(&format!("datasets/corpus/{name}"), Bytes::from(bytes)).await.expect("stored");
    }
    let local = FolderDocuments::new(corpus.path(), &[]).expect("lists");
    let wanted = data::prepare(&local, &Nowhere, None, |_| ()).await.expect("prepares");
    assert!(wanted.shards >= 2 && wanted.skipped == 0, "{wanted:?}");

    let remote = BucketDocuments::new(bucket.clone(), "datasets/corpus", &[]).await.expect("lists");
    let sink = BucketFolder::new(bucket.clone(), "datasets/made");
    let made = soon(data::prepare(&remote, &sink, None, |_| ())).await.expect("prepares");
    assert_eq!(made, wanted);
    let listed = bucket.list("datasets/made/", 100).await.expect("lists");
    assert_eq!(listed.len(), wanted.shards + 1, "shards and an index, and nothing of the run: {listed:?}");

    // An object that is replaced while it is read has no digest worth having.
    bucket.put("datasets/corpus/b.jsonl", Bytes::from(lines(9 << 20))).await.expect("replaced");
    assert!(soon(data::prepare(&remote, &Nowhere, None, |_| ())).await.is_err());
    bucket.delete("datasets/corpus/b.jsonl").await.expect("deleted");
    assert!(soon(data::prepare(&remote, &Nowhere, None, |_| ())).await.is_err());
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_loses_its_bucket_goes_on_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let corpus = tempfile::tempdir().expect("a temporary folder");
    write(corpus.path(), "a.jsonl", &lines(24 << 20));
    let local = FolderDocuments::new(corpus.path(), &[]).expect("lists");
    let wanted = data::prepare(&local, &Nowhere, None, |_| ()).await.expect("prepares");

    let before = devnet(folder.path()).await;
    let options = Options::default();
    let stop = options.stop.clone();
    let sink = BucketFolder::new(admin(&before).await, "datasets/made");
    let stopping = |made: &Prepared, _| {
        if made.shards > 1 {
            stop.cancel();
        }
    };
    soon(data::prepare_with(&local, &sink, options, stopping)).await.expect_err("it is stopped");
    before.shutdown().await;

    let after = devnet(folder.path()).await;
    let bucket = admin(&after).await;
    assert!(bucket.get("datasets/made/prepare.json", 1 << 20).await.expect("answers").is_some());
    let sink = BucketFolder::new(bucket, "datasets/made");
    assert!(sink.get(INDEX, 1 << 20).await.expect("answers").is_none());
    let mut first = None;
    let made = data::prepare_with(&local, &sink, Options::default(), |made, _| {
        first.get_or_insert(made.shards);
    });
    assert_eq!(soon(made).await.expect("goes on"), wanted);
    assert!(first.is_some_and(|shards| shards > 1), "it did not start anew: {first:?}");
    after.shutdown().await;
}

/// A tokenizer of GPT-2's kind with a merge for every two letters.
fn tokenizer() -> Tokenizer {
    let alphabet = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('Ā'..='Ń').map(String::from);
    let letters = || ('a'..='z').chain(['Ġ']);
    let merges: Vec<String> = letters().flat_map(|a| ('a'..='z').map(move |b| format!("{a} {b}"))).collect();
    let tokens = alphabet.chain(merges.iter().map(|merge| merge.replace(' ', "")));
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        tokens.enumerate().map(|(i, token)| (token, i.into())).collect();
    let end = serde_json::json!({
        "id": vocabulary.len(), "content": "</s>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    });
    let level =
        serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let file = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": merges },
    });
    Tokenizer::from_json(file.to_string().into(), None).expect("it is sound")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: make bench-prepare"]
async fn bench_prepare() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let bytes = lines(128 << 20);
    let texts: Vec<u8> =
        bytes.split(|byte| *byte == b'\n').flat_map(|line| [&line[line.len().min(20)..], b"\n"].concat()).collect();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &bytes).and_then(|()| encoder.finish()).expect("memory does not fail")
    };
    let zstd = ruzstd::encoding::compress_to_vec(&bytes[..], ruzstd::encoding::CompressionLevel::Fastest);
    let plain: Vec<(String, &[u8])> =
        texts.chunks(8 << 20).enumerate().map(|(i, c)| (format!("{i:04}.txt"), c)).collect();
    type Files<'a> = Vec<(String, &'a [u8])>;
    fn one<'a>(name: &str, bytes: &'a [u8]) -> Files<'a> {
        vec![(name.to_owned(), bytes)]
    }
    let formats: [(&str, Files<'_>); 4] = [
        ("txt", plain),
        ("jsonl", one("a.jsonl", &bytes)),
        ("jsonl.gz", one("a.jsonl.gz", &gzip)),
        ("jsonl.zst", one("a.jsonl.zst", &zstd)),
    ];
    for (format, files) in formats {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, bytes) in files {
            write(folder.path(), &name, bytes);
        }
        for (kind, tokenizer, limit) in
            [("bytes", Tokenizer::Bytes, None), ("tokenizer.json", tokenizer(), Some(16 << 20))]
        {
            let out = tempfile::tempdir().expect("a temporary folder");
            let documents = FolderDocuments::new(folder.path(), &[]).expect("lists");
            let options = Options { tokenizer: Arc::new(tokenizer), threads, limit, ..Options::default() };
            let start = Instant::now();
            let sink = Folder(out.path().to_owned());
            let made = data::prepare_with(&documents, &sink, options, |_, _| ()).await.expect("prepares");
            let rate = made.text as f64 / 1e6 / start.elapsed().as_secs_f64();
            println!("BENCH prepare format={format} tokenizer={kind} threads={threads} mbytes_per_second={rate:.1}");
        }
    }
}
