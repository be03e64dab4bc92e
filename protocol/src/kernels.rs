//! Sums of products over whole vectors: what cosines and norms are made of, each entry read once.
//!
//! A product of two f32 is exact in f64. Sums are f64 in one fixed order: sixteen lanes over each block of 4096 entries,
//! then the lanes pairwise, then the blocks one after the other. So the bits depend neither on the number of threads nor on
//! the machine. The error of a sum over n entries is at most (n / 16 up to one block, then n / 4096 + 261) * 2^-53 of the
//! sum of the magnitudes of its terms: 2e-12 for 64 million.

use crate::simd::{prefetch, simd};

/// Running sums side by side: enough to hide the latency of an addition.
const LANES: usize = 16;
/// Entries that are summed by themselves; of two vectors they fit the first cache.
const BLOCK: usize = 4096;
/// Blocks that a thread takes at least: below that it takes longer to start one.
const SHARE: usize = 64;
/// Entries ahead of those that are summed, which are asked for while that lasts: a page, since what the processor does by
/// itself stops at the end of each.
const AHEAD: usize = 1024;

/// Three sums over two vectors a and b.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Products {
    /// Sum of a b.
    pub dot: f64,
    /// Sum of a^2.
    pub aa: f64,
    /// Sum of b^2.
    pub bb: f64,
}

impl Products {
    /// a b / (|a| |b|); 0 where one of them is zero or not finite.
    pub fn cosine(self) -> f64 {
        let norms = (self.aa * self.bb).sqrt();
        if norms > 0.0 && norms.is_finite() { self.dot / norms } else { 0.0 }
    }

    /// Over both: tensor after tensor.
    pub fn plus(self, other: Self) -> Self {
        Self { dot: self.dot + other.dot, aa: self.aa + other.aa, bb: self.bb + other.bb }
    }
}

/// The products of two vectors of one length, both read once.
pub fn dot_and_norms(a: &[f32], b: &[f32], threads: usize) -> Products {
    many(a, &[b], threads)[0]
}

/// The cosine of two vectors of one length; 0 where one of them is zero or not finite.
pub fn cosine(a: &[f32], b: &[f32], threads: usize) -> f64 {
    dot_and_norms(a, b, threads).cosine()
}

/// The products of one vector with each of `others`, all of one length: those of [`dot_and_norms`] bit for bit, but `a` is
/// read from memory only once.
pub fn many(a: &[f32], others: &[&[f32]], threads: usize) -> Vec<Products> {
    debug_assert!(others.iter().all(|b| b.len() == a.len()));
    let width = others.len();
    if width == 0 {
        return Vec::new();
    }
    let mut blocks = vec![Products::default(); a.len().div_ceil(BLOCK) * width];
    in_shares(&mut blocks, width, threads, |number, sums| {
        let range = number * BLOCK..((number + 1) * BLOCK).min(a.len());
        let own = &a[range.clone()];
        // Other lengths are the caller's mistake: what both have counts.
        let part = |b: &'_ [f32]| range.start.min(b.len())..range.end.min(b.len());
        let [dot, aa, bb] = all_products(own, &others[0][part(others[0])]);
        sums[0] = Products { dot, aa, bb };
        for (sums, b) in sums.iter_mut().zip(others).skip(1) {
            let [dot, bb] = products(own, &b[part(b)]);
            *sums = Products { dot, aa, bb };
        }
    });
    let of = |other: usize| {
        let blocks = blocks.iter().skip(other).step_by(width);
        blocks.fold(Products::default(), |sum, block| sum.plus(*block))
    };
    (0..width).map(of).collect()
}

/// Sum of the entries; it reads one vector and does the least with it, so that others can be measured against it.
pub fn sum(a: &[f32], threads: usize) -> f64 {
    let mut blocks = vec![0.0; a.len().div_ceil(BLOCK)];
    in_shares(&mut blocks, 1, threads, |number, sums| {
        sums[0] = entries(&a[number * BLOCK..((number + 1) * BLOCK).min(a.len())]);
    });
    blocks.iter().sum()
}

/// Calls `each` with the number of every block and its `width` results, on up to `threads` threads: each a run of
/// neighbours.
fn in_shares<T: Send>(results: &mut [T], width: usize, threads: usize, each: impl Fn(usize, &mut [T]) + Sync) {
    let blocks = results.len() / width;
    let share = blocks.div_ceil(threads.max(1)).max(SHARE);
    let run = |first: usize, results: &mut [T]| {
        results.chunks_mut(width).enumerate().for_each(|(i, results)| each(first + i, results));
    };
    if share >= blocks {
        return run(0, results);
    }
    std::thread::scope(|scope| {
        let run = &run;
        let (own, others) = results.split_at_mut(share * width);
        for (number, results) in others.chunks_mut(share * width).enumerate() {
            scope.spawn(move || run((number + 1) * share, results));
        }
        run(0, own);
    });
}

simd! {
    /// Sums of a b, a^2 and b^2.
    fn all_products(a: &[f32], b: &[f32]) -> [f64; 3] {
        let mut sums = [[0.0; LANES]; 3];
        let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            prefetch(a, AHEAD);
            prefetch(b, AHEAD);
            add::<FUSED>(&mut sums[0], a, b);
            add::<FUSED>(&mut sums[1], a, a);
            add::<FUSED>(&mut sums[2], b, b);
        }
        for (i, (x, y)) in rest_a.iter().zip(rest_b).enumerate() {
            sums[0][i] += f64::from(*x) * f64::from(*y);
            sums[1][i] += f64::from(*x) * f64::from(*x);
            sums[2][i] += f64::from(*y) * f64::from(*y);
        }
        sums.map(pairwise)
    }
}

simd! {
    /// Sums of a b and b^2.
    fn products(a: &[f32], b: &[f32]) -> [f64; 2] {
        let mut sums = [[0.0; LANES]; 2];
        let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            prefetch(b, AHEAD);
            add::<FUSED>(&mut sums[0], a, b);
            add::<FUSED>(&mut sums[1], b, b);
        }
        for (i, (x, y)) in rest_a.iter().zip(rest_b).enumerate() {
            sums[0][i] += f64::from(*x) * f64::from(*y);
            sums[1][i] += f64::from(*y) * f64::from(*y);
        }
        sums.map(pairwise)
    }
}

/// Adds a product to each lane. It is exact, so that fusing it changes no bit.
#[inline(always)]
fn add<const FUSED: bool>(sums: &mut [f64; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for i in 0..LANES {
        let (x, y) = (f64::from(a[i]), f64::from(b[i]));
        sums[i] = if FUSED { x.mul_add(y, sums[i]) } else { sums[i] + x * y };
    }
}

simd! {
    fn entries(a: &[f32]) -> f64 {
        let mut sums = [0.0; LANES];
        let (rows, rest) = a.as_chunks::<LANES>();
        for row in rows {
            prefetch(row, AHEAD);
            add::<FUSED>(&mut sums, row, &[1.0; LANES]);
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(*x);
        }
        pairwise(sums)
    }
}

/// Adds the upper half to the lower until one is left.
#[inline(always)]
fn pairwise(mut sums: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers that look random (Marsaglia 2003).
    pub(crate) fn xorshift(seed: u64) -> impl FnMut() -> u64 {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        }
    }

    /// Numbers of very different sizes and both signs.
    fn vector(seed: u64, n: usize) -> Vec<f32> {
        let mut draw = xorshift(seed);
        let number = || {
            let x = draw();
            let scale = 2f32.powi((x % 40) as i32 - 20);
            ((x >> 40) as f32 / 8_388_608.0 - 1.0) * scale
        };
        std::iter::repeat_with(number).take(n).collect()
    }

    /// Sum of products with the error of each addition carried along (Neumaier 1974), and that of their magnitudes.
    fn reference(a: &[f32], b: &[f32]) -> (f64, f64) {
        let (mut sum, mut lost, mut size) = (0.0f64, 0.0, 0.0);
        for (x, y) in a.iter().zip(b) {
            let term = f64::from(*x) * f64::from(*y);
            let next = sum + term;
            lost += if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
            sum = next;
            size += term.abs();
        }
        (sum + lost, size)
    }

    fn bound(n: usize) -> f64 {
        ((n.min(BLOCK) / LANES + 5) + n / BLOCK) as f64 * 0.5 * f64::EPSILON
    }

    #[test]
    fn sums_are_within_their_bound() {
        for n in [0, 1, 15, 16, 17, 4095, 4096, 4097, 100_000, 1_000_001] {
            let (a, b) = (vector(1, n), vector(2, n));
            let Products { dot, aa, bb } = dot_and_norms(&a, &b, 2);
            for (found, (exact, size)) in [(dot, reference(&a, &b)), (aa, reference(&a, &a)), (bb, reference(&b, &b))] {
                assert!((found - exact).abs() <= bound(n) * size, "{n}: {found} for {exact}");
            }
            let ones = vec![1.0; n];
            let (exact, size) = reference(&a, &ones);
            assert!((sum(&a, 2) - exact).abs() <= bound(n) * size);
        }
    }

    #[test]
    fn threads_and_company_change_no_bit() {
        let n = 1_234_567;
        let a = vector(1, n);
        let others: Vec<_> = (2..5).map(|seed| vector(seed, n)).collect();
        let others: Vec<_> = others.iter().map(Vec::as_slice).collect();
        let alone: Vec<_> = others.iter().map(|b| dot_and_norms(&a, b, 1)).collect();
        for threads in [0, 1, 2, 3, 7] {
            assert_eq!(many(&a, &others, threads), alone);
            assert_eq!(sum(&a, threads).to_bits(), sum(&a, 1).to_bits());
        }
        assert_eq!(many(&a, &[], 2), []);
    }

    /// Two nodes agree on scores as far as they compute alike: the order of the additions stays.
    #[test]
    fn the_order_of_additions_is_pinned() {
        let Products { dot, aa, bb } = dot_and_norms(&vector(1, 10_007), &vector(2, 10_007), 2);
        assert_eq!(
            [dot, aa, bb].map(|x| format!("{:016x}", x.to_bits())),
            ["c255d3a1213a54ab", "42bc1044bba31f38", "42be0cbb5ce5fdc6"]
        );
    }

    #[test]
    fn cosines_of_nothing_are_zero() {
        assert_eq!(cosine(&[], &[], 1), 0.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 2.0], 1), 0.0);
        assert_eq!(cosine(&[f32::NAN], &[1.0], 1), 0.0);
        assert_eq!(cosine(&[f32::INFINITY], &[1.0], 1), 0.0);
        assert_eq!(cosine(&[f32::MAX, 0.0], &[-f32::MAX, 0.0], 1), -1.0, "f64 holds the squares of f32");
        assert!((cosine(&[3.0, 4.0], &[4.0, 3.0], 1) - 0.96).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn cosines_are_cosines(a in proptest::collection::vec(-1.0f32..1.0, 1..200), factor in 0.5f32..100.0) {
            let scaled: Vec<f32> = a.iter().map(|x| x * factor).collect();
            let flat = a.iter().all(|x| *x == 0.0);
            let of = cosine(&a, &scaled, 1);
            prop_assert!(if flat { of == 0.0 } else { (of - 1.0).abs() < 1e-6 }, "{of}");
        }
    }
}
