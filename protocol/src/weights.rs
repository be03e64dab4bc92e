//! From averages to the weights that a validator sets on the chain.

/// Weights in proportion to `average^power`: positive ones only, the largest at 65535, as (uid, weight).
///
/// At power 3 half of the work on two keys earns less than the whole on one.
pub fn weights(averages: &[(u16, f64)], power: f64) -> Vec<(u16, u16)> {
    let largest = averages.iter().map(|(_, a)| *a).filter(|a| a.is_finite()).fold(0.0, f64::max);
    if largest <= 0.0 {
        return Vec::new();
    }
    // Divided by the largest before the power: neither overflow nor underflow for it.
    let scale = |a: f64| ((a / largest).powf(power) * f64::from(u16::MAX)).round() as u16;
    let positive = averages.iter().filter(|(_, a)| a.is_finite() && *a > 0.0);
    positive.map(|(uid, a)| (*uid, scale(*a))).filter(|(_, w)| *w > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_full_and_zeros_are_left_out() {
        assert_eq!(weights(&[(3, 0.5), (1, 1.0), (2, 0.0), (4, -1.0)], 1.0), [(3, 32768), (1, 65535)]);
        assert_eq!(weights(&[(1, 0.0)], 3.0), []);
        assert_eq!(weights(&[], 3.0), []);
        assert_eq!(weights(&[(1, f64::NAN), (2, f64::INFINITY), (3, 1e-300)], 3.0), [(3, 65535)]);
    }

    #[test]
    fn half_of_the_work_on_two_keys_does_not_pay() {
        let w = weights(&[(0, 1.0), (1, 0.5), (2, 0.5)], 3.0);
        assert!(u32::from(w[1].1) + u32::from(w[2].1) < u32::from(w[0].1) / 3);
    }
}
