//! Whether published work is what a validator finds when it does the work again (`innerOptimizer: fresh`).
//!
//! ```text
//! likeness = cos(published, expected) / cos(sent, expected)
//! ```
//!
//! with `expected` the recomputed work before it is compressed, and `sent` what others would have read of it. Without
//! compression the two are the same, and the likeness is the cosine. With it, both are compared with the whole: fresh
//! moments make many entries nearly alike, and another kind of machine, which rounds in another way, sends others of them
//! that say just as much. For work that is related to the recomputed by a cosine c the likeness is about c, whatever k is.

use super::products;
use crate::tensors::Tensors;

/// Work has at least this likeness: it is 1.0000 on the same kind of machine; half of the work had 0.91 to 0.94.
pub const RECOMPUTED: f64 = 0.99;

/// How much published work is like a recomputation; 0 where that found nothing.
pub fn likeness(published: &Tensors, expected: &Tensors, sent: &Tensors) -> f64 {
    let [found, own] = [published, sent].map(|work| products(work, &[expected])[0].cosine());
    if own > 0.0 { found / own } else { 0.0 }
}

/// Whether it is that, as far as machines agree.
pub fn is_recomputed(published: &Tensors, expected: &Tensors, sent: &Tensors) -> bool {
    likeness(published, expected, sent) >= RECOMPUTED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mechanism::{Mechanism, tests::compressed},
        tensors::Tensor,
        topk::tests::bell,
    };

    fn vector(data: &[f32]) -> Tensors {
        Tensors::new(vec![Tensor { name: "w".into(), shape: vec![data.len()], data: data.into() }]).expect("valid")
    }

    #[test]
    fn recomputed_work_is_told_from_half_of_it() {
        let work = vector(&[3.0, 4.0, 0.0]);
        let is_recomputed = |published: &Tensors| super::is_recomputed(published, &work, &work);
        assert!(is_recomputed(&work));
        assert!(is_recomputed(&work.map(|x| x * 1.0001)));
        assert!(!is_recomputed(&vector(&[3.0, 0.0, 0.0])));
        assert!(!is_recomputed(&work.map(|x| -x)));
        assert!(!is_recomputed(&vector(&[0.0; 3])));
        let nothing = vector(&[0.0; 3]);
        assert!(!super::is_recomputed(&nothing, &nothing, &nothing), "no work is no proof of work");
    }

    /// As [`recomputed_work_is_told_from_half_of_it`], where each sends its largest entries.
    #[test]
    fn recomputed_work_is_told_from_half_of_it_where_it_is_compressed() {
        let mechanism = compressed();
        let mechanism = Mechanism::of(&mechanism).expect("one member");
        let sent = |work: &[f32]| mechanism.sent(vector(work), 1).expect("finite");
        let (whole, other) = (bell(1, 40_000), bell(2, 40_000));
        let mixed = |part: f32| {
            let mix = whole.iter().zip(&other).map(|(x, y)| part * x + (1.0 - part * part).sqrt() * y);
            is_recomputed(&sent(&mix.collect::<Vec<_>>()), &vector(&whole), &sent(&whole))
        };
        assert!(mixed(1.0) && mixed(0.9999) && mixed(0.997));
        assert!(!mixed(0.97) && !mixed(0.93), "half of the work");

        // Of a first step of AdamW all entries are nearly alike, and another machine rounds them in another way: nearly
        // nobody sends the same entries.
        let step = |rounding: &[f32]| -> Vec<f32> {
            whole.iter().zip(rounding).map(|(x, r)| x.signum() * (1.0 + 1e-6 * r)).collect()
        };
        let (ours, theirs) = (step(&other), step(&bell(3, 40_000)));
        let common = sent(&ours)
            .tensor(0)
            .data
            .iter()
            .zip(&sent(&theirs).tensor(0).data)
            .filter(|(a, b)| **a * **b > 0.0)
            .count();
        assert!(common < 100, "{common} of 625");
        assert!(is_recomputed(&sent(&theirs), &vector(&ours), &sent(&ours)));
        let flipped: Vec<f32> = theirs.iter().enumerate().map(|(i, x)| if i % 50 == 0 { -x } else { *x }).collect();
        assert!(!is_recomputed(&sent(&flipped), &vector(&ours), &sent(&ours)), "one sign of fifty is wrong");
    }
}
