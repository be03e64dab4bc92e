//! What an honest implementation must show: measured by tests on a small model and by `make simulate` on a larger one.

use std::collections::BTreeMap;

use bistro_api::{
    Run,
    mechanism::{Averaging, TaylorFormula},
    run::InnerOptimizer,
};
use bistro_protocol::{mechanism, merge::merge, tensors::Tensors};
use bistro_worker::{
    engine::Engine,
    mechanism::{
        Accepted, Candidate, Scene,
        averaging::{Mixed, Scales, weigh},
        score,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    arena::{Arena, Played},
    cheat::Cheat,
    judge::{Figures, Judge, audit_cosine},
    text::Text,
};

/// The first of some uids that nobody has: their pages are nobody's.
const OTHER: u16 = 200;

/// An engine for the models of `run`, on one thread.
pub fn engine(run: &Run) -> Engine {
    Engine::new(&run.model, 256, run.dataset.sequence_length, 1).expect("a sound model")
}

fn after(arena: &mut Arena<'_>, windows: u64) -> Played {
    (0..windows).for_each(|_| drop(arena.play()));
    arena.play()
}

fn works(played: &Played) -> Vec<&Tensors> {
    played.works.iter().map(|work| work.as_ref().expect("accepted")).collect()
}

/// Correlation of two rows.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(x - mx, y - my)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

/// Correlation of the scores of `taylor` with what the loss really rises by when each miner is left out, five honest and three
/// who cheat: of the exact formula on own pages, and of the published one on pages that all share.
pub fn taylor(text: &Text, mut run: Run, windows: u64, order: u32) -> (f64, f64) {
    run.mechanism.taylor.as_mut().expect("a run of taylor").order = order;
    let bad = [Cheat::Random, Cheat::SignFlip, Cheat::Stale(1)];
    let mut arena = Arena::new(text, run.clone(), 5, &bad);
    let played = after(&mut arena, windows);
    let (estimates, truth) = left_out(&run, &played, &|uid| arena.own(played.window, uid));
    let exact = pearson(&estimates, &truth);
    run.mechanism.taylor.as_mut().expect("taylor").formula = TaylorFormula::Published;
    let (estimates, truth) = left_out(&run, &played, &|_| arena.own(played.window, OTHER));
    (exact, pearson(&estimates, &truth))
}

/// Scores of everybody on these pages, and what the loss really rises by when each is left out.
fn left_out(run: &Run, played: &Played, pages: &dyn Fn(u16) -> Vec<Vec<u32>>) -> (Vec<f64>, Vec<f64>) {
    let mut engine = engine(run);
    let all = works(played);
    let works: BTreeMap<u16, &Tensors> = (0..).zip(all.iter().copied()).collect();
    let mechanism = mechanism::of(run);
    let accepted = Accepted::of(mechanism, &all);
    let candidates: Vec<_> = works.keys().map(|uid| Candidate { uid: *uid, own: pages(*uid) }).collect();
    let Played { base, slice, .. } = played;
    let scene = Scene {
        mechanism,
        training: &run.training,
        base,
        slice,
        works: &works,
        accepted: &accepted,
        test: &[],
        ages: BTreeMap::new(),
        former: Vec::new(),
        page_sequences: 1,
    };
    let scored = score(&mut engine, &scene, &candidates, None, &CancellationToken::new()).expect("finite");
    let theta = |works: &[&Tensors]| {
        let mut theta = base.parameters.clone();
        slice.scatter_add(&mut theta, &merge(&Default::default(), works).expect("some"), 1.0);
        theta
    };
    let with_all = theta(&all);
    let truth = candidates.iter().map(|candidate| {
        let others: Vec<&Tensors> = works.iter().filter(|(uid, _)| **uid != candidate.uid).map(|(_, w)| *w).collect();
        let mut loss = |parameters: &Tensors| engine.loss(parameters, &candidate.own).expect("finite");
        loss(&theta(&others)) - loss(&with_all)
    });
    (scored.iter().map(|s| s.raw).collect(), truth.collect())
}

/// How many of the honest miners lower the loss of pages that nobody has, in each of these windows: at the scale at which their
/// work is merged, and at full scale.
pub fn positive(text: &Text, run: Run, miners: usize, windows: &[u64]) -> Vec<(usize, usize)> {
    let mut engine = engine(&run);
    let mut arena = Arena::new(text, run.clone(), miners, &[]);
    let mut found = Vec::new();
    for window in 0..=windows.iter().copied().max().unwrap_or(0) {
        let played = arena.play();
        if !windows.contains(&window) {
            continue;
        }
        let test: Vec<_> = (OTHER..OTHER + 4).flat_map(|uid| arena.own(window, uid)).collect();
        let factor = mechanism::of(&run).factor(&run.training);
        let mut loss = |work: Option<&Tensors>, scale: f32| {
            let mut parameters = played.base.parameters.clone();
            work.into_iter().for_each(|work| played.slice.scatter_add(&mut parameters, work, factor * scale));
            engine.loss(&parameters, &test).expect("finite")
        };
        let before = loss(None, 1.0);
        let works = works(&played);
        let mut lower = |scale: f32| works.iter().filter(|work| loss(Some(work), scale) < before).count();
        found.push((lower(1.0 / miners as f32), lower(1.0)));
    }
    found
}

/// Relative error of a gradient that is summed in another order, sequence by sequence, as another machine might; and of
/// one that leaves out a sequence of its window.
pub fn gradient_errors(text: &Text, run: Run, windows: u64) -> (f64, f64) {
    let mut engine = engine(&run);
    let mut arena = Arena::new(text, run, 4, &[]);
    let played = after(&mut arena, windows);
    let sequences = arena.own(played.window, 0);
    let mut gradient = |of: &[Vec<u32>]| engine.gradient(&played.base.parameters, of).expect("finite").1;
    let all = gradient(&sequences);
    let mut sum = all.zeros_like();
    for sequence in &sequences {
        let one = gradient(std::slice::from_ref(sequence));
        for (sum, one) in sum.data_mut().zip(one.iter()) {
            sum.iter_mut().zip(&one.data).for_each(|(sum, one)| *sum += one / sequences.len() as f32);
        }
    }
    let error = |other: &Tensors| other.minus(&all).norm() / all.norm();
    (error(&sum), error(&gradient(&sequences[1..])))
}

/// Figures of each of these cheats beside so many honest miners, scored in every second of 60 windows.
pub fn thirty_scorings(text: &Text, run: Run, honest: usize, cheats: &[Cheat]) -> Vec<Figures> {
    let mut arena = Arena::new(text, run, honest, cheats);
    let mut judge = Judge::new(256);
    for window in 0..60 {
        let played = arena.play();
        if window % 2 == 1 {
            judge.score(&mut arena, &played);
        }
    }
    (0..cheats.len()).map(|number| judge.figures(honest, honest + number)).collect()
}

/// What an averager of `lossReduction` makes of work.
pub struct Weighed {
    /// Four honest miners, all alike.
    pub honest: Mixed,
    /// The same and four who cheat, with learned weights.
    pub learned: Mixed,
    /// The same eight, weighed by what each does for the loss.
    pub scored: Mixed,
    /// One who unlearns, alone.
    pub flipped: Mixed,
    /// One honest and that one three times, all alike.
    pub outnumbered: Mixed,
}

/// Weighs the work of four honest miners and of four who cheat.
pub fn weighed(text: &Text, run: Run, windows: u64) -> Weighed {
    let bad = [Cheat::Random, Cheat::SignFlip, Cheat::Stale(1), Cheat::Random];
    let mut arena = Arena::new(text, run.clone(), 4, &bad);
    let played = after(&mut arena, windows);
    let works = works(&played);
    let (tuning, check) = arena.tuning(played.window);
    let mut engine = engine(&run);
    let mut weighed = |averaging: Averaging, works: &[&Tensors]| {
        let base = &played.base.parameters;
        let scales = Scales { base, slice: &played.slice, works, factor: 1.0, tuning: &tuning, check: &check };
        weigh(&mut engine, &averaging, &scales, &CancellationToken::new()).expect("finite")
    };
    let uniform = || Averaging { uniform: Some(Default::default()), score_weighted: None, parameterized: None };
    let scored = Averaging { uniform: None, score_weighted: Some(Default::default()), parameterized: None };
    Weighed {
        honest: weighed(uniform(), &works[..4]),
        learned: weighed(Averaging::default(), &works),
        scored: weighed(scored, &works),
        flipped: weighed(uniform(), &works[5..6]),
        outnumbered: weighed(uniform(), &[works[0], works[5], works[5], works[5]]),
    }
}

/// Cosines of audits with fresh moments.
pub struct Audits {
    /// The smallest of an honest miner.
    pub honest: f64,
    /// The largest of each cheat.
    pub cheats: Vec<f64>,
}

/// Audits everybody in each of `windows` windows of so many honest miners and these cheats.
pub fn audits(text: &Text, mut run: Run, honest: usize, cheats: &[Cheat], windows: u64) -> Audits {
    run.training.inner_optimizer = InnerOptimizer::Fresh;
    let mut arena = Arena::new(text, run, honest, cheats);
    let (mut smallest, mut largest) = (1.0_f64, vec![-1.0_f64; cheats.len()]);
    for _ in 0..windows {
        let played = arena.play();
        for uid in 0..honest {
            smallest = smallest.min(audit_cosine(&mut arena, &played, uid as u16));
        }
        for (number, largest) in largest.iter_mut().enumerate() {
            *largest = largest.max(audit_cosine(&mut arena, &played, (honest + number) as u16));
        }
    }
    Audits { honest: smallest, cheats: largest }
}
