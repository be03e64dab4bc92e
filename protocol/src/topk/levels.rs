//! Values of two bits: a sign and one of two magnitudes.
//!
//! A tensor sends two f32 `low` and `high`, a chunk one byte c, and a value is
//!
//! ```text
//! +-(low or high) * factor(c)        factor(c) = 2^((c - 255) / 16)        factor(0) = 0
//! ```
//!
//! one f32 product of exact table entries: the same bits on every machine. A chunk's byte follows the mean of its
//! magnitudes, within 2.2%; the two levels are the pair with the least squared error over the tensor, of 256 that split
//! the magnitudes in two.

use super::{Picked, unpack};

/// 2^(-j/16), rounded to f32.
const STEPS: [f32; 16] = [
    1.0,
    0.957_603_3,
    0.917_004_05,
    0.878_126_1,
    0.840_896_4,
    0.805_245_16,
    0.771_105_4,
    0.738_413_1, //
    0.707_106_77,
    0.677_127_8,
    0.648_419_8,
    0.620_928_9,
    0.594_603_54,
    0.569_394_3,
    0.545_253_9,
    0.522_136_87,
];
/// 2^(-(j + 1/2)/16): where the next step is as near.
const MIDDLES: [f32; 16] = [
    0.978_572_1,
    0.937_083_84,
    0.897_354_54,
    0.859_309_7,
    0.822_877_76,
    0.787_990_45,
    0.754_582_2,
    0.722_590_4, //
    0.691_955,
    0.662_618_34,
    0.634_525_5,
    0.607_623_7,
    0.581_862_45,
    0.557_193_4,
    0.533_570_23,
    0.510_948_6,
];
/// The byte of the chunk with the largest mean.
pub(super) const LARGEST: u8 = u8::MAX;
/// Bins that levels are looked for in, and bins up to the largest mean.
const BINS: usize = 256;
const BINS_TO_MEAN: f32 = 64.0;

/// What a chunk's byte multiplies levels with.
pub(super) fn factor(code: u8) -> f32 {
    if code == 0 {
        return 0.0;
    }
    let steps = u32::from(LARGEST - code);
    // 2^-n for n below 16: exact, and so is the product.
    STEPS[steps as usize % 16] * f32::from_bits((127 - steps / 16) << 23)
}

/// The byte whose factor is nearest to a ratio in 0..=1, by their logarithms; 0 below the smallest factor.
fn code_of(ratio: f32) -> u8 {
    let exponent = 126 - (ratio.to_bits() >> 23) as i32;
    // In 0.5..1.
    let mantissa = f32::from_bits(ratio.to_bits() & 0x007f_ffff | 126 << 23);
    let steps = 16 * exponent + MIDDLES.iter().filter(|middle| mantissa < **middle).count() as i32;
    u8::try_from(i32::from(LARGEST) - steps).unwrap_or(0)
}

/// Levels, the bytes of the chunks, and the values of two bits, four in a byte.
pub(super) struct Levels {
    pub(super) levels: [f32; 2],
    pub(super) scales: Vec<u8>,
    pub(super) values: Vec<u8>,
}

impl Levels {
    /// For picked entries, `k` in each chunk but the last.
    pub(super) fn of(picked: &Picked, k: usize) -> Self {
        let mean = |chunk: &[f32]| {
            let sum = chunk.iter().fold(0.0, |sum, x| sum + f64::from(x.abs()));
            (sum / chunk.len() as f64) as f32
        };
        let means: Vec<f32> = picked.values.chunks(k).map(mean).collect();
        let largest = means.iter().fold(0.0, |most: f32, mean| most.max(*mean));
        let mut values = vec![0; picked.values.len().div_ceil(4)];
        if largest == 0.0 {
            return Self { levels: [0.0; 2], scales: vec![0; means.len()], values };
        }
        let scales: Vec<u8> = means.iter().map(|mean| code_of(mean / largest)).collect();
        let levels = fit(picked.values.chunks(k).zip(&scales), largest);
        let mut number = 0;
        for (chunk, scale) in picked.values.chunks(k).zip(&scales) {
            let [low, high] = levels.map(|level| level * factor(*scale));
            // Halves: their sum may not fit.
            let middle = 0.5 * low + 0.5 * high;
            for x in chunk {
                let code = if *scale == 0 { 0 } else { u8::from(x.abs() > middle) | u8::from(*x < 0.0) << 1 };
                values[number / 4] |= code << (2 * (number % 4));
                number += 1;
            }
        }
        Self { levels, scales, values }
    }
}

/// The two levels with the least squared error. With weights f^2 and u = |x| / f, the error of a split is a constant less
/// the sum of (sum of f |x|)^2 / (sum of f^2) over its two parts.
fn fit<'a>(chunks: impl Iterator<Item = (&'a [f32], &'a u8)>, largest: f32) -> [f32; 2] {
    let mut bins = [[0.0f64; 2]; BINS];
    for (chunk, scale) in chunks.filter(|(_, scale)| **scale > 0) {
        let factor = factor(*scale);
        let to_bin = BINS_TO_MEAN / factor;
        for x in chunk {
            // Saturates: a product that is infinite is in the last bin.
            let bin = ((x.abs() / largest * to_bin) as usize).min(BINS - 1);
            bins[bin][0] += f64::from(factor) * f64::from(factor);
            bins[bin][1] += f64::from(factor) * f64::from(x.abs());
        }
    }
    let add = |[w, s]: [f64; 2], [w2, s2]: [f64; 2]| [w + w2, s + s2];
    let all = bins.iter().fold([0.0; 2], |sum, bin| add(sum, *bin));
    let gain = |[w, s]: [f64; 2]| if w > 0.0 { s * s / w } else { 0.0 };
    // A large entry of a chunk with a small factor may ask for a level beyond all f32.
    let level = |[w, s]: [f64; 2]| if w > 0.0 { (s / w).min(f64::from(f32::MAX)) as f32 } else { 0.0 };
    let (mut best, mut levels, mut low) = (gain(all), [level(all); 2], [0.0; 2]);
    for bin in bins {
        low = add(low, bin);
        let high = [all[0] - low[0], all[1] - low[1]];
        // What is left of rounding has no weight.
        let both = gain(low) + gain(high);
        if high[0] > 1e-9 * all[0] && both > best {
            (best, levels) = (both, [level(low), level(high)]);
        }
    }
    // Bins are in order, so that levels are; rounding may turn equal ones.
    [levels[0].min(levels[1]), levels[1]]
}

/// What the values of a chunk are, the `first` of all and those behind it.
pub(super) fn decode(levels: [f32; 2], scale: u8, values: &[u8], first: usize) -> impl Fn(usize) -> f32 {
    let [low, high] = levels.map(|level| level * factor(scale));
    let all = [low, high, -low, -high];
    move |i| all[usize::from(unpack(values, first + i))]
}

/// Whether levels, bytes and values are what [`Levels`] may be: levels finite and in order, the largest byte 255, nothing
/// said of values that are zero.
pub(super) fn are_sound(levels: [f32; 2], scales: &[u8], values: &[u8], kept: impl Iterator<Item = usize>) -> bool {
    let [low, high] = levels;
    let sound = low.is_sign_positive() && low <= high && high.is_finite();
    let largest = scales.iter().max().copied().unwrap_or_default();
    let scaled = if high > 0.0 { largest == LARGEST } else { largest == 0 && high.is_sign_positive() };
    let mut first = 0;
    let silent = scales.iter().zip(kept).all(|(scale, kept)| {
        let own = first..first + kept;
        first += kept;
        *scale > 0 || own.into_iter().all(|i| unpack(values, i) == 0)
    });
    sound && scaled && silent && filled_with_zeros(values, first)
}

/// Whether the bits behind the last of `count` values are zero.
fn filled_with_zeros(values: &[u8], count: usize) -> bool {
    count.is_multiple_of(4) || values[count / 4] >> (2 * (count % 4)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_fall_by_sixteenths_of_an_octave() {
        for code in 1..=LARGEST {
            let exact = 2f64.powf((f64::from(code) - 255.0) / 16.0);
            assert!((f64::from(factor(code)) / exact - 1.0).abs() < 6e-8, "{code}");
            assert_eq!(code_of(factor(code)), code);
            assert_eq!(code_of(factor(code) * 1.02), code);
            assert_eq!(code_of(factor(code) * 0.98), code);
        }
        for small in [0.0, f32::MIN_POSITIVE, 1e-42, 1e-5] {
            assert_eq!(code_of(small), 0, "{small}");
        }
    }

    /// Two heights are hit exactly, in chunks of any scale.
    #[test]
    fn two_magnitudes_are_sent_without_error() {
        let values: Vec<f32> = (0..4u8)
            .flat_map(|chunk| {
                let scale = factor(LARGEST - 16 * chunk);
                [3.0, -1.0, 1.0, -3.0].map(|x| x * scale)
            })
            .collect();
        let picked = Picked { indices: vec![0; values.len()], values };
        let Levels { levels, scales, values } = Levels::of(&picked, 4);
        let decoded = (0..4).flat_map(|chunk| {
            let value = decode(levels, scales[chunk], &values, 4 * chunk);
            (0..4).map(value).collect::<Vec<_>>()
        });
        assert_eq!((levels, decoded.collect::<Vec<_>>()), ([1.5 * 2.0 / 3.0, 3.0], picked.values));
    }

    /// The lone entry of the first chunk, divided by its factor, is beyond all f32.
    #[test]
    fn levels_are_finite_whatever_the_values() {
        let values = vec![3e38, 0.0, 0.0, 0.0, 3.4e38, 3.4e38, -3.4e38, 3.4e38];
        let Levels { levels, scales, values } = Levels::of(&Picked { indices: vec![0; 8], values }, 4);
        assert_eq!(levels[1], f32::MAX);
        assert!(are_sound(levels, &scales, &values, [4, 4].into_iter()));
    }

    #[test]
    fn nothing_is_said_of_zeros() {
        let zeros = Picked { indices: vec![0; 5], values: vec![0.0; 5] };
        let Levels { levels, scales, values } = Levels::of(&zeros, 4);
        assert_eq!((levels, scales.clone(), values.clone()), ([0.0; 2], vec![0; 2], vec![0; 2]));
        assert!(are_sound(levels, &scales, &values, [4, 1].into_iter()));
        assert!(!are_sound(levels, &scales, &[0, 2], [4, 1].into_iter()), "a sign of nothing");
        assert!(!are_sound(levels, &scales, &[0, 4], [4, 1].into_iter()), "behind the last");
        assert!(!are_sound([0.0, 1.0], &scales, &values, [4, 1].into_iter()), "levels of nothing");
        assert!(!are_sound([0.0, 1.0], &[254, 0], &values, [4, 1].into_iter()), "no chunk is the largest");
        assert!(are_sound([0.0, 1.0], &[255, 0], &values, [4, 1].into_iter()));
        for levels in [[-0.0, 1.0], [2.0, 1.0], [f32::NAN, 1.0], [0.0, f32::NAN], [0.0, f32::INFINITY], [0.0, -1.0]] {
            assert!(!are_sound(levels, &[255, 0], &values, [4, 1].into_iter()), "{levels:?}");
        }
    }
}
