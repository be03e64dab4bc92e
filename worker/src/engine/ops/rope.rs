//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the order of Hugging Face checkpoints:
//! entry i turns with entry i + D/2 by the angle t * theta^(-2i/D), t the position in the sequence.

use super::math::{LANES, simd};
use crate::engine::team::Team;

/// Cosines and sines for every position.
pub struct Rope {
    /// (T, D/2)
    cos: Vec<f32>,
    /// (T, D/2)
    sin: Vec<f32>,
    half: usize,
}

/// Which way to turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// By the angle.
    Forward,
    /// By its negative: the inverse, and so the backward pass.
    Backward,
}

impl Rope {
    /// Tables for `positions` positions and heads of `head` (even) entries.
    pub fn new(positions: usize, head: usize, theta: f64) -> Self {
        let half = head / 2;
        let angles = || {
            (0..positions)
                .flat_map(move |t| (0..half).map(move |i| t as f64 * theta.powf(-(2.0 * i as f64) / head as f64)))
        };
        Self { cos: angles().map(|a| a.cos() as f32).collect(), sin: angles().map(|a| a.sin() as f32).collect(), half }
    }

    /// Turns the first `heads` heads of each row of `x (rows, width)` in place; row i has position
    /// `from + i` modulo the number of positions.
    pub fn apply(&self, team: Team, x: &mut [f32], width: usize, heads: usize, from: usize, turn: Turn) {
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        let part = team.part(x.len() / width);
        let positions = self.cos.len() / self.half;
        team.each(x.chunks_mut(part * width).enumerate().collect(), |(number, x)| {
            let first = (from + number * part) % positions * self.half;
            rotate(x, (&self.cos, &self.sin), first, self.half, width, heads, sign);
        });
    }
}

simd! {
    /// x (rows, width), cos and sin (T, half); the angles of the first row begin at `first`.
    fn rotate(x: &mut [f32], tables: (&[f32], &[f32]), first: usize, half: usize, width: usize, heads: usize, sign: f32) {
        let (cos, sin) = tables;
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        let angles = angles.clone().skip(first / half).chain(angles.cycle());
        for (row, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
            for head in row.chunks_exact_mut(2 * half).take(heads) {
                let (a, b) = head.split_at_mut(half);
                let ((a, rest_a), (b, rest_b)) = (a.as_chunks_mut::<LANES>(), b.as_chunks_mut::<LANES>());
                let ((cos, rest_cos), (sin, rest_sin)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
                for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                    (*a, *b) = turned(*a, *b, cos, sin, sign);
                }
                for (((a, b), cos), sin) in rest_a.iter_mut().zip(rest_b).zip(rest_cos).zip(rest_sin) {
                    ([*a], [*b]) = turned([*a], [*b], &[*cos], &[*sin], sign);
                }
            }
        }
    }
}

/// Turns entry after entry; the two are copies, so that the compiler sees that no result is an input.
#[inline(always)]
fn turned<const N: usize>(a: [f32; N], b: [f32; N], cos: &[f32; N], sin: &[f32; N], sign: f32) -> ([f32; N], [f32; N]) {
    let (mut x, mut y) = (a, b);
    for i in 0..N {
        let (c, s) = (cos[i], sin[i] * sign);
        x[i] = a[i].mul_add(c, -(b[i] * s));
        y[i] = b[i].mul_add(c, a[i] * s);
    }
    (x, y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_undoes_forth_and_position_zero_stays() {
        let rope = Rope::new(4, 8, 10_000.0);
        let before: Vec<f32> = (0..4 * 24).map(|i| (i as f32).sin()).collect();
        let mut x = before.clone();
        rope.apply(Team::Alone, &mut x, 24, 2, 0, Turn::Forward);
        assert_eq!(x[..24], before[..24]);
        assert_eq!(x[24 + 16..48], before[24 + 16..48], "only the first two heads turn");
        assert!((x[24] - before[24]).abs() > 1e-3);
        let mut later = before[48..].to_vec();
        rope.apply(Team::Alone, &mut later, 24, 2, 2, Turn::Forward);
        assert_eq!(x[48..], later);
        rope.apply(Team::Alone, &mut x, 24, 2, 0, Turn::Backward);
        assert!(x.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
