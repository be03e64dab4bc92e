//! From accepted work to one merged slice, with the same bits on every node.

use bistro_api::run::MergeRule;

use crate::{
    check::lower_median,
    tensors::{Tensors, norms},
};

/// Norms above so many medians are scaled down to that; honest ones were at most 1.1 medians.
const CLIP: f64 = 1.5;
/// Entries that are summed at once: 16 KiB.
const BLOCK: usize = 4096;

/// Merges `works`, given in uid order, by `rule`. `None` of nothing.
///
/// Each is first clipped to [`CLIP`] times the lower median norm. All arithmetic is f32 in stated order: the mean
/// adds in uid order; trimmed mean and median sort the values of an entry by their total order first.
pub fn merge(rule: &MergeRule, works: &[&Tensors]) -> Option<Tensors> {
    let factors = clip_factors(works)?;
    let MergeRule { mean: _, trimmed_mean, median } = rule;
    Some(match (trimmed_mean, median) {
        (Some(trimmed), _) => {
            let cut = cut(trimmed.fraction.value(), works.len());
            entrywise(works, &factors, |sorted| mean_of(&sorted[cut..sorted.len() - cut]))
        }
        (None, Some(_)) => entrywise(works, &factors, median_of),
        (None, None) => mean(works, &factors),
    })
}

/// Mixes `works`, given in uid order, by weights that stand in the manifest: those of the first work for each tensor in
/// name order, then those of the next. `None` of nothing, or where there is not a weight for each.
///
/// Each work is first clipped as by [`merge`]; f32, added in uid order.
pub fn mix(works: &[&Tensors], weights: &[f32]) -> Option<Tensors> {
    let factors = clip_factors(works)?;
    let mut sum = works[0].zeros_like();
    let tensors = sum.len();
    if weights.len() != works.len() * tensors {
        return None;
    }
    for (tensor, sums) in sum.data_mut().enumerate() {
        for ((work, factor), weights) in works.iter().zip(&factors).zip(weights.chunks_exact(tensors)) {
            let factor = factor * weights[tensor];
            for (sum, x) in sums.iter_mut().zip(&work.tensor(tensor).data) {
                let part = x * factor;
                *sum += part;
            }
        }
    }
    Some(sum)
}

/// What admitted work comes to, given in uid order: mixed by the manifest's weights where it has some, else merged by `rule`.
pub fn merged(rule: &MergeRule, works: &[&Tensors], mixing: &[f32]) -> Option<Tensors> {
    if mixing.is_empty() { merge(rule, works) } else { mix(works, mixing) }
}

/// What each work is multiplied with so that none counts more than [`CLIP`] medians; `None` of nothing.
pub fn clip_factors(works: &[&Tensors]) -> Option<Vec<f32>> {
    factors_within(works, CLIP).map(|(factors, _)| factors)
}

/// What brings each work within so many lower median norms, and that limit; `None` of nothing.
fn factors_within(works: &[&Tensors], medians: f64) -> Option<(Vec<f32>, f64)> {
    let norms = norms(works);
    let limit = medians * lower_median(&norms)?;
    Some((norms.iter().map(|norm| clip_factor(*norm, limit)).collect(), limit))
}

/// The mean of works of which none counts more than the lower median norm, and that norm: what scores are taken of, where
/// scaling work up must not pay. `None` of nothing.
pub fn mean_within_median(works: &[&Tensors]) -> Option<(Tensors, f64)> {
    let (factors, limit) = factors_within(works, 1.0)?;
    Some((mean(works, &factors), limit))
}

/// `work`, scaled down to a norm of at most `limit`.
pub fn within(work: &Tensors, limit: f64) -> Tensors {
    let factor = clip_factor(work.norm(), limit);
    work.map(|x| factor * x)
}

/// 1 for a norm within the limit, else what brings it there.
fn clip_factor(norm: f64, limit: f64) -> f32 {
    if norm > limit { (limit / norm) as f32 } else { 1.0 }
}

/// Values that are left out at each end; at least one value stays.
fn cut(fraction: f64, works: usize) -> usize {
    // There are at most 65536 works: the product is exact enough to round down the same way everywhere (IEEE 754).
    ((fraction.clamp(0.0, 0.5) * works as f64) as usize).min((works - 1) / 2)
}

/// Block by block, so that the sums of a block stay in the fastest cache while all works are added to them.
fn mean(works: &[&Tensors], factors: &[f32]) -> Tensors {
    // A count below 2^24 is exact in f32; there are at most 65536 uids.
    let count = works.len() as f32;
    let mut sum = works[0].zeros_like();
    for (tensor, sums) in sum.data_mut().enumerate() {
        for (number, sums) in sums.chunks_mut(BLOCK).enumerate() {
            for (work, factor) in works.iter().zip(factors) {
                let data = &work.iter().as_slice()[tensor].data[number * BLOCK..];
                for (sum, x) in sums.iter_mut().zip(data) {
                    let part = x * factor;
                    *sum += part;
                }
            }
            sums.iter_mut().for_each(|sum| *sum /= count);
        }
    }
    sum
}

/// Reduces the sorted values of every entry.
fn entrywise(works: &[&Tensors], factors: &[f32], reduce: impl Fn(&[f32]) -> f32) -> Tensors {
    let mut merged = works[0].zeros_like();
    let mut values = vec![0.0f32; works.len()];
    for (number, out) in merged.data_mut().enumerate() {
        let columns: Vec<&[f32]> = works.iter().map(|w| w.tensor(number).data.as_slice()).collect();
        for (i, merged) in out.iter_mut().enumerate() {
            for ((value, column), factor) in values.iter_mut().zip(&columns).zip(factors) {
                *value = column[i] * factor;
            }
            values.sort_unstable_by(f32::total_cmp);
            *merged = reduce(&values);
        }
    }
    merged
}

/// Mean of values in ascending order, added one by one.
fn mean_of(sorted: &[f32]) -> f32 {
    sorted.iter().fold(0.0, |sum, x| sum + x) / sorted.len() as f32
}

/// The middle value; of an even number half of the sum of the two in the middle.
fn median_of(sorted: &[f32]) -> f32 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) * 0.5 }
}

#[cfg(test)]
mod tests {
    use bistro_api::run::{Median, TrimmedMean};
    use proptest::prelude::*;

    use super::*;
    use crate::tensors::Tensor;

    fn work(data: &[f32]) -> Tensors {
        Tensors::new(vec![Tensor { name: "w".into(), shape: vec![data.len()], data: data.into() }]).expect("valid")
    }

    fn by(rule: &MergeRule, works: &[Tensors]) -> Option<Vec<f32>> {
        let works: Vec<_> = works.iter().collect();
        merge(rule, &works).map(|m| m.get("w").expect("w").data.clone())
    }

    fn merged(works: &[Tensors]) -> Option<Vec<f32>> {
        by(&MergeRule::default(), works)
    }

    fn median() -> MergeRule {
        MergeRule { mean: None, trimmed_mean: None, median: Some(Median {}) }
    }

    fn trimmed(fraction: &str) -> MergeRule {
        let fraction = fraction.parse().expect("a decimal");
        MergeRule { mean: None, trimmed_mean: Some(TrimmedMean { fraction }), median: None }
    }

    #[test]
    fn equal_norms_give_the_mean() {
        assert_eq!(merged(&[work(&[3.0, 4.0]), work(&[4.0, -3.0])]), Some(vec![3.5, 0.5]));
        assert_eq!(merged(&[]), None);
    }

    #[test]
    fn a_shout_counts_one_and_a_half_times() {
        let shout = merged(&[work(&[1.0, 0.0]), work(&[0.0, 1.0]), work(&[0.0, -1000.0])]).expect("three");
        assert_eq!(shout, [1.0 / 3.0, (1.0 - 1.5) / 3.0]);
    }

    /// Three who lie in one direction do not move the middle of five.
    #[test]
    fn median_and_trimmed_mean_leave_liars_out() {
        let works: Vec<_> = [1.0, 1.1, 0.9, -1.0, -1.0].iter().map(|x| work(&[*x])).collect();
        assert_eq!(by(&median(), &works), Some(vec![0.9]));
        assert_eq!(by(&median(), &works[..4]), Some(vec![(0.9 + 1.0) * 0.5]));
        let expected = (-1.0f32 + 0.9 + 1.0) / 3.0;
        assert_eq!(by(&trimmed("0.25"), &works), Some(vec![expected]));
        assert_eq!(by(&trimmed("0"), &works[..1]), Some(vec![1.0]));
        assert_eq!(by(&trimmed("0.49"), &works[..2]), Some(vec![1.05]), "something always stays");
    }

    #[test]
    fn only_zeros_stay_zero() {
        for rule in [MergeRule::default(), median(), trimmed("0.25")] {
            assert_eq!(by(&rule, &[work(&[0.0]), work(&[0.0])]), Some(vec![0.0]));
        }
    }

    /// How the sum is cut into blocks and sets of works never shows in its bits.
    #[test]
    fn blocks_do_not_change_a_bit() {
        let entry = |k: usize, i: usize| ((k * 7919 + i * 104_729) % 1000) as f32 * 1e-3 - 0.37;
        let works: Vec<_> =
            (0..7).map(|k| work(&(0..2 * BLOCK + 5).map(|i| entry(k, i)).collect::<Vec<_>>())).collect();
        let merged = merged(&works).expect("some");
        for i in [0, BLOCK - 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 4] {
            let sum = (0..7).fold(0.0f32, |sum, k| sum + entry(k, i));
            assert_eq!(merged[i].to_bits(), (sum / 7.0).to_bits(), "entry {i}");
        }
    }

    /// Denormal numbers are kept: a node that flushed them to zero would hold other bits.
    #[test]
    fn denormals_are_kept() {
        let tiny = f32::from_bits(8);
        for rule in [MergeRule::default(), median(), trimmed("0.25")] {
            assert_eq!(by(&rule, &[work(&[tiny]), work(&[tiny])]), Some(vec![tiny]));
        }
    }

    #[test]
    fn mixing_follows_the_weights_and_clips() {
        let works = [work(&[1.0, 0.0]), work(&[0.0, 1.0]), work(&[0.0, -1000.0])];
        let works: Vec<_> = works.iter().collect();
        let mixed = |weights: &[f32]| mix(&works, weights).map(|m| m.tensor(0).data.clone());
        assert_eq!(mixed(&[0.5, 0.25, 0.25]), Some(vec![0.5, 0.25 - 0.375]));
        assert_eq!(mixed(&[0.0, 1.0, 0.0]), Some(vec![0.0, 1.0]));
        assert_eq!((mixed(&[1.0]), mix(&[], &[])), (None, None));
        let third = 1.0 / 3.0;
        let (uniform, mean) =
            (mixed(&[third; 3]).expect("three"), merge(&MergeRule::default(), &works).expect("three"));
        assert!(uniform.iter().zip(&mean.tensor(0).data).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    fn pinned(rule: &MergeRule) -> String {
        let works: Vec<_> = (1..8).map(|k| work(&[0.1 * k as f32, 1.0 / k as f32, -0.3])).collect();
        let bits = by(rule, &works).expect("some");
        bits.iter().map(|x| format!("{:08x}", x.to_bits())).collect::<Vec<_>>().join(" ")
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_bits_are_pinned() {
        assert_eq!(pinned(&MergeRule::default()), "3ecbef29 3eb4fdb9 be9700ad");
        assert_eq!(pinned(&median()), "3ecccccd 3e800000 be99999a");
        assert_eq!(pinned(&trimmed("0.25")), "3ecccccd 3e947ae2 be99999a");
    }

    #[test]
    fn no_work_counts_more_than_the_median_where_it_is_scored() {
        let works = [work(&[1.0, 0.0]), work(&[0.0, 1.0]), work(&[0.0, -1000.0])];
        let (mean, limit) = mean_within_median(&works.iter().collect::<Vec<_>>()).expect("three");
        assert_eq!((mean.tensor(0).data.as_slice(), limit), ([1.0 / 3.0, 0.0].as_slice(), 1.0));
        assert_eq!(within(&works[2], limit), work(&[0.0, -1.0]));
        assert_eq!(within(&works[0], limit), works[0]);
    }

    #[test]
    fn the_bits_of_a_mix_are_pinned() {
        let works: Vec<_> = (1..8).map(|k| work(&[0.1 * k as f32, 1.0 / k as f32, -0.3])).collect();
        let works: Vec<_> = works.iter().collect();
        let weights: Vec<f32> = (1..8).map(|k| k as f32 / 28.0).collect();
        let mixed = mix(&works, &weights).expect("seven");
        let bits: Vec<_> = mixed.tensor(0).data.iter().map(|x| format!("{:08x}", x.to_bits())).collect();
        assert_eq!(bits.join(" "), "3effc898 3e7babcb be98f360");
    }

    proptest! {
        /// Whatever is merged lies between the smallest and the largest value of its entry.
        #[test]
        fn merged_values_stay_between_the_works(columns in proptest::collection::vec(-1e3f32..1e3, 1..20)) {
            let works: Vec<_> = columns.iter().map(|x| work(&[*x, 1e4])).collect();
            let (low, high) = columns.iter().fold((f32::MAX, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
            for rule in [MergeRule::default(), median(), trimmed("0.25")] {
                let value = by(&rule, &works).expect("some")[0];
                prop_assert!(value >= low - 0.1 && value <= high + 0.1, "{} not in {}..{}", value, low, high);
            }
        }
    }
}
