//! What the formats have in common, and what strangers' files may do to them.

use std::{
    io::{Cursor, Write},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::data::{File, MAX_DOCUMENT};

const FIXTURES: [(&str, &[u8]); 5] = [
    ("snappy-dictionary.parquet", include_bytes!("fixtures/snappy-dictionary.parquet")),
    ("gzip-required.parquet", include_bytes!("fixtures/gzip-required.parquet")),
    ("zstd-delta.parquet", include_bytes!("fixtures/zstd-delta.parquet")),
    ("zstd-dictionary.parquet", include_bytes!("fixtures/zstd-dictionary.parquet")),
    ("none-delta-length.parquet", include_bytes!("fixtures/none-delta-length.parquet")),
];

/// Files in memory.
#[derive(Clone)]
pub struct Memory {
    files: Vec<File>,
    contents: Vec<Arc<[u8]>>,
}

impl Memory {
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let (files, contents) = files
            .into_iter()
            .map(|(key, bytes)| (File { key, size: bytes.len() as u64, modified: 0 }, bytes.into()))
            .unzip();
        Self { files, contents }
    }

    pub fn one(key: &str, bytes: &[u8]) -> Self {
        Self::new([(key.to_owned(), bytes.to_vec())])
    }
}

impl Documents for Memory {
    fn files(&self) -> &[File] {
        &self.files
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Content>> {
        Ok(Box::new(Cursor::new(self.contents[number].clone())))
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory does not fail")
}

pub fn zstandard(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The texts of fixtures/make.py.
fn texts() -> Vec<Option<String>> {
    let text = |i: usize| format!("row {}: ", i % 25) + &"the ä\n".repeat(i % 4);
    (0..100).map(|i| if i % 10 == 3 { None } else { Some(if i % 10 == 7 { String::new() } else { text(i) }) }).collect()
}

fn jsonl() -> Vec<u8> {
    let line = |(i, text): (usize, &Option<String>)| {
        serde_json::json!({ "id": i, "meta": { "text": "not this" }, "text": text, "after": [1, "x"] }).to_string()
            + "\n"
    };
    texts().iter().enumerate().map(line).collect::<String>().into_bytes()
}

/// All documents from a place on, and how many rows had none.
fn read(files: &Memory, from: Place) -> Result<(Vec<(Place, String)>, u64), Error> {
    let mut reader = Reader::new(files.clone(), "text", from);
    let (mut found, mut skipped) = (Vec::new(), 0);
    while let Some(batch) = reader.batch()? {
        for text in batch.texts {
            assert_eq!(text.length, text.text.len() as u64);
            skipped += text.skipped;
            found.push((text.place, text.text));
        }
        skipped += batch.skipped;
    }
    Ok((found, skipped))
}

fn formats() -> Vec<(String, Vec<u8>)> {
    let lines = jsonl();
    // Members and frames that follow each other are one stream.
    let (half, end) = lines.split_at(lines.len() / 2);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..]].concat();
    let mut formats = vec![
        ("a.jsonl".to_owned(), lines.clone()),
        ("a.jsonl.gz".to_owned(), [gzip(half), gzip(end)].concat()),
        ("a.jsonl.zst".to_owned(), [zstandard(half), skippable, zstandard(end)].concat()),
    ];
    formats.extend(FIXTURES.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())));
    formats
}

#[test]
fn every_format_gives_the_same_documents() {
    let wanted: Vec<String> = texts().into_iter().flatten().filter(|text| !text.is_empty()).collect();
    for (name, bytes) in formats() {
        let (found, skipped) = read(&Memory::one(&name, &bytes), Place::default()).expect(&name);
        let found: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
        assert_eq!(found, wanted, "{name}");
        let nulls = if name.starts_with("gzip-required") { 0 } else { 10 };
        assert_eq!(skipped, nulls, "{name}");
    }
}

#[test]
fn reading_goes_on_from_every_row() {
    let plain = [("b.txt".to_owned(), b"one document".to_vec()), ("c.md".to_owned(), b"# another".to_vec())];
    let files = Memory::new(formats().into_iter().chain(plain));
    let (all, _) = read(&files, Place::default()).expect("sound");
    assert_eq!(all.len(), 80 * 8 + 2);
    for (i, (place, _)) in all.iter().enumerate() {
        let (rest, _) = read(&files, *place).expect("sound");
        assert_eq!(rest, all[i..], "from {place:?}");
    }
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    let mut damaged: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, bytes) in formats() {
        if name == "a.jsonl" {
            continue;
        }
        damaged.push((name.clone(), bytes[..bytes.len() - 5].to_vec()));
        let mut changed = bytes.clone();
        let last = changed.len() - 3;
        changed[last] ^= 1;
        damaged.push((name.clone(), changed));
        damaged.push((name, b"PAR1".repeat(2)));
    }
    damaged.push(("short.parquet".to_owned(), b"PAR1".to_vec()));
    damaged.push(("big-footer.parquet".to_owned(), [&b"PAR1"[..], &[255, 255, 255, 127], b"PAR1"].concat()));
    damaged.push(("lz4.parquet".to_owned(), include_bytes!("fixtures/lz4.parquet").to_vec()));
    for (name, bytes) in damaged {
        match read(&Memory::one(&name, &bytes), Place::default()) {
            Err(Error::Source { key, reason }) => {
                assert!(key == name && !reason.is_empty());
                assert!(name != "lz4.parquet" || reason.contains("lz4"), "{reason}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn bad_lines_are_counted_and_the_others_are_read() {
    let lines = [
        "{\"text\": \"good\"}",
        "{\"text\": 7}",
        "not JSON",
        "",
        "[\"text\"]",
        "{\"text\": \"twice\"} {}",
        "{\"other\": \"no text\"}",
        "{\"text\": null}",
        "  {\"a\": {\"text\": \"x\"}, \"text\": \"\\u0067ood\\n\", \"b\": 1e400}",
        "{\"text\": \"unpaired \\ud800\"}",
        "{\"text\": \"cut",
    ];
    let bytes = [lines.join("\r\n").as_bytes(), b"\n{\"text\": \"\xff\"}\n{\"text\":\"end\"}"].concat();
    let (found, skipped) = read(&Memory::one("a.jsonl", &bytes), Place::default()).expect("reads on");
    let found: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(found, ["good", "good\n", "end"]);
    assert_eq!(skipped, 9);
}

#[test]
fn text_under_another_name_is_named() {
    let lines = b"{\"content\": \"x\", \"id\": 1}\n{\"content\": \"y\"}\n";
    let files = [("a.jsonl", &lines[..]), FIXTURES[0]];
    for (name, bytes) in files {
        let mut reader = Reader::new(Memory::one(name, bytes), "body", Place::default());
        let error = std::iter::from_fn(|| reader.batch().transpose()).find_map(Result::err).expect("there is none");
        let Error::Field { key, field, found } = error else { panic!("{error}") };
        assert_eq!((key.as_str(), field.as_str()), (name, "body"));
        assert!(found == "content, id" || found == "id, tags, from, text, score", "{found}");
    }
    let no_text = Reader::new(Memory::one(FIXTURES[0].0, FIXTURES[0].1), "tags", Place::default()).batch();
    assert!(matches!(no_text, Err(Error::Field { .. })));
}

#[test]
fn bombs_are_skipped_in_bounded_memory() {
    let long = |size: usize| [b"{\"text\":\"", &vec![b'a'; size][..], b"\"}\n"].concat();
    let most = MAX_DOCUMENT as usize;
    let lines = [long(most), long(most + 1), long(9 * most), long(1)].concat();
    for (name, bytes) in [("a.jsonl.gz", gzip(&lines)), ("a.jsonl.zst", zstandard(&lines))] {
        assert!(bytes.len() < lines.len() / 100);
        let (found, skipped) = read(&Memory::one(name, &bytes), Place::default()).expect(name);
        let sizes: Vec<usize> = found.iter().map(|(_, text)| text.len()).collect();
        assert_eq!((sizes, skipped), (vec![most, 1], 2), "{name}");
    }
    // A window of 2 GiB, and a block of one byte 100 times over.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 0x22 | 1, 3, 0, b'a'];
    let outcome = read(&Memory::one("a.jsonl.zst", &window), Place::default());
    assert!(matches!(outcome, Err(Error::Source { reason, .. }) if reason.to_lowercase().contains("window")));
}

/// Fails at a byte.
struct Failing(Cursor<Arc<[u8]>>, u64);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.1.saturating_sub(self.0.position()) as usize;
        if left == 0 {
            return Err(io::Error::other(bucket::Error::Stopped { op: bucket::Op::Get }));
        }
        let count = left.min(buffer.len());
        self.0.read(&mut buffer[..count])
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[derive(Clone)]
struct FailingFiles(Memory, u64);

impl Documents for FailingFiles {
    fn files(&self) -> &[File] {
        self.0.files()
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Content>> {
        Ok(Box::new(Failing(Cursor::new(self.0.contents[number].clone()), self.1)))
    }
}

#[test]
fn a_bucket_that_does_not_answer_is_no_damaged_file() {
    for (name, bytes) in formats() {
        for at in [0, 1, 10, bytes.len() as u64 / 2, bytes.len() as u64 - 1] {
            let files = FailingFiles(Memory::one(&name, &bytes), at);
            let mut reader = Reader::new(files, "text", Place::default());
            let error = std::iter::from_fn(|| reader.batch().transpose()).find_map(Result::err);
            assert!(matches!(error, Some(Error::Bucket(_))), "{name} at {at}: {error:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_parquet_file_makes_a_panic(
        which in 0..FIXTURES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (name, bytes) = FIXTURES[which];
        let mut bytes = bytes.to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match read(&Memory::one(name, &bytes), Place::default()) {
            Ok((found, _)) => prop_assert!(found.iter().all(|(_, text)| text.len() as u64 <= MAX_DOCUMENT)),
            Err(error) => prop_assert!(matches!(error, Error::Source { .. } | Error::Field { .. }), "{error}"),
        }
    }
}
