//! A keyed permutation of `0..n` in constant memory: a Feistel network with cycle walking.
//!
//! Keys are public once used, so it need not be a cipher, only uniform and the same everywhere. The domain is
//! the smallest power of two that holds n, split into two halves of bits that differ by at most one; values
//! that fall outside `0..n` walk on through the network until they fall inside (fewer than two rounds on average).

use crate::seed::Seed;

/// Even, so that both halves are changed equally often; 8 pass a chi-square test by a wide margin.
const ROUNDS: usize = 8;

/// Values that go through the network together: enough to keep the processor busy, few enough for its fastest cache.
const BLOCK: u64 = 64;

/// A permutation of `0..n`.
#[derive(Clone, Debug)]
pub struct Permutation {
    keys: [u64; ROUNDS],
    n: u64,
    high_mask: u64,
    low_mask: u64,
    low_bits: u32,
}

impl Permutation {
    /// The permutation of `0..n` that `seed` names; n is at least 1 and at most 2^62.
    pub fn new(seed: &Seed, n: u64) -> Self {
        assert!((1..=1 << 62).contains(&n), "a permutation needs 1..=2^62 elements");
        let bits = u64::BITS - (n - 1).leading_zeros();
        let low_bits = bits.div_ceil(2);
        let mut bytes = [0; 8 * ROUNDS];
        blake3::Hasher::new_derive_key("bistro/v1/feistel").update(seed).finalize_xof().fill(&mut bytes);
        let mut keys = [0; ROUNDS];
        for (key, chunk) in keys.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *key = u64::from_le_bytes(*chunk);
        }
        Self { keys, n, high_mask: (1 << (bits - low_bits)) - 1, low_mask: (1 << low_bits) - 1, low_bits }
    }

    /// Where `index` goes; `index` is below n.
    pub fn get(&self, index: u64) -> u64 {
        assert!(index < self.n, "index {index} is outside 0..{}", self.n);
        let mut x = self.network(index);
        while x >= self.n {
            x = self.network(x);
        }
        x
    }

    /// The first `count` values, in order.
    pub fn first(&self, count: u64) -> impl Iterator<Item = u64> + '_ {
        let count = count.min(self.n);
        (0..count).step_by(BLOCK as usize).flat_map(move |start| {
            let length = BLOCK.min(count - start);
            self.block(start, length as usize).into_iter().take(length as usize)
        })
    }

    /// Where `start` and the indices behind it go. All of them walk in step: which values walk on is hard to predict, so
    /// they are picked without a branch.
    fn block(&self, start: u64, length: usize) -> [u64; BLOCK as usize] {
        let mut values = [0; BLOCK as usize];
        for (index, value) in (start..).zip(&mut values[..length]) {
            *value = self.network(index);
        }
        let mut outside = [0; BLOCK as usize];
        loop {
            let mut count = 0;
            for (i, value) in values[..length].iter().enumerate() {
                outside[count] = i;
                count += usize::from(*value >= self.n);
            }
            if count == 0 {
                return values;
            }
            for i in &outside[..count] {
                values[*i] = self.network(values[*i]);
            }
        }
    }

    fn network(&self, x: u64) -> u64 {
        let (mut high, mut low) = (x >> self.low_bits, x & self.low_mask);
        for pair in self.keys.as_chunks::<2>().0 {
            high ^= mix(low, pair[0]) & self.high_mask;
            low ^= mix(high, pair[1]) & self.low_mask;
        }
        high << self.low_bits | low
    }
}

/// Two multiply-and-fold steps; the constants are odd and have about as many ones as zeros.
fn mix(x: u64, key: u64) -> u64 {
    let x = (x ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ x >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seed::seed;

    proptest! {
        #[test]
        fn every_value_occurs_once(key: [u8; 32], n in 1u64..100_000) {
            let mut seen = vec![false; n as usize];
            for x in Permutation::new(&key, n).first(n) {
                prop_assert!(!std::mem::replace(&mut seen[x as usize], true), "{x} twice");
            }
            prop_assert!(seen.into_iter().all(|s| s));
        }

        /// Far beyond 32 bits nobody can count them all; but no two of many differ in their index alone.
        #[test]
        fn large_domains_stay_within_and_collide_never(key: [u8; 32], n in 1u64 << 31..=1 << 62, start: u64) {
            let permutation = Permutation::new(&key, n);
            let start = start % (n - 1000);
            let values: std::collections::HashSet<_> = (start..start + 1000).map(|i| permutation.get(i)).collect();
            prop_assert_eq!(values.len(), 1000);
            prop_assert!(values.into_iter().all(|x| x < n));
        }

        #[test]
        fn the_first_values_are_those_of_each_index(key: [u8; 32], n in 1u64..1 << 40, count in 0u64..300) {
            let permutation = Permutation::new(&key, n);
            let each: Vec<_> = (0..count.min(n)).map(|i| permutation.get(i)).collect();
            prop_assert_eq!(permutation.first(count).collect::<Vec<_>>(), each);
        }
    }

    /// The first entries of a large permutation, which are what a slice takes, fall evenly on its parts; and so for domains
    /// that are just above a power of two, where half of all values walk on, and beyond 32 bits.
    #[test]
    fn first_values_are_uniform_over_a_large_domain() {
        const PARTS: u64 = 256;
        for n in [1u64 << 20, (1 << 20) + 1, 13_897_984, (1 << 32) + 1, 5_000_000_000, 1 << 62] {
            let draws = 100_000;
            let mut counts = [0f64; PARTS as usize];
            for x in Permutation::new(&seed("chi", &("large", n)), n).first(draws) {
                counts[(u128::from(x) * u128::from(PARTS) / u128::from(n)) as usize] += 1.0;
            }
            let expected = draws as f64 / PARTS as f64;
            let chi: f64 = counts.iter().map(|c| (c - expected).powi(2) / expected).sum();
            let freedom = (PARTS - 1) as f64;
            assert!((chi - freedom).abs() < 5.0 * (2.0 * freedom).sqrt(), "n {n}: chi-square {chi}");
        }
    }

    /// Position 0 of 4096 keyed permutations falls evenly on all values: chi-square with n - 1 degrees of
    /// freedom has mean n - 1 and variance 2(n - 1); five deviations are never seen by chance.
    #[test]
    fn values_are_uniform_over_keys() {
        for n in [3u64, 7, 16, 100] {
            let draws = 400 * n;
            let mut counts = vec![0f64; n as usize];
            for k in 0..draws {
                counts[Permutation::new(&seed("chi", &(n, k)), n).get(n / 2) as usize] += 1.0;
            }
            let expected = draws as f64 / n as f64;
            let chi: f64 = counts.iter().map(|c| (c - expected).powi(2) / expected).sum();
            let freedom = (n - 1) as f64;
            assert!((chi - freedom).abs() < 5.0 * (2.0 * freedom).sqrt(), "n {n}: chi-square {chi}");
        }
    }

    /// The difference between neighbours is uniform too: an affine map would fail here.
    #[test]
    fn neighbours_are_independent() {
        let n = 1u64 << 16;
        let p = Permutation::new(&seed("chi", &"neighbours"), n);
        let mut counts = [0f64; 256];
        for i in 0..n - 1 {
            counts[((p.get(i + 1).wrapping_sub(p.get(i)) % n) >> 8) as usize] += 1.0;
        }
        let expected = (n - 1) as f64 / 256.0;
        let chi: f64 = counts.iter().map(|c| (c - expected).powi(2) / expected).sum();
        assert!((chi - 255.0).abs() < 5.0 * 510f64.sqrt(), "chi-square {chi}");
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_order_is_pinned() {
        let first = |n| Permutation::new(&[7; 32], n).first(8).collect::<Vec<_>>();
        assert_eq!(first(10), [1, 2, 7, 0, 8, 6, 5, 3]);
        assert_eq!(first(1000), [927, 757, 659, 479, 275, 369, 981, 779]);
        let large = [4692597901, 4827163078, 2594697353, 1217307141, 3789080689, 3754997508, 3675076925, 4150487145];
        assert_eq!(first(5_000_000_000), large);
    }
}
