//! `make bench-kernels`: the validator's kernels and the bytes of compressed work, beside torch where it is installed.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bistro_protocol::{
    kernels,
    tensors::{Tensor, Tensors},
    topk::{self, Carried, Settings, Sparse, Values},
};
use bistro_tests::beside::{Beside, median};

/// Entries of each of two vectors.
const VECTOR: usize = 64 << 20;
/// Entries that are picked from.
const PICKED_FROM: usize = 1 << 24;
const K: u32 = 64;
const ROUNDS: usize = 9;
/// How long all cores are kept busy before each turn.
const AWAKE: Duration = Duration::from_millis(20);

/// The script that times torch, where that is installed.
fn torch(threads: usize) -> Option<Beside> {
    let (torch, version) = Beside::python("kernels.py", &[threads.to_string()])?;
    println!("BENCH kernel torch={version} threads={threads}");
    Some(torch)
}

/// Of each side.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(2)
}

fn seconds<T>(part: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    black_box(part());
    start.elapsed().as_secs_f64()
}

/// Wakes the cores: a virtual one that has slept takes milliseconds to come back, as long as what is measured. Threads of torch
/// that spin for more work after they have answered end meanwhile.
fn wake() {
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let start = Instant::now();
                while start.elapsed() < AWAKE {
                    std::hint::spin_loop();
                }
            });
        }
    });
}

/// Medians of calls that take turns, so that all meet the same machine; each is called once before.
fn medians<const N: usize>(mut calls: [&mut dyn FnMut() -> f64; N]) -> [f64; N] {
    for call in &mut calls {
        call();
    }
    let mut times = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            wake();
            times.push(call());
        }
    }
    times.map(median)
}

/// Seconds of a call of torch; not a number without it.
fn of_torch(torch: &mut Option<Beside>, call: &str) -> f64 {
    torch.as_mut().map_or(f64::NAN, |torch| torch.seconds(call))
}

/// Entries with a bell's tails, a million of them over and over: this crate is not optimised.
fn entries(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        ((x >> 40) as f32 + 0.5) / 16_777_216.0
    };
    // Box and Muller (1958).
    let bell = || (-2.0 * draw().ln()).sqrt() * (std::f32::consts::TAU * draw()).cos();
    let mut all: Vec<f32> = std::iter::repeat_with(bell).take(n.min(1 << 20)).collect();
    while all.len() < n {
        all.extend_from_within(..(n - all.len()).min(all.len()));
    }
    all
}

#[test]
#[ignore = "a benchmark: make bench-kernels"]
fn bench_cosine() {
    let threads = threads();
    let (a, b) = (entries(1, VECTOR), entries(2, VECTOR));
    let bytes = 8.0 * VECTOR as f64;
    let mut torch = torch(threads);
    // What the memory gives: the better of two sums.
    let [read, torch_read] =
        medians([&mut || seconds(|| kernels::sum(&a, threads) + kernels::sum(&b, threads)), &mut || {
            of_torch(&mut torch, &format!("read {VECTOR}"))
        }]);
    let [ours, plain, theirs] = medians([
        &mut || seconds(|| kernels::dot_and_norms(&a, &b, threads)),
        &mut || seconds(|| kernels::sum(&a, threads) + kernels::sum(&b, threads)),
        &mut || of_torch(&mut torch, &format!("products {VECTOR}")),
    ]);
    drop(torch);
    let best = read.min(plain).min(torch_read);
    let rate = |seconds: f64| bytes / seconds / 1e9;
    println!(
        "BENCH kernel.cosine entries={VECTOR} threads={threads} ms={:.1} gbytes_per_second={:.2} \
         read_gbytes_per_second={:.2} of_read={:.2} torch_ms={:.1} times_torch={:.2}",
        1e3 * ours,
        rate(ours),
        rate(best),
        best / ours,
        1e3 * theirs,
        theirs / ours
    );
    let others = [&b[..], &b, &b, &b];
    let [many, alone] = medians([&mut || seconds(|| kernels::many(&a, &others, threads)), &mut || {
        seconds(|| others.map(|b| kernels::dot_and_norms(&a, b, threads)))
    }]);
    println!(
        "BENCH kernel.many entries={VECTOR} others=4 threads={threads} ms={:.1} one_by_one_ms={:.1}",
        1e3 * many,
        1e3 * alone
    );
}

#[test]
#[ignore = "a benchmark: make bench-kernels"]
fn bench_topk() {
    let threads = threads();
    let data = entries(3, PICKED_FROM);
    let mut torch = torch(threads);
    let [ours, one, theirs] = medians([
        &mut || seconds(|| topk::select(&data, K as usize, threads).expect("finite")),
        &mut || seconds(|| topk::select(&data, K as usize, 1).expect("finite")),
        &mut || of_torch(&mut torch, &format!("topk {PICKED_FROM} {K}")),
    ]);
    println!(
        "BENCH kernel.topk entries={PICKED_FROM} k={K} threads={threads} ms={:.2} one_thread_ms={:.2} torch_ms={:.1} \
         times_torch={:.2}",
        1e3 * ours,
        1e3 * one,
        1e3 * theirs,
        theirs / ours
    );
}

#[test]
#[ignore = "a benchmark: make bench-kernels"]
fn bench_wire() {
    let threads = threads();
    let tensor = Tensor { name: "w".into(), shape: vec![PICKED_FROM], data: entries(4, PICKED_FROM) };
    let shape = [(tensor.name.clone(), tensor.shape.clone())];
    let delta = Tensors::new(vec![tensor]).expect("one");
    let mut residual = delta.zeros_like();
    let exact = Settings { k: K, values: Values::F32 };
    let exact = topk::compress(&delta, None, exact, threads).expect("finite").dense(&shape);
    for values in [Values::TwoBit, Values::Bf16, Values::F32] {
        let settings = Settings { k: K, values };
        let sparse = topk::compress(&delta, None, settings, threads).expect("finite");
        let bytes = sparse.write();
        let error = sparse.dense(&shape).minus(&exact).norm() / exact.norm();
        let mut carry = || {
            let carried = Carried { residual: &mut residual, decay: 0.9 };
            seconds(|| topk::compress(&delta, Some(carried), settings, threads).expect("finite"))
        };
        let [compress, write, read, dense] = medians([
            &mut carry,
            &mut || seconds(|| sparse.write()),
            &mut || seconds(|| Sparse::read(&bytes, &shape, settings).expect("written")),
            &mut || seconds(|| sparse.dense(&shape)),
        ]);
        let again = Sparse::read(&bytes, &shape, settings).expect("written");
        assert_eq!(again.dense(&shape).digest(), sparse.dense(&shape).digest(), "the coding changes no bit");
        println!(
            "BENCH wire values={values:?} k={K} entries={PICKED_FROM} bytes={} bound_bytes={} times_smaller={:.1} \
             bits_per_entry={:.2} error={error:.4} threads={threads} compress_ms={:.1} write_ms={:.1} read_ms={:.1} \
             dense_ms={:.1}",
            bytes.len(),
            topk::max_bytes(&shape, settings),
            4.0 * PICKED_FROM as f64 / bytes.len() as f64,
            8.0 * bytes.len() as f64 / sparse.entries() as f64,
            1e3 * compress,
            1e3 * write,
            1e3 * read,
            1e3 * dense
        );
    }
}
