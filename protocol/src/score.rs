//! What a validator remembers of the miners: moving averages of normalised scores.
//!
//! ```text
//! normalised = raw / median of the last 64 positive raws, clamped to [-1.25, 1.25]
//! average    = m * average + (1 - m) * normalised, from 0, without bias correction
//! ```

use std::collections::{BTreeMap, VecDeque};

use bistro_api::settings::Scoring;
use serde::{Deserialize, Serialize};

use crate::{
    check::{Verdict, lower_median},
    hotkey::Hotkey,
    mechanism::loss_reduction::Gate,
    weights,
};

/// Positive raw scores that the scale is taken from.
const RAWS: usize = 64;
/// An evaluation earns, or costs, at most so many times the median. Nobody can do more than its own pages and honest scores spread
/// by about a tenth, so what scores higher is aimed at the score: whoever publishes the gradient that work is compared
/// with had five times an honest weight while this was 2. At 1 many cheats pull the median down so far that half of the
/// work is paid like all of it.
const LARGEST: f64 = 1.25;

/// A validator's memory; it is part of its state on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    miners: BTreeMap<u16, Standing>,
    raws: VecDeque<f64>,
}

/// What is known of one miner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Who holds the uid.
    pub hotkey: Hotkey,
    /// Moving average of its normalised scores; below zero it has no weight.
    pub average: f64,
    /// Its latest raw score.
    pub raw: Option<f64>,
    /// Its latest verdict.
    pub verdict: Verdict,
    /// Whether it was ever drawn, or seen absent.
    pub evaluated: bool,
    /// The last window in which it had a commit.
    pub last_commit: Option<u64>,
    /// Whether it learned from its own pages, for mechanisms that ask.
    #[serde(default)]
    pub gate: Gate,
    /// The window in which it was last drawn; before that, the one before its first commit.
    pub waiting_since: u64,
}

/// What a validator found of one drawn miner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Its work was accepted and has this raw score.
    Scored(f64),
    /// Its work was rejected, or absent.
    Rejected(Verdict),
}

/// The numbers of [`bistro_api::settings::Scoring`] that averages depend on.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Share of the old average that stays.
    pub moving_average: f64,
    /// Windows without a commit after which a miner is gone.
    pub absent_windows: u64,
}

impl From<&Scoring> for Rates {
    fn from(scoring: &Scoring) -> Self {
        Self { moving_average: scoring.moving_average.value(), absent_windows: scoring.absent_windows.into() }
    }
}

impl Book {
    /// Notes who is registered at the start of `window` and who of them committed, before anybody is drawn.
    /// A uid that changed hands starts anew; one that left is forgotten.
    pub fn observe(&mut self, window: u64, neurons: &[(u16, Hotkey, bool)], rates: Rates) {
        self.miners.retain(|uid, s| neurons.iter().any(|(u, h, _)| u == uid && *h == s.hotkey));
        for (uid, hotkey, committed) in neurons {
            let standing = self.miners.entry(*uid).or_insert_with(|| Standing::new(*hotkey));
            if *committed {
                if standing.last_commit.is_none() {
                    standing.waiting_since = window.saturating_sub(1);
                }
                standing.last_commit = Some(window);
            } else if !standing.is_active(window, rates) {
                standing.average = 0.0;
                standing.evaluated = true;
            }
        }
    }

    /// Whoever can be drawn, because it had a commit in the last windows: uids with the windows since they were last
    /// drawn, at least 1.
    pub fn ages(&self, window: u64, rates: Rates) -> Vec<(u16, u64)> {
        let active = self.miners.iter().filter(|(_, s)| s.is_active(window, rates));
        active.map(|(uid, s)| (*uid, window.saturating_sub(s.waiting_since).max(1))).collect()
    }

    /// Takes the outcomes of all drawn miners of `window`. Whoever was not drawn stays as it was. Gives the scale:
    /// the lower median of the last positive raws, these included; `None` while there was none.
    pub fn record(&mut self, window: u64, outcomes: &[(u16, Outcome)], rates: Rates) -> Option<f64> {
        for (_, outcome) in outcomes {
            if let Outcome::Scored(raw) = outcome
                && *raw > 0.0
                && raw.is_finite()
            {
                self.raws.push_back(*raw);
            }
        }
        self.raws.drain(..self.raws.len().saturating_sub(RAWS));
        let scale = lower_median(&self.raws.iter().copied().collect::<Vec<_>>());
        for (uid, outcome) in outcomes {
            let Some(standing) = self.miners.get_mut(uid) else { continue };
            (standing.evaluated, standing.waiting_since) = (true, window);
            (standing.raw, standing.verdict) = match outcome {
                Outcome::Scored(raw) => (Some(*raw), Verdict::Accepted),
                Outcome::Rejected(verdict) => (None, *verdict),
            };
            standing.average = next_average(standing.average, *outcome, scale, rates.moving_average);
        }
        scale
    }

    /// Notes how much a miner's work lowered the loss on its own pages and on another's; gives the factor on its score.
    pub fn gate(&mut self, uid: u16, own: f64, other: f64) -> f64 {
        let Some(standing) = self.miners.get_mut(&uid) else { return 0.0 };
        standing.gate = standing.gate.after(own, other);
        standing.gate.factor()
    }

    /// Whether weights may be set: the first ones wait until every active miner was evaluated.
    pub fn is_complete(&self, window: u64, rates: Rates, first: bool) -> bool {
        !first || self.miners.values().all(|s| s.evaluated || !s.is_active(window, rates))
    }

    /// The weights that follow from the averages; whoever was neither evaluated nor seen absent has none.
    pub fn weights(&self, power: f64) -> Vec<(u16, u16)> {
        let averages: Vec<_> =
            self.miners.iter().filter(|(_, s)| s.evaluated).map(|(uid, s)| (*uid, s.average)).collect();
        weights::weights(&averages, power)
    }

    /// The average of a uid; 0 where nothing is known of it.
    pub fn average(&self, uid: u16) -> f64 {
        self.miners.get(&uid).map_or(0.0, |s| s.average)
    }

    /// Everybody, by uid.
    pub fn standings(&self) -> impl Iterator<Item = (u16, &Standing)> {
        self.miners.iter().map(|(uid, s)| (*uid, s))
    }
}

/// The average after one evaluation. Scores below zero count as they are: those of a work that was not done lie on both
/// sides of it, and their better half alone would earn something. Fraud takes everything at once, but no debt; without a scale,
/// that is before anybody scored above zero, there is nothing to compare with and nothing is earned.
pub fn next_average(before: f64, outcome: Outcome, scale: Option<f64>, moving_average: f64) -> f64 {
    let normalised = match outcome {
        Outcome::Rejected(verdict) if verdict.is_fraud() => return before.min(0.0),
        Outcome::Rejected(_) => 0.0,
        Outcome::Scored(raw) => scale.map_or(0.0, |scale| (raw / scale).clamp(-LARGEST, LARGEST)),
    };
    if normalised.is_nan() { 0.0 } else { moving_average * before + (1.0 - moving_average) * normalised }
}

impl Standing {
    fn new(hotkey: Hotkey) -> Self {
        Self {
            hotkey,
            average: 0.0,
            raw: None,
            verdict: Verdict::NoCommit,
            evaluated: false,
            last_commit: None,
            gate: Gate::default(),
            waiting_since: 0,
        }
    }

    fn is_active(&self, window: u64, rates: Rates) -> bool {
        self.last_commit.is_some_and(|last| window.saturating_sub(last) < rates.absent_windows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hotkey::tests::keypair;

    const RATES: Rates = Rates { moving_average: 0.9, absent_windows: 10 };

    fn neurons(committed: &[bool]) -> Vec<(u16, Hotkey, bool)> {
        committed.iter().enumerate().map(|(i, c)| (i as u16, Hotkey::from(&keypair(i as u8 + 1)), *c)).collect()
    }

    fn book(outcomes: &[(u16, Outcome)]) -> Book {
        let mut book = Book::default();
        book.observe(0, &neurons(&[true, true, true]), RATES);
        book.record(0, outcomes, RATES);
        book
    }

    fn active(book: &Book, window: u64) -> Vec<u16> {
        book.ages(window, RATES).into_iter().map(|(uid, _)| uid).collect()
    }

    fn average(book: &Book, uid: u16) -> f64 {
        book.standings().find(|(u, _)| *u == uid).map(|(_, s)| s.average).expect("known")
    }

    #[test]
    fn scores_are_relative_to_the_median_and_bounded() {
        let book = book(&[(0, Outcome::Scored(0.2)), (1, Outcome::Scored(0.1)), (2, Outcome::Scored(100.0))]);
        for (uid, expected) in [(0, 0.1), (1, 0.05), (2, 0.125)] {
            assert!((average(&book, uid) - expected).abs() < 1e-12, "uid {uid}");
        }
    }

    #[test]
    fn absent_earn_nothing_and_fraud_loses_everything_but_debts() {
        let mut book = book(&[(0, Outcome::Scored(1.0)), (1, Outcome::Scored(1.0)), (2, Outcome::Scored(-1.0))]);
        let rejected = |uid, verdict| (uid, Outcome::Rejected(verdict));
        book.record(
            0,
            &[rejected(0, Verdict::Late), rejected(1, Verdict::Forged), rejected(2, Verdict::Forged)],
            RATES,
        );
        assert!((average(&book, 0) - 0.09).abs() < 1e-12 && average(&book, 1) == 0.0);
        assert!((average(&book, 2) + 0.1).abs() < 1e-12);
        assert_eq!(book.weights(3.0), [(0, 65535)]);
    }

    /// Scores around zero, as of noise, come to nothing beside a good one.
    #[test]
    fn scores_below_zero_cost_what_those_above_it_earn() {
        let mut book = book(&[(0, Outcome::Scored(1.0)), (1, Outcome::Scored(0.0)), (2, Outcome::Scored(-9.0))]);
        assert!((average(&book, 2) + 0.125).abs() < 1e-12);
        for window in 0..40 {
            let noise = if window % 2 == 0 { 1.0 } else { -1.0 };
            book.record(window, &[(0, Outcome::Scored(1.0)), (1, Outcome::Scored(noise))], RATES);
        }
        assert!(average(&book, 1).abs() < 0.06 && average(&book, 0) > 0.9);
    }

    #[test]
    fn a_window_without_any_positive_score_earns_nothing() {
        let book = book(&[(0, Outcome::Scored(-1.0)), (1, Outcome::Scored(0.0)), (2, Outcome::Scored(f64::NAN))]);
        assert!(book.standings().all(|(_, s)| s.average == 0.0));
        assert!(book.weights(3.0).is_empty());
    }

    #[test]
    fn the_first_weights_wait_until_everybody_was_drawn() {
        let book = book(&[(0, Outcome::Scored(1.0)), (1, Outcome::Scored(1.0))]);
        assert!(!book.is_complete(0, RATES, true) && book.is_complete(0, RATES, false));
        assert_eq!(book.weights(3.0), [(0, 65535), (1, 65535)]);
    }

    #[test]
    fn the_absent_are_dropped_and_new_owners_start_anew() {
        let mut book = book(&[(0, Outcome::Scored(1.0)), (1, Outcome::Scored(1.0)), (2, Outcome::Scored(1.0))]);
        book.observe(9, &neurons(&[true, false, false]), RATES);
        assert_eq!(active(&book, 9), [0, 1, 2]);
        book.observe(10, &neurons(&[true, false, false]), RATES);
        assert_eq!(active(&book, 10), [0]);
        assert_eq!(book.weights(3.0), [(0, 65535)]);
        let mut taken = neurons(&[true]);
        taken[0].1 = Hotkey::from(&keypair(9));
        book.observe(11, &taken, RATES);
        assert_eq!(average(&book, 0), 0.0);
        assert_eq!(book.standings().count(), 1);
    }

    #[test]
    fn whoever_is_not_drawn_grows_older_and_keeps_its_average() {
        let mut book = book(&[(0, Outcome::Scored(1.0)), (1, Outcome::Scored(1.0)), (2, Outcome::Scored(1.0))]);
        let before = average(&book, 2);
        for window in 1..5 {
            book.observe(window, &neurons(&[true, true, true, window > 2]), RATES);
            book.record(window, &[(0, Outcome::Scored(1.0))], RATES);
        }
        assert_eq!(average(&book, 2), before);
        book.observe(5, &neurons(&[true, true, true, true]), RATES);
        assert_eq!(book.ages(5, RATES), [(0, 1), (1, 5), (2, 5), (3, 3)]);
    }

    #[test]
    fn the_scale_forgets_after_64_scores() {
        let mut book = Book::default();
        book.observe(0, &neurons(&[true]), RATES);
        for _ in 0..64 {
            book.record(0, &[(0, Outcome::Scored(1000.0))], RATES);
        }
        for _ in 0..64 {
            book.record(0, &[(0, Outcome::Scored(1.0))], RATES);
        }
        assert_eq!(book.raws.len(), 64);
        assert!(book.raws.iter().all(|r| *r == 1.0));
    }
}
