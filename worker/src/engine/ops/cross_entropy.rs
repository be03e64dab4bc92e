//! Cross entropy of the next token: loss = log(sum_j e^z_j) - z_target, dz = softmax(z) - onehot(target).

use rayon::prelude::*;

use super::math::{exp, map_sum, max, simd};
use crate::engine::team::{ROWS, Team};

/// Sum of the losses of all rows in nats; `logits (R,V)` are overwritten.
pub fn loss(team: Team, logits: &mut [f32], targets: &[u32]) -> f64 {
    shared(team, logits, targets, None)
}

/// Sum of the losses as [`loss`]; leaves `scale` times the gradient of that sum in `logits`.
pub fn loss_and_gradient(team: Team, logits: &mut [f32], targets: &[u32], scale: f32) -> f64 {
    shared(team, logits, targets, Some(scale))
}

fn shared(team: Team, logits: &mut [f32], targets: &[u32], scale: Option<f32>) -> f64 {
    if team == Team::Alone {
        return rows(logits, targets, scale);
    }
    let width = logits.len() / targets.len();
    let parts = logits.par_chunks_mut(ROWS / 4 * width).zip(targets.par_chunks(ROWS / 4));
    let losses: Vec<f64> = parts.map(|(logits, targets)| rows(logits, targets, scale)).collect();
    losses.iter().sum()
}

simd! {
    fn rows(logits: &mut [f32], targets: &[u32], scale: Option<f32>) -> f64 {
        let width = logits.len() / targets.len();
        let mut total = 0.0;
        for (row, target) in logits.chunks_exact_mut(width).zip(targets) {
            let target = *target as usize;
            let (top, chosen) = (max(row), row[target]);
            let sum = map_sum(row, |z| exp(z - top));
            total += f64::from(sum).ln() + f64::from(top) - f64::from(chosen);
            if let Some(scale) = scale {
                let factor = scale / sum;
                for x in row.iter_mut() {
                    *x *= factor;
                }
                row[target] -= scale;
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_classes_by_hand() {
        let (a, b) = (1.0f64, -0.5f64);
        let p = 1.0 / (1.0 + (b - a).exp());
        let mut z = [a as f32, b as f32];
        assert!((loss(Team::Alone, &mut z.clone(), &[0]) + p.ln()).abs() < 1e-6);
        assert!((loss_and_gradient(Team::Alone, &mut z, &[0], 0.5) + p.ln()).abs() < 1e-6);
        assert!((f64::from(z[0]) - 0.5 * (p - 1.0)).abs() < 1e-6);
        assert!((f64::from(z[1]) - 0.5 * (1.0 - p)).abs() < 1e-6);
    }

    #[test]
    fn large_logits_do_not_overflow_and_nan_is_not_hidden() {
        assert!(loss(Team::Alone, &mut [3e4, -3e4], &[0]).abs() < 1e-6);
        assert!(loss(Team::Alone, &mut [f32::NAN, 0.0], &[1]).is_nan());
    }
}
