//! `make simulate`: what honest work and each cheat earn, mechanism by mechanism, and what cheats do to the model.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use bistro_protocol::check::Verdict;
use bistro_tests::{
    arena::Arena,
    cheat::Cheat,
    judge::{Figures, Judge},
    league::{League, Player},
    plot::{Bar, bars},
    runs::{Knobs, small},
    text::Text,
};

const HONEST: usize = 8;
/// Miners of the runs in which cheats are merged as long as they are paid.
const ALL: usize = 10;
/// Names, ratios and what is measured with them.
const MECHANISMS: [(&str, u32); 4] = [("cosine", 10), ("gradientDifference", 10), ("taylor", 10), ("lossReduction", 1)];
/// In a run with so many cheats the first ones of these.
const MERGED: [Cheat; 4] = [Cheat::SignFlip, Cheat::Random, Cheat::Stale(1), Cheat::Copy];
/// Where the tables stand.
const MARKS: [&str; 2] = ["<!-- make simulate: begin -->\n", "<!-- make simulate: end -->\n"];

/// Shares of one mechanism.
struct Shares {
    mechanism: &'static str,
    honest: Vec<Figures>,
    cheats: Vec<(Cheat, Figures)>,
    /// Evaluations of honest miners that were not accepted, and weights of 0 after their tenth evaluation.
    wronged: usize,
    /// What ten keys of one operator have together, who does the work of one of them.
    ten_keys: f64,
    loss: f64,
}

fn knobs(mechanism: &str, ratio: u32) -> Knobs<'_> {
    Knobs { mechanism, ratio, ..Knobs::default() }
}

/// Honest miners alone move the base; all cheats are watched beside them.
fn shares(text: &Text, mechanism: &'static str, ratio: u32, windows: u64) -> Shares {
    let mut arena = Arena::new(text, small(knobs(mechanism, ratio)), HONEST, &Cheat::ALL);
    let judge = Judge::watching(&mut arena, 256, windows, |_, _| ());
    let figures = |uid| judge.figures(HONEST, uid);
    let wronged = |uid: usize| {
        let records = judge.records().iter().enumerate();
        records.filter(|(w, r)| r.verdict(uid) != Some(Verdict::Accepted) || (*w >= 10 && r.weights[uid] == 0)).count()
    };
    Shares {
        mechanism,
        honest: (0..HONEST).map(figures).collect(),
        cheats: arena.cheats().into_iter().map(|(uid, cheat)| (cheat, figures(uid))).collect(),
        wronged: (0..HONEST).map(wronged).sum(),
        ten_keys: ten_keys(text, mechanism, ratio, windows),
        loss: arena.loss(),
    }
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
    let separation = separation(shares).replace(", ", " p95=");
    println!("BENCH simulate-separation mechanism={mechanism} median={separation}");
    println!(
        "BENCH simulate-end mechanism={mechanism} wronged={} ten_keys={:.4} loss={:.3}",
        shares.wronged, shares.ten_keys, shares.loss
    );
}

/// The table of shares, detection and losses.
fn table(all: &[Shares], losses: &[(&str, Vec<f64>)], windows: u64, text: &Text) -> String {
    let mut out = format!(
        "Weight of each class over that of an honest miner after {windows} windows (in brackets: evaluations until its average \
         stayed below that of every honest miner). Eight honest miners of 0.13 million parameters, text {}.\n\n| |",
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
    let separated = all.iter().map(separation).collect::<Vec<_>>().join(" | ");
    out += &format!("| evaluations until separated, of those that earn at most 0.05: median, p95 | {separated} |\n");
    let wronged = all.iter().map(|s| s.wronged.to_string()).collect::<Vec<_>>().join(" | ");
    out += &format!("| honest evaluations gone wrong | {wronged} |\n");
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

/// Median and 95th percentile of the evaluations that it took to tell those cheats from the honest for good that copy, skip
/// or fake work. A turncoat counts from its turn on.
fn separation(shares: &Shares) -> String {
    let evaluations = |(cheat, figures): &(Cheat, Figures)| {
        let turned = if let Cheat::Turncoat(after) = cheat { *after as usize } else { 0 };
        let accepted = figures.verdict == Verdict::Accepted && figures.share <= 0.05;
        figures.detection.filter(|_| accepted).map(|windows| windows.saturating_sub(turned))
    };
    let mut found: Vec<usize> = shares.cheats.iter().filter_map(evaluations).collect();
    found.sort_unstable();
    let at = |share: f64| found.get((share * found.len().saturating_sub(1) as f64).ceil() as usize);
    let shown = |found: Option<&usize>| found.map_or("-".to_owned(), ToString::to_string);
    format!("{}, {}", shown(at(0.5)), shown(at(0.95)))
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

/// Shares where there is no common base.
struct LeagueShares {
    players: Vec<Player>,
    /// Mean share of all weights, by uid.
    shares: Vec<f64>,
    led: Vec<(u64, u64)>,
    loss: f64,
}

fn league(text: &Text, players: Vec<Player>, windows: u64) -> LeagueShares {
    let mut run = small(knobs("lossWins", 1));
    // The margin falls to its floor within ten windows: farmers have something to wait for.
    let mechanism = serde_json::json!({ "lossWins": { "testPages": 16, "decayBlocks": 400 } });
    run.mechanism = serde_json::from_value(mechanism).expect("sound settings");
    let mut league = League::new(text, run, &players);
    for _ in 0..windows {
        league.play();
    }
    let loss = league.loss();
    LeagueShares { shares: league.shares(), led: league.led().to_vec(), players, loss }
}

impl LeagueShares {
    /// Of an honest miner, who has this share of the weights on average.
    fn honest(&self) -> f64 {
        let honest = || self.players.iter().zip(&self.shares).filter(|(player, _)| **player == Player::Honest);
        honest().map(|(_, share)| share).sum::<f64>() / honest().count().max(1) as f64
    }

    /// Windows that somebody led without being paid.
    fn unpaid(&self) -> u64 {
        self.led.iter().map(|(_, unpaid)| unpaid).sum()
    }

    fn print(&self) {
        for (uid, (player, share)) in self.players.iter().zip(&self.shares).enumerate() {
            let (led, unpaid) = self.led[uid];
            println!(
                "BENCH simulate mechanism=lossWins kind={}-{uid} share={:.4} of_all={share:.4} led={led} unpaid={unpaid}",
                player.name(),
                share / self.honest(),
            );
        }
        println!("BENCH simulate-end mechanism=lossWins unpaid={} loss={:.3}", self.unpaid(), self.loss);
    }

    fn table(&self, alone: &Self, windows: u64) -> String {
        let mut out = format!(
            "`lossWins`: mean share of all weights over {windows} windows, and over that of an honest miner (eight, {:.3} each). \
             Windows that somebody led: {}, without being paid: {}. Loss of the best model {:.3}, with honest miners alone {:.3} \
             nats per byte.\n\n| | share | over an honest miner's | windows led |\n|---|---|---|---|\n",
            self.honest(),
            self.led.iter().map(|(led, _)| led).sum::<u64>(),
            self.unpaid(),
            self.loss,
            alone.loss,
        );
        for (uid, player) in self.players.iter().enumerate() {
            let (share, name) = (self.shares[uid], player.name());
            out += &format!("| {name} ({uid}) | {share:.4} | {:.3} | {} |\n", share / self.honest(), self.led[uid].0);
        }
        out
    }
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
        let honest = || vec![Player::Honest; HONEST];
        let (alone, shares) =
            (league(&text, honest(), windows), league(&text, [honest(), Player::WATCHED.to_vec()].concat(), windows));
        shares.print();
        tables += "\n";
        tables += &shares.table(&alone, windows);
    }
    match std::env::var_os("BISTRO_DOCS").map(PathBuf::from).filter(|_| whole) {
        Some(docs) => publish(&docs, &tables, &all),
        None => println!("{tables}"),
    }
}
