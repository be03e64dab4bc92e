//! The first base of a run, out of a seed: the same bits on every machine.
//!
//! Box-Muller would need a logarithm and a cosine, which differ between machines. A sum of twelve uniform
//! draws has variance 1 and is close enough to a normal distribution (Irwin-Hall); twelve integers of 24 bits
//! add up exactly, and the only rounding is the one conversion and product per entry.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{
    seed,
    tensors::{Tensor, Tensors, TensorsError},
};

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every entry is this value.
    Constant(f32),
    /// Mean 0 and this standard deviation.
    Normal(f32),
}

/// Name, shape and first values of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

/// Draws all tensors; each has a generator of its own, so their order does not matter.
pub fn initial(seed_number: u64, specs: &[TensorSpec]) -> Result<Tensors, TensorsError> {
    let tensors = specs.iter().map(|spec| Tensor {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        data: entries(seed_number, spec),
    });
    Tensors::new(tensors.collect())
}

fn entries(seed_number: u64, spec: &TensorSpec) -> Vec<f32> {
    let length = spec.shape.iter().product();
    match spec.init {
        Init::Constant(value) => vec![value; length],
        Init::Normal(deviation) => {
            let mut rng = ChaCha20Rng::from_seed(seed::init(seed_number, &spec.name));
            (0..length).map(|_| standard_normal(&mut rng) * deviation).collect()
        }
    }
}

/// Twelve draws of 24 bits, centred: (sum - 6 * 2^24) / 2^24.
fn standard_normal(rng: &mut ChaCha20Rng) -> f32 {
    const ONE: i64 = 1 << 24;
    let sum: i64 = (0..12).map(|_| i64::from(rng.next_u32() >> 8)).sum();
    // The draws are 0..2^24 with mean (2^24 - 1) / 2: twelve of them are centred at 6 * 2^24 - 6.
    (sum - 6 * ONE + 6) as f32 / ONE as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, init: Init) -> TensorSpec {
        TensorSpec { name: name.into(), shape: vec![300, 100], init }
    }

    #[test]
    fn mean_and_deviation_are_as_asked() {
        let tensors = initial(42, &[spec("w", Init::Normal(0.02))]).expect("valid");
        let data = &tensors.get("w").expect("drawn").data;
        let n = data.len() as f64;
        let mean = data.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let deviation = (data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n - mean * mean).sqrt();
        assert!(mean.abs() < 4.0 * 0.02 / n.sqrt(), "mean {mean}");
        assert!((deviation / 0.02 - 1.0).abs() < 0.02, "deviation {deviation}");
    }

    #[test]
    fn each_tensor_and_each_seed_differ_and_order_does_not_matter() {
        let (a, b) = (spec("a", Init::Normal(1.0)), spec("b", Init::Normal(1.0)));
        let ab = initial(1, &[a.clone(), b.clone()]).expect("valid");
        assert_eq!(ab, initial(1, &[b, a]).expect("valid"));
        assert_ne!(ab.get("a").expect("a").data, ab.get("b").expect("b").data);
        assert_ne!(
            ab.digest(),
            initial(2, &[spec("a", Init::Normal(1.0)), spec("b", Init::Normal(1.0))]).expect("valid").digest()
        );
    }

    /// Two nodes must agree on this for ever.
    #[test]
    fn the_values_are_pinned() {
        let tensors =
            initial(42, &[TensorSpec { name: "w".into(), shape: vec![4], init: Init::Normal(1.0) }]).expect("valid");
        let bits: Vec<String> =
            tensors.get("w").expect("drawn").data.iter().map(|x| format!("{:08x}", x.to_bits())).collect();
        assert_eq!(bits.join(" "), "bf73fa5d 3e06abe0 bed44a8a 3e27c750");
    }
}
