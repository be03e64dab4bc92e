//! Packing for the tiles of AMX: lines in groups, each entry as three bf16.

use std::arch::x86_64::*;

use super::{
    super::{kernel::turned, matmul::Matrix},
    STEP,
    tiles::{SIDE, TILES, Tile},
};

/// Rows of a or columns of b.
#[derive(Clone, Copy)]
pub struct Lines {
    first: *const f32,
    /// How many.
    pub lines: usize,
    /// Entries of each.
    pub depth: usize,
    /// From one line to the next, and from one entry of a line to the next: one of them is 1.
    strides: (usize, usize),
    /// Whether they are rows.
    rows: bool,
}

// SAFETY: it only reads, what nobody writes.
unsafe impl Send for Lines {}
// SAFETY: as above.
unsafe impl Sync for Lines {}

impl Lines {
    /// `lines` rows of a from `line` on, `depth` entries from entry `from` on.
    pub fn of_rows(a: Matrix<'_>, (line, lines): (usize, usize), (from, depth): (usize, usize)) -> Self {
        let first = a.data[line * a.row_stride + from * a.column_stride..].as_ptr();
        Self { first, lines, depth, strides: (a.row_stride, a.column_stride), rows: true }
    }

    /// The same of columns of b.
    pub fn of_columns(b: Matrix<'_>, lines: (usize, usize), depth: (usize, usize)) -> Self {
        Self { rows: false, ..Self::of_rows(b.transposed(), lines, depth) }
    }

    /// Packs a group of lines from line `first` on; zeros stand for lines and entries that are not there. A row of a tile has
    /// pairs of entries of one row, or one pair of each column.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
    pub unsafe fn pack(&self, first: usize, packed: &mut [Tile]) {
        let (line_stride, stride) = self.strides;
        for (step, tiles) in packed.chunks_exact_mut(TILES).enumerate() {
            let deep = STEP.min(self.depth - step * STEP);
            for half in 0..2 {
                let line = first + half * SIDE;
                let lines = SIDE.min(self.lines.saturating_sub(line));
                let from = self.first.wrapping_add(line * line_stride + step * STEP * stride);
                // Rows of memory hold entries of a line, or of an entry of all lines.
                let neighbours = stride == 1;
                let half_deep = [deep, deep.saturating_sub(SIDE)];
                let rows = match neighbours {
                    true => {
                        Rows { from, stride: line_stride, upper: SIDE, there: [lines; 2], masks: half_deep.map(mask) }
                    }
                    false => Rows { from, stride, upper: SIDE * stride, there: half_deep, masks: [mask(lines); 2] },
                };
                // SAFETY: the rows are there as they say; a tile is as large as 16 registers.
                unsafe {
                    let to = tiles.as_mut_ptr().cast::<__m512i>().add(half * SIDE);
                    match (self.rows != neighbours, lines == SIDE && deep == STEP) {
                        (false, true) => rows.pack::<false, true>(to),
                        (false, false) => rows.pack::<false, false>(to),
                        (true, true) => rows.pack::<true, true>(to),
                        (true, false) => rows.pack::<true, false>(to),
                    }
                }
            }
        }
    }
}

/// A step of 16 lines as it lies in memory: 16 rows of 16 entries, and as many that are paired with them.
struct Rows {
    from: *const f32,
    /// From one row to the next.
    stride: usize,
    /// From a row to the one that it is paired with.
    upper: usize,
    /// Rows that are there, and entries of each.
    there: [usize; 2],
    masks: [u16; 2],
}

impl Rows {
    /// Packs them, after a transposition if TURN. All are there if WHOLE.
    ///
    /// # Safety
    /// The rows are there as they say, and three tiles two tiles apart from `to` on.
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
    unsafe fn pack<const TURN: bool, const WHOLE: bool>(&self, to: *mut __m512i) {
        let read = |half: usize, i: usize| {
            let from = self.from.wrapping_add(half * self.upper + i * self.stride);
            // SAFETY: the row is there, and the mask leaves out what of it is not.
            match WHOLE || i < self.there[half] {
                true if WHOLE => unsafe { _mm512_loadu_ps(from) },
                true => unsafe { _mm512_maskz_loadu_ps(self.masks[half], from) },
                false => _mm512_setzero_ps(),
            }
        };
        let write = |i: usize, parts: [__m512i; 3]| {
            for (part, x) in parts.into_iter().enumerate() {
                // SAFETY: the tiles are there.
                unsafe { _mm512_store_si512(to.add(2 * SIDE * part + i), x) };
            }
        };
        if TURN {
            let [low, high] = [0, 1].map(|half| {
                let mut rows = [_mm512_setzero_ps(); SIDE];
                rows.iter_mut().enumerate().for_each(|(i, row)| *row = read(half, i));
                turned(rows)
            });
            for i in 0..SIDE {
                write(i, split(low[i], high[i]));
            }
        } else {
            for i in 0..SIDE {
                write(i, split(read(0, i), read(1, i)));
            }
        }
    }
}

/// The first `count` lanes.
pub fn mask(count: usize) -> u16 {
    ((1u32 << count.min(SIDE)) - 1) as u16
}

/// Three bf16 of each entry, the largest first: that of x in the low and that of y in the high half of each lane.
///
/// The first is rounded, so that what is left has either sign, and what the dropped products come to has too.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
fn split(mut x: __m512, mut y: __m512) -> [__m512i; 3] {
    /// `(a & c) | b`, by its table of truth.
    const SELECT: i32 = 0b1110_1100;
    let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let half = _mm512_set1_epi32(0x8000);
    let mut parts = [_mm512_setzero_si512(); 3];
    for (i, part) in parts.iter_mut().enumerate() {
        let [mut low, mut top] = [x, y].map(|x| _mm512_castps_si512(x));
        if i == 0 {
            [low, top] = [low, top].map(|x| _mm512_add_epi32(x, half));
        }
        *part = _mm512_ternarylogic_epi32::<SELECT>(top, _mm512_srli_epi32::<16>(low), high);
        let rest = |x: __m512, part: __m512i| _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(part, high)));
        (x, y) = (rest(x, low), rest(y, top));
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::super::math::{Level, level},
        *,
    };

    proptest! {
        /// The three parts of an f32 are all of it, and the second and third are small.
        #[test]
        fn three_parts_are_the_whole(numbers in any::<[f32; SIDE]>()) {
            if level() < Level::Avx512 {
                return Ok(());
            }
            // Smaller ones lose their last part, larger ones are infinite.
            let x = numbers.map(|x| if (1e-30..3.3e38).contains(&x.abs()) { x } else { 1.0 });
            // SAFETY: the machine has the instructions; both are 64 bytes without a meaning of their own.
            let parts: [[u32; SIDE]; 3] = unsafe {
                let x = _mm512_loadu_ps(x.as_ptr());
                split(x, _mm512_sub_ps(_mm512_setzero_ps(), x)).map(|part| std::mem::transmute(part))
            };
            for (i, x) in x.into_iter().enumerate() {
                let low = parts.map(|part| f32::from_bits(part[i] << 16));
                let high = parts.map(|part| f32::from_bits(part[i] & 0xffff_0000));
                prop_assert_eq!(low[0] + (low[1] + low[2]), x);
                prop_assert_eq!(high, low.map(|part| -part));
                prop_assert!(low[1].abs() <= x.abs() / 256.0 && low[2].abs() <= x.abs() / 32768.0);
            }
        }
    }
}
