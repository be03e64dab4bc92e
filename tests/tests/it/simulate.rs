//! `make simulate`: what honest work and each cheat earn, mechanism by mechanism.

use bistro_api::run::InnerOptimizer;
use bistro_tests::{
    arena::Arena,
    cheat::Cheat,
    judge::Judge,
    runs::{Knobs, small},
    text::Text,
};

const HONEST: usize = 8;

#[test]
#[ignore = "a benchmark: make simulate"]
fn simulate() {
    let text = Text::frozen();
    let only = std::env::var("MECHANISM").unwrap_or_default();
    let windows = std::env::var("WINDOWS").ok().and_then(|w| w.parse().ok()).unwrap_or(50);
    for (mechanism, ratio) in [("cosine", 10), ("gradientDifference", 10), ("taylor", 10), ("lossReduction", 1)] {
        if !only.is_empty() && only != mechanism {
            continue;
        }
        let knobs = Knobs { mechanism, ratio, optimizer: InnerOptimizer::Kept, ..Knobs::default() };
        let mut arena = Arena::new(&text, small(knobs), HONEST, &Cheat::ALL);
        let mut judge = Judge::new(256);
        for _ in 0..windows {
            let played = arena.play();
            judge.score(&mut arena, &played);
        }
        let honest = (0..HONEST).map(|uid| format!("honest-{uid}"));
        let kinds = honest.chain(arena.cheats().into_iter().map(|(_, cheat)| cheat.name()));
        for (uid, kind) in kinds.enumerate() {
            let f = judge.figures(HONEST, uid);
            println!(
                "BENCH simulate mechanism={mechanism} kind={kind} share={:.4} pay={:.3} auc={:.3} detection={:?} verdict={}",
                f.share,
                f.pay,
                f.auc.unwrap_or(f64::NAN),
                f.detection,
                f.verdict
            );
        }
        println!("BENCH simulate-end mechanism={mechanism} loss={:.3}", arena.loss());
    }
}
