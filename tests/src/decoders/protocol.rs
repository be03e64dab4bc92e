//! What one node publishes and all others read.

use std::sync::LazyLock;

use bistro_api::run::Schedule;
use bistro_protocol::{
    artifact,
    check::{Commit, Rules, Verdict},
    clock::Clock,
    hotkey::Hotkey,
    manifest::{Blocks, Entry, Manifest},
    object::{self, Agreement, Bits32, Bits64, Hex32, Kind},
    record::{self, Evaluation, Judged, Scores, Verdicts},
    score::next_average,
    tensor_file,
    tensors::{Tensor, Tensors},
    topk::{self, Sparse, Values},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Decoder, keypair, plain};
use crate::mutate::Form;

const WINDOW: u64 = 5;
const BASE: [u8; 32] = [3; 32];

pub const DECODERS: &[Decoder] = &[
    Decoder { name: "commit", decode: commit, bound: plain, form: Form::Sealed(Kind::Commit), seeds: commits },
    Decoder { name: "manifest", decode: manifest, bound: plain, form: Form::Sealed(Kind::Manifest), seeds: manifests },
    Decoder { name: "verdicts", decode: verdicts, bound: plain, form: Form::Sealed(Kind::Verdicts), seeds: judged },
    Decoder { name: "scores", decode: scores, bound: numbers, form: Form::Sealed(Kind::Scores), seeds: scored },
    Decoder { name: "tensors", decode: tensors, bound: file_bound, form: Form::Tensors, seeds: files },
    Decoder { name: "artifact", decode: artifact, bound: file_bound, form: Form::Tensors, seeds: artifacts },
    Decoder { name: "checked-artifact", decode: checked, bound: file_bound, form: Form::Tensors, seeds: artifacts },
    Decoder { name: "topk-artifact", decode: unpacked, bound: row_bound, form: Form::Tensors, seeds: rows },
    Decoder { name: "checked-topk", decode: checked_topk, bound: row_bound, form: Form::Tensors, seeds: rows },
    Decoder { name: "two-bit", decode: two_bit, bound: packed, form: Form::Text, seeds: || sparse(Values::TwoBit) },
    Decoder { name: "bf16", decode: bf16, bound: packed, form: Form::Text, seeds: || sparse(Values::Bf16) },
    Decoder { name: "f32", decode: whole, bound: packed, form: Form::Text, seeds: || sparse(Values::F32) },
    Decoder { name: "hotkey", decode: hotkey, bound: plain, form: Form::Text, seeds: hotkeys },
    Decoder { name: "hex32", decode: json::<Hex32>, bound: plain, form: Form::Json, seeds: || texts(64) },
    Decoder { name: "bits64", decode: json::<Bits64>, bound: plain, form: Form::Json, seeds: || texts(16) },
    Decoder { name: "bits32", decode: json::<Bits32>, bound: plain, form: Form::Json, seeds: || texts(8) },
];

fn json<T: DeserializeOwned>(bytes: &[u8]) -> bool {
    serde_json::from_slice::<T>(bytes).is_ok()
}

fn texts(digits: usize) -> Vec<Vec<u8>> {
    vec![format!("\"{}\"", &"0123456789abcdef".repeat(4)[..digits]).into_bytes()]
}

/// A number of a list takes two bytes in JSON and eight in memory, and three times that while the list grows and moves.
fn numbers(length: usize) -> usize {
    12 * length + 4096
}

/// The entries once, and for each byte of the header at most 16: a number of a shape takes two bytes there and eight in
/// memory, twice that in a list that grows, and once more while the list moves.
fn file_bound(length: usize) -> usize {
    length + 16 * length.min(tensor_file::MAX_HEADER as usize) + 4096
}

fn agreement() -> Agreement {
    Agreement { genesis: [1; 32], netuid: 1, run: 1, run_digest: [2; 32] }
}

fn alice() -> Hotkey {
    static ALICE: LazyLock<Hotkey> = LazyLock::new(|| Hotkey::from(&keypair()));
    *ALICE
}

/// A signed object. To check a signature takes longer than everything else: seven of eight inputs are opened as another
/// hotkey's, which is noticed when everything was parsed.
fn object<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, Verdict> {
    let signer = if bytes.len().is_multiple_of(8) { alice() } else { Hotkey(BASE) };
    object::open(&agreement(), &signer, WINDOW, kind, bytes).map(|o| o.body)
}

fn sealed<T: Serialize>(kind: Kind, body: &T) -> Vec<Vec<u8>> {
    // Blanks are part of the line: some seed has the length that is opened as the signer's.
    let line = object::seal(&agreement(), WINDOW, kind, &keypair(), body);
    let line = &line[..line.len() - 129];
    (0..8).map(|blanks| object::seal_line(kind, &keypair(), [line, &b" ".repeat(blanks)].concat())).collect()
}

fn commit(bytes: &[u8]) -> bool {
    object::<Commit>(Kind::Commit, bytes).is_ok()
}

fn commits() -> Vec<Vec<u8>> {
    sealed(Kind::Commit, &Commit::of(&files()[0]))
}

fn manifest(bytes: &[u8]) -> bool {
    object::<Manifest>(Kind::Manifest, bytes).is_ok_and(|m| m.check(WINDOW, [4; 32], BASE).is_ok())
}

fn manifests() -> Vec<Vec<u8>> {
    let entry = |uid, verdict| Entry { uid, hotkey: alice(), verdict, artifact: Some(Hex32([7; 32])), behind: Some(1) };
    let full = Manifest {
        blocks: Some(Blocks { start: Hex32([1; 32]), reveal: Hex32([2; 32]) }),
        neurons: vec![entry(0, Verdict::Accepted), entry(1, Verdict::Late)],
        median_norm: Some(Bits64(1.5)),
        admitted: vec![0],
        mixing: vec![Bits32(0.5)],
        base_after: Hex32([6; 32]),
        aggregate: Some(Hex32([7; 32])),
        ..Manifest::empty([4; 32], BASE)
    };
    [sealed(Kind::Manifest, &full), sealed(Kind::Manifest, &Manifest::empty([4; 32], BASE))].concat()
}

fn verdicts(bytes: &[u8]) -> bool {
    object::<Verdicts>(Kind::Verdicts, bytes).is_ok()
}

fn judged() -> Vec<Vec<u8>> {
    let judged = |uid, verdict, disputed| Judged { uid, hotkey: alice(), verdict, disputed, behind: Some(3) };
    let verdicts = vec![judged(0, Verdict::Accepted, None), judged(1, Verdict::Late, Some(Verdict::Accepted))];
    sealed(Kind::Verdicts, &Verdicts { verdicts })
}

/// With everything that a reader recomputes of it.
fn scores(bytes: &[u8]) -> bool {
    object::<Scores>(Kind::Scores, bytes).is_ok_and(|s| s.check(&alice()).is_ok())
}

fn scored() -> Vec<Vec<u8>> {
    let evaluation = |raw: Option<f64>| Evaluation {
        verdict: if raw.is_some() { Verdict::Accepted } else { Verdict::Late },
        pages: vec![3, 1, 4],
        loss: Some(Bits64(2.5)),
        raw: raw.map(Bits64),
        gate: raw.map(|_| Bits64(0.5)),
        losses: vec![Bits64(2.0), Bits64(f64::INFINITY)],
        since: Some(9),
    };
    let entry = |uid, drawn: Option<Evaluation>| record::Entry {
        uid,
        hotkey: alice(),
        age: Some(1 + u64::from(uid)),
        before: Bits64(0.0),
        average: Bits64(drawn.as_ref().map_or(0.0, |e| next_average(0.0, e.outcome(), Some(0.5), 0.9))),
        weight: 0,
        drawn,
    };
    let scores = Scores {
        end: Hex32([5; 32]),
        base: Hex32([6; 32]),
        evaluations: 8,
        leaders: false,
        moving_average: Bits64(0.9),
        power: Bits64(3.0),
        scale: Some(Bits64(0.5)),
        weights_block: Some(77),
        miners: vec![entry(0, Some(evaluation(Some(0.25)))), entry(1, Some(evaluation(None)))],
        former: vec![record::Former { uid: 0, window: 3, since: 99, until: 120, losses: vec![Bits64(2.0)] }],
    };
    sealed(Kind::Scores, &scores.weighted())
}

fn some_tensors() -> Tensors {
    let tensor = |name: &str, shape: &[usize]| Tensor {
        name: name.into(),
        shape: shape.into(),
        data: vec![0.25; shape.iter().product()],
    };
    Tensors::new(vec![tensor("b", &[3]), tensor("a\"\u{e9}", &[1]), tensor("none", &[0])]).expect("a set")
}

fn tensors(bytes: &[u8]) -> bool {
    tensor_file::read(bytes).is_ok()
}

fn files() -> Vec<Vec<u8>> {
    vec![tensor_file::write(&[("a", "b".into())], &some_tensors()), tensor_file::write(&[], &Tensors::default())]
}

fn artifact(bytes: &[u8]) -> bool {
    artifact::decode(bytes).is_ok()
}

fn artifacts() -> Vec<Vec<u8>> {
    vec![artifact::encode(&agreement(), WINDOW, Kind::Delta, &keypair(), BASE, &some_tensors())]
}

/// All checks of a miner's work, under a commit that names it. The signature is the same matter as in [`object()`].
fn checked(bytes: &[u8]) -> bool {
    static SHAPE: LazyLock<Vec<(String, Vec<usize>)>> = LazyLock::new(|| some_tensors().shape());
    is_accepted(bytes, &SHAPE, artifact::Form::Dense)
}

/// The same of compressed work.
fn checked_topk(bytes: &[u8]) -> bool {
    is_accepted(bytes, &SPARSE, artifact::Form::TopK(TOP_64))
}

/// Compressed work without a look at who signed it: what hides behind a wrong signature is tried too.
fn unpacked(bytes: &[u8]) -> bool {
    let form = artifact::Form::TopK(TOP_64);
    let within = bytes.len() as u64 <= form.max_bytes(&SPARSE);
    let read = artifact::decode(bytes).ok().filter(|_| within).and_then(|file| form.read(file.content, &SPARSE));
    read.is_some_and(|work| {
        assert!(work.all_finite() && work.has_shape(&SPARSE));
        true
    })
}

const TOP_64: topk::Settings = topk::Settings { k: 64, values: Values::TwoBit };

fn rows() -> Vec<Vec<u8>> {
    let one = |row: Vec<u8>| {
        let work = Sparse::read(&row, &SPARSE, TOP_64).expect("just written");
        artifact::encode_sparse(&agreement(), WINDOW, Kind::Delta, &keypair(), BASE, &work)
    };
    sparse(Values::TwoBit).into_iter().map(one).collect()
}

/// A file of tensors may come instead; else the bytes once more, and what they unpack to.
fn row_bound(length: usize) -> usize {
    file_bound(length) + packed(length)
}

fn is_accepted(bytes: &[u8], shape: &[(String, Vec<usize>)], form: artifact::Form) -> bool {
    static CLOCK: LazyLock<Clock> = LazyLock::new(|| {
        let schedule = Schedule {
            window_blocks: 40,
            commit_blocks: 8,
            upload_blocks: 8,
            merge_blocks: 8,
            skew_seconds: 3,
            snapshot_windows: 20,
        };
        Clock::new(&schedule).expect("the phases fit")
    });
    let rules = Rules {
        agreement: &agreement(),
        clock: &CLOCK,
        window: WINDOW,
        kind: Kind::Delta,
        base: BASE,
        shape,
        form,
        commits_close_ms: 0,
        uploads_close_ms: 0,
        models: None,
    };
    let signer = if bytes.len().is_multiple_of(8) { alice() } else { Hotkey(BASE) };
    rules.artifact(&signer, &Commit::of(bytes), bytes).is_ok()
}

/// Shapes of compressed work: whole chunks and a shorter one, a tensor of three entries and one of none.
static SPARSE: LazyLock<Vec<(String, Vec<usize>)>> =
    LazyLock::new(|| [("a", vec![150, 64]), ("b", vec![3]), ("none", vec![0])].map(|(n, d)| (n.into(), d)).into());

/// Compressed work; what is read must write the same bytes again.
fn top_k(bytes: &[u8], values: Values) -> bool {
    let Ok(read) = Sparse::read(bytes, &SPARSE, topk::Settings { k: 64, values }) else { return false };
    assert_eq!(read.write(), bytes, "another form of the same work");
    assert!(read.dense(&SPARSE).all_finite());
    true
}

fn two_bit(bytes: &[u8]) -> bool {
    top_k(bytes, Values::TwoBit)
}

fn bf16(bytes: &[u8]) -> bool {
    top_k(bytes, Values::Bf16)
}

fn whole(bytes: &[u8]) -> bool {
    top_k(bytes, Values::F32)
}

fn sparse(values: Values) -> Vec<Vec<u8>> {
    let work = |number: u32| {
        let entry = |i: u32| (i.wrapping_mul(2_654_435_761 + number) >> 8) as f32 / 8_388_608.0 - 1.0;
        let tensor = |(name, shape): &(String, Vec<usize>)| {
            let data = (0..shape.iter().product::<usize>() as u32).map(entry).collect();
            Tensor { name: name.clone(), shape: shape.clone(), data }
        };
        let tensors = Tensors::new(SPARSE.iter().map(tensor).collect()).expect("a set");
        topk::compress(&tensors, None, topk::Settings { k: 64, values }, 1).expect("finite").write()
    };
    (0..4).map(|number| work(2 * number)).collect()
}

/// A byte holds at most eight indices, each two bytes in memory; then the bytes once more, twice that while they are
/// written, and the tensors themselves.
fn packed(length: usize) -> usize {
    let entries: usize = SPARSE.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    20 * length + 4 * entries + 4096
}

fn hotkey(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| Hotkey::from_ss58(text).is_ok())
}

fn hotkeys() -> Vec<Vec<u8>> {
    vec![alice().ss58().into_bytes(), Hotkey([0; 32]).ss58().into_bytes()]
}
