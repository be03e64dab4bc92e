//! Products of matrices in the precision of f32 on AMX, whose tiles multiply bf16 and add up in f32.
//!
//! An f32 is the sum of three bf16, exactly: what is left of it after rounding has 16 bits, what is left of that 8. Of the nine
//! products of two such sums the six largest are added; the others come to less than 2^-22 of the product, of either sign.
//! What comes out is as exact as in f32: errors are half to twice those of fused products. Six times the work at fourteen
//! times the speed (Henry, Tang and Heinecke 2019, arXiv 1904.06376).
//!
//! Both factors are packed first: lines (rows of a, columns of b) in groups of 32, step by step of 32 entries, a step as six
//! tiles of 1 KiB. A row of a tile pairs the entries i and 16 + i of a step, in both factors alike. Then 32 rows and columns of
//! the product at a time are in four tiles. Each sum runs in an order that depends on its depth alone. Numbers below 2^-126
//! count as zero, and those from 3.39e38 on are not finite.
#![allow(unsafe_code)]

mod pack;
mod tiles;

use std::{arch::x86_64::*, cell::RefCell};

pub use self::tiles::answers;
use self::{
    pack::{Lines, mask},
    tiles::{Configured, SIDE, TILES, Tile, sums},
};
use super::{
    math::{Level, level},
    matmul::Matrix,
};
use crate::engine::team::Team;

/// Lines that are packed and multiplied together.
const GROUP: usize = 2 * SIDE;
/// Entries of each line in a step.
const STEP: usize = 32;
/// Steps between which sums go back to the product: what they have of a group stays in the first cache.
const BLOCK: usize = 4;
/// Entries of each line that are packed at once.
const DEPTH: usize = 512;
/// Tiles of columns that a thread packs at once: they stay in its second cache.
const PANEL: usize = 1280;
/// Fewer rows or columns than these are not shared.
const SHARED: usize = 128;

thread_local! {
    /// Packed rows, a group of them, and columns; kept between calls.
    static PACKED: RefCell<[Vec<Tile>; 2]> = RefCell::default();
}

/// Whether this machine has the instructions, and its system lets this process use them.
pub fn is_available() -> bool {
    level() == Level::Amx
}

/// Whether a product is large enough that packing pays.
pub fn pays(rows: usize, columns: usize, depth: usize) -> bool {
    rows.min(columns) >= 64 && depth >= 32
}

/// Where a part of the product goes.
#[derive(Clone, Copy)]
struct Out {
    first: *mut f32,
    row_stride: usize,
    scale: f32,
    accumulate: bool,
}

impl Out {
    /// The same from an entry on.
    fn at(self, row: usize, column: usize) -> Self {
        Self { first: self.first.wrapping_add(row * self.row_stride + column), ..self }
    }
}

// SAFETY: threads write to entries of their own.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// `c = scale * a b`, or `c += scale * a b`.
///
/// # Safety
/// The machine [`is_available`]. `c` has a.rows rows of b.columns entries, `row_stride` apart, that nobody else reaches.
pub unsafe fn product(
    team: Team,
    c: *mut f32,
    row_stride: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
) {
    let size = blocks(team, a.rows, b.columns);
    for depth in parts(a.columns, DEPTH, STEP) {
        let out = Out { first: c, row_stride, scale, accumulate: accumulate || depth.0 > 0 };
        let panel = (PANEL / (depth.1.div_ceil(STEP) * TILES)).max(1) * GROUP;
        let columns = parts(b.columns, size.1.min(panel), GROUP);
        let all = columns.flat_map(|columns| parts(a.rows, size.0, GROUP).map(move |rows| (rows, columns)));
        team.each(all.collect(), |(rows, columns)| {
            let (left, right) = (Lines::of_rows(a, rows, depth), Lines::of_columns(b, columns, depth));
            // SAFETY: the machine has the instructions, and each block is there, for whoever has it.
            unsafe { block(out.at(rows.0, columns.0), left, right) };
        });
    }
}

/// Rows and columns that a thread computes at once: some for each, but packing all of these for less would cost more.
fn blocks(team: Team, rows: usize, columns: usize) -> (usize, usize) {
    let wanted = if team == Team::Alone { 1 } else { 2 * rayon::current_num_threads() };
    let (mut high, mut wide) = (rows, columns);
    while rows.div_ceil(high) * columns.div_ceil(wide) < wanted && high.max(wide) >= 2 * SHARED {
        let longer = if high > wide { &mut high } else { &mut wide };
        *longer = longer.div_ceil(2).next_multiple_of(GROUP);
    }
    (high, wide)
}

/// First and number of the units of each part of `whole`: as few parts as `most` allows, all but the last of one size, a
/// multiple of `unit`.
fn parts(whole: usize, most: usize, unit: usize) -> impl Iterator<Item = (usize, usize)> {
    let size = whole.div_ceil(whole.div_ceil(most)).next_multiple_of(unit);
    (0..whole).step_by(size).map(move |first| (first, size.min(whole - first)))
}

/// A block of the product: its columns are packed first, then group by group its rows.
///
/// # Safety
/// As [`product`].
unsafe fn block(out: Out, left: Lines, right: Lines) {
    let steps = left.depth.div_ceil(STEP);
    let tiles = steps * TILES;
    PACKED.with_borrow_mut(|[group, panel]| {
        let (group, panel) = (room(group, tiles), room(panel, right.lines.div_ceil(GROUP) * tiles));
        for (number, packed) in panel.chunks_exact_mut(tiles).enumerate() {
            // SAFETY: the machine has the instructions.
            unsafe { right.pack(number * GROUP, packed) };
        }
        let _tiles = Configured::new();
        for (row, rows) in parts(left.lines, GROUP, GROUP) {
            // SAFETY: as above.
            unsafe { left.pack(row, group) };
            for (first, steps) in parts(steps, BLOCK, 1) {
                let part = first * TILES..(first + steps) * TILES;
                let out = Out { accumulate: out.accumulate || first > 0, ..out };
                for ((column, columns), packed) in parts(right.lines, GROUP, GROUP).zip(panel.chunks_exact(tiles)) {
                    let (out, size) = (out.at(row, column), (rows, columns));
                    // SAFETY: the tiles are configured, and so many rows and columns are there.
                    unsafe { square(out, &group[part.clone()], &packed[part.clone()], size) };
                }
            }
        }
    });
}

/// So many tiles of a buffer, which grows where it must.
fn room(buffer: &mut Vec<Tile>, tiles: usize) -> &mut [Tile] {
    buffer.resize(buffer.len().max(tiles), Tile([0; SIDE * SIDE]));
    &mut buffer[..tiles]
}

/// Entries that each thread has for packed lines.
pub fn scratch() -> usize {
    if is_available() { (PANEL + DEPTH / STEP * TILES) * SIDE * SIDE } else { 0 }
}

/// 32 rows and columns of the product, or as many as there are, from packed steps of both.
///
/// # Safety
/// The tiles of this thread are configured, and `size` rows and columns of c are there.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
unsafe fn square(out: Out, left: &[Tile], right: &[Tile], (rows, columns): (usize, usize)) {
    let Out { first, row_stride, scale, accumulate } = out;
    // SAFETY: all of the square is there; else one of its own takes the sums, of which those that are there are read.
    unsafe {
        if (rows, columns) == (GROUP, GROUP) && scale == 1.0 {
            return sums(first, row_stride, left, right, accumulate);
        }
        let mut all = [const { Tile([0; SIDE * SIDE]) }; 4];
        let all = all.as_mut_ptr().cast::<f32>();
        sums(all, GROUP, left, right, false);
        let scale = _mm512_set1_ps(scale);
        for row in 0..rows {
            for column in (0..columns).step_by(SIDE) {
                let mask = mask(columns - column);
                let c = first.add(row * row_stride + column);
                let sum = _mm512_load_ps(all.add(row * GROUP + column));
                let x = match accumulate {
                    true => _mm512_fmadd_ps(sum, scale, _mm512_maskz_loadu_ps(mask, c)),
                    false => _mm512_mul_ps(sum, scale),
                };
                _mm512_mask_storeu_ps(c, mask, x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::kernel, *};

    /// Entries of either sign, most of them within a factor of a thousand.
    fn entries(count: usize, seed: u32) -> Vec<f32> {
        let number =
            |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8_388_608.0 - 1.0;
        (0..count).map(|i| number(2 * i) * (7.0 * number(2 * i + 1)).exp()).collect()
    }

    /// a (M,K) times b (K,N).
    fn multiplied(a: &[f32], b: &[f32], [m, n, k]: [usize; 3], with_tiles: bool) -> Vec<f32> {
        let mut c = vec![0.0; m * n];
        let (a, b) = (Matrix::new(a, m, k, k), Matrix::new(b, k, n, n));
        // SAFETY: whoever calls has asked whether the machine has the instructions; c has m rows of n entries.
        unsafe {
            match with_tiles {
                true => product(Team::Alone, c.as_mut_ptr(), n, a, b, 1.0, false),
                false => kernel::product(c.as_mut_ptr(), n, a, b, 1.0, false),
            }
        }
        c
    }

    /// Says so where this machine cannot show it.
    fn is_here() -> bool {
        let here = is_available();
        if !here {
            eprintln!("SKIPPED: this machine has no AMX, or its system does not let processes use it");
        }
        here
    }

    #[test]
    fn products_are_as_exact_as_f32_can_be() {
        let size @ [m, n, k] = [70, 90, 1100];
        if !is_here() {
            return;
        }
        let (a, b) = (entries(m * k, 1), entries(k * n, 2));
        let exact = |i: usize, j: usize| (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum::<f64>();
        let exact: Vec<f64> = (0..m * n).map(|at| exact(at / n, at % n)).collect();
        let error = |with_tiles: bool| {
            let found = multiplied(&a, &b, size, with_tiles);
            let squares = exact.iter().zip(found).map(|(x, y)| (x - f64::from(y)).powi(2)).sum::<f64>();
            (squares / exact.iter().map(|x| x * x).sum::<f64>()).sqrt()
        };
        let (tiles, fused) = (error(true), error(false));
        assert!(tiles < 3e-7 && tiles < 2.0 * fused, "{tiles:e} and {fused:e}");
    }

    /// Whoever trains must see that it went wrong.
    #[test]
    fn what_is_not_finite_stays_so() {
        if !is_here() {
            return;
        }
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut a, b) = (entries(64 * 64, 1), entries(64 * 64, 2));
            a[5 * 64 + 7] = wrong;
            let found = multiplied(&a, &b, [64; 3], true);
            let is_wrong = |i: usize| found[i * 64..(i + 1) * 64].iter().map(|x| !x.is_finite());
            assert!(is_wrong(5).all(|wrong| wrong) && is_wrong(4).chain(is_wrong(6)).all(|wrong| !wrong));
        }
    }
}
