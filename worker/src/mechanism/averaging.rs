//! How an averager of `lossReduction` weighs the work that it mixes.

use bistro_api::mechanism::{Averaging, Parameterized};
use bistro_protocol::{
    mechanism::loss_reduction::{share, step_weights},
    merge::{clip_factors, mix},
    slice::Slice,
    tensors::Tensors,
};
use tokio_util::sync::CancellationToken;

use super::loss_or_infinity;
use crate::engine::{Engine, Error};

/// The strategy where no work counts.
pub const NOTHING: &str = "none";

/// What is weighed, and on what.
pub struct Scales<'a> {
    /// The parameters before the window.
    pub base: &'a Tensors,
    /// The entries that miners published.
    pub slice: &'a Slice,
    /// The admitted work in uid order; at least one.
    pub works: &'a [&'a Tensors],
    /// The factor on what is mixed ([`bistro_protocol::mechanism::Mechanism::factor`]).
    pub factor: f32,
    /// Pages that the weights are learned on.
    pub tuning: &'a [Vec<u32>],
    /// Other pages, that the result is compared with the base on.
    pub check: &'a [Vec<u32>],
}

/// Weights that were found.
#[derive(Clone, Debug, Default)]
pub struct Mixed {
    /// Which strategy they come from; [`NOTHING`] where every one of them would have made the base worse.
    pub strategy: &'static str,
    /// For each work and tensor, as they stand in the manifest; none where all count alike.
    pub weights: Vec<f32>,
    /// The mixed work.
    pub merged: Tensors,
    /// Loss of the base on the check pages, in nats per token.
    pub before: f64,
    /// Loss of the new base on them.
    pub after: f64,
    /// Loss that each strategy that was tried reaches there, by name.
    pub strategies: Vec<(&'static str, f64)>,
}

/// Weighs by the run's strategy. Those that cost less are measured beside it: uniform, then by scores, then learned. Where
/// the run's would make the base worse, the best of them all counts; where all would, nothing does: all weights are 0.
pub fn weigh(
    engine: &mut Engine,
    averaging: &Averaging,
    scales: &Scales<'_>,
    cancelled: &CancellationToken,
) -> Result<Mixed, Error> {
    let before = engine.loss(scales.base, scales.check)?;
    let measured = |engine: &mut Engine, strategy, weights: Vec<f32>| {
        let loss = loss_or_infinity(engine, &scales.moved(&weights), scales.check)?;
        Ok::<_, Error>(Weighed { strategy, weights, loss })
    };
    let mut found = vec![measured(engine, "uniform", uniform(scales))?];
    if averaging.uniform.is_none() || found[0].loss > before {
        let weights = score_weighted(engine, scales, cancelled)?;
        found.push(measured(engine, "scoreWeighted", weights)?);
    }
    if let Some(settings) = &averaging.parameterized {
        let weights = parameterized(engine, settings, scales, cancelled)?;
        found.push(measured(engine, "parameterized", weights)?);
    }
    let strategies = found.iter().map(|f| (f.strategy, f.loss)).collect();
    let asked = if averaging.uniform.is_some() { 0 } else { found.len() - 1 };
    let mut taken = found.swap_remove(asked);
    if taken.loss > before {
        taken = found.into_iter().chain([taken]).min_by(|a, b| a.loss.total_cmp(&b.loss)).expect("one at least");
    }
    if taken.loss > before {
        taken = Weighed { strategy: NOTHING, weights: vec![0.0; taken.weights.len()], loss: before };
    }
    let merged = mix(scales.works, &taken.weights).expect("a weight for each work and tensor");
    Ok(Mixed { strategy: taken.strategy, weights: taken.weights, merged, before, after: taken.loss, strategies })
}

/// Weights and what they come to.
struct Weighed {
    strategy: &'static str,
    weights: Vec<f32>,
    loss: f64,
}

impl Scales<'_> {
    fn tensors(&self) -> usize {
        self.base.len()
    }

    /// The parameters that weights give.
    fn moved(&self, weights: &[f32]) -> Tensors {
        let mut moved = self.base.clone();
        let mixed = mix(self.works, weights).expect("a weight for each work and tensor");
        self.slice.scatter_add(&mut moved, &mixed, self.factor);
        moved
    }
}

fn uniform(scales: &Scales<'_>) -> Vec<f32> {
    vec![1.0 / scales.works.len() as f32; scales.works.len() * scales.tensors()]
}

/// By how much each alone, at the scale at which it is merged, lowers the loss; uniform where nobody does.
fn score_weighted(engine: &mut Engine, scales: &Scales<'_>, cancelled: &CancellationToken) -> Result<Vec<f32>, Error> {
    let before = engine.loss(scales.base, scales.tuning)?;
    let mut scores = Vec::new();
    for work in scales.works {
        if cancelled.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let mut with = scales.base.clone();
        scales.slice.scatter_add(&mut with, work, share(scales.factor, scales.works.len()));
        scores.push((before - loss_or_infinity(engine, &with, scales.tuning)?).max(0.0));
    }
    let sum: f64 = scores.iter().sum();
    if sum <= 0.0 {
        return Ok(uniform(scales));
    }
    Ok(scores.iter().flat_map(|score| vec![(score / sum) as f32; scales.tensors()]).collect())
}

/// Steps down the gradient of the loss with respect to the weights: for each work and tensor the product of the model's
/// gradient with what the work would add.
fn parameterized(
    engine: &mut Engine,
    settings: &Parameterized,
    scales: &Scales<'_>,
    cancelled: &CancellationToken,
) -> Result<Vec<f32>, Error> {
    let (mut weights, rate) = (uniform(scales), settings.rate.value_f32());
    let clips = clip_factors(scales.works).expect("at least one work");
    let batch = (settings.sequences as usize).clamp(1, scales.tuning.len());
    let mut order = scales.tuning.iter().cycle();
    for _ in 0..settings.steps {
        if cancelled.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let sequences: Vec<Vec<u32>> = order.by_ref().take(batch).cloned().collect();
        let model_gradient = match engine.gradient(&scales.moved(&weights), &sequences) {
            Ok((_, gradient)) => scales.slice.gather(&gradient),
            // Work that breaks the model where it is mixed in equally: there is nothing to learn from.
            Err(error) if error.is_not_finite() => return score_weighted(engine, scales, cancelled),
            Err(error) => return Err(error),
        };
        let gradient: Vec<f64> = scales
            .works
            .iter()
            .zip(&clips)
            .flat_map(|(work, clip)| {
                let products = work.iter().zip(&model_gradient).map(|(work, gradient)| {
                    let dot = |sum: f64, (x, g): (&f32, &f32)| sum + f64::from(*x) * f64::from(*g);
                    work.data.iter().zip(&gradient.data).fold(0.0, dot) * f64::from(clip * scales.factor)
                });
                products.collect::<Vec<_>>()
            })
            .collect();
        step_weights(&mut weights, &gradient, scales.tensors(), rate);
    }
    Ok(weights)
}
