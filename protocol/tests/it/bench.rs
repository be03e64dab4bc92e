//! What the protocol costs. `make bench-protocol` prints one line for each part.

use std::{fs, hint::black_box, time::Instant};

use bistro_api::run::MergeRule;
use bistro_protocol::{
    artifact,
    check::Commit,
    hotkey::{Hotkey, sign},
    merge::merge,
    object::{self, Agreement, Kind},
    permutation::Permutation,
    slice::{Slice, SliceOf},
    tensors::{Tensor, Tensors},
};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};

const RATIO: u32 = 10;
const LAYERS: usize = 8;
const WIDTH: usize = 256;
const FEED_FORWARD: usize = 1024;
const VOCABULARY: usize = 10_752;
/// A part is repeated for so many seconds.
const SECONDS: f64 = 1.0;

fn agreement() -> Agreement {
    Agreement { genesis: [1; 32], netuid: 1, run: 1, run_digest: [2; 32] }
}

fn keypair() -> Keypair {
    MiniSecretKey::from_bytes(&[1; 32]).expect("32 bytes").expand_to_keypair(ExpansionMode::Ed25519)
}

/// Entries that look like work: small, of both signs, never twice the same.
fn entries(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let draw = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 * 1e-9 - 8e-3
    };
    std::iter::repeat_with(draw).take(n).collect()
}

/// The shapes of a Llama-style model of 14 million parameters.
fn base() -> Tensors {
    let mut shapes = vec![
        ("embedding".to_owned(), vec![VOCABULARY, WIDTH]),
        ("head".to_owned(), vec![VOCABULARY, WIDTH]),
        ("norm".to_owned(), vec![WIDTH]),
    ];
    for layer in 0..LAYERS {
        let part = |name: &str, shape: &[usize]| (format!("layers.{layer}.{name}"), shape.to_vec());
        shapes.extend(["k", "o", "q", "v"].map(|name| part(name, &[WIDTH, WIDTH])));
        shapes.extend(["gate", "up"].map(|name| part(name, &[FEED_FORWARD, WIDTH])));
        shapes.push(part("down", &[WIDTH, FEED_FORWARD]));
        shapes.extend(["norm1", "norm2"].map(|name| part(name, &[WIDTH])));
    }
    let tensor = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let data = entries(i as u64, shape.iter().product());
        Tensor { name, shape, data }
    };
    Tensors::new(shapes.into_iter().enumerate().map(tensor).collect()).expect("names differ")
}

/// Repeats `part` and gives its mean seconds.
fn seconds<T>(mut part: impl FnMut() -> T) -> f64 {
    black_box(part());
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed().as_secs_f64() < SECONDS {
        black_box(part());
        rounds += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(rounds)
}

/// Most memory that the process held since the last call, in megabytes; 0 where the system does not say.
fn peak_mbytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    // 5 sets the mark back to what is held now.
    let _ = fs::write("/proc/self/clear_refs", "5");
    peak.unwrap_or_default() / 1000
}

#[test]
#[ignore = "a benchmark: make bench-protocol"]
fn bench_protocol() {
    let base = base();
    let parameters = base.elements();
    let of = SliceOf { netuid: 1, run: 1, window: 7, reveal: &[3; 32], ratio: RATIO };
    let slice = Slice::derive(of, &base);
    let work = slice.gather(&base);
    println!("BENCH protocol what=model parameters={parameters} ratio={RATIO} slice={}", work.elements());
    permutations(&base, of);
    slices(&base, &slice, &work);
    signatures();
    files(&base, &work);
    drop((base, slice, work));
    for artifacts in [8, 256] {
        merges(artifacts, parameters);
    }
}

fn permutations(base: &Tensors, of: SliceOf<'_>) {
    for n in [1u64 << 20, (1 << 20) + 1, 14_000_000, 5_000_000_000] {
        let permutation = Permutation::new(&[7; 32], n);
        let count = 1 << 20;
        let time = seconds(|| permutation.first(count).sum::<u64>());
        println!("BENCH protocol what=permutation n={n} indices_per_second={:.0} cores=1", count as f64 / time);
    }
    let time = seconds(|| Slice::derive(of, base));
    println!("BENCH protocol what=slice ms={:.1}", 1e3 * time);
}

fn slices(base: &Tensors, slice: &Slice, work: &Tensors) {
    println!("BENCH protocol what=gather ms={:.1}", 1e3 * seconds(|| slice.gather(base)));
    let mut next = base.clone();
    println!("BENCH protocol what=scatter ms={:.1}", 1e3 * seconds(|| slice.scatter_add(&mut next, work, 0.5)));
    println!("BENCH protocol what=norm ms={:.1}", 1e3 * seconds(|| work.norm()));
}

fn signatures() {
    let (keypair, message) = (keypair(), [7; 32]);
    let (hotkey, signature) = (Hotkey::from(&keypair), sign(&keypair, &message));
    let time = seconds(|| assert!(hotkey.verifies(&message, &signature)));
    println!("BENCH protocol what=signature checks_per_second={:.0}", 1.0 / time);
    println!("BENCH protocol what=sign signs_per_second={:.0}", 1.0 / seconds(|| sign(&keypair, &message)));
    let commit = object::seal(&agreement(), 7, Kind::Commit, &keypair, &Commit::of(&message));
    let open = || object::open::<Commit>(&agreement(), &hotkey, 7, Kind::Commit, &commit).expect("sealed");
    println!("BENCH protocol what=commit opens_per_second={:.0}", 1.0 / seconds(open));
}

fn files(base: &Tensors, work: &Tensors) {
    let keypair = keypair();
    let rate =
        |bytes: usize, time: f64| format!("gbytes_per_second={:.2} ms={:.1}", bytes as f64 / time / 1e9, 1e3 * time);
    let encode = || artifact::encode(&agreement(), 7, Kind::Delta, &keypair, [3; 32], work);
    let bytes = encode();
    println!("BENCH protocol what=encode {}", rate(bytes.len(), seconds(encode)));
    println!(
        "BENCH protocol what=decode {}",
        rate(bytes.len(), seconds(|| artifact::decode(&bytes).expect("encoded")))
    );
    println!("BENCH protocol what=digest {}", rate(bytes.len(), seconds(|| Commit::of(&bytes))));
    println!("BENCH protocol what=base_digest {}", rate(4 * base.elements(), seconds(|| base.digest())));
}

fn merges(artifacts: usize, parameters: usize) {
    let n = parameters / RATIO as usize;
    let work = |i: usize| {
        let tensor = |(name, n)| Tensor { name, shape: vec![n], data: entries(i as u64, n) };
        Tensors::new([("a".to_owned(), n / 2), ("b".to_owned(), n - n / 2)].map(tensor).into()).expect("names differ")
    };
    let works: Vec<_> = (0..artifacts).map(work).collect();
    let works: Vec<_> = works.iter().collect();
    peak_mbytes();
    let held = peak_mbytes();
    let ms = 1e3 * seconds(|| merge(&MergeRule::default(), &works).expect("some"));
    println!(
        "BENCH protocol what=merge artifacts={artifacts} parameters={parameters} ratio={RATIO} ms={ms:.1} \
         ms_per_artifact={:.2} artifacts_mbytes={held} peak_mbytes={}",
        ms / artifacts as f64,
        peak_mbytes()
    );
}
