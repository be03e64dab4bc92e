//! What the formulas of the mechanisms must be true of, on a model that learns.

use bistro_api::Run;
use bistro_protocol::{base::Base, mechanism};
use bistro_tests::{
    arena::Arena,
    measures::{Weighed, engine, gradient_errors, positive, taylor, weighed},
    runs::{Knobs, smallest},
    text::Text,
};
use bistro_worker::mechanism::averaging::NOTHING;

fn run(mechanism: &str, ratio: u32) -> Run {
    smallest(Knobs { mechanism, ratio, ..Knobs::default() })
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

/// A gradient that is added up in another order is the same for every purpose; one without a sequence is not.
#[test]
fn the_error_of_a_gradient_tells_rounding_from_a_missing_sequence() {
    let text = Text::generated(1 << 20);
    let (rounding, missing) = gradient_errors(&text, run("gradientDifference", 1), 4);
    assert!(rounding <= 1e-5 && missing >= 0.03, "{rounding:e} {missing}");
}

/// The series estimates what leaving a miner out really costs; the formula as it was published ranks in reverse.
#[test]
fn taylor_estimates_what_is_true_and_the_published_formula_its_reverse() {
    let text = Text::generated(1 << 20);
    for order in [1, 2] {
        let (exact, published) = taylor(&text, run("taylor", 10), 6, order);
        assert!(exact >= 0.95 && published <= -0.9, "order {order}: {exact} {published}");
    }
}

/// At the scale at which it is merged every honest delta lowers the loss.
#[test]
fn honest_work_lowers_the_loss_at_the_scale_of_the_merge() {
    let text = Text::generated(1 << 20);
    let found = positive(&text, run("lossReduction", 1), 8, &[4, 15]);
    assert!(found.iter().all(|(merged, _)| *merged == 8), "{found:?}");
}

/// Weights that are learned do no worse with four of eight who cheat than the mean of the honest; and a base that would
/// be worse is seen to be.
#[test]
fn learned_weights_are_no_worse_than_knowing_who_cheats() {
    let text = Text::generated(1 << 20);
    let Weighed { honest, learned, scored, flipped, outnumbered } = weighed(&text, run("lossReduction", 1), 6);
    assert!(learned.after <= honest.after + 0.005, "{} {}", learned.after, honest.after);
    assert!(scored.after <= honest.after + 0.005);
    let names: Vec<_> = learned.strategies.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["uniform", "scoreWeighted", "parameterized"]);
    assert_eq!((flipped.strategy, flipped.after), (NOTHING, flipped.before), "who only unlearns makes it worse");
    assert!(flipped.weights.iter().all(|w| *w == 0.0) && flipped.merged.norm() == 0.0);
    assert_eq!(outnumbered.strategy, "scoreWeighted", "the others count where the run's way would make it worse");
}
