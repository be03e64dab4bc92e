//! Layer normalisation (Ba et al. 2016, arXiv 1607.06450).
//!
//! y = n w + b with n = (x - mean(x)) r, r = 1 / sqrt(mean((x - mean(x))^2) + eps), per row. With g = dy w:
//! dw = sum over rows of dy n, db = sum over rows of dy, dx = r (g - mean(g) - n mean(g n)).

use super::math::{add, dot, simd, sum};
use crate::engine::team::Team;

/// Mean and r of each row, as the backward pass needs them.
#[derive(Default)]
pub struct Rows {
    /// (R)
    pub mean: Vec<f32>,
    /// (R)
    pub inverse: Vec<f32>,
}

impl Rows {
    /// Gives both the length for so many rows.
    pub fn resize(&mut self, rows: usize) {
        self.mean.resize(rows, 0.0);
        self.inverse.resize(rows, 0.0);
    }
}

/// `out (R,C)` and what [`Rows`] says, from `x (R,C)`, `weight (C)` and `bias (C)`.
pub fn forward(team: Team, out: &mut [f32], rows: &mut Rows, x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let part = team.part(rows.mean.len());
    let width = weight.len();
    let stats = rows.mean.chunks_mut(part).zip(rows.inverse.chunks_mut(part));
    let parts = out.chunks_mut(part * width).zip(x.chunks(part * width)).zip(stats);
    team.each(parts.collect(), |((out, x), (mean, inverse))| {
        forward_rows(out, mean, inverse, x, weight, bias, epsilon)
    });
}

/// The output of [`forward`] once more, from what it saw and left.
pub fn again(team: Team, out: &mut [f32], rows: &Rows, x: &[f32], weight: &[f32], bias: &[f32]) {
    let (part, width) = (team.part(rows.mean.len()), weight.len());
    let stats = rows.mean.chunks(part).zip(rows.inverse.chunks(part));
    let parts = out.chunks_mut(part * width).zip(x.chunks(part * width)).zip(stats);
    team.each(parts.collect(), |((out, x), (mean, inverse))| scale_rows(out, mean, inverse, x, weight, bias));
}

/// `dx (R,C) +=`, `dweight (C) +=` and `dbias (C) +=`, from `dy (R,C)` and what [`forward`] saw and left.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    team: Team,
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
    dy: &[f32],
    x: &[f32],
    rows: &Rows,
    weight: &[f32],
) {
    let width = weight.len();
    let sums = team.blocks(rows.mean.len(), |range| {
        let (mut dw, mut db) = (vec![0.0; width], vec![0.0; width]);
        let entries = range.start * width..range.end * width;
        sum_rows(&mut dw, &mut db, &dy[entries.clone()], &x[entries], &rows.mean[range.clone()], &rows.inverse[range]);
        (dw, db)
    });
    for (dw, db) in &sums {
        add(dweight, dw);
        add(dbias, db);
    }
    let part = team.part(rows.mean.len());
    let stats = rows.mean.chunks(part).zip(rows.inverse.chunks(part));
    let parts = dx.chunks_mut(part * width).zip(dy.chunks(part * width)).zip(x.chunks(part * width)).zip(stats);
    team.each(parts.collect(), |(((dx, dy), x), (mean, inverse))| backward_rows(dx, dy, x, mean, inverse, weight));
}

simd! {
    fn forward_rows(out: &mut [f32], mean: &mut [f32], inverse: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
        let width = weight.len();
        let stats = mean.iter_mut().zip(inverse);
        for ((out, x), (mean, inverse)) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(stats) {
            let m = sum(x) / width as f32;
            for (out, x) in out.iter_mut().zip(x) {
                *out = x - m;
            }
            let r = 1.0 / (dot(out, out) / width as f32 + epsilon).sqrt();
            (*mean, *inverse) = (m, r);
            scale_row(out, (m, r), x, weight, bias);
        }
    }
}

simd! {
    fn scale_rows(out: &mut [f32], mean: &[f32], inverse: &[f32], x: &[f32], weight: &[f32], bias: &[f32]) {
        let width = weight.len();
        let stats = mean.iter().zip(inverse);
        for ((out, x), (&m, &r)) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(stats) {
            scale_row(out, (m, r), x, weight, bias);
        }
    }
}

#[inline(always)]
fn scale_row(out: &mut [f32], (m, r): (f32, f32), x: &[f32], weight: &[f32], bias: &[f32]) {
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - m) * r * w + b;
    }
}

simd! {
    fn sum_rows(dw: &mut [f32], db: &mut [f32], dy: &[f32], x: &[f32], mean: &[f32], inverse: &[f32]) {
        let width = dw.len();
        let stats = mean.iter().zip(inverse);
        for ((dy, x), (&m, &r)) in dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(stats) {
            for (((dw, db), dy), x) in dw.iter_mut().zip(db.iter_mut()).zip(dy).zip(x) {
                *dw += dy * ((x - m) * r);
                *db += dy;
            }
        }
    }
}

simd! {
    fn backward_rows(dx: &mut [f32], dy: &[f32], x: &[f32], mean: &[f32], inverse: &[f32], weight: &[f32]) {
        let width = weight.len();
        let (mut g, mut n) = (vec![0.0; width], vec![0.0; width]);
        let stats = mean.iter().zip(inverse);
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)).zip(stats);
        for (((dx, dy), x), (&m, &r)) in rows {
            for (((g, n), (dy, x)), w) in g.iter_mut().zip(n.iter_mut()).zip(dy.iter().zip(x)).zip(weight) {
                *g = dy * w;
                *n = (x - m) * r;
            }
            let (of_g, of_gn) = (sum(&g) / width as f32, dot(&g, &n) / width as f32);
            for ((dx, g), n) in dx.iter_mut().zip(&g).zip(&n) {
                *dx += r * (g - of_g - n * of_gn);
            }
        }
    }
}
