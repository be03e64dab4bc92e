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
/// Each is first clipped to [`CLIP`] times the lower median norm. Entries are added in uid order in f32.
pub fn merge(rule: &MergeRule, works: &[&Tensors]) -> Option<Tensors> {
    let norms = norms(works);
    let limit = CLIP * lower_median(&norms)?;
    let factors: Vec<f32> = norms.iter().map(|n| clip_factor(*n, limit)).collect();
    let MergeRule { mean: _ } = rule;
    Some(mean(works, &factors))
}

/// 1 for a norm within the limit, else what brings it there.
fn clip_factor(norm: f64, limit: f64) -> f32 {
    if norm > limit { (limit / norm) as f32 } else { 1.0 }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::Tensor;

    fn work(data: &[f32]) -> Tensors {
        Tensors::new(vec![Tensor { name: "w".into(), shape: vec![data.len()], data: data.into() }]).expect("valid")
    }

    fn merged(works: &[Tensors]) -> Option<Vec<f32>> {
        let works: Vec<_> = works.iter().collect();
        merge(&MergeRule::default(), &works).map(|m| m.get("w").expect("w").data.clone())
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

    #[test]
    fn only_zeros_stay_zero() {
        assert_eq!(merged(&[work(&[0.0]), work(&[0.0])]), Some(vec![0.0]));
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
        assert_eq!(merged(&[work(&[tiny]), work(&[tiny])]), Some(vec![tiny]));
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_bits_are_pinned() {
        let works: Vec<_> = (1..8).map(|k| work(&[0.1 * k as f32, 1.0 / k as f32, -0.3])).collect();
        let bits: Vec<_> = merged(&works).expect("some").iter().map(|x| format!("{:08x}", x.to_bits())).collect();
        assert_eq!(bits.join(" "), "3ecbef29 3eb4fdb9 be9700ad");
    }
}
