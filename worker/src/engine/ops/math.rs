//! Elementary functions and sums that the compiler can turn into SIMD code.

/// Entries that are computed side by side: one AVX-512 register or two AVX ones, as many sums as hide the latency of an addition.
pub const LANES: usize = 16;

/// Compiles a function for AVX-512, AVX2 and the baseline of the target, and picks at run time.
///
/// Everything that it calls in its loops must be `#[inline(always)]`, or stays baseline code. Results do not
/// depend on the choice: Rust neither reorders floating-point sums nor fuses products with them, unless it says `mul_add`,
/// which is the same everywhere and a slow call on machines without the instruction (before 2013).
macro_rules! simd {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,fma")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                match $crate::engine::ops::math::level() {
                    // SAFETY: the machine was asked for these very features.
                    $crate::engine::ops::math::Level::Avx512 | $crate::engine::ops::math::Level::Amx => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::engine::ops::math::Level::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::engine::ops::math::Level::Baseline => (),
                }
            }
            body($($argument),*)
        }
    };
}
pub(in crate::engine) use simd;

/// What the machine can do.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Neither of the others.
    Baseline,
    /// AVX2.
    Avx2,
    /// F, VL, DQ and BW.
    Avx512,
    /// The same, and tiles that multiply bf16.
    Amx,
}

/// Asks the machine; the answer is remembered by the library.
#[cfg(target_arch = "x86_64")]
pub fn level() -> Level {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw");
    let fma = is_x86_feature_detected!("fma");
    let level = match (avx512 && fma, is_x86_feature_detected!("avx2") && fma) {
        (true, _) if super::amx::answers() => Level::Amx,
        (true, _) => Level::Avx512,
        (false, true) => Level::Avx2,
        (false, false) => Level::Baseline,
    };
    #[cfg(test)]
    let level = level.min(levels::most());
    level
}

/// e^x, within 2 units in the last place for -87 <= x <= 88; saturates outside; NaN stays NaN.
///
/// e^x = 2^n * e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; the polynomial is the minimax one of
/// Cephes' `expf`. The library's own `exp` is a call per element and three times slower.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;

    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.500_000_1, 1.0, 1.0] {
        p = r.mul_add(p, coefficient);
    }
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sum over `f(i-th element of a, i-th element of b)`; a fixed tree of additions for each length.
#[inline(always)]
fn reduce(a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks_a, blocks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = blocks_a.remainder().iter().zip(blocks_b.remainder()).fold(0.0, |sum, (x, y)| f(sum, *x, *y));
    for (x, y) in blocks_a.zip(blocks_b) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane = f(*lane, *x, *y);
        }
    }
    fold(lanes, |x, y| x + y) + tail
}

/// Combines the lanes pairwise.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Scalar product.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    reduce(a, b, |sum, x, y| x.mul_add(y, sum))
}

/// Sum of the entries.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    reduce(a, a, |sum, x, _| sum + x)
}

/// Largest entry; negative infinity for none.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let blocks = a.chunks_exact(LANES);
    let tail = blocks.remainder().iter().fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    fold(lanes, |x, y| if x > y { x } else { y }).max(tail)
}

/// Replaces each entry by `f(entry)` and returns the sum of the new ones.
#[inline(always)]
pub fn map_sum(a: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    for x in a.iter_mut() {
        *x = f(*x);
    }
    sum(a)
}

simd! {
    /// `out += a`, entry by entry.
    pub fn add(out: &mut [f32], a: &[f32]) {
        for (x, y) in out.iter_mut().zip(a) {
            *x += y;
        }
    }
}

simd! {
    /// Sum of squares in f64, eight accumulators in a fixed order.
    pub fn sum_of_squares(a: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let blocks = a.chunks_exact(8);
        let tail = blocks.remainder().iter().fold(0.0, |sum, x| f64::from(*x).mul_add(f64::from(*x), sum));
        for block in blocks {
            for (lane, x) in lanes.iter_mut().zip(block) {
                *lane = f64::from(*x).mul_add(f64::from(*x), *lane);
            }
        }
        lanes.iter().sum::<f64>() + tail
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod levels {
    use std::{process::Command, sync::OnceLock};

    use super::Level;

    /// Variable of a process of tests that is to do without the best that this machine has.
    const MOST: &str = "BISTRO_TEST_LEVEL";

    /// What this process of tests may use.
    pub fn most() -> Level {
        static ALLOWED: OnceLock<Level> = OnceLock::new();
        *ALLOWED.get_or_init(|| match std::env::var(MOST).as_deref() {
            Ok("avx512") => Level::Avx512,
            Ok("avx2") => Level::Avx2,
            Ok("baseline") => Level::Baseline,
            _ => Level::Amx,
        })
    }

    /// One binary serves every processor: what runs elsewhere is tested here.
    #[test]
    fn machines_with_fewer_instructions_compute_the_same() {
        let tests = [
            "engine::tests::every_gradient_equals_candle_s_in_double_precision",
            "engine::tests::neither_threads_nor_recomputation_change_a_bit",
            "engine::tests::a_continued_text_is_the_text",
            "engine::ops::math::tests::exp_is_exact_to_a_few_units_in_the_last_place",
            "engine::ops::math::tests::what_is_computed_has_these_bits",
        ];
        for level in ["avx512", "avx2", "baseline"] {
            let mut again = Command::new(std::env::current_exe().expect("this program"));
            let ended = again.arg("--exact").args(tests).env(MOST, level).output().expect("this program starts");
            let said = String::from_utf8_lossy(&ended.stdout);
            let passed = said.contains(&format!("{} passed", tests.len()));
            assert!(ended.status.success() && passed, "{level}: {said}\n{}", String::from_utf8_lossy(&ended.stderr));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    simd! {
        /// A bit of everything that is computed with.
        fn sample(a: &[f32], b: &[f32], c: &mut [f32]) -> f32 {
            for (c, (x, y)) in c.iter_mut().zip(a.iter().zip(b)) {
                *c = sigmoid(*x) * exp(*y);
            }
            dot(a, b) + sum(c) + max(a)
        }
    }

    /// The same on every processor.
    #[test]
    fn what_is_computed_has_these_bits() {
        let entries = |seed: u32| -> Vec<f32> {
            (0..1003).map(|i: u32| (i.wrapping_mul(seed) >> 8) as f32 / (1 << 22) as f32 - 2.0).collect()
        };
        let (a, b, mut c) = (entries(2_654_435_761), entries(2_246_822_519), vec![0.0; 1003]);
        let whole = sample(&a, &b, &mut c);
        add(&mut c, &a);
        let squares = sum_of_squares(&c);
        assert_eq!((whole.to_bits(), squares.to_bits()), (1_148_025_776, 4_661_773_878_579_172_167));
    }

    #[test]
    fn exp_is_exact_to_a_few_units_in_the_last_place() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
    }

    #[test]
    fn exp_saturates_and_keeps_what_is_not_a_number() {
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn sums_count_every_entry_once() {
        for n in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            let sum = (n * (n + 1) / 2) as f32;
            assert_eq!(dot(&a, &vec![1.0; a.len()]), sum);
            assert_eq!(map_sum(&mut a.clone(), |x| 2.0 * x), 2.0 * sum);
            assert_eq!(max(&a), if n == 0 { f32::NEG_INFINITY } else { n as f32 });
            assert_eq!(sum_of_squares(&a), a.iter().map(|x| f64::from(x * x)).sum::<f64>());
        }
    }
}
