//! Gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016, arXiv 1606.08415), as GPT-2 has it:
//! y = x s with s = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), since (1 + tanh(u)) / 2 = sigmoid(2 u).
//! dy/dx = s + x s (1 - s) 2 u', u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2).

use super::math::{sigmoid, simd};
use crate::engine::team::Team;

/// 2 sqrt(2 / pi)
const TWICE_ROOT: f32 = 1.595_769_2;
const CUBIC: f32 = 0.044_715;
/// Entries of a part where the work is shared.
const PART: usize = 1 << 14;

/// `out = gelu(x)`, entry by entry.
pub fn forward(team: Team, out: &mut [f32], x: &[f32]) {
    let part = if team == Team::Alone { x.len() } else { PART };
    team.each(out.chunks_mut(part).zip(x.chunks(part)).collect(), |(out, x)| forward_part(out, x));
}

/// `dx` (where `dy` was) from the gradient of the output and the input of [`forward`], whose output is put into `y` again: it
/// need not be kept.
pub fn backward(team: Team, dy: &mut [f32], y: &mut [f32], x: &[f32]) {
    let part = if team == Team::Alone { x.len() } else { PART };
    let parts = dy.chunks_mut(part).zip(y.chunks_mut(part)).zip(x.chunks(part));
    team.each(parts.collect(), |((dy, y), x)| backward_part(dy, y, x));
}

/// s, from x and x^2.
#[inline(always)]
fn gate(x: f32, square: f32) -> f32 {
    sigmoid(TWICE_ROOT * (x + CUBIC * square * x))
}

simd! {
    fn forward_part(out: &mut [f32], x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * gate(*x, x * x);
        }
    }
}

simd! {
    fn backward_part(dy: &mut [f32], y: &mut [f32], x: &[f32]) {
        for ((dy, y), x) in dy.iter_mut().zip(y).zip(x) {
            let square = x * x;
            let s = gate(*x, square);
            *y = x * s;
            *dy *= s + x * s * (1.0 - s) * TWICE_ROOT * (1.0 + 3.0 * CUBIC * square);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_tanh_form_and_its_derivative() {
        let exact =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        let x: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.02).collect();
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![1.0; x.len()]);
        forward(Team::Alone, &mut y, &x);
        let mut again = vec![0.0; x.len()];
        backward(Team::Alone, &mut dx, &mut again, &x);
        assert_eq!(again, y);
        for ((x, y), dx) in x.iter().map(|x| f64::from(*x)).zip(y).zip(dx) {
            let slope = (exact(x + 1e-5) - exact(x - 1e-5)) / 2e-5;
            assert!((f64::from(y) - exact(x)).abs() < 2e-6 && (f64::from(dx) - slope).abs() < 2e-6, "at {x}");
        }
    }
}
