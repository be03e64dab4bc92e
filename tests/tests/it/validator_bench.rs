//! `make bench-validator`: miners that a validator evaluates per second and core, and what more of them cost.

use std::time::Instant;

use bistro_protocol::mechanism::loss_wins::{Contender, raw_scores};
use bistro_tests::{
    arena::Arena,
    runs::{Knobs, quickstart},
    text::Text,
};
use bistro_worker::{engine::Engine, mechanism::page_losses};
use tokio_util::sync::CancellationToken;

/// Drawn miners.
const MINERS: [usize; 4] = [1, 2, 4, 8];

fn print(mechanism: &str, figures: &[(usize, f64)]) {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get()) as f64;
    for (miners, seconds) in figures {
        let rate = *miners as f64 / seconds / cores;
        println!(
            "BENCH validator mechanism={mechanism} miners={miners} seconds={seconds:.2} miners_per_second_and_core={rate:.2}"
        );
    }
    if let [(one, alone), .., (most, all)] = figures {
        let growth = all / alone;
        println!("BENCH validator-growth mechanism={mechanism} miners={} cost={growth:.2}", most / one);
    }
}

/// The model, pages and steps of the quickstart. One window is played; scoring is measured, not training or IO.
#[test]
#[ignore = "a benchmark: make bench-validator"]
fn bench_validator() {
    let text = Text::frozen();
    for (mechanism, ratio) in [("cosine", 4), ("gradientDifference", 4), ("taylor", 4), ("lossReduction", 1)] {
        let run = quickstart(Knobs { mechanism, ratio, ..Knobs::default() });
        let mut arena = Arena::new(&text, run, MINERS[3], &[]);
        let played = arena.play();
        let measure = |miners: usize| {
            let uids: Vec<u16> = (0..miners as u16).collect();
            let began = Instant::now();
            assert_eq!(arena.score(&played, &uids).len(), miners);
            (miners, began.elapsed().as_secs_f64())
        };
        print(mechanism, &MINERS.map(measure));
    }
    models(&text);
}

/// Whole models, on sixteen pages each.
fn models(text: &Text) {
    let run = quickstart(Knobs::default());
    let arena = Arena::new(text, run.clone(), 1, &[]);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut engine = Engine::new(&run.model, 256, run.dataset.sequence_length, threads).expect("a sound model");
    let sequences: Vec<Vec<u32>> = (0..4).flat_map(|uid| arena.own(0, uid)).collect();
    let pages = run.dataset.page_sequences as usize;
    let settings = serde_json::from_str("{}").expect("all have defaults");
    let models: Vec<_> = (0..MINERS[3] as u64).map(|seed| engine.initial(seed).expect("drawn")).collect();
    let mut measure = |miners: usize| {
        let began = Instant::now();
        let losses = models[..miners].iter().map(|model| {
            page_losses(&mut engine, model, &sequences, pages, &CancellationToken::new()).expect("it computes")
        });
        let contender = |(uid, losses)| Contender { uid, age: 10 - u64::from(uid), replaced: None, losses };
        let contenders: Vec<_> = (0u16..).zip(losses).map(contender).collect();
        assert!(raw_scores(&contenders, &settings).iter().sum::<f64>() > 0.99);
        (miners, began.elapsed().as_secs_f64())
    };
    let figures = MINERS.map(&mut measure);
    print("lossWins", &figures);
}
