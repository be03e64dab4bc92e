//! Local training: the inner steps of one miner in one window.

use bistro_api::run::{InnerOptimizer, Training};
use bistro_protocol::tensors::Tensors;
use tokio_util::sync::CancellationToken;

use super::{Engine, Error, Optimizer, Recipe, ops::math, optimizer::Moments};

/// What one window asks for.
pub struct Work<'a> {
    /// Where training starts.
    pub base: &'a Tensors,
    /// innerSteps batches of batchSequences sequences, in the order of training.
    pub sequences: &'a [Vec<u32>],
    /// The settings of the run.
    pub training: &'a Training,
    /// Windows of the run before this one; decides the warmup.
    pub windows: u64,
}

/// One inner step, as it is reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// 1..=innerSteps.
    pub number: u32,
    /// Mean loss of its batch before the step, in nats per token.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The local parameters.
    pub parameters: Tensors,
    /// Mean of the losses of all steps, in nats per token.
    pub loss: f64,
    /// Tokens trained on.
    pub tokens: u64,
}

impl Engine {
    /// AdamW from the base over all sequences. Moments go on from `optimizer`, or from zero where the run
    /// says `innerOptimizer: fresh`; it changes only if training comes to its end. `cancelled` is looked at
    /// before every step.
    pub fn train(
        &mut self,
        work: &Work<'_>,
        optimizer: &mut Optimizer,
        cancelled: &CancellationToken,
        mut progress: impl FnMut(Step),
    ) -> Result<Trained, Error> {
        let Training { batch_sequences, inner_steps, inner_optimizer, .. } = work.training;
        let recipe = Recipe::new(work.training)?;
        let batch = *batch_sequences as usize;
        let wanted = batch.saturating_mul(*inner_steps as usize);
        if batch == 0 || work.sequences.len() != wanted {
            return Err(Error::Sequences { found: work.sequences.len(), wanted });
        }
        self.check_sequences(work.sequences)?;
        let mut moments = match inner_optimizer {
            InnerOptimizer::Kept => self.moments(optimizer)?,
            InnerOptimizer::Fresh => self.moments(&Optimizer::fresh())?,
        };
        self.model.layout().flatten(work.base, &mut self.parameters)?;
        let learning_rate = recipe.learning_rate(work.windows);
        let mut losses = 0.0;
        for (number, sequences) in (1..).zip(work.sequences.chunks_exact(batch)) {
            if cancelled.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let loss = self.flat_gradient(sequences)?;
            let gradient_norm = math::sum_of_squares(&self.gradient).sqrt();
            let factor = recipe.clip_factor(gradient_norm);
            moments.step(&recipe, learning_rate, &mut self.parameters, &self.gradient, factor);
            losses += loss;
            progress(Step { number, loss, gradient_norm });
        }
        let layout = self.model.layout();
        layout.check_finite("parameter", &self.parameters)?;
        let parameters = layout.tensors(&self.parameters)?;
        let Moments { m, v, t } = moments;
        *optimizer = Optimizer { m: layout.tensors(&m)?, v: layout.tensors(&v)?, t };
        let tokens = (work.sequences.len() * self.positions) as u64;
        Ok(Trained { parameters, loss: losses / f64::from(*inner_steps), tokens })
    }

    fn moments(&self, optimizer: &Optimizer) -> Result<Moments, Error> {
        let (mut m, mut v) = (Vec::new(), Vec::new());
        let layout = self.model.layout();
        for (tensors, flat) in [(&optimizer.m, &mut m), (&optimizer.v, &mut v)] {
            if optimizer.t == 0 {
                flat.resize(layout.length(), 0.0);
            } else {
                layout.flatten(tensors, flat)?;
            }
        }
        Ok(Moments { m, v, t: optimizer.t })
    }
}
