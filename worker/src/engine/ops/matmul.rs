//! Matrix products through the `gemm` crate, the one that candle uses.
//!
//! This is the only module with `unsafe`: `gemm` takes raw pointers and strides. The constructors below
//! check that every entry that those can reach lies inside the slice.
#![allow(unsafe_code)]

/// A matrix inside a slice, read only.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// A matrix inside a slice, to be written; its rows are contiguous.
pub struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

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
        Self { data, rows, columns, row_stride }
    }

    /// `self = scale * a b`.
    pub fn set(self, a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
        self.product(a, b, scale, false);
    }

    /// `self += a b`.
    pub fn add(self, a: Matrix<'_>, b: Matrix<'_>) {
        self.product(a, b, 1.0, true);
    }

    fn product(self, a: Matrix<'_>, b: Matrix<'_>, scale: f32, accumulate: bool) {
        assert!(self.rows == a.rows && a.columns == b.rows && b.columns == self.columns, "shapes of a product differ");
        // Strides are at most the length of a slice, which fits an isize.
        let stride = |s: usize| s as isize;
        // SAFETY: `fits` held for all three, so each pointer plus any reachable offset stays inside its
        // slice; the output is borrowed exclusively and so overlaps neither input.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                a.columns,
                self.data.as_mut_ptr(),
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
                gemm::Parallelism::None,
            );
        }
    }
}

/// `out (R,N) = x (R,K) w^T`, w is (N,K): a linear layer without bias.
pub fn linear(out: &mut [f32], x: &[f32], w: &[f32], rows: usize, n: usize, k: usize) {
    MatrixMut::new(out, rows, n, n).set(Matrix::new(x, rows, k, k), Matrix::new(w, n, k, k).transposed(), 1.0);
}

/// `out (R,N) += x (R,K) w^T`, w is (N,K): a linear layer at the end of a residual branch.
pub fn linear_add(out: &mut [f32], x: &[f32], w: &[f32], rows: usize, n: usize, k: usize) {
    MatrixMut::new(out, rows, n, n).add(Matrix::new(x, rows, k, k), Matrix::new(w, n, k, k).transposed());
}

/// Backward of [`linear`]: `dw (N,K) += dy^T x` and `dx (R,K) = dy w`.
#[allow(clippy::too_many_arguments)]
pub fn linear_backward(
    dx: &mut [f32],
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    rows: usize,
    n: usize,
    k: usize,
) {
    let dy = Matrix::new(dy, rows, n, n);
    MatrixMut::new(dw, n, k, k).add(dy.transposed(), Matrix::new(x, rows, k, k));
    MatrixMut::new(dx, rows, k, k).set(dy, Matrix::new(w, n, k, k), 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a (2,3) b (3,2), both embedded in wider rows.
    #[test]
    fn strides_transposes_and_accumulation() {
        let a = [1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0, 9.0];
        let b = [1.0, 0.0, 2.0, 0.0, 1.0, 1.0];
        let mut out = [0.5; 6];
        let (a, b) = (Matrix::new(&a, 2, 3, 4), Matrix::new(&b, 2, 3, 3).transposed());
        MatrixMut::new(&mut out, 2, 2, 3).set(a, b, 2.0);
        assert_eq!(out, [14.0, 10.0, 0.5, 32.0, 22.0, 0.5]);
        MatrixMut::new(&mut out, 2, 2, 3).add(a, b);
        assert_eq!(out, [21.0, 15.0, 0.5, 48.0, 33.0, 0.5]);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_matrix_larger_than_its_slice_is_refused() {
        Matrix::new(&[0.0; 5], 2, 3, 3);
    }
}
