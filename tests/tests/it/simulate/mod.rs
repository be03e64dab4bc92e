//! `make simulate`: what honest work and each cheat earn, mechanism by mechanism, and what cheats do to the model.

mod league;
mod targets;

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use bistro_protocol::{check::Verdict, mechanism::audit::RECOMPUTED};
use bistro_tests::{
    arena::Arena,
    cheat::Cheat,
    judge::{Figures, Judge, Record},
    measures::{self, Audits},
    plot::{Bar, bars},
    runs::{Knobs, small},
    text::Text,
};

const HONEST: usize = 8;
/// Miners of the runs in which cheats are merged as long as they are paid.
const ALL: usize = 10;
/// Names, ratios and what is measured with them.
const MECHANISMS: [(&str, u32); 4] = [("cosine", 10), ("gradientDifference", 10), ("taylor", 10), ("lossReduction", 1)];
/// Runs of each mechanism that differ by chance alone; separation is measured over all of them.
const RUNS: u32 = 3;
/// Windows of those after the first one.
const SHORT: u64 = 20;
/// Cheats that do a part of the work: where moments are fresh, an audit compares.
const AUDITED: [Cheat; 9] = [
    Cheat::HalfSteps,
    Cheat::HalfPages,
    Cheat::Pair,
    Cheat::HalfAndMean,
    Cheat::QuarterSteps,
    Cheat::QuarterMix,
    Cheat::QuarterShout,
    Cheat::Gradient,
    Cheat::QuarterGradient,
];
/// Windows in which everybody is audited.
const AUDITS: u64 = 5;
/// In a run with so many cheats the first ones of these.
const MERGED: [Cheat; 4] = [Cheat::SignFlip, Cheat::Random, Cheat::Stale(1), Cheat::Copy];
/// Where the tables stand.
const MARKS: [&str; 2] = ["<!-- make simulate: begin -->\n", "<!-- make simulate: end -->\n"];

/// Shares of one mechanism.
struct Shares {
    mechanism: &'static str,
    honest: Vec<Figures>,
    cheats: Vec<(Cheat, Figures)>,
    /// Evaluations of honest miners that were not accepted, and weights of 0 after their tenth evaluation, of so many.
    wronged: (usize, usize),
    /// Evaluations after which those that copy, skip or fake work were told from the honest for good, ascending; `usize::MAX`
    /// where they never were.
    separated: Vec<usize>,
    /// Of [`AUDITED`], where work can be audited.
    audits: Option<Audits>,
    /// What ten keys of one operator have together, who does the work of one of them.
    ten_keys: f64,
    loss: f64,
}

fn knobs(mechanism: &str, ratio: u32) -> Knobs<'_> {
    Knobs { mechanism, ratio, ..Knobs::default() }
}

/// Honest miners alone move the base; all cheats are watched beside them.
fn shares(text: &Text, mechanism: &'static str, ratio: u32, windows: u64) -> Shares {
    let (mut wronged, mut separated) = ((0, 0), Vec::new());
    let mut watch = |number: u32, windows: u64| {
        let run = small(Knobs { number, ..knobs(mechanism, ratio) });
        let mut arena = Arena::new(text, run, HONEST, &Cheat::ALL);
        let judge = Judge::watching(&mut arena, 256, windows, |_, _| ());
        let found: Vec<_> =
            arena.cheats().into_iter().map(|(uid, cheat)| (cheat, judge.figures(HONEST, uid))).collect();
        separated.extend(found.iter().filter_map(|(cheat, figures)| separation(*cheat, figures, windows)));
        wronged.0 += (0..HONEST).map(|uid| wrongs(&judge, uid)).sum::<usize>();
        wronged.1 += HONEST * windows as usize;
        let honest: Vec<Figures> = (0..HONEST).map(|uid| judge.figures(HONEST, uid)).collect();
        (honest, found, arena.loss())
    };
    let (honest, cheats, loss) = watch(1, windows);
    for number in 2..=RUNS {
        watch(number, SHORT.min(windows));
    }
    separated.sort_unstable();
    let audited = mechanism != "gradientDifference";
    let audits =
        audited.then(|| measures::audits(text, small(knobs(mechanism, ratio)), HONEST, &AUDITED, AUDITS.min(windows)));
    let ten_keys = ten_keys(text, mechanism, ratio, windows);
    Shares { mechanism, honest, cheats, wronged, separated, audits, ten_keys, loss }
}

/// Evaluations of an honest miner that were not accepted, and weights of 0 after its tenth.
fn wrongs(judge: &Judge, uid: usize) -> usize {
    let wrong = |(window, record): &(usize, &Record)| {
        record.verdict(uid) != Some(Verdict::Accepted) || (*window >= 10 && record.weights[uid] == 0)
    };
    judge.records().iter().enumerate().filter(wrong).count()
}

/// Evaluations that it took to tell one that copies, skips or fakes work from the honest for good; `None` of others, and where
/// the turn of a turncoat lies too late. It counts from its turn on.
fn separation(cheat: Cheat, figures: &Figures, windows: u64) -> Option<usize> {
    let turned = if let Cheat::Turncoat(after) = cheat { after } else { 0 };
    let fakes = cheat.does_no_work() || turned > 0;
    let faked = fakes && figures.verdict == Verdict::Accepted && turned + 10 < windows;
    faked.then(|| figures.detection.map_or(usize::MAX, |windows| windows.saturating_sub(turned as usize)))
}

/// One operator registers ten keys, trains once, on pages of none of them, and publishes that under all.
fn ten_keys(text: &Text, mechanism: &'static str, ratio: u32, windows: u64) -> f64 {
    let mut arena = Arena::new(text, small(knobs(mechanism, ratio)), HONEST, &[Cheat::OtherPages; 10]);
    let judge = Judge::watching(&mut arena, 256, windows, |_, _| ());
    (HONEST..HONEST + 10).map(|uid| judge.figures(HONEST, uid).share).sum()
}

/// Loss after so many windows, where whoever has weight is merged.
fn loss_with(text: &Text, mechanism: &'static str, ratio: u32, honest: usize, cheats: usize, windows: u64) -> f64 {
    let mut arena = Arena::new(text, small(knobs(mechanism, ratio)), honest, &MERGED[..cheats]);
    let mut judge = Judge::new(256);
    for _ in 0..windows {
        let weights = judge.records().last().map(|record| record.weights.clone());
        // Before anybody is paid, everybody is merged.
        let paid = weights.filter(|w| w.iter().any(|w| *w > 0));
        arena.admit(paid.map_or(vec![true; honest + cheats], |w| w.iter().map(|w| *w > 0).collect()));
        let played = arena.play();
        judge.score(&mut arena, &played);
    }
    arena.loss()
}

fn print(shares: &Shares) {
    let mechanism = shares.mechanism;
    let line = |kind: &str, f: &Figures| {
        let auc = f.auc.map_or("-".to_owned(), |a| format!("{a:.3}"));
        let detection = f.detection.map_or("never".to_owned(), |d| d.to_string());
        println!(
            "BENCH simulate mechanism={mechanism} kind={kind} share={:.4} pay={:.3} auc={auc} detection={detection} verdict={}",
            f.share, f.pay, f.verdict
        );
    };
    shares.honest.iter().enumerate().for_each(|(uid, f)| line(&format!("honest-{uid}"), f));
    shares.cheats.iter().for_each(|(cheat, f)| line(&cheat.name(), f));
    let [median, p95] = percentiles(shares);
    let cases = shares.separated.len();
    println!("BENCH simulate-separation mechanism={mechanism} runs={RUNS} cases={cases} median={median} p95={p95}");
    for (cheat, cosine) in AUDITED.iter().zip(shares.audits.iter().flat_map(|audits| &audits.cheats)) {
        println!("BENCH simulate-audit mechanism={mechanism} kind={} cosine={cosine:.4}", cheat.name());
    }
    if let Some(Audits { honest, .. }) = &shares.audits {
        println!("BENCH simulate-audit mechanism={mechanism} kind=honest cosine={honest:.4}");
    }
    let (wronged, of) = shares.wronged;
    println!(
        "BENCH simulate-end mechanism={mechanism} wronged={wronged} of={of} ten_keys={:.4} loss={:.3}",
        shares.ten_keys, shares.loss
    );
}

/// The table of shares, detection and losses.
fn table(all: &[Shares], losses: &[(&str, Vec<f64>)], windows: u64, text: &Text) -> String {
    let mut out = format!(
        "Weight of each class over that of an honest miner in the second half of {windows} windows (in brackets: evaluations \
         until its average stayed below that of every honest miner). Eight honest miners of 0.13 million parameters, text {}.\n\n| |",
        text.digest()
    );
    out += &all.iter().map(|s| format!(" `{}` |", s.mechanism)).collect::<String>();
    out += &format!("\n|---|{}\n", "---|".repeat(all.len()));
    let spread = |s: &Shares| {
        let values = || s.honest.iter().map(|f| f.share);
        format!("{:.2} to {:.2}", values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max))
    };
    out += &format!("| honest, eight of them | {} |\n", all.iter().map(spread).collect::<Vec<_>>().join(" | "));
    for number in 0..all[0].cheats.len() {
        let cell = |s: &Shares| {
            let f = &s.cheats[number].1;
            match (f.verdict, f.detection) {
                (Verdict::Accepted, Some(windows)) => format!("{:.3} ({windows})", f.share),
                (Verdict::Accepted, None) => format!("{:.3} (never)", f.share),
                (verdict, _) => format!("{:.3} `{verdict}`", f.share),
            }
        };
        let cells = all.iter().map(cell).collect::<Vec<_>>().join(" | ");
        out += &format!("| {} | {cells} |\n", all[0].cheats[number].0.name());
    }
    let ten_keys = all.iter().map(|s| format!("{:.3}", s.ten_keys)).collect::<Vec<_>>().join(" | ");
    out += &format!("| ten keys of one operator, all together | {ten_keys} |\n");
    let separated = all.iter().map(|s| percentiles(s).join(", ")).collect::<Vec<_>>().join(" | ");
    out += &format!(
        "| evaluations until those are told from the honest that do no work, over {RUNS} runs: median, p95 | {separated} |\n"
    );
    let wronged = |Shares { wronged: (wronged, of), .. }: &Shares| format!("{wronged} of {of}");
    out +=
        &format!("| honest evaluations gone wrong | {} |\n", all.iter().map(wronged).collect::<Vec<_>>().join(" | "));
    out += &audits(all);
    out += "\nLoss of the base after as many windows, ten miners, in nats per byte; whoever has weight is merged:\n\n\
            | cheats of ten | ";
    out += &losses.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(" | ");
    out += &format!(" |\n|---|{}\n", "---|".repeat(losses.len()));
    for (row, name) in ["none", "none, eight miners", "1", "2", "4"].iter().enumerate() {
        let cells = losses.iter().map(|(_, l)| format!("{:.3}", l[row])).collect::<Vec<_>>().join(" | ");
        out += &format!("| {name} | {cells} |\n");
    }
    out
}

/// The table of audits.
fn audits(all: &[Shares]) -> String {
    let audited: Vec<_> = all.iter().filter_map(|s| Some((s.mechanism, s.audits.as_ref()?))).collect();
    let names: String = audited.iter().map(|(mechanism, _)| format!(" `{mechanism}` |")).collect();
    let mut out = format!(
        "\nWith `innerOptimizer: fresh`: largest cosine of an audit over {AUDITS} windows. Below {RECOMPUTED} the work is rejected \
         (`recompute`).\n\n| |{names}\n|---|{}\n",
        "---|".repeat(audited.len())
    );
    let row = |name: &str, of: &dyn Fn(&Audits) -> f64| {
        let cells: String = audited.iter().map(|(_, found)| format!(" {:.4} |", of(found))).collect();
        format!("| {name} |{cells}\n")
    };
    out += &row("honest, the smallest", &|audits| audits.honest);
    for (number, cheat) in AUDITED.iter().enumerate() {
        out += &row(&cheat.name(), &|audits| audits.cheats[number]);
    }
    out
}

/// Median and 95th percentile of the evaluations until a cheat was told from the honest.
fn percentiles(shares: &Shares) -> [String; 2] {
    let found = &shares.separated;
    let at = |share: f64| found.get((share * found.len().saturating_sub(1) as f64).ceil() as usize);
    let shown = |found: Option<&usize>| match found {
        Some(&usize::MAX) | None => "never".to_owned(),
        Some(evaluations) => evaluations.to_string(),
    };
    [0.5, 0.95].map(|share| shown(at(share)))
}

fn plot(shares: &Shares) -> String {
    let honest = shares.honest.iter().enumerate().map(|(uid, f)| Bar {
        label: format!("honest-{uid}"),
        value: f.share,
        colour: "#2da44e",
    });
    let cheats = shares.cheats.iter().map(|(cheat, f)| Bar { label: cheat.name(), value: f.share, colour: "#cf6679" });
    let title = format!("{}: weight over that of an honest miner", shares.mechanism);
    bars(&title, &honest.chain(cheats).collect::<Vec<_>>(), 0.05, 1.5)
}

/// Puts the tables into docs/mechanisms.md and the plots beside it.
fn publish(docs: &Path, tables: &str, all: &[Shares]) {
    let page = docs.join("mechanisms.md");
    let text = std::fs::read_to_string(&page).expect("docs/mechanisms.md");
    let (before, rest) = text.split_once(MARKS[0]).expect("a mark");
    let (_, after) = rest.split_once(MARKS[1]).expect("a mark");
    let mut plots = String::new();
    std::fs::create_dir_all(docs.join("mechanisms")).expect("a folder");
    for shares in all {
        let name = format!("mechanisms/{}.svg", shares.mechanism);
        std::fs::write(docs.join(&name), plot(shares)).expect("written");
        // Writing to a text never fails.
        let _ = writeln!(plots, "\n![{}]({name})", shares.mechanism);
    }
    let text = [before, MARKS[0], "\n", tables, &plots, "\n", MARKS[1], after].concat();
    std::fs::write(page, text).expect("written");
}

/// `make simulate`. WINDOWS and MECHANISM shorten it; docs are written by a whole run only.
#[test]
#[ignore = "a benchmark: make simulate"]
fn simulate() {
    let text = Text::frozen();
    let only = std::env::var("MECHANISM").ok().filter(|only| !only.is_empty());
    let windows = std::env::var("WINDOWS").ok().and_then(|w| w.parse().ok());
    let whole = only.is_none() && windows.is_none();
    let windows = windows.unwrap_or(50);
    let (mut all, mut losses) = (Vec::new(), Vec::new());
    for (mechanism, ratio) in
        MECHANISMS.into_iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
    {
        let shares = shares(&text, mechanism, ratio, windows);
        print(&shares);
        all.push(shares);
        let loss = |honest, cheats| loss_with(&text, mechanism, ratio, honest, cheats, windows);
        let found = vec![loss(ALL, 0), loss(ALL - 2, 0), loss(ALL - 1, 1), loss(ALL - 2, 2), loss(ALL - 4, 4)];
        println!(
            "BENCH simulate-loss mechanism={mechanism} honest_10={:.3} honest_8={:.3} cheats_1={:.3} cheats_2={:.3} cheats_4={:.3}",
            found[0], found[1], found[2], found[3], found[4]
        );
        losses.push((mechanism, found));
    }
    let mut tables = if all.is_empty() { String::new() } else { table(&all, &losses, windows, &text) };
    if only.as_deref().is_none_or(|only| only == "lossWins") {
        tables += "\n";
        tables += &league::table(&text, windows);
    }
    if whole {
        tables += &targets::table(&text, &all);
    }
    match std::env::var_os("BISTRO_DOCS").map(PathBuf::from).filter(|_| whole) {
        Some(docs) => publish(&docs, &tables, &all),
        None => println!("{tables}"),
    }
}
