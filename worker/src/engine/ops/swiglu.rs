//! Gated activation (Shazeer 2020, arXiv 2002.05202): y = silu(g) u, silu(g) = g s, s = sigmoid(g).
//! du = dy silu(g), dg = dy u s (1 + g (1 - s)).

use super::math::{sigmoid, simd};
use crate::engine::team::Team;

/// `out (R,F)` from `x (R,2F)`, whose rows are g and then u.
pub fn forward(team: Team, out: &mut [f32], x: &[f32], width: usize) {
    let part = team.part(out.len() / width) * width;
    team.each(out.chunks_mut(part).zip(x.chunks(2 * part)).collect(), |(out, x)| forward_rows(out, x, width));
}

/// `dx (R,2F)` from `dy (R,F)` and the input of [`forward`], whose output takes the place of `dy`: it need not be kept.
pub fn backward(team: Team, dx: &mut [f32], dy: &mut [f32], x: &[f32], width: usize) {
    let part = team.part(dy.len() / width) * width;
    let parts = dx.chunks_mut(2 * part).zip(dy.chunks_mut(part)).zip(x.chunks(2 * part));
    team.each(parts.collect(), |((dx, dy), x)| backward_rows(dx, dy, x, width));
}

simd! {
    fn forward_rows(out: &mut [f32], x: &[f32], width: usize) {
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
            let (g, u) = x.split_at(width);
            for ((out, g), u) in out.iter_mut().zip(g).zip(u) {
                *out = g * sigmoid(*g) * u;
            }
        }
    }
}

simd! {
    fn backward_rows(dx: &mut [f32], dy: &mut [f32], x: &[f32], width: usize) {
        let rows = dx.chunks_exact_mut(2 * width).zip(dy.chunks_exact_mut(width)).zip(x.chunks_exact(2 * width));
        for ((dx, dy), x) in rows {
            let ((dg, du), (g, u)) = (dx.split_at_mut(width), x.split_at(width));
            for ((((dg, du), dy), g), u) in dg.iter_mut().zip(du).zip(dy).zip(g).zip(u) {
                let s = sigmoid(*g);
                *du = *dy * g * s;
                *dg = *dy * u * s * (1.0 + g * (1.0 - s));
                *dy = g * s * u;
            }
        }
    }
}
