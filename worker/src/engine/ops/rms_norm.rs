//! Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).
//!
//! y = x r w with r = 1 / sqrt(mean(x^2) + eps), per row. With n = x r and g = dy w:
//! dw = sum over rows of dy n, dx = r (g - n mean(g n)).

use super::math::{add, dot, simd};
use crate::engine::team::Team;

/// `out (R,C)` and `inverse (R)`, the r of each row, from `x (R,C)` and `weight (C)`.
pub fn forward(team: Team, out: &mut [f32], inverse: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let (part, width) = (team.part(inverse.len()), weight.len());
    let parts = out.chunks_mut(part * width).zip(x.chunks(part * width)).zip(inverse.chunks_mut(part));
    team.each(parts.collect(), |((out, x), inverse)| forward_rows(out, inverse, x, weight, epsilon));
}

/// The output of [`forward`] once more, from what it saw and left.
pub fn again(team: Team, out: &mut [f32], inverse: &[f32], x: &[f32], weight: &[f32]) {
    let (part, width) = (team.part(inverse.len()), weight.len());
    let parts = out.chunks_mut(part * width).zip(x.chunks(part * width)).zip(inverse.chunks(part));
    team.each(parts.collect(), |((out, x), inverse)| scale_rows(out, inverse, x, weight));
}

/// `dx (R,C) +=` and `dweight (C) +=`, from `dy (R,C)` and what [`forward`] saw and left.
pub fn backward(
    team: Team,
    dx: &mut [f32],
    dweight: &mut [f32],
    dy: &[f32],
    x: &[f32],
    inverse: &[f32],
    weight: &[f32],
) {
    let (part, width) = (team.part(inverse.len()), weight.len());
    let sums = team.blocks(inverse.len(), |rows| {
        let mut sum = vec![0.0; width];
        let entries = rows.start * width..rows.end * width;
        sum_rows(&mut sum, &dy[entries.clone()], &x[entries], &inverse[rows]);
        sum
    });
    sums.iter().for_each(|sum| add(dweight, sum));
    let inputs = dy.chunks(part * width).zip(x.chunks(part * width)).zip(inverse.chunks(part));
    team.each(dx.chunks_mut(part * width).zip(inputs).collect(), |(dx, ((dy, x), inverse))| {
        backward_rows(dx, dy, x, inverse, weight);
    });
}

simd! {
    fn forward_rows(out: &mut [f32], inverse: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
        let width = weight.len();
        for ((out, inverse), x) in out.chunks_exact_mut(width).zip(inverse).zip(x.chunks_exact(width)) {
            let r = 1.0 / (dot(x, x) / width as f32 + epsilon).sqrt();
            *inverse = r;
            scale_row(out, r, x, weight);
        }
    }
}

simd! {
    fn scale_rows(out: &mut [f32], inverse: &[f32], x: &[f32], weight: &[f32]) {
        let width = weight.len();
        for ((out, &r), x) in out.chunks_exact_mut(width).zip(inverse).zip(x.chunks_exact(width)) {
            scale_row(out, r, x, weight);
        }
    }
}

#[inline(always)]
fn scale_row(out: &mut [f32], r: f32, x: &[f32], weight: &[f32]) {
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * r * w;
    }
}

simd! {
    fn sum_rows(sum: &mut [f32], dy: &[f32], x: &[f32], inverse: &[f32]) {
        let width = sum.len();
        for ((dy, x), &r) in dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(inverse) {
            for ((dw, dy), x) in sum.iter_mut().zip(dy).zip(x) {
                *dw = dy.mul_add(x * r, *dw);
            }
        }
    }
}

simd! {
    fn backward_rows(dx: &mut [f32], dy: &[f32], x: &[f32], inverse: &[f32], weight: &[f32]) {
        let width = weight.len();
        let mut g = vec![0.0; width];
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)).zip(inverse);
        for (((dx, dy), x), &r) in rows {
            for ((g, dy), w) in g.iter_mut().zip(dy).zip(weight) {
                *g = dy * w;
            }
            let mean = dot(&g, x) * r / width as f32;
            for ((dx, g), x) in dx.iter_mut().zip(&g).zip(x) {
                *dx += r * (g - x * r * mean);
            }
        }
    }
}
