//! How fast the protocol learns, and that it learns at all, without bucket and chain.

use bistro_api::{Run, run::InnerOptimizer};
use bistro_tests::{
    arena::Arena,
    runs::{Knobs, quickstart, small, smallest},
    target::Target,
    text::Text,
};

/// Losses of the base after each window.
fn learn(text: &Text, run: Run, miners: usize, windows: usize) -> Vec<f64> {
    learn_and_count(text, run, miners, windows).0
}

/// The same, and the million bytes that one miner published.
fn learn_and_count(text: &Text, run: Run, miners: usize, windows: usize) -> (Vec<f64>, f64) {
    let mut arena = Arena::new(text, run, miners, &[]);
    let mut loss = |_| {
        arena.play();
        arena.loss()
    };
    let losses = (0..windows).map(&mut loss).collect();
    (losses, arena.bytes() as f64 / 1e6)
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

/// Of what compression leaves out, most would be lost if it were not carried on.
#[test]
fn what_is_not_sent_is_carried_on() {
    let text = Text::generated(1 << 20);
    let last = |decay| {
        let knobs = Knobs { top_k: Some((64, decay)), ..Knobs::default() };
        learn(&text, smallest(knobs), 4, 16)[15]
    };
    let (without, with) = (last("0"), last("0.95"));
    assert!(with < without - 0.05, "without {without:.3}, with {with:.3}");
}

/// Whoever changes it makes the margins of these tests meaningless.
#[test]
fn the_generated_text_is_pinned() {
    assert_eq!(Text::generated(1 << 20).digest(), "caacc7b1555c7bdc");
}

/// Names, miners, what is special. Windows of one step are eight times as many: all runs read the same number of tokens.
const RUNS: [(&str, usize, Knobs<'static>); 10] = {
    let kept = Knobs::DEFAULT;
    let one = Knobs { steps: 1, ..kept };
    [
        ("single", 1, kept),
        ("dense", 8, kept),
        ("c10", 8, Knobs { ratio: 10, ..kept }),
        ("c10-no-gain", 8, Knobs { ratio: 10, gain: Some("1"), ..kept }),
        ("fresh-c10", 8, Knobs { ratio: 10, optimizer: InnerOptimizer::Fresh, ..kept }),
        ("dense-3", 3, kept),
        ("c4", 3, Knobs { ratio: 4, ..kept }),
        ("h1-dense", 8, one),
        ("h1-c10", 8, Knobs { ratio: 10, ..one }),
        ("h1-c100", 8, Knobs { ratio: 100, ..one }),
    ]
};

/// What a run came to.
struct Learned {
    name: &'static str,
    loss: f64,
    /// The part of its windows after which it was where one miner alone ends.
    reached: Option<f64>,
}

/// `make bench-convergence`. Losses of two runs compare only where the digests of their texts are the same.
#[test]
#[ignore = "a benchmark: make bench-convergence"]
fn bench_convergence() {
    let text = Text::frozen();
    let mut learned: Vec<Learned> = Vec::new();
    for (name, miners, knobs) in RUNS {
        let windows = (60 * Knobs::DEFAULT.steps / knobs.steps) as usize;
        let (losses, mbytes) = learn_and_count(&text, small(knobs), miners, windows);
        let loss = losses[windows - 1];
        let single = learned.first().map_or(loss, |single| single.loss);
        let reached = losses.iter().position(|l| *l <= single).map(|w| (w + 1) as f64 / windows as f64);
        let shown = reached.map_or("never".to_owned(), |part| format!("{part:.2}"));
        println!(
            "BENCH convergence run={name} miners={miners} windows={windows} loss={loss:.3} mbytes={mbytes:.1} windows_to_single={shown} text={}",
            text.digest()
        );
        learned.push(Learned { name, loss, reached });
    }
    targets(&learned).iter().for_each(|target| println!("{}", target.line()));
}

/// The figures that the protocol was chosen by.
fn targets(learned: &[Learned]) -> Vec<Target> {
    let of = |name: &str| learned.iter().find(|run| run.name == name).expect("it was run");
    let more = |one: &str, than: &str| of(one).loss - of(than).loss;
    let reached = |name: &str| of(name).reached.unwrap_or(f64::INFINITY);
    vec![
        Target::at_most(1, "windows of eight dense miners until the loss of one alone", 0.55, reached("dense")),
        Target::at_most(1, "windows of eight at ratio 10 until the loss of one alone", 0.65, reached("c10")),
        Target::at_most(2, "loss at ratio 10 less dense", 0.12, more("c10", "dense")),
        Target::at_most(2, "loss dense less alone", -0.30, more("dense", "single")),
        Target::at_least(3, "loss at ratio 10 without gain less alone", 0.0, more("c10-no-gain", "single")),
        Target::at_most(3, "one step a window: loss at ratio 10 less dense", 0.05, more("h1-c10", "h1-dense")),
        Target::at_most(3, "one step a window: loss at ratio 100 less alone", -0.15, more("h1-c100", "single")),
    ]
}

/// Names and what is special: the same eight miners and windows, with what they publish written in other ways.
const COMPRESSED: [(&str, Knobs<'static>); 13] = {
    let reduction = "lossReduction";
    [
        ("dense", Knobs::DEFAULT),
        ("c10", Knobs { ratio: 10, ..Knobs::DEFAULT }),
        ("top64-no-feedback", top(64, "0")),
        ("top64-decay-0.5", top(64, "0.5")),
        ("top64", top(64, "0.95")),
        ("top64-decay-1", top(64, "1")),
        ("top64-no-feedback-gain-4", Knobs { gain: Some("4"), ..top(64, "0") }),
        ("top64-gain-2", Knobs { gain: Some("2"), ..top(64, "0.95") }),
        ("top64-gain-3", Knobs { gain: Some("3"), ..top(64, "0.95") }),
        ("top256-no-feedback", top(256, "0")),
        ("top256", top(256, "0.95")),
        ("reduction-dense", Knobs { mechanism: reduction, ..Knobs::DEFAULT }),
        ("reduction-top64", Knobs { mechanism: reduction, ..top(64, "0.95") }),
    ]
};

/// The `k` largest of 4096 in two bits.
const fn top(k: u32, decay: &'static str) -> Knobs<'static> {
    Knobs { top_k: Some((k, decay)), ..Knobs::DEFAULT }
}

/// `make bench-convergence`, after the runs above: what compressed work costs and what error feedback brings.
#[test]
#[ignore = "a benchmark: make bench-convergence"]
fn bench_convergence_topk() {
    let text = Text::frozen();
    let windows = std::env::var("WINDOWS").ok().and_then(|w| w.parse().ok()).unwrap_or(60);
    for (name, knobs) in COMPRESSED {
        let (losses, mbytes) = learn_and_count(&text, small(knobs), 8, windows);
        let [half, last] = [windows / 2, windows].map(|w| losses[w - 1]);
        println!(
            "BENCH convergence.topk run={name} miners=8 windows={windows} loss_half={half:.3} loss={last:.3} mbytes={mbytes:.3} text={}",
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
