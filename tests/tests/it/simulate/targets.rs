//! The figures that an honest implementation must reach, as far as they are about scores; those about learning are
//! in `make bench-convergence`.

use bistro_tests::{
    cheat::Cheat,
    measures::{self, Audits, Weighed},
    runs::{Knobs, small},
    target::Target,
    text::Text,
};

use super::{AUDITED, HONEST, Shares, knobs};

/// Windows after which honest work is looked at.
const LOOKS: [u64; 3] = [4, 14, 29];

/// Measures all of them, prints them and gives the table.
pub fn table(text: &Text, all: &[Shares]) -> String {
    let of = |mechanism: &str| all.iter().find(|s| s.mechanism == mechanism).expect("a whole run");
    let found = [cosine(text), audits(of("cosine")), formulas(text)].concat();
    found.iter().for_each(|target| println!("{}", target.line()));
    let rows: String = found.iter().map(Target::row).collect();
    format!(
        "\nFigures that these mechanisms were chosen by, and what this run found:\n\n| | | bar | found |\n|---|---|---|---|\n{rows}"
    )
}

fn cosine(text: &Text) -> Vec<Target> {
    let cheats: Vec<Cheat> = Cheat::ALL.into_iter().filter(|c| c.does_no_work() && *c != Cheat::NotANumber).collect();
    let cheats = [cheats, vec![Cheat::Shout]].concat();
    let found = measures::thirty_scorings(text, small(knobs("cosine", 10)), HONEST, &cheats);
    let (shout, fakes) = found.split_last().expect("the shout");
    let share = fakes.iter().map(|f| f.share).fold(0.0, f64::max);
    let detection = fakes.iter().map(|f| f.detection.map_or(f64::INFINITY, |d| d as f64)).fold(0.0, f64::max);
    vec![
        Target::at_most(4, "cosine: largest share of who does no work, 30 scorings", 0.05, share),
        Target::at_most(4, "cosine: scorings until they are told from all honest", 3.0, detection),
        Target::at_most(4, "cosine: share of a thousandfold shout", 1.1, shout.share),
    ]
}

fn audits(shares: &Shares) -> Vec<Target> {
    let Audits { honest, cheats } = shares.audits.as_ref().expect("cosine is audited");
    let half = AUDITED.iter().position(|cheat| *cheat == Cheat::HalfSteps).expect("it is audited");
    vec![
        Target::at_least(5, "fresh moments: cosine of an audit of honest work", 0.9999, *honest),
        Target::at_most(5, "fresh moments: cosine of an audit of half of the steps", 0.95, cheats[half]),
    ]
}

fn formulas(text: &Text) -> Vec<Target> {
    let (exact, published) = measures::taylor(text, small(knobs("taylor", 10)), 20, 1);
    let run = small(Knobs { mechanism: "lossReduction", ..Knobs::default() });
    let looks = measures::positive(text, run.clone(), HONEST, &LOOKS);
    let merged = looks.iter().map(|(merged, _)| *merged).min().unwrap_or(0);
    let full = looks[1..].iter().map(|(_, full)| *full).max().unwrap_or(HONEST);
    let (rounding, missing) = measures::gradient_errors(text, small(knobs("gradientDifference", 1)), 20);
    let Weighed { honest, learned, .. } = measures::weighed(text, run, 20);
    vec![
        Target::at_least(6, "taylor: correlation with the true change", 0.95, exact),
        Target::at_most(6, "taylor: correlation of the published formula on shared pages", -0.9, published),
        Target::at_least(
            7,
            "lossReduction: honest of eight that lower the loss at the scale of the merge",
            8.0,
            merged as f64,
        ),
        Target::at_most(
            7,
            "lossReduction: honest of eight that lower it at full scale in windows 14 and 29",
            0.0,
            full as f64,
        ),
        Target::at_most(8, "gradientDifference: error of honest work", 1e-5, rounding),
        Target::at_least(8, "gradientDifference: error without one of 32 sequences", 0.03, missing),
        Target::at_most(
            9,
            "learned weights with four of eight bad less the mean of the honest, nats",
            0.005,
            learned.after - honest.after,
        ),
    ]
}
