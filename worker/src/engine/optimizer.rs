//! AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) with a state that survives restarts.
//!
//! m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
//! p = p (1 - lr wd) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).
//! The decay acts on all tensors alike, norms and embeddings included.

use bistro_api::{decimal::Decimal, run::Training};
use bistro_protocol::{
    tensor_file::{self, Unreadable},
    tensors::{self, Tensor, Tensors, TensorsError},
};

use super::{Error, buffer::Buffer, ops::math::simd, team::Team};

/// Added to the root of the second moment.
pub(super) const EPSILON: f32 = 1e-8;
/// Key of the file's metadata: step count and digest, separated by a blank.
const METADATA: &str = "bistro.optimizer";

/// The settings of the inner optimizer, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    learning_rate: f64,
    betas: [f64; 2],
    weight_decay: f64,
    clip: f64,
    warmup_windows: u32,
}

impl Recipe {
    /// Reads the settings of a run. [`Error::Training`] names the field that makes no sense.
    pub fn new(training: &Training) -> Result<Self, Error> {
        let [beta1, beta2] = training.betas.as_slice() else {
            let found = format!("{} numbers", training.betas.len());
            return Err(Error::Training { field: "betas", found, remedy: "must be two numbers" });
        };
        let positive = |x: f64| x > 0.0;
        // The steps are computed in f32, where 0.99999999 is 1.
        let share = |x: f64| (0.0..1.0).contains(&(x as f32));
        Ok(Self {
            learning_rate: checked("learningRate", &training.learning_rate, positive, "must be above 0")?,
            betas: [
                checked("betas[0]", beta1, share, "must be at least 0 and at most 0.9999999")?,
                checked("betas[1]", beta2, share, "must be at least 0 and at most 0.9999999")?,
            ],
            weight_decay: checked("weightDecay", &training.weight_decay, |x| x >= 0.0, "must be at least 0")?,
            clip: checked("gradientClip", &training.gradient_clip, positive, "must be above 0")?,
            warmup_windows: training.warmup_windows,
        })
    }

    /// Step size in a window that has `windows` windows of its run before it: during the warmup of n
    /// windows 1/n, 2/n, ... of the learning rate, so that even the first window learns.
    pub fn learning_rate(&self, windows: u64) -> f64 {
        let warmup = u64::from(self.warmup_windows);
        if windows >= warmup {
            return self.learning_rate;
        }
        self.learning_rate * (windows + 1) as f64 / warmup as f64
    }

    /// What a gradient of this norm is multiplied with so that it does not exceed the clip.
    pub(super) fn clip_factor(&self, norm: f64) -> f32 {
        if norm > self.clip { (self.clip / norm) as f32 } else { 1.0 }
    }

    /// Of step `t`, from 1 on. `factor` scales the gradient first; `learning_rate` as [`Recipe::learning_rate`] gives it.
    pub(super) fn coefficients(&self, learning_rate: f64, t: u64, factor: f32) -> Coefficients {
        let [bias1, bias2] = self.betas.map(|beta| 1.0 - power(beta, t));
        let [b1, b2] = self.betas.map(|beta| beta as f32);
        Coefficients {
            b1,
            b2,
            c1: 1.0 - b1,
            c2: 1.0 - b2,
            keep: (1.0 - learning_rate * self.weight_decay) as f32,
            size: (learning_rate / bias1) as f32,
            root: (1.0 / bias2.sqrt()) as f32,
            factor,
        }
    }
}

fn checked(
    field: &'static str,
    decimal: &Decimal,
    ok: impl Fn(f64) -> bool,
    remedy: &'static str,
) -> Result<f64, Error> {
    let value = decimal.value();
    let fits = value.is_finite() && ok(value);
    fits.then_some(value).ok_or_else(|| Error::Training { field, found: decimal.to_string(), remedy })
}

/// The moments of AdamW between two windows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Optimizer {
    /// First moment; empty before the first step.
    pub(super) m: Tensors,
    /// Second moment; empty before the first step.
    pub(super) v: Tensors,
    /// Steps done.
    pub(super) t: u64,
}

/// Why saved moments cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OptimizerError {
    /// Not a safetensors file.
    #[error("failed to read optimizer state: delete the file to start with fresh moments")]
    Unreadable(#[from] Unreadable),
    /// A safetensors file, but not with moments.
    #[error("optimizer state is malformed ({0}): delete the file to start with fresh moments")]
    Malformed(&'static str),
    /// The bytes are not those that were saved.
    #[error("optimizer state is corrupted (its digest differs): delete the file to start with fresh moments")]
    Corrupted,
    /// Tensors that do not form a set.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
}

impl Optimizer {
    /// No steps yet.
    pub fn fresh() -> Self {
        Self::default()
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.t
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::fresh();
    }

    /// A safetensors file with tensors `m.<name>` and `v.<name>`, step count and digest in its metadata.
    pub fn into_bytes(self) -> Result<Vec<u8>, OptimizerError> {
        let note = format!("{} {}", self.t, self.digest());
        let named = |prefix: char, t: Tensor| Tensor { name: format!("{prefix}.{}", t.name), ..t };
        let (m, v) = (self.m.into_iter().map(|t| named('m', t)), self.v.into_iter().map(|t| named('v', t)));
        let tensors = Tensors::new(m.chain(v).collect())?;
        Ok(tensor_file::write(&[(METADATA, note)], &tensors))
    }

    /// Reads what [`Optimizer::into_bytes`] wrote; every changed bit is noticed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OptimizerError> {
        let malformed = OptimizerError::Malformed;
        let (fields, tensors) = tensor_file::read(bytes)?;
        let (_, note) = fields.iter().find(|(key, _)| key == METADATA).ok_or(malformed("no metadata"))?;
        let (t, digest) = note.split_once(' ').ok_or(malformed("metadata"))?;
        let (mut m, mut v) = (Vec::new(), Vec::new());
        for mut tensor in tensors {
            let (moment, name) = match tensor.name.split_once('.') {
                Some(("m", name)) => (&mut m, name),
                Some(("v", name)) => (&mut v, name),
                _ => return Err(malformed("a tensor is neither m nor v")),
            };
            tensor.name = name.to_owned();
            moment.push(tensor);
        }
        let t = t.parse().map_err(|_| malformed("step count"))?;
        let state = Self { m: Tensors::new(m)?, v: Tensors::new(v)?, t };
        if state.digest() != digest {
            return Err(OptimizerError::Corrupted);
        }
        Ok(state)
    }

    /// Over step count and moments, in hex.
    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.t.to_le_bytes());
        hasher.update(&tensors::digest(&[&self.m, &self.v]));
        hasher.finalize().to_hex().to_string()
    }
}

/// The moments while training, flat as the parameters.
pub(super) struct Moments {
    pub m: Buffer,
    pub v: Buffer,
    pub t: u64,
}

impl Moments {
    /// One step on `parameters`; `learning_rate` and `factor` as for [`Recipe::coefficients`].
    pub fn step(
        &mut self,
        team: Team,
        recipe: &Recipe,
        learning_rate: f64,
        parameters: &mut [f32],
        gradient: &[f32],
        factor: f32,
    ) {
        self.t += 1;
        let coefficients = recipe.coefficients(learning_rate, self.t, factor);
        team.zip((parameters, &mut self.m, &mut self.v), gradient, |p, m, v, g| adamw(p, m, v, g, &coefficients));
    }
}

/// The numbers of one step that are the same for every entry.
pub(super) struct Coefficients {
    pub b1: f32,
    pub b2: f32,
    /// 1 - b1
    pub c1: f32,
    /// 1 - b2
    pub c2: f32,
    /// 1 - lr wd
    pub keep: f32,
    /// lr / (1 - b1^t)
    pub size: f32,
    /// 1 / sqrt(1 - b2^t)
    pub root: f32,
    /// Of the gradient, for clipping.
    pub factor: f32,
}

simd! {
    fn adamw(parameters: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32], c: &Coefficients) {
        for ((p, g), (m, v)) in parameters.iter_mut().zip(gradient).zip(m.iter_mut().zip(v)) {
            let g = g * c.factor;
            *m = c.b1.mul_add(*m, c.c1 * g);
            *v = c.b2.mul_add(*v, c.c2 * g * g);
            *p = p.mul_add(c.keep, -(c.size * *m / v.sqrt().mul_add(c.root, EPSILON)));
        }
    }
}

/// beta^t by repeated multiplication, as everywhere in the protocol; stops where 1 - beta^t is 1 anyway.
fn power(beta: f64, t: u64) -> f64 {
    let mut product = 1.0;
    for _ in 0..t {
        product *= beta;
        if product < 1e-20 {
            return 0.0;
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Optimizer {
        let tensors = |x: f32| {
            let t = |name: &str, data: Vec<f32>| Tensor { name: name.into(), shape: vec![data.len()], data };
            Tensors::new(vec![t("w.a", vec![x, -x]), t("b", vec![0.5 * x])]).expect("valid")
        };
        Optimizer { m: tensors(1.0), v: tensors(f32::MIN_POSITIVE / 4.0), t: 7 }
    }

    #[test]
    fn bytes_bring_back_the_same_bits() {
        for state in [state(), Optimizer::fresh()] {
            let bytes = state.clone().into_bytes().expect("serialises");
            assert_eq!(Optimizer::from_bytes(&bytes).expect("reads"), state);
            assert_eq!(bytes, state.into_bytes().expect("serialises"));
        }
    }

    #[test]
    fn every_corrupted_byte_is_an_error() {
        let bytes = state().into_bytes().expect("serialises");
        for i in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[i] ^= 1;
            // A changed bit may only survive where it does not change the content (a blank of padding).
            if let Ok(read) = Optimizer::from_bytes(&wrong) {
                assert_eq!(read, state(), "byte {i}");
            }
            assert!(Optimizer::from_bytes(&bytes[..i]).is_err(), "cut at {i}");
        }
        let last = bytes.len() - 1;
        let mut wrong = bytes.clone();
        wrong[last] ^= 0x80;
        assert!(matches!(Optimizer::from_bytes(&wrong), Err(OptimizerError::Corrupted)));
    }

    fn training(change: impl Fn(&mut serde_json::Value)) -> Result<Recipe, Error> {
        let mut value = serde_json::json!({"learningRate": "1e-2", "batchSequences": 1, "innerSteps": 1});
        change(&mut value);
        Recipe::new(&serde_json::from_value(value).expect("well formed"))
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let wrong = [("learningRate", "0"), ("weightDecay", "-0.1"), ("gradientClip", "0.0")];
        for (field, text) in wrong {
            let error = training(|v| v[field] = text.into()).expect_err(field).to_string();
            assert!(error.starts_with(&format!("training.{field} is {text}: ")), "{error}");
        }
        let error = training(|v| v["betas"] = vec!["0.9", "1.0"].into()).expect_err("no moment").to_string();
        assert_eq!(error, "training.betas[1] is 1.0: must be at least 0 and at most 0.9999999");
    }

    #[test]
    fn warmup_rises_by_window() {
        let recipe = training(|v| v["warmupWindows"] = 4.into()).expect("valid");
        let rates: Vec<f64> = (0..6).map(|w| recipe.learning_rate(w)).collect();
        assert_eq!(rates, [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]);
    }

    /// Two steps by hand, with b1 = 0.5, b2 = 0.75: t = 1 moves by lr * sign, whatever the gradient's size.
    #[test]
    fn adamw_by_hand() {
        let recipe = training(|v| {
            v["betas"] = vec!["0.5", "0.75"].into();
            v["weightDecay"] = "0.1".into();
        });
        let mut moments = Moments { m: Buffer::default(), v: Buffer::default(), t: 0 };
        [&mut moments.m, &mut moments.v].into_iter().for_each(|moment| moment.resize(1));
        let (recipe, mut p) = (recipe.expect("valid"), vec![1.0f32]);
        moments.step(Team::Alone, &recipe, 0.01, &mut p, &[4.0], 0.5);
        assert!((p[0] - (1.0 * (1.0 - 0.001) - 0.01)).abs() < 1e-6, "{}", p[0]);
        moments.step(Team::Alone, &recipe, 0.01, &mut p, &[-1.0], 1.0);
        // m = 0.5 * 1 + 0.5 * -1 = 0: only the decay acts.
        assert!((p[0] - 0.989 * 0.999).abs() < 1e-6, "{}", p[0]);
        assert_eq!((moments.v[0], moments.t), (0.75 * 1.0 + 0.25, 2));
    }
}
