//! What the formulas of the mechanisms must be true of, on a model that learns.

use std::collections::BTreeMap;

use bistro_api::{
    Run,
    mechanism::{Averaging, TaylorFormula},
};
use bistro_protocol::{base::Base, mechanism, merge::merge, tensors::Tensors};
use bistro_tests::{
    arena::{Arena, Played},
    cheat::Cheat,
    runs::{Knobs, smallest},
    text::Text,
};
use bistro_worker::{
    engine::Engine,
    mechanism::{
        Accepted, Candidate, Scene,
        averaging::{NOTHING, Scales, weigh},
        score,
    },
};
use tokio_util::sync::CancellationToken;

const THREE_BAD: [Cheat; 3] = [Cheat::Random, Cheat::SignFlip, Cheat::Stale(1)];

fn run(mechanism: &str, ratio: u32) -> Run {
    smallest(Knobs { mechanism, ratio, ..Knobs::default() })
}

fn engine(run: &Run) -> Engine {
    Engine::new(&run.model, 256, run.dataset.sequence_length, 1).expect("a sound model")
}

fn after(arena: &mut Arena<'_>, windows: u64) -> Played {
    (0..windows).for_each(|_| drop(arena.play()));
    arena.play()
}

fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(x - mx, y - my)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

/// Four nodes that publish whole gradients and step together are one process that trains on all their pages.
#[test]
fn nodes_that_step_together_are_one_process() {
    let text = Text::generated(1 << 20);
    let run = run("gradientDifference", 1);
    let mut arena = Arena::new(&text, run.clone(), 4, &[]);
    let mut engine = engine(&run);
    let mechanism = mechanism::of(&run);
    let mut alone: Base = mechanism.first_base(engine.initial(42).expect("drawn"));
    for window in 0..10 {
        let union: Vec<Vec<u32>> = (0..4).flat_map(|uid| arena.own(window, uid)).collect();
        let played = arena.play();
        let (_, gradient) = engine.gradient(&alone.parameters, &union).expect("finite");
        mechanism.outer_step(&mut alone, &played.slice, &played.slice.gather(&gradient), &run.training, window);
    }
    let together = &arena.play().base.parameters;
    let error = together.minus(&alone.parameters).norm() / alone.parameters.norm();
    assert!(error <= 1e-6, "{error:e}");
}

/// Scores of `uids` on these pages, and what the loss really rises by when each is left out.
fn left_out(run: &Run, played: &Played, pages: &dyn Fn(u16) -> Vec<Vec<u32>>) -> (Vec<f64>, Vec<f64>) {
    let mut engine = engine(run);
    let works: BTreeMap<u16, &Tensors> =
        (0..).zip(&played.works).map(|(uid, work)| (uid, work.as_ref().expect("accepted"))).collect();
    let all: Vec<&Tensors> = works.values().copied().collect();
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

/// The series estimates what leaving a miner out really costs; the formula as it was published ranks in reverse.
#[test]
fn taylor_estimates_what_is_true_and_the_published_formula_its_reverse() {
    let text = Text::generated(1 << 20);
    for order in [1, 2] {
        let mut run = run("taylor", 10);
        let settings = run.mechanism.taylor.as_mut().expect("taylor");
        settings.order = order;
        let mut arena = Arena::new(&text, run.clone(), 5, &THREE_BAD);
        let played = after(&mut arena, 6);
        let (own, shared) = (|uid| arena.own(played.window, uid), |_| arena.own(played.window, 200));
        let (estimates, truth) = left_out(&run, &played, &own);
        assert!(pearson(&estimates, &truth) >= 0.95, "order {order}: {estimates:?} {truth:?}");
        run.mechanism.taylor.as_mut().expect("taylor").formula = TaylorFormula::Published;
        let (estimates, truth) = left_out(&run, &played, &shared);
        assert!(pearson(&estimates, &truth) <= -0.9, "order {order}: {estimates:?} {truth:?}");
    }
}

/// At the scale at which it is merged every honest delta lowers the loss.
#[test]
fn honest_work_lowers_the_loss_at_the_scale_of_the_merge() {
    let text = Text::generated(1 << 20);
    let mut arena = Arena::new(&text, run("lossReduction", 1), 8, &[]);
    for window in 0..16 {
        let played = arena.play();
        if [4, 15].contains(&window) {
            let uids: Vec<u16> = (0..8).collect();
            let scored = arena.score(&played, &uids);
            assert!(scored.iter().all(|s| s.raw > 0.0), "window {window}: {scored:?}");
        }
    }
}

/// Weights that are learned do no worse with four of eight who cheat than the mean of the honest; and a base that would
/// be worse is seen to be.
#[test]
fn learned_weights_are_no_worse_than_knowing_who_cheats() {
    let text = Text::generated(1 << 20);
    let run = run("lossReduction", 1);
    let bad = [Cheat::Random, Cheat::SignFlip, Cheat::Stale(1), Cheat::Random];
    let mut arena = Arena::new(&text, run.clone(), 4, &bad);
    let played = after(&mut arena, 6);
    let works: Vec<&Tensors> = played.works.iter().map(|w| w.as_ref().expect("accepted")).collect();
    let (tuning, check) = (arena.own(played.window, 100), arena.own(played.window, 101));
    let mut engine = engine(&run);
    let mut weighed = |averaging: Averaging, works: &[&Tensors]| {
        let base = &played.base.parameters;
        let scales = Scales { base, slice: &played.slice, works, factor: 1.0, tuning: &tuning, check: &check };
        weigh(&mut engine, &averaging, &scales, &CancellationToken::new()).expect("finite")
    };
    let uniform = || Averaging { uniform: Some(Default::default()), score_weighted: None, parameterized: None };
    let scored = Averaging { uniform: None, score_weighted: Some(Default::default()), parameterized: None };
    let honest = weighed(uniform(), &works[..4]).after;
    let learned = weighed(Averaging::default(), &works);
    assert!(learned.after <= honest + 0.005, "{} {honest}", learned.after);
    assert!(weighed(scored, &works).after <= honest + 0.005);
    let names: Vec<_> = learned.strategies.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["uniform", "scoreWeighted", "parameterized"]);
    let flipped = weighed(uniform(), &works[5..6]);
    assert_eq!((flipped.strategy, flipped.after), (NOTHING, flipped.before), "who only unlearns makes it worse");
    assert!(flipped.weights.iter().all(|w| *w == 0.0) && flipped.merged.norm() == 0.0);
    let saved = weighed(uniform(), &[works[0], works[5], works[5], works[5]]);
    assert_eq!(saved.strategy, "scoreWeighted", "the others count where the run's way would make it worse");
}
