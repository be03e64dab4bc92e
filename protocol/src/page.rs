//! Which pages a node trains on, is scored on, and shows its loss on.
//!
//! A page is `pageSequences * sequenceLength` consecutive tokens plus one for the last target. The last 1/64 of
//! the pages is held out: never assigned and never paid for, so that nobody gains by training on it.

use std::collections::BTreeSet;

use bistro_api::run::Dataset;

use crate::{permutation::Permutation, seed::Seed};

/// Held-out pages at the end: one in so many.
const HELD_OUT: u64 = 64;
/// Odd held-out pages that the displayed loss is measured on.
const DISPLAYED: u64 = 4;

/// Even held-out pages that an averager learns on in a window, and as many that it compares on.
const TUNING: u64 = 8;

/// How a dataset of known length falls into pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Pages that are assigned and paid for.
    training: u64,
    /// Pages behind them that are not.
    held_out: u64,
    /// Tokens of a page without the last target.
    tokens: u64,
}

/// The dataset cannot serve the run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "run.dataset: {tokens} tokens make {pages} pages, {needed} are needed: add text or shorten sequenceLength or pageSequences"
)]
pub struct TooSmall {
    /// Tokens of the dataset.
    tokens: u64,
    /// Pages that they make.
    pages: u64,
    /// Pages that the run needs.
    needed: u64,
}

impl Pages {
    /// Cuts `tokens` tokens into pages. There must be enough for the displayed loss and for one miner's window.
    pub fn new(dataset: &Dataset, tokens: u64) -> Result<Self, TooSmall> {
        let per_page = u64::from(dataset.page_sequences) * u64::from(dataset.sequence_length);
        let pages = tokens.saturating_sub(1).checked_div(per_page).unwrap_or(0);
        let held_out = pages / HELD_OUT;
        let needed = (2 * DISPLAYED * HELD_OUT).max(2 * u64::from(dataset.pages_per_window));
        if pages < needed {
            return Err(TooSmall { tokens, pages, needed });
        }
        Ok(Self { training: pages - held_out, held_out, tokens: per_page })
    }

    /// Number of pages that are assigned and paid for.
    pub fn training(&self) -> u64 {
        self.training
    }

    /// First token of a page.
    pub fn first_token(&self, page: u64) -> u64 {
        page * self.tokens
    }

    /// Tokens of one page, the last target included.
    pub fn tokens_per_page(&self) -> u64 {
        self.tokens + 1
    }

    /// The `count` pages of `uid` in the window that `seed` names ([`crate::seed::pages`]), in training order.
    pub fn own(&self, seed: &Seed, uid: u16, count: u32) -> Vec<u64> {
        let order = Permutation::new(seed, self.training);
        let first = u64::from(uid) * u64::from(count);
        (first..first + u64::from(count)).map(|i| order.get(i % self.training)).collect()
    }

    /// The first `count` pages of the order that `seed` names ([`crate::seed::test_pages`]), without `own`; where those are
    /// all there are, with them.
    pub fn test(&self, seed: &Seed, count: u32, own: &[u64]) -> Vec<u64> {
        let order = Permutation::new(seed, self.training);
        let own: BTreeSet<u64> = own.iter().copied().collect();
        let others: Vec<u64> = order.first(self.training).filter(|p| !own.contains(p)).take(count as usize).collect();
        if others.is_empty() { order.first(u64::from(count).min(self.training)).collect() } else { others }
    }

    /// The pages that the displayed loss is measured on: the first odd ones of the held-out part.
    pub fn displayed(&self) -> Vec<u64> {
        self.unseen(DISPLAYED)
    }

    /// The first `count` odd pages of the held-out part, or all where there are fewer: nobody learns on them. They begin
    /// with those of [`Pages::displayed`].
    pub fn unseen(&self, count: u64) -> Vec<u64> {
        let odd = (0..self.held_out).filter(|i| i % 2 == 1);
        odd.take(usize::try_from(count).unwrap_or(usize::MAX)).map(|i| self.training + i).collect()
    }

    /// The pages of window `window` that an averager learns on, and those that it compares the result on: even ones of the
    /// held-out part, other ones in each window where there are more than enough. Never those of [`Pages::displayed`].
    pub fn tuning(&self, window: u64) -> (Vec<u64>, Vec<u64>) {
        let even = self.held_out / 2;
        let half = |first: u64| -> Vec<u64> {
            let all: Vec<u64> = (first..even).step_by(2).map(|i| self.training + 2 * i).collect();
            let turn = (window * TUNING) % (all.len() as u64).max(1);
            all.iter().cycle().skip(turn as usize).take(all.len().min(TUNING as usize)).copied().collect()
        };
        (half(0), half(1))
    }

    /// How often a page is handed out per window when the highest uid is `uids - 1`; above 1 miners share pages.
    pub fn sharing(&self, uids: u16, count: u32) -> f64 {
        (u64::from(uids) * u64::from(count)) as f64 / self.training as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn dataset() -> Dataset {
        Dataset {
            prefix: "d".into(),
            digest: "0".repeat(64),
            sequence_length: 8,
            page_sequences: 2,
            pages_per_window: 4,
        }
    }

    fn pages() -> Pages {
        Pages::new(&dataset(), 16 * 1024 + 1).expect("large enough")
    }

    #[test]
    fn an_averager_learns_on_held_out_pages_that_nobody_else_looks_at() {
        let dataset = Dataset { page_sequences: 1, ..dataset() };
        let p = Pages::new(&dataset, 8 * 64 * 40 + 1).expect("large enough");
        for window in 0..9 {
            let (tuning, check) = p.tuning(window);
            assert_eq!((tuning.len(), check.len()), (8, 8));
            assert!(tuning.iter().chain(&check).all(|page| *page >= p.training() && !p.displayed().contains(page)));
            assert!(tuning.iter().all(|page| !check.contains(page)));
        }
        assert_ne!(p.tuning(0), p.tuning(1));
        let (tuning, check) = pages().tuning(3);
        assert_eq!((tuning.len(), check.len()), (4, 4), "a small dataset has fewer");
    }

    #[test]
    fn nobody_shares_a_page_and_held_out_pages_are_never_assigned() {
        let p = pages();
        let all: Vec<u64> = (0..252).flat_map(|uid| p.own(&[1; 32], uid, 4)).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1008);
        assert!(all.iter().all(|page| *page < p.training()));
        assert!(
            p.displayed()
                .iter()
                .all(|page| *page >= p.training() && p.first_token(*page) + p.tokens_per_page() <= 16 * 1024 + 1)
        );
        assert_eq!(p.displayed(), [1009, 1011, 1013, 1015]);
    }

    #[test]
    fn own_pages_wrap_and_test_pages_avoid_them() {
        let p = pages();
        assert_eq!(p.own(&[1; 32], 252, 4), p.own(&[1; 32], 0, 4), "1008 training pages: uid 252 starts over");
        assert!(p.sharing(252, 4) <= 1.0 && p.sharing(253, 4) > 1.0);
        let own = p.test(&[2; 32], 4, &[]);
        let test = p.test(&[2; 32], 8, &own);
        assert!(test.iter().all(|t| !own.contains(t)) && test.len() == 8);
    }

    #[test]
    fn a_small_dataset_is_refused_with_the_remedy() {
        assert_eq!(Pages::new(&dataset(), 8192), Err(TooSmall { tokens: 8192, pages: 511, needed: 512 }));
        assert!(Pages::new(&dataset(), 8193).is_ok());
        assert!(Pages::new(&dataset(), 0).is_err());
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn own_pages_are_pinned() {
        assert_eq!(pages().own(&[7; 32], 3, 4), [647, 341, 476, 373]);
    }
}
