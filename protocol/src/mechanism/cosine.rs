//! `cosine`: miners publish a slice of their delta; it is worth what it shares with the gradient on their own
//! pages and does not share with the gradient on other miners' pages.
//!
//! ```text
//! raw_i = cos(delta_i, -g_i) - mean over j != i of cos(delta_i, -g_j)
//! ```
//!
//! with g_j the gradient at the base on miner j's own pages, everything on the slice. There is a common descent
//! direction that everybody shares: copies, stale work and work on other pages have it too, and the plain cosine
//! pays them 10 to 30% of an honest income. Taking the others' part away leaves them 0 to 4%, at no cost: the
//! same gradients serve everybody.

use super::products;
use crate::tensors::Tensors;

/// Raw score of one miner: its delta against the gradient on its own pages, less the mean against those on
/// `foreign` pages (the other drawn miners'; if there is none, one foreign page set stands in). Between -2 and 2;
/// 0 if the delta or the gradient is zero. The delta is read once for all gradients.
pub fn raw_score(delta: &Tensors, own: &Tensors, foreign: &[&Tensors]) -> f64 {
    let gradients: Vec<_> = std::iter::once(own).chain(foreign.iter().copied()).collect();
    let descents: Vec<f64> = products(delta, &gradients).into_iter().map(|with| 0.0 - with.cosine()).collect();
    let reference = descents[1..].iter().sum::<f64>() / foreign.len().max(1) as f64;
    descents[0] - reference
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::Tensor;

    fn vector(data: &[f32]) -> Tensors {
        Tensors::new(vec![Tensor { name: "w".into(), shape: vec![data.len()], data: data.into() }]).expect("valid")
    }

    /// Three honest miners descend on their own pages; everything else has only the common part.
    #[test]
    fn copies_and_the_common_direction_earn_nothing() {
        let gradients = [vector(&[1.0, 3.0, 0.0, 0.0]), vector(&[1.0, 0.0, 3.0, 0.0]), vector(&[1.0, 0.0, 0.0, 3.0])];
        let score = |delta: &Tensors, own: usize| {
            let foreign: Vec<_> = (0..3).filter(|j| *j != own).map(|j| &gradients[j]).collect();
            raw_score(delta, &gradients[own], &foreign)
        };
        let honest = gradients[0].map(|g| -0.01 * g);
        assert!(score(&honest, 0) > 0.8);
        assert!(score(&honest, 1) < 0.0, "a copy on another uid");
        assert!(score(&vector(&[-1.0, 0.0, 0.0, 0.0]), 0).abs() < 1e-9, "only the common direction");
        assert!(score(&vector(&[-3.0, -3.0, -3.0, -3.0]), 0).abs() < 1e-9, "the mean of the others");
        assert!(score(&gradients[0], 0) < -0.8, "a flipped sign");
        assert!((score(&honest.map(|d| 1000.0 * d), 0) - score(&honest, 0)).abs() < 1e-6, "shouting does not help");
    }

    #[test]
    fn nothing_and_infinite_products_score_zero() {
        let one = vector(&[1.0]);
        assert_eq!(raw_score(&vector(&[0.0]), &one, &[&one]), 0.0);
        assert_eq!(raw_score(&one, &vector(&[0.0]), &[]), 0.0);
        assert!(raw_score(&vector(&[f32::MAX]), &vector(&[-f32::MAX]), &[]) == 1.0, "f64 holds the squares of f32");
    }
}
