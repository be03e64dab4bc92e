//! Which miners a validator scores: drawn without replacement, the longer not drawn the likelier.
//!
//! The seed is the hash of the block that ends the window, with the validator's hotkey: no miner knows while it
//! works whether it will be looked at, and everybody can check afterwards whom a validator had to look at.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::seed::Seed;

/// Draws `count` of the candidates, each given as (uid, windows since it was last drawn, at least 1); ascending.
///
/// Fewer candidates than `count`: all of them. Integers only, so every reader of a record gets the same draw.
pub fn draw(candidates: &[(u16, u64)], count: usize, seed: &Seed) -> Vec<u16> {
    let mut left: Vec<(u16, u64)> = candidates.iter().map(|(uid, age)| (*uid, (*age).clamp(1, MAX_AGE))).collect();
    left.sort_unstable();
    let mut rng = ChaCha20Rng::from_seed(*seed);
    let mut drawn = Vec::new();
    while drawn.len() < count && !left.is_empty() {
        let mut ticket = below(&mut rng, left.iter().map(|(_, age)| age).sum());
        let winner = left.iter().position(|(_, age)| {
            let won = ticket < *age;
            ticket = ticket.wrapping_sub(*age);
            won
        });
        drawn.push(left.remove(winner.unwrap_or(left.len() - 1)).0);
    }
    drawn.sort_unstable();
    drawn
}

/// The same with seats for the best: up to half of `count`, rounded up, go to the candidates with the highest positive
/// averages, the rest is drawn among the others. For mechanisms that compare miners with each other: whoever copied the
/// best is always compared with it. `averages` has those of all candidates, by uid.
pub fn draw_with_leaders(
    candidates: &[(u16, u64)],
    averages: impl Fn(u16) -> f64,
    count: usize,
    seed: &Seed,
) -> Vec<u16> {
    let mut leaders: Vec<u16> = candidates.iter().map(|(uid, _)| *uid).filter(|uid| averages(*uid) > 0.0).collect();
    leaders.sort_by(|a, b| averages(*b).total_cmp(&averages(*a)).then(a.cmp(b)));
    leaders.truncate(count.div_ceil(2));
    let others: Vec<_> = candidates.iter().filter(|(uid, _)| !leaders.contains(uid)).copied().collect();
    let mut drawn = draw(&others, count - leaders.len(), seed);
    drawn.extend(leaders);
    drawn.sort_unstable();
    drawn
}

/// Beyond it nobody grows likelier; 65536 uids of this age fit into 64 bits.
const MAX_AGE: u64 = 1 << 32;

/// Uniform in `0..bound`, without the bias of a remainder.
fn below(rng: &mut ChaCha20Rng, bound: u64) -> u64 {
    let unbiased = u64::MAX - u64::MAX % bound;
    loop {
        let value = rng.next_u64();
        if value < unbiased {
            return value % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seed;

    fn seed_of(number: u64) -> Seed {
        seed::seed("test", &number)
    }

    #[test]
    fn the_best_have_half_of_the_seats() {
        let candidates: Vec<_> = (0..20).map(|uid| (uid, 1)).collect();
        let average = |uid: u16| if uid >= 14 { f64::from(uid % 17) } else { 0.0 };
        for number in 0..50 {
            let drawn = draw_with_leaders(&candidates, average, 5, &seed_of(number));
            assert_eq!(drawn.len(), 5);
            assert!([14, 15, 16].iter().all(|uid| drawn.contains(uid)), "{drawn:?}");
        }
        assert_eq!(draw_with_leaders(&candidates, |_| 0.0, 5, &seed_of(0)), draw(&candidates, 5, &seed_of(0)));
        assert_eq!(draw_with_leaders(&candidates[..3], average, 5, &seed_of(0)), [0, 1, 2]);
        assert!(draw_with_leaders(&[], average, 5, &seed_of(0)).is_empty());
    }

    /// One in ten has waited ten times as long: it is drawn ten times as often as one of the others.
    #[test]
    fn the_longer_not_drawn_the_likelier() {
        let candidates: Vec<_> = (0..10).map(|uid| (uid, if uid == 3 { 10 } else { 1 })).collect();
        let mut counts = [0u32; 10];
        for i in 0..19_000 {
            counts[usize::from(draw(&candidates, 1, &seed_of(i))[0])] += 1;
        }
        // Expected 10000 and 1000, five standard deviations of 69 and 31.
        assert!((9_650..10_350).contains(&counts[3]), "{counts:?}");
        assert!(counts.iter().enumerate().all(|(i, n)| i == 3 || (845..1155).contains(n)), "{counts:?}");
    }

    #[test]
    fn all_are_drawn_where_there_are_few() {
        assert_eq!(draw(&[(5, 1), (2, 9)], 8, &seed_of(0)), [2, 5]);
        assert!(draw(&[], 8, &seed_of(0)).is_empty());
        assert_eq!(draw(&[(5, u64::MAX), (2, 0)], 2, &seed_of(0)), [2, 5]);
    }

    /// Two validators must agree on this for ever.
    #[test]
    fn the_draw_is_pinned() {
        let candidates: Vec<_> = (0..100).map(|uid| (uid, u64::from(uid) + 1)).collect();
        assert_eq!(draw(&candidates, 8, &[7; 32]), [50, 51, 53, 79, 84, 92, 97, 98]);
    }

    proptest! {
        #[test]
        fn nobody_is_drawn_twice_and_order_does_not_matter(
            ages in proptest::collection::btree_map(any::<u16>(), 1u64..100, 0..40), count in 0usize..50, number: u64,
        ) {
            let candidates: Vec<_> = ages.into_iter().collect();
            let drawn = draw(&candidates, count, &seed_of(number));
            prop_assert!(drawn.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(drawn.len(), count.min(candidates.len()));
            prop_assert!(drawn.iter().all(|uid| candidates.iter().any(|(u, _)| u == uid)));
            let reversed: Vec<_> = candidates.iter().rev().copied().collect();
            prop_assert_eq!(draw(&reversed, count, &seed_of(number)), drawn);
        }
    }
}
