//! Products of small matrices on AVX-512, where packing and calls cost the `gemm` crate a third of its speed.
//!
//! The product is cut into panels of 64 columns. Of a panel up to 128 rows of b are copied side by side, where they stay
//! in the first cache while all rows of a pass: a tile of 6 rows and 64 columns (or more rows of fewer columns) has its sums
//! in registers until the block is through. Rows whose entries are neighbours are copied by the first tile as it goes. Each
//! entry is added up in the order of k, by fused products, block by block: its bits depend on the shapes alone.
#![allow(unsafe_code)]

use std::{arch::x86_64::*, cell::RefCell};

use super::matmul::Matrix;

/// Entries of a register.
const LANES: usize = 16;
/// Columns of a panel: four registers.
const PANEL: usize = 64;
/// Rows of b in a block: 32 KiB of a panel, less than the first cache.
const DEPTH: usize = 128;

/// Registers' worth of memory, where registers like it best.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

thread_local! {
    /// A block of a panel, kept between calls.
    static BLOCK: RefCell<Box<[Line]>> = RefCell::new(vec![Line([0.0; LANES]); DEPTH * PANEL / LANES].into());
}

/// Whether this machine has the instructions.
pub fn is_available() -> bool {
    super::math::level() >= super::math::Level::Avx512
}

/// `c = scale * a b`, or `c += scale * a b`.
///
/// # Safety
/// The machine [`is_available`]. `c` has a.rows rows of b.columns entries, `row_stride` apart, that nobody else reaches.
pub unsafe fn product(c: *mut f32, row_stride: usize, a: Matrix<'_>, b: Matrix<'_>, scale: f32, accumulate: bool) {
    let depth = a.columns.div_ceil(a.columns.div_ceil(DEPTH));
    BLOCK.with_borrow_mut(|block| {
        let block = block.as_mut_ptr().cast::<f32>();
        for first in (0..a.columns).step_by(depth) {
            let depth = depth.min(a.columns - first);
            for column in (0..b.columns).step_by(PANEL) {
                let width = PANEL.min(b.columns - column);
                // SAFETY: first and column are entries of b, and so are the depth rows and width columns from there on;
                // the block has room for them. The tiles' rows and columns are rows of a and c and columns of c.
                unsafe {
                    let from = b.data.as_ptr().add(first * b.row_stride + column * b.column_stride);
                    let (registers, in_rows) = (width.div_ceil(LANES), b.column_stride == 1);
                    if !in_rows {
                        copy_columns(block, from, b.column_stride, depth, width);
                    }
                    let most = tiles::<false>(registers).len();
                    for row in (0..a.rows).step_by(most) {
                        let copies = in_rows && row == 0;
                        let tiles = if copies { tiles::<true>(registers) } else { tiles::<false>(registers) };
                        tiles[most.min(a.rows - row) - 1](&Tile {
                            depth,
                            from,
                            from_stride: b.row_stride,
                            a: a.data.as_ptr().add(row * a.row_stride + first * a.column_stride),
                            a_strides: (a.row_stride, a.column_stride),
                            b: block,
                            c: c.add(row * row_stride + column),
                            row_stride,
                            last: mask(width),
                            scale,
                            accumulate: accumulate || first > 0,
                        });
                    }
                }
            }
        }
    });
}

/// The lanes that `width` entries fill of their last register.
fn mask(width: usize) -> u16 {
    u16::MAX >> ((LANES - width % LANES) % LANES)
}

/// A part of the product whose sums fit into the registers.
struct Tile {
    /// Products of each sum.
    depth: usize,
    a: *const f32,
    /// From one row of a to the next, and from one column.
    a_strides: (usize, usize),
    /// Rows of b, and from one to the next; read where the tile copies them.
    from: *const f32,
    from_stride: usize,
    /// The block of the panel: read, or written by a tile that copies.
    b: *mut f32,
    c: *mut f32,
    row_stride: usize,
    /// Lanes of the last register.
    last: u16,
    scale: f32,
    accumulate: bool,
}

type Compute = unsafe fn(&Tile);

/// How tiles of so many registers in a row are computed, by their number of rows; whether they COPY their rows of b.
fn tiles<const COPY: bool>(registers: usize) -> &'static [Compute] {
    macro_rules! rows {
        ($registers:literal: $($rows:literal)*) => { &[$(tile::<$rows, $registers, COPY>),*] };
    }
    // As many sums as there are registers to hold them.
    match registers {
        1 => rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12),
        2 => rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12),
        3 => rows!(3: 1 2 3 4 5 6 7 8),
        _ => rows!(4: 1 2 3 4 5 6),
    }
}

/// One tile of R rows and V registers.
///
/// # Safety
/// Every entry that the tile's pointers and strides reach is there, and those of c are nobody else's.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
unsafe fn tile<const R: usize, const V: usize, const COPY: bool>(t: &Tile) {
    let lanes = |v: usize| if v + 1 == V { t.last } else { u16::MAX };
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    let (mut a, mut b, mut from) = (t.a, t.b, t.from);
    // SAFETY: as the caller says; the block's rows are whole panels.
    unsafe {
        if t.accumulate {
            // What is needed last comes from farthest.
            for r in 0..R {
                for v in 0..V {
                    _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(r * t.row_stride + v * LANES).cast());
                }
            }
        }
        for _ in 0..t.depth {
            let mut row = [_mm512_setzero_ps(); V];
            for (v, row) in row.iter_mut().enumerate() {
                if COPY {
                    *row = _mm512_maskz_loadu_ps(lanes(v), from.add(v * LANES));
                    _mm512_store_ps(b.add(v * LANES), *row);
                } else {
                    *row = _mm512_load_ps(b.add(v * LANES));
                }
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(r * t.a_strides.0));
                for (sum, y) in sums.iter_mut().zip(&row) {
                    *sum = _mm512_fmadd_ps(x, *y, *sum);
                }
            }
            // Behind the last one lies nothing that is read.
            a = a.wrapping_add(t.a_strides.1);
            b = b.wrapping_add(PANEL);
            from = from.wrapping_add(t.from_stride);
        }
        let scale = _mm512_set1_ps(t.scale);
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let (lanes, c) = (lanes(v), t.c.add(r * t.row_stride + v * LANES));
                let x = match t.accumulate {
                    true => _mm512_fmadd_ps(*sum, scale, _mm512_maskz_loadu_ps(lanes, c)),
                    false => _mm512_mul_ps(*sum, scale),
                };
                _mm512_mask_storeu_ps(c, lanes, x);
            }
        }
    }
}

/// Copies columns `stride` apart, whose entries are neighbours: squares of 16 are turned in the registers.
///
/// # Safety
/// The columns are there, and so is the block.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
unsafe fn copy_columns(block: *mut f32, from: *const f32, stride: usize, rows: usize, width: usize) {
    for column in (0..width).step_by(LANES) {
        let columns = LANES.min(width - column);
        for row in (0..rows).step_by(LANES) {
            let rows = LANES.min(rows - row);
            let mut square = [_mm512_setzero_ps(); LANES];
            // SAFETY: at most the columns and rows that there are.
            unsafe {
                for (i, x) in square.iter_mut().enumerate() {
                    if i < columns {
                        *x = _mm512_maskz_loadu_ps(mask(rows), from.add((column + i) * stride + row));
                    }
                }
                for (i, x) in turned(square).into_iter().enumerate() {
                    if i < rows {
                        _mm512_store_ps(block.add((row + i) * PANEL + column), x);
                    }
                }
            }
        }
    }
}

/// The transpose: first inside squares of 4, then of the squares.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
pub(super) fn turned(rows: [__m512; LANES]) -> [__m512; LANES] {
    let mut fours = [_mm512_setzero_ps(); LANES];
    for (from, to) in rows.as_chunks::<4>().0.iter().zip(fours.as_chunks_mut::<4>().0) {
        let [a, b, c, d] = *from;
        let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
        *to = [
            _mm512_shuffle_ps::<0x44>(ab, cd),
            _mm512_shuffle_ps::<0xee>(ab, cd),
            _mm512_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm512_shuffle_ps::<0xee>(ab_high, cd_high),
        ];
    }
    let mut out = fours;
    for i in 0..4 {
        let [a, b, c, d] = [fours[i], fours[4 + i], fours[8 + i], fours[12 + i]];
        let (even_ab, odd_ab) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let (even_cd, odd_cd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        out[i] = _mm512_shuffle_f32x4::<0x88>(even_ab, even_cd);
        out[4 + i] = _mm512_shuffle_f32x4::<0x88>(odd_ab, odd_cd);
        out[8 + i] = _mm512_shuffle_f32x4::<0xdd>(even_ab, even_cd);
        out[12 + i] = _mm512_shuffle_f32x4::<0xdd>(odd_ab, odd_cd);
    }
    out
}
