//! Whose accepted work is merged: those that the chain pays, and a few that it cannot know yet.
//!
//! Work that scores nothing stops moving the model, and whoever registers a thousand keys moves it no more than a
//! third of the paid miners do.

use crate::{hotkey::Hotkey, seed};

/// Newcomers that are admitted: one for so many paid miners, at least one.
const PAID_PER_NEWCOMER: usize = 3;
/// A hotkey is a newcomer for so many tempos after its registration: the chain's next epoch can pay it.
const NEWCOMER_TEMPOS: u64 = 2;

/// What the chain says of a hotkey at the first block of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub uid: u16,
    /// The hotkey.
    pub hotkey: Hotkey,
    /// Its incentive, of 65535.
    pub incentive: u16,
    /// The block in which it was registered.
    pub registered: u64,
    /// Whether its work passed all checks.
    pub accepted: bool,
}

/// Uids whose work is merged, ascending.
///
/// `candidates` are all registered hotkeys; `start` is the first block of the window, `reveal` the hash of its
/// reveal block, which orders newcomers. While the chain pays nobody, everybody accepted is admitted.
pub fn admit(candidates: &[Candidate], start: u64, tempo: u64, reveal: &[u8; 32]) -> Vec<u16> {
    let accepted = candidates.iter().filter(|c| c.accepted);
    let mut admitted: Vec<u16> = if candidates.iter().all(|c| c.incentive == 0) {
        accepted.map(|c| c.uid).collect()
    } else {
        let (paid, unpaid): (Vec<_>, Vec<_>) = accepted.partition(|c| c.incentive > 0);
        let fresh = |c: &&Candidate| start.saturating_sub(c.registered) < NEWCOMER_TEMPOS.saturating_mul(tempo);
        let mut newcomers: Vec<_> = unpaid.into_iter().filter(fresh).collect();
        newcomers.sort_by_cached_key(|c| (seed::newcomer(reveal, &c.hotkey.0), c.uid));
        newcomers.truncate((paid.len() / PAID_PER_NEWCOMER).max(1));
        paid.into_iter().chain(newcomers).map(|c| c.uid).collect()
    };
    admitted.sort_unstable();
    admitted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEMPO: u64 = 40;
    const START: u64 = 1000;

    fn candidate(uid: u16, incentive: u16, registered: u64) -> Candidate {
        let mut hotkey = [7; 32];
        hotkey[..2].copy_from_slice(&uid.to_le_bytes());
        Candidate { uid, hotkey: Hotkey(hotkey), incentive, registered, accepted: true }
    }

    fn admitted(candidates: &[Candidate], reveal: u8) -> Vec<u16> {
        admit(candidates, START, TEMPO, &[reveal; 32])
    }

    #[test]
    fn everybody_is_admitted_while_nobody_is_paid() {
        let mut all: Vec<_> = (0..5).map(|uid| candidate(uid, 0, 0)).collect();
        all[2].accepted = false;
        assert_eq!(admitted(&all, 1), [0, 1, 3, 4]);
        assert!(admitted(&[], 1).is_empty());
    }

    #[test]
    fn the_unpaid_are_kept_out_once_anybody_is_paid() {
        let mut all = vec![candidate(0, 9, 0), candidate(1, 0, 0), candidate(2, 0, START - 2 * TEMPO)];
        assert_eq!(admitted(&all, 1), [0], "two tempos after its registration nobody is new");
        all[0].accepted = false;
        assert!(admitted(&all, 1).is_empty(), "also in a window without accepted work of the paid");
    }

    #[test]
    fn a_flood_of_newcomers_is_a_third_of_the_paid() {
        let paid = (0..9).map(|uid| candidate(uid, 1, 0));
        let all: Vec<_> = paid.chain((9..200).map(|uid| candidate(uid, 0, START - 1))).collect();
        let first = admitted(&all, 1);
        assert_eq!(first.len(), 12);
        assert!(first.starts_with(&[0, 1, 2, 3, 4, 5, 6, 7, 8]));
        assert_ne!(first, admitted(&all, 2), "the reveal block picks them: nobody can choose a key that is first");
        let few = [candidate(0, 1, 0), candidate(1, 0, START - 1), candidate(2, 0, START - 1)];
        assert_eq!(admitted(&few, 1).len(), 2, "one newcomer is always admitted");
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn newcomers_are_pinned() {
        let all: Vec<_> = (0..40).map(|uid| candidate(uid, u16::from(uid < 12), START - 1)).collect();
        assert_eq!(admitted(&all, 3)[12..], [12, 14, 24, 26]);
    }

    proptest! {
        #[test]
        fn only_accepted_work_is_admitted_in_order(states in proptest::collection::vec((0u16..3, 900u64..1100, any::<bool>()), 0..50)) {
            let all: Vec<_> = states.iter().enumerate().map(|(uid, (incentive, registered, accepted))| {
                Candidate { accepted: *accepted, ..candidate(uid as u16, *incentive, *registered) }
            }).collect();
            let admitted = admitted(&all, 1);
            prop_assert!(admitted.is_sorted_by(|a, b| a < b));
            prop_assert!(admitted.iter().all(|uid| all[usize::from(*uid)].accepted));
            let paid = all.iter().filter(|c| c.accepted && c.incentive > 0).all(|c| admitted.contains(&c.uid));
            prop_assert!(paid, "everybody who is paid and accepted is admitted");
        }
    }
}
