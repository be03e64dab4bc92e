//! The engine on a GPU: the same calls, computed with candle's tensors.
//!
//! Parameters and moments stay on the device while a window is trained; what goes in and comes out, and what is kept between
//! windows, is the same as on the CPU. Everything runs on any candle device, so the tests hold it against the engine's own
//! kernels without a GPU.
//!
//! Scores are computed in f32, products included: TF32 is off. Training may round the factors of its products to bf16
//! ([`Precision`]).

pub mod graph;
mod optimizer;
pub mod pass;
mod place;

#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use bistro_protocol::tensors::{Tensor as Named, Tensors};
use candle_core::{DType, Tensor};

use self::{
    graph::Graph,
    pass::{Leaves, Units},
};
pub use self::{
    optimizer::Training,
    place::{Choice, Place, Precision},
};
use super::{Config, Error};

/// Longest sequences: attention holds a number for each pair of tokens.
const LONGEST: usize = 1 << 14;

/// A model on a device. It holds no parameters: those come with every call.
pub struct Backend {
    place: Place,
    graph: Graph,
    units: Units,
}

impl Backend {
    /// For sequences of `positions` tokens. [`Error::Device`] where they are too long, or the device fails.
    pub fn new(place: &Place, config: &Config, positions: usize) -> Result<Arc<Self>, Error> {
        Self::with(place, config, positions, Units::new(config, positions))
    }

    fn with(place: &Place, config: &Config, positions: usize, units: Units) -> Result<Arc<Self>, Error> {
        if positions > LONGEST {
            let reason = format!("sequences have {positions} tokens, which is above {LONGEST}: set BISTRO_DEVICE=cpu");
            return Err(Error::Device { device: place.to_string(), reason });
        }
        let graph = Graph::new(config.clone(), positions, DType::F32, place.device());
        let graph = graph.map_err(|e| place.fault(&e))?;
        Ok(Arc::new(Self { place: place.clone(), graph, units }))
    }

    /// Mean loss in nats per token over all sequences.
    pub fn loss(&self, parameters: &Tensors, sequences: &[Vec<u32>]) -> Result<f64, Error> {
        let device = self.place.device();
        let sums = pass::upload_all(parameters, DType::F32, device)
            .and_then(|p| pass::losses(&self.graph, &p, sequences, self.units, device))
            .and_then(|sums| total(&sums));
        let mean = sums.map_err(|e| self.place.fault(&e))? / tokens(sequences);
        if mean.is_finite() {
            return Ok(mean);
        }
        check_finite("parameter", parameters)?;
        Err(Error::Loss)
    }

    /// Logits (n,V) after each of the n `tokens`.
    pub fn logits(&self, parameters: &Tensors, tokens: &[u32], positions: usize) -> Result<Vec<f32>, Error> {
        let device = self.place.device();
        // No token sees those after it: what fills the sequence up does not matter.
        let mut sequence = tokens.to_vec();
        sequence.resize(positions, 0);
        pass::upload_all(parameters, DType::F32, device)
            .and_then(|p| pass::logits(&self.graph, &p, &sequence, device))
            .and_then(|logits| logits.narrow(0, 0, tokens.len())?.flatten_all()?.to_vec1())
            .map_err(|e| self.place.fault(&e))
    }

    /// Mean loss as [`Backend::loss`] and its gradient.
    pub fn gradient(&self, parameters: &Tensors, sequences: &[Vec<u32>]) -> Result<(f64, Tensors), Error> {
        let device = self.place.device();
        let count = tokens(sequences);
        let computed = Leaves::new(parameters, DType::F32, device).and_then(|leaves| {
            let (sums, gradient) = pass::gradient(&self.graph, &leaves, sequences, 1.0 / count, self.units, device)?;
            Ok((total(&sums)?, download(leaves.names(), &gradient)?))
        });
        let (sum, gradient) = computed.map_err(|e| self.place.fault(&e))?;
        let gradient = Tensors::new(gradient)?;
        let (loss, squares) = (sum / count, gradient.norm());
        if loss.is_finite() && squares.is_finite() {
            return Ok((loss, gradient));
        }
        check_finite("parameter", parameters)?;
        check_finite("gradient", &gradient)?;
        Err(Error::Loss)
    }
}

/// Sum of scalars; reading them waits for the device.
fn total(sums: &[Tensor]) -> candle_core::Result<f64> {
    let sums: Vec<f64> =
        Tensor::stack(sums, 0)?.to_dtype(DType::F32)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
    Ok(sums.iter().sum())
}

/// Copies tensors from the device.
fn download(names: &[String], tensors: &[Tensor]) -> candle_core::Result<Vec<Named>> {
    let named = |(name, tensor): (&String, &Tensor)| {
        let data = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        Ok(Named { name: name.clone(), shape: tensor.dims().to_vec(), data })
    };
    names.iter().zip(tensors).map(named).collect()
}

fn check_finite(what: &'static str, tensors: &Tensors) -> Result<(), Error> {
    match tensors.iter().find(|t| !t.data.iter().all(|x| x.is_finite())) {
        Some(tensor) => Err(Error::NotFinite { what, tensor: tensor.name.clone() }),
        None => Ok(()),
    }
}

fn tokens(sequences: &[Vec<u32>]) -> f64 {
    // Below 2^53: exact.
    sequences.iter().map(|s| s.len() - 1).sum::<usize>() as f64
}
