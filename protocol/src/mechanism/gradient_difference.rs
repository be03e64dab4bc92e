//! `gradientDifference`: miners publish a slice of the mean gradient at the base on their own pages, and every node
//! takes the same step of AdamW with what was merged.
//!
//! ```text
//! err = |g - g'| / |g'|        raw = max(0, 1 - err / tolerance)
//! ```
//!
//! with g as published and g' as the validator recomputes it on the same pages, on the slice. A plain `1 - err` pays
//! a copy half of an honest income in the first windows, where all gradients are alike; an error of the tolerance
//! pays nothing, rounding (bf16: 0.005 to 0.015) almost everything.
//!
//! The outer step is lazy: moments, step counter and weight decay of an entry change when it is published, and only
//! then. A step of one window in `sliceRatio` has to be larger: the rate is multiplied by `min(sliceRatio, 30)`.

use bistro_api::{mechanism::GradientDifference, run::Training};

use super::products;
use crate::{
    base::{Base, STATE},
    slice::Slice,
    tensors::{Tensor, Tensors},
};

/// Largest factor on the learning rate that slices are made up for with.
pub const LARGEST_GAIN: u32 = 30;
/// Added to the root of the second moment.
const EPSILON: f32 = 1e-8;
/// The parts of the state: first and second moment, and the steps of each entry.
const PARTS: [char; 3] = ['m', 't', 'v'];

/// Parameters before the first step: all moments and counters zero.
pub fn first_base(parameters: Tensors) -> Base {
    let zeros = |part: char| {
        let zeros = move |t: &Tensor| Tensor {
            name: state_name(part, &t.name),
            shape: t.shape.clone(),
            data: vec![0.0; t.data.len()],
        };
        parameters.iter().map(zeros)
    };
    let state = Tensors::new(PARTS.into_iter().flat_map(zeros).collect()).expect("names stay unique");
    Base { parameters, state }
}

/// Names and shapes of the state, in name order.
pub fn state_shape(parameters: &[(String, Vec<usize>)]) -> Vec<(String, Vec<usize>)> {
    let of = |part| parameters.iter().map(move |(name, shape)| (state_name(part, name), shape.clone()));
    PARTS.into_iter().flat_map(of).collect()
}

fn state_name(part: char, name: &str) -> String {
    format!("{STATE}{part}.{name}")
}

/// One step of AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) at the published entries:
///
/// ```text
/// t += 1   m = b1 m + (1 - b1) g   v = b2 v + (1 - b2) g^2
/// p = p (1 - rate wd) - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + 1e-8)
/// ```
///
/// All in f32 in this order; powers by repeated multiplication. `factor` multiplies `training.learningRate`, which
/// rises over `warmupWindows`. A counter stops at 2^24, where f32 no longer counts; by then both powers are zero.
pub fn outer_step(base: &mut Base, slice: &Slice, merged: &Tensors, training: &Training, factor: f32, windows: u64) {
    let rate = factor * learning_rate(training, windows);
    let betas = [0, 1].map(|i| training.betas.get(i).map_or(0.0, |beta| beta.value_f32()));
    let shrink = 1.0 - rate * training.weight_decay.value_f32();
    let mut powers = betas.map(Powers::new);
    let names: Vec<String> = base.parameters.iter().map(|t| t.name.clone()).collect();
    let (parameters, mut state) = base.state_mut();
    for (number, ((name, data), gradient)) in names.iter().zip(parameters.data_mut()).zip(merged).enumerate() {
        let mut part = |part: char| state.remove(&state_name(part, name)).expect("made with the parameters");
        let (m, t, v) = (part('m'), part('t'), part('v'));
        slice.each(number, gradient, |i, g| {
            t[i] += 1.0;
            let [m_left, v_left] = [0, 1].map(|k: usize| 1.0 - powers[k].of(t[i]));
            m[i] = betas[0] * m[i] + (1.0 - betas[0]) * g;
            v[i] = betas[1] * v[i] + (1.0 - betas[1]) * (g * g);
            let step = (m[i] / m_left) / ((v[i] / v_left).sqrt() + EPSILON);
            data[i] = data[i] * shrink - rate * step;
        });
    }
}

/// The rate of a window: during a warmup of n windows 1/n, 2/n, ... of the run's.
fn learning_rate(training: &Training, windows: u64) -> f32 {
    let rate = training.learning_rate.value_f32();
    let warmup = u64::from(training.warmup_windows);
    if windows >= warmup { rate } else { rate * (windows + 1) as f32 / warmup as f32 }
}

/// Powers of one number by repeated multiplication, each computed once.
struct Powers {
    beta: f32,
    known: Vec<f32>,
}

impl Powers {
    /// Powers of a number below 1 are zero from here on: beta^t underflows long before.
    const LAST: usize = 1 << 16;

    fn new(beta: f32) -> Self {
        Self { beta, known: vec![1.0] }
    }

    /// `beta^t` for a whole `t`.
    fn of(&mut self, t: f32) -> f32 {
        let t = (t as usize).min(Self::LAST);
        while self.known.len() <= t {
            let last = self.known[self.known.len() - 1];
            self.known.push(last * self.beta);
        }
        self.known[t]
    }
}

/// Relative error of a published gradient; infinite against one that is zero or not finite.
pub fn relative_error(published: &Tensors, recomputed: &Tensors) -> f64 {
    let difference = published.minus(recomputed);
    let sums = products(&difference, &[recomputed])[0];
    let error = (sums.aa / sums.bb).sqrt();
    if error.is_finite() { error } else { f64::INFINITY }
}

/// Raw score of one miner: 1 for an exact gradient, 0 for an error of the tolerance and more.
pub fn raw_score(published: &Tensors, recomputed: &Tensors, settings: &GradientDifference) -> f64 {
    let score = 1.0 - relative_error(published, recomputed) / settings.tolerance.value();
    if score.is_finite() { score.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slice::SliceOf;

    fn vector(data: &[f32]) -> Tensors {
        Tensors::new(vec![Tensor { name: "w".into(), shape: vec![data.len()], data: data.into() }]).expect("valid")
    }

    fn settings(ratio: u32) -> GradientDifference {
        serde_json::from_value(serde_json::json!({ "sliceRatio": ratio })).expect("valid")
    }

    fn training() -> Training {
        serde_json::from_value(serde_json::json!({
            "learningRate": "3e-3", "batchSequences": 1, "innerSteps": 1, "warmupWindows": 4
        }))
        .expect("valid")
    }

    fn slice(ratio: u32, window: u64, schema: &Tensors) -> Slice {
        Slice::derive(SliceOf { netuid: 1, run: 1, window, reveal: &[1; 32], ratio }, schema)
    }

    #[test]
    fn only_an_exact_gradient_earns() {
        let exact = vector(&[3.0, -4.0, 0.0]);
        let score = |g: &[f32]| raw_score(&vector(g), &exact, &settings(1));
        assert_eq!(score(&[3.0, -4.0, 0.0]), 1.0);
        assert!((score(&[3.0, -4.0, 0.1]) - 0.9).abs() < 1e-6, "an error of 0.02 costs a tenth");
        for worthless in [[3.0, -4.0, 1.0], [0.0; 3], [-3.0, 4.0, 0.0], [3000.0, -4000.0, 0.0], [f32::MAX, 0.0, 0.0]] {
            assert_eq!(score(&worthless), 0.0, "{worthless:?}");
        }
        assert_eq!(raw_score(&exact, &exact.zeros_like(), &settings(1)), 0.0, "nothing to compare with");
        assert_eq!(raw_score(&exact.zeros_like(), &exact.zeros_like(), &settings(1)), 0.0);
    }

    /// Against AdamW in f64, step by step, with a warmup of four windows.
    #[test]
    fn dense_steps_are_those_of_adamw() {
        let mut base = first_base(vector(&[0.5, -0.25, 1.0]));
        let training = training();
        let (mut p, mut m, mut v) = ([0.5f64, -0.25, 1.0], [0.0f64; 3], [0.0f64; 3]);
        for window in 0..10u64 {
            let gradient: Vec<f32> = (0..3).map(|i| ((window * 3 + i) as f32 * 0.7).sin()).collect();
            let slice = slice(1, window, &base.parameters);
            let merged = slice.gather(&vector(&gradient));
            outer_step(&mut base, &slice, &merged, &training, 1.0, window);
            let rate = 3e-3 * ((window + 1) as f64 / 4.0).min(1.0);
            for i in 0..3 {
                let (g, t) = (f64::from(gradient[i]), (window + 1) as i32);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let step = (m[i] / (1.0 - 0.9f64.powi(t))) / ((v[i] / (1.0 - 0.95f64.powi(t))).sqrt() + 1e-8);
                p[i] = p[i] * (1.0 - rate * 0.1) - rate * step;
            }
        }
        for (found, wanted) in base.parameters.tensor(0).data.iter().zip(p) {
            assert!((f64::from(*found) - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }

    #[test]
    fn an_entry_that_is_not_published_keeps_everything() {
        let before = first_base(vector(&[1.0; 8]));
        let mut base = before.clone();
        let slice = slice(4, 0, &base.parameters);
        let merged = slice.gather(&vector(&[1.0; 8]));
        outer_step(&mut base, &slice, &merged, &training(), 4.0, 9);
        let changed = |a: &Tensor, b: &Tensor| a.data.iter().zip(&b.data).filter(|(x, y)| x != y).count();
        assert_eq!(changed(base.parameters.tensor(0), before.parameters.tensor(0)), 2);
        for (after, before) in base.state.iter().zip(&before.state) {
            assert_eq!(changed(after, before), 2, "{}", after.name);
        }
        assert_ne!(base.digest(), before.digest());
    }

    #[test]
    fn the_shape_of_the_state_is_the_states() {
        let base = first_base(vector(&[0.0; 3]));
        assert_eq!(base.state.shape(), state_shape(&base.parameters.shape()));
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_bits_are_pinned() {
        let mut base = first_base(vector(&[0.5, -0.25, 1.0, 0.125]));
        for window in 0..3 {
            let slice = slice(2, window, &base.parameters);
            let merged = slice.gather(&vector(&[0.1, -0.2, 0.3, -0.4]));
            outer_step(&mut base, &slice, &merged, &training(), 2.0, window);
        }
        assert_eq!(hex::encode(base.digest()), "aef12751d7900e50ead506f6588930cb0104b79b543bf6ee9313191fdf8797bb");
    }
}
