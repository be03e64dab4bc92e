//! What cheats earn. The arena merges honest work alone; a cheat's work is scored beside it.

use bistro_api::run::InnerOptimizer;
use bistro_protocol::{check::Verdict, mechanism::audit::RECOMPUTED};
use bistro_tests::{
    arena::Arena,
    cheat::Cheat,
    judge::{Figures, Judge, audit_cosine},
    runs::{Knobs, small, smallest},
    text::Text,
};

const HONEST: usize = 8;

/// Every honest miner was accepted whenever it was drawn, and has weight since its tenth evaluation.
fn check_honest(judge: &Judge) {
    for uid in 0..HONEST {
        let figures = judge.figures(HONEST, uid);
        assert_eq!(figures.verdict, Verdict::Accepted, "uid {uid}");
        let mut evaluations = 0;
        for (window, record) in judge.records().iter().enumerate() {
            evaluations += usize::from(record.outcomes[uid].is_some());
            assert!(evaluations < 10 || record.weights[uid] > 0, "uid {uid} has no weight after window {window}");
        }
    }
}

/// Whoever does no work of its own earns next to nothing, and nobody honest is hurt.
#[test]
fn work_that_was_not_done_is_not_paid() {
    let text = Text::generated(1 << 20);
    let cheats: Vec<Cheat> = Cheat::ALL.into_iter().filter(|c| c.does_no_work()).collect();
    for (mechanism, ratio, top_k, gain) in [
        ("cosine", 10, None, None),
        ("cosine", 1, Some((64, "0")), Some("4")),
        ("cosine", 1, Some((256, "0.95")), Some("2")),
        ("lossReduction", 1, Some((64, "0.95")), None),
    ] {
        let knobs = Knobs { mechanism, ratio, top_k, gain, ..Knobs::default() };
        let mut arena = Arena::new(&text, smallest(knobs), HONEST, &cheats);
        let judge = Judge::watching(&mut arena, 256, 20, |_, _| ());
        check_honest(&judge);
        for (uid, cheat) in arena.cheats() {
            let figures = judge.figures(HONEST, uid);
            assert!(figures.share <= 0.05, "{mechanism} {top_k:?} {}: {figures:?}", cheat.name());
        }
    }
}

/// Work that breaks a rule never reaches the scores.
#[test]
fn work_that_breaks_a_rule_is_rejected() {
    let text = Text::generated(1 << 20);
    let cheats = [Cheat::Shout, Cheat::NotANumber, Cheat::Partial];
    let mut arena = Arena::new(&text, smallest(Knobs::default()), 3, &cheats);
    let judge = Judge::watching(&mut arena, 256, 2, |_, _| ());
    let verdicts: Vec<Verdict> = (3..6).map(|uid| judge.figures(3, uid).verdict).collect();
    assert_eq!(verdicts, [Verdict::Norm, Verdict::NotFinite, Verdict::WrongSchema]);
}

/// With fresh moments anybody can do the work again: one look tells half of it from all of it.
#[test]
fn an_audit_finds_half_of_the_work() {
    let text = Text::generated(1 << 20);
    let cheats = [Cheat::HalfSteps, Cheat::HalfPages, Cheat::Pair, Cheat::QuarterShout];
    let (sliced, compressed) = ((10, None), (1, Some((64, "0"))));
    for (mechanism, (ratio, top_k)) in [
        ("cosine", sliced),
        ("taylor", sliced),
        ("lossReduction", sliced),
        ("cosine", compressed),
        ("lossReduction", compressed),
    ] {
        let knobs = Knobs { mechanism, ratio, top_k, optimizer: InnerOptimizer::Fresh, ..Knobs::default() };
        let mut arena = Arena::new(&text, smallest(knobs), 3, &cheats);
        for _ in 0..3 {
            let played = arena.play();
            let cosines: Vec<f64> = (0..7).map(|uid| audit_cosine(&mut arena, &played, uid)).collect();
            assert!(
                cosines[..3].iter().all(|c| *c > 0.9999) && cosines[3..].iter().all(|c| *c < RECOMPUTED),
                "{mechanism} {top_k:?}: {cosines:?}"
            );
        }
    }
}

/// `make bench-adversaries`
#[test]
#[ignore = "a benchmark: make bench-adversaries"]
fn bench_adversaries() {
    let text = Text::frozen();
    let (kept, fresh) = (InnerOptimizer::Kept, InnerOptimizer::Fresh);
    let (sliced, compressed) = ((10, None, None), |decay, gain| (1, Some((64, decay)), Some(gain)));
    let cheats = [&Cheat::ALL[..], &[Cheat::Forgetful]].concat();
    for (setting, optimizer, evaluations, windows, (ratio, top_k, gain)) in [
        ("kept", kept, 256, 40, sliced),
        ("fresh", fresh, 256, 40, sliced),
        // As many evaluations of each, more or less.
        ("kept", kept, 8, 160, sliced),
        ("topk-kept", kept, 256, 40, compressed("0.95", "3")),
        ("topk-fresh", fresh, 256, 40, compressed("0", "4")),
    ] {
        let knobs = Knobs { ratio, top_k, gain, optimizer, ..Knobs::default() };
        let mut arena = Arena::new(&text, small(knobs), HONEST, &cheats);
        let everybody = HONEST + cheats.len();
        // By uid: the smallest cosine of an honest audit, the largest of a cheat's.
        let mut audits: Vec<f64> = (0..everybody).map(|uid| if uid < HONEST { 1.0 } else { -1.0 }).collect();
        let judge = Judge::watching(&mut arena, evaluations, windows, |arena, played| {
            if optimizer == InnerOptimizer::Fresh && played.window % 5 == 4 {
                for (uid, extreme) in audits.iter_mut().enumerate() {
                    let found = audit_cosine(arena, played, uid as u16);
                    *extreme = if uid < HONEST { extreme.min(found) } else { extreme.max(found) };
                }
            }
        });
        let print = |kind: &str, f: &Figures, audit: f64| {
            let auc = f.auc.map_or("-".to_owned(), |a| format!("{a:.3}"));
            let detection = f.detection.map_or("never".to_owned(), |d| d.to_string());
            let audit =
                if optimizer == InnerOptimizer::Fresh { format!(" audit_cosine={audit:.4}") } else { String::new() };
            println!(
                "BENCH adversary setting={setting} per_window={evaluations} kind={kind} share={:.4} pay={:.3} auc={auc} detection={detection} evaluations={} verdict={}{audit}",
                f.share, f.pay, f.evaluations, f.verdict
            );
        };
        let honest = (0..HONEST).map(|uid| format!("honest-{uid}"));
        let kinds = honest.chain(arena.cheats().into_iter().map(|(_, cheat)| cheat.name()));
        for (uid, (kind, audit)) in kinds.zip(&audits).enumerate() {
            print(&kind, &judge.figures(HONEST, uid), *audit);
        }
        println!(
            "BENCH adversary-end setting={setting} per_window={evaluations} loss={:.3} text={}",
            arena.loss(),
            text.digest()
        );
        check_honest(&judge);
        for (uid, cheat) in arena.cheats() {
            let share = judge.figures(HONEST, uid).share;
            // Of compressed work too little is of the window's own pages to tell half of them.
            let half = matches!(cheat, Cheat::HalfSteps | Cheat::HalfPages) && optimizer == kept && top_k.is_none();
            let most = if cheat.does_no_work() { 0.05 } else { 0.5 };
            assert!(share <= most || !(half || cheat.does_no_work()), "{}: {share}", cheat.name());
        }
    }
}
