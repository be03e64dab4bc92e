//! Causal attention with grouped queries, in tiles of rows.
//!
//! Per head: S = Q K^T / sqrt(D), P = softmax of each row of S up to its own position, O = P V.
//! The probabilities are never kept: `lse` (log of the sum of e^S, one number per row) brings them back as
//! P = e^(S - lse), so memory grows with T and not with T^2 (Dao et al. 2022, arXiv 2205.14135). Backward:
//! dV = P^T dO, dP = dO V^T, dS = P (dP - dO . O), dQ = dS K / sqrt(D), dK = dS^T Q / sqrt(D).

use super::{
    math::{dot, exp, map_sum, max, simd},
    matmul::{Matrix, MatrixMut},
};

/// Query rows of one tile: few enough that its scores stay in the cache and little work is spent above the
/// diagonal, enough for an efficient product.
const TILE: usize = 64;

/// Sizes of an attention layer. A row of `qkv` is `queries` heads of q, `keys` heads of k, `keys` heads of v.
#[derive(Clone, Copy)]
pub struct Shape {
    /// T, tokens of a sequence.
    pub positions: usize,
    /// Heads of queries; a multiple of `keys`.
    pub queries: usize,
    /// Heads of keys and values.
    pub keys: usize,
    /// D, entries of a head.
    pub head: usize,
}

/// One head: where its q, k and v begin in a row of `qkv`, and its output in a row of `out`.
struct Head {
    q: usize,
    k: usize,
    v: usize,
    out: usize,
}

impl Shape {
    /// Entries of a row of `qkv`.
    pub fn qkv_width(&self) -> usize {
        (self.queries + 2 * self.keys) * self.head
    }

    /// Entries of a row of the output.
    pub fn out_width(&self) -> usize {
        self.queries * self.head
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }

    fn heads(self) -> impl Iterator<Item = Head> {
        (0..self.queries).map(move |h| {
            let group = h / (self.queries / self.keys);
            Head {
                q: h * self.head,
                k: (self.queries + group) * self.head,
                v: (self.queries + self.keys + group) * self.head,
                out: h * self.head,
            }
        })
    }

    /// First row and number of rows of each tile.
    fn tiles(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.positions).step_by(TILE).map(move |first| (first, TILE.min(self.positions - first)))
    }

    /// `rows` rows of one head, from row `first` on, out of a buffer with rows of `width`.
    fn view<'a>(&self, buffer: &'a [f32], width: usize, offset: usize, first: usize, rows: usize) -> Matrix<'a> {
        Matrix::new(&buffer[first * width + offset..], rows, self.head, width)
    }

    /// As [`Shape::view`], to be written.
    fn view_mut<'a>(
        &self,
        buffer: &'a mut [f32],
        width: usize,
        offset: usize,
        first: usize,
        rows: usize,
    ) -> MatrixMut<'a> {
        MatrixMut::new(&mut buffer[first * width + offset..], rows, self.head, width)
    }
}

/// Room for the scores of one tile and their gradient; kept between calls.
#[derive(Default)]
pub struct Scratch {
    scores: Vec<f32>,
    gradient: Vec<f32>,
}

impl Scratch {
    fn reserve(&mut self, shape: &Shape) {
        let length = TILE.min(shape.positions) * shape.positions;
        self.scores.resize(length, 0.0);
        self.gradient.resize(length, 0.0);
    }
}

/// One sequence: `out (T, Hq D)` and `lse (Hq, T)` from `qkv (T, (Hq + 2 Hk) D)`.
pub fn forward(out: &mut [f32], lse: &mut [f32], qkv: &[f32], shape: Shape, scratch: &mut Scratch) {
    let (width, out_width) = (shape.qkv_width(), shape.out_width());
    scratch.reserve(&shape);
    for (head, lse) in shape.heads().zip(lse.chunks_exact_mut(shape.positions)) {
        for (first, rows) in shape.tiles() {
            let keys = first + rows;
            let scores = &mut scratch.scores[..rows * keys];
            let (q, k) = (shape.view(qkv, width, head.q, first, rows), shape.view(qkv, width, head.k, 0, keys));
            MatrixMut::new(scores, rows, keys, keys).set(q, k.transposed(), shape.scale());
            softmax(scores, keys, first, &mut lse[first..keys]);
            let (p, v) = (Matrix::new(scores, rows, keys, keys), shape.view(qkv, width, head.v, 0, keys));
            shape.view_mut(out, out_width, head.out, first, rows).set(p, v, 1.0);
        }
    }
}

simd! {
    /// Softmax of each row over its first `first + row + 1` entries, zero behind them.
    fn softmax(scores: &mut [f32], keys: usize, first: usize, lse: &mut [f32]) {
        for (i, (row, lse)) in scores.chunks_exact_mut(keys).zip(lse).enumerate() {
            let (seen, hidden) = row.split_at_mut(first + i + 1);
            let top = max(seen);
            let sum = map_sum(seen, |s| exp(s - top));
            *lse = top + sum.ln();
            let factor = 1.0 / sum;
            for p in seen.iter_mut() {
                *p *= factor;
            }
            hidden.fill(0.0);
        }
    }
}

/// What [`forward`] saw and left, and the gradient of its output.
pub struct Saved<'a> {
    /// Input of the forward pass.
    pub qkv: &'a [f32],
    /// Output of the forward pass.
    pub out: &'a [f32],
    /// As [`forward`] left it.
    pub lse: &'a [f32],
    /// Gradient of `out`.
    pub dout: &'a [f32],
}

/// One sequence: `dqkv` (overwritten), shaped like `qkv`.
pub fn backward(dqkv: &mut [f32], saved: &Saved<'_>, shape: Shape, scratch: &mut Scratch) {
    let Saved { qkv, out, lse, dout } = *saved;
    let (width, out_width) = (shape.qkv_width(), shape.out_width());
    scratch.reserve(&shape);
    dqkv.fill(0.0);
    for (head, lse) in shape.heads().zip(lse.chunks_exact(shape.positions)) {
        for (first, rows) in shape.tiles() {
            let keys = first + rows;
            let (p, ds) = (&mut scratch.scores[..rows * keys], &mut scratch.gradient[..rows * keys]);
            let q = shape.view(qkv, width, head.q, first, rows);
            let k = shape.view(qkv, width, head.k, 0, keys);
            let v = shape.view(qkv, width, head.v, 0, keys);
            let dout_tile = shape.view(dout, out_width, head.out, first, rows);
            MatrixMut::new(p, rows, keys, keys).set(q, k.transposed(), shape.scale());
            MatrixMut::new(ds, rows, keys, keys).set(dout_tile, v.transposed(), 1.0);
            let outputs = Outputs { out, dout, width: out_width, head: head.out..head.out + shape.head };
            probabilities(p, ds, &outputs, &lse[first..keys], first, shape.scale());
            let (p, ds) = (Matrix::new(p, rows, keys, keys), Matrix::new(ds, rows, keys, keys));
            shape.view_mut(dqkv, width, head.v, 0, keys).add(p.transposed(), dout_tile);
            shape.view_mut(dqkv, width, head.k, 0, keys).add(ds.transposed(), q);
            shape.view_mut(dqkv, width, head.q, first, rows).set(ds, k, 1.0);
        }
    }
}

/// The columns of one head in an output and its gradient.
struct Outputs<'a> {
    out: &'a [f32],
    dout: &'a [f32],
    width: usize,
    head: std::ops::Range<usize>,
}

simd! {
    /// Turns scores into probabilities and dP into dS / sqrt(D), both in place, for the rows from `first` on.
    fn probabilities(p: &mut [f32], ds: &mut [f32], outputs: &Outputs<'_>, lse: &[f32], first: usize, scale: f32) {
        let Outputs { out, dout, width, head } = outputs;
        let keys = first + lse.len();
        let outputs = out.chunks_exact(*width).zip(dout.chunks_exact(*width)).skip(first);
        let rows = p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).zip(outputs).zip(lse);
        for (i, (((p, ds), (out, dout)), lse)) in rows.enumerate() {
            let correction = dot(&out[head.clone()], &dout[head.clone()]);
            let seen = first + i + 1;
            for (p, ds) in p[..seen].iter_mut().zip(&mut ds[..seen]) {
                *p = exp(*p - lse);
                *ds = *p * (*ds - correction) * scale;
            }
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
        }
    }
}
