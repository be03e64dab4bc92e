//! How fast the protocol learns, and that it learns at all, without bucket and chain.

use bistro_api::{Run, run::InnerOptimizer};
use bistro_tests::{
    arena::Arena,
    runs::{Knobs, quickstart, small, smallest},
    text::Text,
};

/// Losses of the base after each window.
fn learn(text: &Text, run: Run, miners: usize, windows: usize) -> Vec<f64> {
    let mut arena = Arena::new(text, run, miners, &[]);
    let mut loss = |_| {
        arena.play();
        arena.loss()
    };
    (0..windows).map(&mut loss).collect()
}

/// Many miners learn faster than one; a slice costs little of that, and all of it where its gain is left out.
#[test]
fn many_learn_faster_than_one_if_the_gain_is_applied() {
    let text = Text::generated(1 << 20);
    let last = |miners, ratio, gain| {
        let losses = learn(&text, smallest(Knobs { ratio, gain, ..Knobs::default() }), miners, 16);
        losses[losses.len() - 1]
    };
    let (single, dense) = (last(1, 1, None), last(4, 1, None));
    let (c4, without_gain) = (last(4, 4, None), last(4, 4, Some("1")));
    let all = format!("single {single:.3}, dense {dense:.3}, c4 {c4:.3}, c4 without gain {without_gain:.3}");
    assert!(dense < single - 0.05 && c4 < single - 0.05, "{all}");
    assert!(without_gain > c4 + 0.1, "{all}");
}

/// Whoever changes it makes the margins of these tests meaningless.
#[test]
fn the_generated_text_is_pinned() {
    assert_eq!(Text::generated(1 << 20).digest(), "caacc7b1555c7bdc");
}

/// Names, miners, what is special.
const RUNS: [(&str, usize, Knobs<'static>); 7] = {
    let kept =
        Knobs { mechanism: "cosine", ratio: 1, gain: None, learning_rate: "3e-3", optimizer: InnerOptimizer::Kept };
    [
        ("single", 1, kept),
        ("dense", 8, kept),
        ("c10", 8, Knobs { ratio: 10, ..kept }),
        ("c10-no-gain", 8, Knobs { ratio: 10, gain: Some("1"), ..kept }),
        ("fresh-c10", 8, Knobs { ratio: 10, optimizer: InnerOptimizer::Fresh, ..kept }),
        ("dense-3", 3, kept),
        ("c4", 3, Knobs { ratio: 4, ..kept }),
    ]
};

/// `make bench-convergence`. Losses of two runs compare only where the digests of their texts are the same.
#[test]
#[ignore = "a benchmark: make bench-convergence"]
fn bench_convergence() {
    let (text, windows) = (Text::frozen(), 60);
    let mut single = f64::NAN;
    for (name, miners, knobs) in RUNS {
        let mbytes = (windows * Arena::new(&text, small(knobs), miners, &[]).bytes()) as f64 / 1e6;
        let losses = learn(&text, small(knobs), miners, windows);
        let loss = losses[windows - 1];
        if name == "single" {
            single = loss;
        }
        let reached = losses
            .iter()
            .position(|l| *l <= single)
            .map_or("never".to_owned(), |w| format!("{:.2}", (w + 1) as f64 / windows as f64));
        println!(
            "BENCH convergence run={name} miners={miners} windows={windows} loss={loss:.3} mbytes={mbytes:.1} windows_to_single={reached} text={}",
            text.digest()
        );
    }
}

/// `make bench-sweep`: the quickstart at other rates and ratios. WINDOWS shortens it.
#[test]
#[ignore = "a benchmark: make bench-sweep"]
fn bench_sweep() {
    let text = Text::frozen();
    let windows = std::env::var("WINDOWS").ok().and_then(|w| w.parse().ok()).unwrap_or(20);
    for (learning_rate, ratio, gain) in POINTS {
        let knobs = Knobs { learning_rate, ratio, gain: Some(gain), ..Knobs::default() };
        let losses = learn(&text, quickstart(knobs), 3, windows);
        let [half, last] = [windows / 2, windows].map(|w| losses[w - 1]);
        println!(
            "BENCH sweep learning_rate={learning_rate} ratio={ratio} gain={gain} miners=3 windows={windows} loss_half={half:.3} loss={last:.3} text={}",
            text.digest()
        );
    }
}

/// learningRate, sliceRatio, and outerLearningRate times gain.
const POINTS: [(&str, u32, &str); 12] = [
    ("3e-3", 1, "1"),
    ("1e-3", 4, "4"),
    ("2e-3", 4, "4"),
    ("3e-3", 4, "4"),
    ("6e-3", 4, "4"),
    ("1.2e-2", 4, "4"),
    ("3e-3", 4, "2"),
    ("3e-3", 4, "3"),
    ("3e-3", 4, "6"),
    ("3e-3", 10, "6"),
    ("3e-3", 10, "10"),
    ("6e-3", 10, "10"),
];
