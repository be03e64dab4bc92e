//! Matrix products: on AMX where it pays (`amx`), on AVX-512 where nobody shares (`kernel`), else through the `gemm` crate,
//! the one that candle uses.
//!
//! These three modules and `simd!` alone have `unsafe`: all take raw pointers and strides. The constructors below
//! check that every entry that those can reach lies inside the slice, and parts of a matrix never overlap.
#![allow(unsafe_code)]

use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use super::{amx, kernel};
use crate::engine::team::Team;

/// Entries that each thread has for packed matrices, at most.
pub fn scratch() -> usize {
    #[cfg(target_arch = "x86_64")]
    return amx::scratch();
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// A matrix inside a slice, read only.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

/// A matrix inside a slice, to be written; the entries of a row are neighbours.
pub struct MatrixMut<'a> {
    /// A pointer and no slice: the rows of neighbouring columns lie between each other.
    data: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is the only one that reaches its entries, like a mutable slice.
unsafe impl Send for MatrixMut<'_> {}

/// Whether `rows` rows of `columns` entries, `row_stride` apart, fit into `length` entries.
fn fits(length: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    rows > 0 && columns > 0 && columns <= row_stride && (rows - 1) * row_stride + columns <= length
}

impl<'a> Matrix<'a> {
    /// Rows `row_stride` entries apart. Panics where they do not fit into `data`.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, row_stride), "matrix {rows}x{columns} does not fit");
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

impl<'a> MatrixMut<'a> {
    /// Rows `row_stride` entries apart. Panics where they do not fit into `data`.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, row_stride), "matrix {rows}x{columns} does not fit");
        Self { data: data.as_mut_ptr(), rows, columns, row_stride, borrowed: PhantomData }
    }

    /// The columns in groups of `width`, which must divide them.
    pub fn split(self, width: usize) -> Vec<Self> {
        assert!(width > 0 && self.columns.is_multiple_of(width), "{} columns in groups of {width}", self.columns);
        // SAFETY: each group begins inside the matrix and ends before the next; none shares an entry with another.
        let group = |first| unsafe { Self { data: self.data.add(first), columns: width, ..self.shallow() } };
        (0..self.columns).step_by(width).map(group).collect()
    }

    /// Some rows of it, for as long as it is not used otherwise.
    pub fn part(&mut self, first: usize, rows: usize) -> MatrixMut<'_> {
        assert!(rows > 0 && first + rows <= self.rows, "rows {first}..{} of {}", first + rows, self.rows);
        // SAFETY: the first row of the part lies inside the matrix.
        unsafe { MatrixMut { data: self.data.add(first * self.row_stride), rows, ..self.shallow() } }
    }

    /// The same without its claim to the entries.
    fn shallow<'b>(&self) -> MatrixMut<'b> {
        MatrixMut { borrowed: PhantomData, ..*self }
    }

    /// Sets all entries to zero.
    pub fn clear(&mut self) {
        for row in 0..self.rows {
            // SAFETY: the row lies inside the matrix, whose entries nobody else reaches.
            unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.row_stride), self.columns) }.fill(0.0);
        }
    }

    /// `self = scale * a b`.
    pub fn set(self, team: Team, a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
        self.product(team, a, b, scale, false);
    }

    /// `self += a b`.
    pub fn add(self, team: Team, a: Matrix<'_>, b: Matrix<'_>) {
        self.product(team, a, b, 1.0, true);
    }

    fn product(self, team: Team, a: Matrix<'_>, b: Matrix<'_>, scale: f32, accumulate: bool) {
        assert!(self.rows == a.rows && a.columns == b.rows && b.columns == self.columns, "shapes of a product differ");
        #[cfg(target_arch = "x86_64")]
        if amx::pays(self.rows, self.columns, a.columns) && amx::is_available() {
            // SAFETY: the machine has the instructions, and `self` claims its entries.
            unsafe { amx::product(team, self.data, self.row_stride, a, b, scale, accumulate) };
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if team == Team::Alone && kernel::is_available() {
            // SAFETY: the machine has the instructions, and `self` claims its entries.
            unsafe { kernel::product(self.data, self.row_stride, a, b, scale, accumulate) };
            return;
        }
        // Strides are at most the length of a slice, which fits an isize.
        let stride = |s: usize| s as isize;
        // SAFETY: `fits` held for all three, so each pointer plus any reachable offset stays inside its
        // slice; the output's entries are borrowed exclusively and so are none of the inputs'.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                a.columns,
                self.data,
                1,
                stride(self.row_stride),
                accumulate,
                a.data.as_ptr(),
                stride(a.column_stride),
                stride(a.row_stride),
                b.data.as_ptr(),
                stride(b.column_stride),
                stride(b.row_stride),
                1.0f32,
                scale,
                false,
                false,
                false,
                team.parallelism(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// a (2,3) b (3,2), both embedded in wider rows.
    #[test]
    fn strides_transposes_and_accumulation() {
        let a = [1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0, 9.0];
        let b = [1.0, 0.0, 2.0, 0.0, 1.0, 1.0];
        let mut out = [0.5; 6];
        let (a, b) = (Matrix::new(&a, 2, 3, 4), Matrix::new(&b, 2, 3, 3).transposed());
        MatrixMut::new(&mut out, 2, 2, 3).set(Team::Alone, a, b, 2.0);
        assert_eq!(out, [14.0, 10.0, 0.5, 32.0, 22.0, 0.5]);
        MatrixMut::new(&mut out, 2, 2, 3).add(Team::Alone, a, b);
        assert_eq!(out, [21.0, 15.0, 0.5, 48.0, 33.0, 0.5]);
    }

    proptest! {
        /// Whole numbers: every order of summation gives the same.
        #[test]
        fn products_of_any_shape_are_exact_and_touch_nothing_else(
            (m, n, k) in (1..100usize, 1..150usize, 1..300usize),
            (a_turned, b_turned, accumulate) in any::<(bool, bool, bool)>(),
            padding in 0..3usize,
            seed in any::<u32>(),
        ) {
            let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 29) as f32 - 3.0;
            let entries = |count: usize| (0..count).map(number).collect::<Vec<f32>>();
            // One more entry in a row than there are columns, and so on.
            let matrix = |turned: bool, rows: usize, columns: usize| {
                let (rows, columns) = if turned { (columns, rows) } else { (rows, columns) };
                (entries(rows * (columns + padding)), rows, columns)
            };
            let ((a, a_rows, a_columns), (b, b_rows, b_columns)) = (matrix(a_turned, m, k), matrix(b_turned, k, n));
            let a = Matrix::new(&a, a_rows, a_columns, a_columns + padding);
            let b = Matrix::new(&b, b_rows, b_columns, b_columns + padding);
            let (a, b) = (if a_turned { a.transposed() } else { a }, if b_turned { b.transposed() } else { b });
            let at = |x: &Matrix<'_>, i: usize, j: usize| x.data[i * x.row_stride + j * x.column_stride];
            let before = entries(m * (n + padding));
            let mut expected = before.clone();
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let sum: f32 = (0..k).map(|l| at(&a, i, l) * at(&b, l, j)).sum();
                let old = if accumulate { before[i * (n + padding) + j] } else { 0.0 };
                expected[i * (n + padding) + j] = old + if accumulate { sum } else { 2.0 * sum };
            }
            for team in [Team::Alone, Team::Shared] {
                let mut out = before.clone();
                let matrix = MatrixMut::new(&mut out, m, n, n + padding);
                if accumulate { matrix.add(team, a, b) } else { matrix.set(team, a, b, 2.0) }
                prop_assert!(out == expected, "{team:?}");
            }
        }
    }

    /// More rows, columns and entries of each than are packed at once, which divide nothing.
    #[test]
    fn large_products_are_exact_too() {
        let (m, n, k) = (650, 740, 1111);
        let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 29) as f32 - 3.0;
        let [a, b] = [m * k, k * n].map(|count| (0..count).map(number).collect::<Vec<f32>>());
        let exact = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f32>();
        for team in [Team::Alone, Team::Shared] {
            let mut out = vec![0.0; m * n];
            let matrices = (Matrix::new(&a, m, k, k), Matrix::new(&b, k, n, n));
            MatrixMut::new(&mut out, m, n, n).set(team, matrices.0, matrices.1, 1.0);
            // One of each square, and all at the edges.
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                if (i % 32 == 7 && j % 32 == 9) || i + 1 == m || j + 1 == n {
                    assert_eq!(out[i * n + j], exact(i, j), "{team:?}: {i} {j}");
                }
            }
        }
    }

    #[test]
    fn parts_reach_their_own_entries_alone() {
        let mut all = [1.0; 12];
        let mut groups = MatrixMut::new(&mut all, 2, 4, 6).split(2);
        groups[1].part(1, 1).clear();
        groups[0].clear();
        assert_eq!(all, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_matrix_larger_than_its_slice_is_refused() {
        Matrix::new(&[0.0; 5], 2, 3, 3);
    }

    #[test]
    #[should_panic(expected = "rows 1..3 of 2")]
    fn a_part_beyond_its_matrix_is_refused() {
        MatrixMut::new(&mut [0.0; 6], 2, 3, 3).part(1, 2);
    }
}
