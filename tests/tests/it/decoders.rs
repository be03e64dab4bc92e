//! Nothing from outside makes a decoder panic or take more memory than its bound.

use std::{
    collections::BTreeSet,
    panic::catch_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use bistro_tests::{
    decoders::{Decoder, all},
    mutate::{Mutator, bombs},
};

use crate::allocator::peak_of;

/// Inputs of one decoder when everything is tried.
const INPUTS: usize = 1_000_000;
/// Inputs that come from one random stream; threads share the streams, so the inputs do not depend on their number.
const STREAM: usize = 10_000;

/// What came of many inputs.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    inputs: usize,
    accepted: usize,
    peak: usize,
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self {
            inputs: self.inputs + other.inputs,
            accepted: self.accepted + other.accepted,
            peak: self.peak.max(other.peak),
        }
    }

    fn add(&mut self, decoder: &Decoder, input: &[u8]) {
        let (accepted, peak) = peak_of(|| catch_unwind(|| (decoder.decode)(input)));
        let name = decoder.name;
        let Ok(accepted) = accepted else { panic!("{name} panicked on {}", input.escape_ascii()) };
        let bound = (decoder.bound)(input.len());
        assert!(
            peak <= bound,
            "{name} held {peak} bytes for an input of {}, its bound is {bound}: {}",
            input.len(),
            input[..input.len().min(2000)].escape_ascii()
        );
        *self = self.and(Self { inputs: 1, accepted: accepted.into(), peak });
    }
}

/// One stream of inputs.
fn stream(decoder: &Decoder, seeds: &[Vec<u8>], number: usize, inputs: usize) -> Tally {
    let mut mutator = Mutator::new(decoder.form, seeds, number as u64);
    let mut tally = Tally::default();
    for _ in 0..inputs {
        tally.add(decoder, mutator.next());
    }
    tally
}

/// All streams, on as many threads as there are cores.
fn streams(decoder: &Decoder, seeds: &[Vec<u8>]) -> Tally {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut tally = Tally::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= INPUTS / STREAM {
                return tally;
            }
            tally = tally.and(stream(decoder, seeds, number, STREAM));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|w| w.join().expect("no input breaks a rule")).fold(Tally::default(), Tally::and)
    })
}

#[test]
fn valid_inputs_are_accepted() {
    for decoder in all() {
        let seeds = (decoder.seeds)();
        let mut tally = Tally::default();
        seeds.iter().for_each(|seed| tally.add(&decoder, seed));
        assert!(tally.accepted > 0, "{}", decoder.name);
    }
}

#[test]
fn damaged_inputs_do_no_harm() {
    for decoder in all() {
        stream(&decoder, &(decoder.seeds)(), usize::MAX, 1000);
    }
}

/// Large values everywhere: lists of the smallest members, names without end, nesting.
#[test]
fn inputs_that_are_made_to_fill_the_memory_do_not() {
    for decoder in all() {
        let mut tally = Tally::default();
        for seed in (decoder.seeds)().iter().step_by(4) {
            bombs(decoder.form, seed, 16 << 10).iter().for_each(|bomb| tally.add(&decoder, bomb));
        }
        println!("{} {tally:?}", decoder.name);
    }
}

/// The whole: two minutes on one core, `make test-decoders`.
#[test]
#[ignore = "a million inputs for each decoder: make test-decoders"]
fn a_million_inputs_each_do_no_harm() {
    let only = std::env::var("DECODER").unwrap_or_default();
    for decoder in all().into_iter().filter(|d| only.is_empty() || d.name == only) {
        let (start, seeds) = (Instant::now(), (decoder.seeds)());
        let Tally { inputs, accepted, peak } = streams(&decoder, &seeds);
        println!(
            "BENCH decode decoder={} inputs={inputs} accepted={accepted} seconds={:.1} peak_bytes={peak}",
            decoder.name,
            start.elapsed().as_secs_f64()
        );
        assert_eq!(inputs, INPUTS);
    }
}

#[test]
fn each_decoder_has_a_name_of_its_own() {
    let names: BTreeSet<_> = all().iter().map(|d| d.name).collect();
    assert_eq!(names.len(), all().len());
}
