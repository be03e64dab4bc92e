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

/// Inputs of one decoder when everything is tried, unless INPUTS says another number.
const INPUTS: usize = 1_000_000;
/// Inputs that come from one random stream; threads share the streams, so the inputs do not depend on their number.
const STREAM: usize = 10_000;

/// Bytes of one value that is made to fill the memory.
const BOMB: usize = 16 << 10;

/// What came of many inputs.
#[derive(Clone, Debug, Default)]
struct Tally {
    inputs: usize,
    accepted: usize,
    peak: usize,
    /// The first input that broke a rule.
    fault: Option<String>,
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self {
            inputs: self.inputs + other.inputs,
            accepted: self.accepted + other.accepted,
            peak: self.peak.max(other.peak),
            fault: self.fault.or(other.fault),
        }
    }

    fn add(&mut self, decoder: &Decoder, input: &[u8]) {
        let (accepted, peak) = peak_of(|| catch_unwind(|| (decoder.decode)(input)));
        let bound = (decoder.bound)(input.len());
        let fault = match accepted {
            Err(_) => Some("it panicked".to_owned()),
            Ok(_) if peak > bound => Some(format!("it held {peak} bytes, its bound is {bound}")),
            Ok(_) => None,
        };
        if let Some(fault) = fault {
            let (name, shown) = (decoder.name, input[..input.len().min(2000)].escape_ascii());
            self.fault.get_or_insert(format!("{name}: {fault}, on {} bytes: {shown}", input.len()));
        }
        self.inputs += 1;
        self.accepted += usize::from(accepted.unwrap_or_default());
        self.peak = self.peak.max(peak);
    }
}

/// Tries each decoder, and then says of all of them which broke a rule.
fn try_all(attempt: impl Fn(&Decoder) -> Tally) {
    let faults: Vec<_> = all().iter().filter_map(|decoder| attempt(decoder).fault).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// One stream of inputs.
fn stream(decoder: &Decoder, seeds: &[Vec<u8>], number: usize, inputs: usize) -> Tally {
    let mut mutator = Mutator::new(decoder.form, seeds, number as u64);
    let mut tally = Tally::default();
    for _ in 0..inputs {
        tally.add(decoder, mutator.damaged());
    }
    tally
}

/// All streams, on as many threads as there are cores.
fn streams(decoder: &Decoder, seeds: &[Vec<u8>], inputs: usize) -> Tally {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut tally = Tally::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= inputs / STREAM {
                return tally;
            }
            tally = tally.and(stream(decoder, seeds, number, STREAM));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|w| w.join().expect("panics are caught")).fold(Tally::default(), Tally::and)
    })
}

#[test]
fn valid_inputs_are_accepted() {
    try_all(|decoder| {
        let mut tally = Tally::default();
        (decoder.seeds)().iter().for_each(|seed| tally.add(decoder, seed));
        assert!(tally.accepted > 0, "{}", decoder.name);
        tally
    });
}

#[test]
fn damaged_inputs_do_no_harm() {
    try_all(|decoder| stream(decoder, &(decoder.seeds)(), usize::MAX, 1000));
}

/// Large values everywhere: lists of the smallest members, names without end, nesting.
#[test]
fn inputs_that_are_made_to_fill_the_memory_do_not() {
    try_all(|decoder| {
        let mut tally = Tally::default();
        for seed in (decoder.seeds)().iter().step_by(4) {
            bombs(decoder.form, seed, BOMB).iter().for_each(|bomb| tally.add(decoder, bomb));
        }
        println!("{} {} bombs of {BOMB} bytes: at most {} bytes held", decoder.name, tally.inputs, tally.peak);
        tally
    });
}

/// Two minutes on one core.
#[test]
#[ignore = "a million inputs for each decoder: make test-decoders"]
fn a_million_inputs_each_do_no_harm() {
    let only = std::env::var("DECODER").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    let unknown = only.iter().find(|name| all().iter().all(|decoder| decoder.name != **name));
    assert_eq!(unknown, None, "no decoder has this name: {:?}", all().iter().map(|d| d.name).collect::<Vec<_>>());
    let inputs = std::env::var("INPUTS").ok().filter(|inputs| !inputs.is_empty());
    let inputs = inputs.map_or(INPUTS, |inputs| inputs.parse().expect("INPUTS is a number"));
    assert!(inputs.is_multiple_of(STREAM), "INPUTS must be a multiple of {STREAM}");
    try_all(|decoder| {
        if !only.is_empty() && !only.contains(&decoder.name) {
            return Tally::default();
        }
        let (start, seeds) = (Instant::now(), (decoder.seeds)());
        let tally = streams(decoder, &seeds, inputs);
        println!(
            "BENCH decode decoder={} inputs={} accepted={} seconds={:.1} peak_bytes={}",
            decoder.name,
            tally.inputs,
            tally.accepted,
            start.elapsed().as_secs_f64(),
            tally.peak
        );
        assert_eq!(tally.inputs, inputs);
        tally
    });
}

#[test]
fn each_decoder_has_a_name_of_its_own() {
    let names: BTreeSet<_> = all().iter().map(|d| d.name).collect();
    assert_eq!(names.len(), all().len());
}
