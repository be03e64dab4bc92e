//! Causal attention with grouped queries, in tiles of rows.
//!
//! Per head: S = Q K^T / sqrt(D), P = softmax of each row of S up to its own position, O = P V.
//! The probabilities are never kept: `lse` (log of the sum of e^S, one number per row) brings them back as
//! P = e^(S - lse), so memory grows with T and not with T^2 (Dao et al. 2022, arXiv 2205.14135). Backward:
//! dV = P^T dO, dP = dO V^T, dS = P (dP - dO . O), dQ = dS K / sqrt(D), dK = dS^T Q / sqrt(D).

use std::cell::RefCell;

use super::{
    math::{LANES, dot, exp, map_sum, max, simd},
    matmul::{Matrix, MatrixMut},
};
use crate::engine::{buffer::Buffer, team::Team};

/// Query rows of one tile: few enough that its scores stay in the cache and little work is spent above the
/// diagonal, enough for an efficient product.
const TILE: usize = 64;

/// Sizes of an attention layer. A row of `qkv` is `queries` heads of q, `keys` heads of k, `keys` heads of v.
#[derive(Clone, Copy)]
pub struct Shape {
    /// T, tokens of a sequence.
    pub positions: usize,
    /// So many of them were computed before; none for a backward pass.
    pub from: usize,
    /// Heads of queries; a multiple of `keys`.
    pub queries: usize,
    /// Heads of keys and values.
    pub keys: usize,
    /// D, entries of a head.
    pub head: usize,
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

    /// Where q, k and v of a head begin in a row of `qkv`.
    fn offsets(self, head: usize) -> [usize; 3] {
        let group = head / (self.queries / self.keys);
        [head, self.queries + group, self.queries + self.keys + group].map(|heads| heads * self.head)
    }

    /// The same for one sequence of which `rows` tokens come after `from` that were computed before.
    pub fn after(self, from: usize, rows: usize) -> Self {
        Self { positions: from + rows, from, ..self }
    }

    /// First row and number of rows of each tile.
    fn tiles(self) -> impl Iterator<Item = (usize, usize)> {
        (self.from..self.positions).step_by(TILE).map(move |first| (first, TILE.min(self.positions - first)))
    }

    /// `rows` rows of one head, from row `first` on, out of a buffer with rows of `width`.
    fn view<'a>(&self, buffer: &'a [f32], width: usize, offset: usize, first: usize, rows: usize) -> Matrix<'a> {
        Matrix::new(&buffer[first * width + offset..], rows, self.head, width)
    }
}

/// Room for the scores of one tile and their gradient.
#[derive(Default)]
struct Scratch {
    scores: Buffer,
    gradient: Buffer,
}

thread_local! {
    /// Kept between calls.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Entries that each thread has for it where sequences have `positions` tokens.
pub fn scratch(positions: usize) -> usize {
    2 * TILE.min(positions) * positions
}

/// Calls `f` with this thread's room for a tile of this shape.
fn with_scratch(shape: Shape, f: impl FnOnce(&mut [f32], &mut [f32])) {
    let length = scratch(shape.positions) / 2;
    // Taken out for the time of the call: a thread that waits for a product may be given another head meanwhile.
    let mut scratch = SCRATCH.take();
    scratch.scores.resize(length);
    scratch.gradient.resize(length);
    f(&mut scratch.scores, &mut scratch.gradient);
    SCRATCH.set(scratch);
}

/// For sequences of T rows: `out (B N, Hq D)` and `lse (B, Hq, N)` of the last N of each, those that were not computed before,
/// from `qkv (B T, (Hq + 2 Hk) D)`.
pub fn forward(team: Team, out: &mut [f32], lse: &mut [f32], qkv: &[f32], shape: Shape) {
    let (t, width, out_width) = (shape.positions, shape.qkv_width(), shape.out_width());
    let n = t - shape.from;
    let sequences = out.chunks_exact_mut(n * out_width).zip(qkv.chunks_exact(t * width));
    let heads = sequences.flat_map(|(out, qkv)| {
        let heads = MatrixMut::new(out, n, out_width, out_width).split(shape.head);
        heads.into_iter().enumerate().map(move |(head, out)| (qkv, head, out))
    });
    team.each(heads.zip(lse.chunks_exact_mut(n)).collect(), |((qkv, head, out), lse)| {
        with_scratch(shape, |scores, _| forward_head(out, lse, qkv, head, shape, scores));
    });
}

fn forward_head(mut out: MatrixMut<'_>, lse: &mut [f32], qkv: &[f32], head: usize, shape: Shape, scores: &mut [f32]) {
    let (width, from, [q, k, v]) = (shape.qkv_width(), shape.from, shape.offsets(head));
    for (first, rows) in shape.tiles() {
        let keys = first + rows;
        let scores = &mut scores[..rows * keys];
        let (q, k) = (shape.view(qkv, width, q, first, rows), shape.view(qkv, width, k, 0, keys));
        MatrixMut::new(scores, rows, keys, keys).set(Team::Alone, q, k.transposed(), shape.scale());
        softmax(scores, keys, first, &mut lse[first - from..keys - from]);
        let (p, v) = (Matrix::new(scores, rows, keys, keys), shape.view(qkv, width, v, 0, keys));
        out.part(first - from, rows).set(Team::Alone, p, v, 1.0);
    }
}

simd! {
    /// Softmax of each row over its first `first + row + 1` entries, zero behind them. A few of those are computed with the others
    /// so that whole registers are.
    fn softmax(scores: &mut [f32], keys: usize, first: usize, lse: &mut [f32]) {
        for (i, (row, lse)) in scores.chunks_exact_mut(keys).zip(lse).enumerate() {
            let seen = first + i + 1;
            let whole = seen.next_multiple_of(LANES).min(keys);
            // What e^-87 is for each of them is lost in a sum of at least 1.
            row[seen..whole].fill(f32::NEG_INFINITY);
            let scores = &mut row[..whole];
            let top = max(scores);
            let sum = map_sum(scores, |s| exp(s - top));
            *lse = top + sum.ln();
            let factor = 1.0 / sum;
            for p in scores.iter_mut() {
                *p *= factor;
            }
            row[seen..].fill(0.0);
        }
    }
}

/// What [`forward`] saw and left, and the gradient of its output.
#[derive(Clone, Copy)]
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

/// `dqkv` (overwritten), shaped like `qkv`.
pub fn backward(team: Team, dqkv: &mut [f32], saved: &Saved<'_>, shape: Shape) {
    let (t, width, out_width) = (shape.positions, shape.qkv_width(), shape.out_width());
    let group = shape.queries / shape.keys;
    let groups = dqkv.chunks_exact_mut(t * width).enumerate().flat_map(|(sequence, dqkv)| {
        let rows = |width: usize| sequence * t * width..(sequence + 1) * t * width;
        let saved = Saved {
            qkv: &saved.qkv[rows(width)],
            out: &saved.out[rows(out_width)],
            lse: &saved.lse[rows(shape.queries)],
            dout: &saved.dout[rows(out_width)],
        };
        let mut q = MatrixMut::new(dqkv, t, width, width).split(shape.head);
        let mut k = q.split_off(shape.queries);
        let v = k.split_off(shape.keys);
        let mut q = q.into_iter();
        let groups = k.into_iter().zip(v).enumerate();
        groups
            .map(move |(number, (k, v))| (saved, number * group, q.by_ref().take(group).collect(), k, v))
            .collect::<Vec<_>>()
    });
    team.each(groups.collect(), |(saved, first, q, k, v): (_, _, Vec<_>, _, _)| {
        with_scratch(shape, |p, ds| backward_group((q, k, v), &saved, first, shape, p, ds));
    });
}

/// The heads from `first` on that share keys and values.
fn backward_group(
    (q, mut dk, mut dv): (Vec<MatrixMut<'_>>, MatrixMut<'_>, MatrixMut<'_>),
    saved: &Saved<'_>,
    first_head: usize,
    shape: Shape,
    p: &mut [f32],
    ds: &mut [f32],
) {
    let Saved { qkv, out, lse, dout } = *saved;
    let (t, width, out_width) = (shape.positions, shape.qkv_width(), shape.out_width());
    dk.clear();
    dv.clear();
    for (head, mut dq) in (first_head..).zip(q) {
        let ([q, k, v], lse) = (shape.offsets(head), &lse[head * t..(head + 1) * t]);
        for (first, rows) in shape.tiles() {
            let keys = first + rows;
            let (p, ds) = (&mut p[..rows * keys], &mut ds[..rows * keys]);
            let q = shape.view(qkv, width, q, first, rows);
            let k = shape.view(qkv, width, k, 0, keys);
            let v = shape.view(qkv, width, v, 0, keys);
            let dout_tile = shape.view(dout, out_width, head * shape.head, first, rows);
            MatrixMut::new(p, rows, keys, keys).set(Team::Alone, q, k.transposed(), shape.scale());
            MatrixMut::new(ds, rows, keys, keys).set(Team::Alone, dout_tile, v.transposed(), 1.0);
            let columns = head * shape.head..(head + 1) * shape.head;
            let outputs = Outputs { out, dout, width: out_width, head: columns };
            probabilities(p, ds, &outputs, &lse[first..keys], first, shape.scale());
            let (p, ds) = (Matrix::new(p, rows, keys, keys), Matrix::new(ds, rows, keys, keys));
            dv.part(0, keys).add(Team::Alone, p.transposed(), dout_tile);
            dk.part(0, keys).add(Team::Alone, ds.transposed(), q);
            dq.part(first, rows).set(Team::Alone, ds, k, 1.0);
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
            let whole = seen.next_multiple_of(LANES).min(keys);
            for (p, ds) in p[..whole].iter_mut().zip(&mut ds[..whole]) {
                *p = exp(*p - lse);
                *ds = *p * (*ds - correction) * scale;
            }
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
        }
    }
}
