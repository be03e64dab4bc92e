//! Which token comes next.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::Error;

/// Draws tokens: always the most likely, or at random by a seed.
pub struct Sampler {
    /// 0: the most likely.
    temperature: f64,
    /// Draws among so many.
    top_k: usize,
    /// Draws among those that have this share together.
    top_p: f64,
    rng: ChaCha20Rng,
}

impl Sampler {
    /// Checks what was asked for.
    pub fn new(temperature: f64, top_k: Option<u64>, top_p: Option<f64>, seed: u64) -> Result<Self, Error> {
        let top_p = top_p.unwrap_or(1.0);
        if !(0.0..=100.0).contains(&temperature) {
            let reason = format!("{temperature} is not in 0..=100: 0 is greedy, 0.8 is usual");
            return Err(Error::Argument { argument: "temperature", reason });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let reason = format!("{top_p} is not above 0 and at most 1: 0.95 is usual");
            return Err(Error::Argument { argument: "top-p", reason });
        }
        let top_k = top_k.map_or(usize::MAX, |k| usize::try_from(k).unwrap_or(usize::MAX));
        Ok(Self { temperature, top_k, top_p, rng: ChaCha20Rng::seed_from_u64(seed) })
    }

    /// The next token by the logits of all, which are finite and at least one.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        if self.temperature == 0.0 {
            // Of equal ones the first, as elsewhere.
            let best = order.into_iter().reduce(|best, i| if logits[i] > logits[best] { i } else { best });
            return best.unwrap_or(0) as u32;
        }
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        order.truncate(self.top_k);
        let most = f64::from(logits[order[0]]);
        let weight = |i: &usize| ((f64::from(logits[*i]) - most) / self.temperature).exp();
        let weights: Vec<f64> = order.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        // Those that reach the share, the one that does it included.
        let (mut count, mut share) = (0, 0.0);
        while count < weights.len() && share < self.top_p * total {
            share += weights[count];
            count += 1;
        }
        // 53 bits: what an f64 holds.
        let mut left = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * share;
        for (token, weight) in order.iter().zip(&weights).take(count) {
            if left < *weight {
                return *token as u32;
            }
            left -= weight;
        }
        order[count.saturating_sub(1)] as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 2.0, 1.0];

    fn drawn(temperature: f64, top_k: Option<u64>, top_p: Option<f64>, seed: u64) -> Vec<u32> {
        let mut sampler = Sampler::new(temperature, top_k, top_p, seed).expect("sound");
        (0..4000).map(|_| sampler.draw(&LOGITS)).collect()
    }

    #[test]
    fn without_heat_the_first_of_the_most_likely() {
        assert!(drawn(0.0, None, None, 1).iter().all(|token| *token == 1));
        assert!(drawn(1.0, Some(1), None, 1).iter().all(|token| *token == 1));
        assert!(drawn(1.0, None, Some(1e-9), 1).iter().all(|token| *token == 1));
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        for temperature in [0.5, 1.0, 2.0] {
            let tokens = drawn(temperature, None, None, 7);
            let weights = LOGITS.map(|x| (f64::from(x) / temperature).exp());
            for (token, weight) in weights.iter().enumerate() {
                let wanted = weight / weights.iter().sum::<f64>();
                let found = tokens.iter().filter(|t| **t == token as u32).count() as f64 / 4000.0;
                assert!((found - wanted).abs() < 0.03, "{temperature}: {token}: {found} {wanted}");
            }
        }
        assert_eq!(drawn(1.0, None, None, 7), drawn(1.0, None, None, 7));
        assert_ne!(drawn(1.0, None, None, 7), drawn(1.0, None, None, 8));
    }

    #[test]
    fn only_those_that_are_allowed() {
        assert!(drawn(9.0, Some(2), None, 1).iter().all(|token| [1, 2].contains(token)));
        // 1, 2 and 3 have 0.95 of the whole at most; two of them 0.8.
        assert!(drawn(1.0, None, Some(0.75), 1).iter().all(|token| [1, 2].contains(token)));
        assert!(drawn(1.0, None, Some(0.9), 1).contains(&3) && !drawn(1.0, None, Some(0.9), 1).contains(&0));
        for (temperature, top_p) in [(-1.0, None), (f64::NAN, None), (101.0, None), (1.0, Some(0.0)), (1.0, Some(1.1))]
        {
            assert!(Sampler::new(temperature, None, top_p, 0).is_err());
        }
    }
}
