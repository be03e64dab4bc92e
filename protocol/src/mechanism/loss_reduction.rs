//! `lossReduction`: miners publish their delta and are paid for how much it lowers the loss, at the scale at which it is
//! merged, on pages that nobody foresaw.
//!
//! ```text
//! raw_i = gate_i * (loss(base) - loss(base + factor / M * delta_i))
//! gate_i = max(0, 2 * average of the sign of (own - other) - 1)
//! ```
//!
//! with M the number of accepted works. At full scale every honest delta raises the loss once training is under way,
//! since the noise of one miner is not averaged out: nobody would be paid. `own` and `other` are the same reduction on
//! the miner's own pages and on those of another miner: whoever learned from its own pages reads them better than
//! others', whoever copied does not, half of the time. The gate opens from three good windows in four on, which a toss of
//! coins reaches once in fifty: the mean of what others published lowers the loss more than any honest work, so a gate that
//! opened for every lucky streak paid it a third of an honest income.
//!
//! The averager weighs the work of the admitted by weights on the simplex, one for each miner and tensor; they stand in
//! the manifest, so that everybody can mix the work again.

/// Share of the old gate that stays.
const KEPT: f64 = 0.9;
/// The weight of five looks, `1 - 0.9^5`: a gate that knows less counts the missing ones as neither better nor worse.
const LOOKS: f64 = 0.40951;
/// Weights are looked at no closer: a step of the averager smaller than this is none.
const SMALLEST: f32 = 1e-12;

/// How often a miner read its own pages better than others', in -1..=1: an average of signs that forgets, without the
/// bias of its beginning once it has seen five.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Gate {
    sum: f64,
    weight: f64,
}

impl Gate {
    /// After one more comparison.
    pub fn after(self, own: f64, other: f64) -> Self {
        let sign = match own - other {
            difference if difference > 0.0 => 1.0,
            difference if difference < 0.0 => -1.0,
            _ => 0.0,
        };
        Self { sum: KEPT * self.sum + (1.0 - KEPT) * sign, weight: KEPT * self.weight + (1.0 - KEPT) }
    }

    /// The factor on a score, in 0..=1; 0 before the third comparison, since two that are good are luck once in four.
    pub fn factor(self) -> f64 {
        (2.0 * self.sum / self.weight.max(LOOKS) - 1.0).clamp(0.0, 1.0)
    }
}

/// Raw score from two losses in nats per token; 0 where one is not finite.
pub fn raw_score(base: f64, with_work: f64, gate: f64) -> f64 {
    let score = gate * (base - with_work);
    if score.is_finite() { score } else { 0.0 }
}

/// The factor on one work of `works` when its score is measured.
pub fn share(factor: f32, works: usize) -> f32 {
    // At most 65536 works: exact.
    factor / works.max(1) as f32
}

/// The nearest weights that are not negative and sum to 1 (Euclidean projection onto the simplex; Held, Wolfe and Crowder
/// 1974). The averager alone computes them: others read them in the manifest.
pub fn project(weights: &mut [f32]) {
    let mut sorted: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (mut sum, mut shift) = (0.0, 0.0);
    for (k, w) in sorted.iter().enumerate() {
        sum += w;
        let candidate = (sum - 1.0) / (k + 1) as f64;
        if w - candidate > 0.0 {
            shift = candidate;
        }
    }
    weights.iter_mut().for_each(|w| *w = (f64::from(*w) - shift).max(0.0) as f32);
}

/// One step of the averager's weights against their gradient, tensor by tensor: the gradient less its mean over the
/// miners that have weight, divided by the largest of all, times `rate`; then back onto the simplex. A weight of 0 that
/// would have to sink further counts in neither: else one useless work with a huge gradient would hold all others where
/// they are. Both are laid out by miner, then by tensor. Nothing happens where the gradient is zero or not finite.
pub fn step_weights(weights: &mut [f32], gradient: &[f64], tensors: usize, rate: f32) {
    let miners = weights.len() / tensors.max(1);
    let mut steps = vec![0.0f64; weights.len()];
    for tensor in 0..tensors {
        let at = |miner: usize| miner * tensors + tensor;
        let weighing: Vec<usize> = (0..miners).filter(|miner| weights[at(*miner)] > 0.0).collect();
        let mean = weighing.iter().map(|miner| gradient[at(*miner)]).sum::<f64>() / weighing.len().max(1) as f64;
        for miner in 0..miners {
            let step = gradient[at(miner)] - mean;
            let stuck = weights[at(miner)] <= 0.0 && step > 0.0;
            steps[at(miner)] = if stuck { 0.0 } else { step };
        }
    }
    let largest = steps.iter().fold(0.0f64, |most, s| if s.is_finite() { most.max(s.abs()) } else { f64::NAN });
    if !(largest > f64::from(SMALLEST) && largest.is_finite()) {
        return;
    }
    for tensor in 0..tensors {
        let moved = |miner: usize| {
            let at = miner * tensors + tensor;
            weights[at] - rate * (steps[at] / largest) as f32
        };
        let mut column: Vec<f32> = (0..miners).map(moved).collect();
        project(&mut column);
        column.into_iter().enumerate().for_each(|(miner, w)| weights[miner * tensors + tensor] = w);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gate_opens_for_own_work_and_stays_shut_for_a_toss_of_coins() {
        let honest = (0..20).fold(Gate::default(), |gate, _| gate.after(0.02, 0.01));
        assert!((honest.factor() - 1.0).abs() < 1e-9);
        assert_eq!(Gate::default().factor(), 0.0);
        let copier = (0..20).fold(Gate::default(), |gate, i| gate.after(f64::from(i % 2), 0.5));
        assert_eq!(copier.factor(), 0.0);
        let lucky = (0..2).fold(Gate::default(), |gate, _| gate.after(1.0, 0.0));
        assert_eq!(lucky.factor(), 0.0, "two good windows are luck once in four");
        let thief = (0..3).fold(honest, |gate, _| gate.after(0.0, 0.1));
        assert_eq!(thief.factor(), 0.0, "three bad windows in a row");
        assert_eq!(Gate::default().after(f64::NAN, 0.0).factor(), 0.0);
    }

    #[test]
    fn scores_are_finite() {
        assert_eq!(raw_score(2.0, 1.5, 1.0), 0.5);
        assert_eq!(raw_score(2.0, f64::INFINITY, 1.0), 0.0);
        assert_eq!(raw_score(2.0, f64::NAN, 0.0), 0.0);
        assert_eq!(share(4.0, 0), 4.0);
    }

    #[test]
    fn steps_go_against_the_gradient_in_each_tensor() {
        // Two miners, two tensors: the first miner is better in one, the second in the other.
        let mut weights = [0.5; 4];
        step_weights(&mut weights, &[-1.0, 0.5, 1.0, -0.5], 2, 0.3);
        assert!(weights.iter().zip([0.8, 0.35, 0.2, 0.65]).all(|(w, wanted)| (w - wanted).abs() < 1e-6), "{weights:?}");
        let before = weights;
        step_weights(&mut weights, &[0.0; 4], 2, 0.3);
        step_weights(&mut weights, &[f64::NAN; 4], 2, 0.3);
        assert_eq!(weights, before);
        // The third is useless and loud: once it has no weight, it no longer holds the others.
        let mut held = [0.5, 0.5, 0.0];
        step_weights(&mut held, &[-1e-3, 1e-3, 1e9], 1, 0.3);
        assert!((held[0] - 0.8).abs() < 1e-6, "{held:?}");
        let mut alone = [1.0, 1.0];
        step_weights(&mut alone, &[3.0, -3.0], 2, 0.3);
        assert_eq!(alone, [1.0, 1.0], "one miner has all the weight");
    }

    proptest! {
        #[test]
        fn projections_lie_on_the_simplex_and_keep_what_does(weights in proptest::collection::vec(-3.0f32..3.0, 1..20)) {
            let mut projected = weights.clone();
            project(&mut projected);
            prop_assert!(projected.iter().all(|w| *w >= 0.0));
            prop_assert!((projected.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            let mut again = projected.clone();
            project(&mut again);
            prop_assert!(again.iter().zip(&projected).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }
}
