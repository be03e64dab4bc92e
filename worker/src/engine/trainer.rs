//! Local training: the inner steps of one miner in one window.

use bistro_api::run::{InnerOptimizer, Training};
use bistro_protocol::tensors::Tensors;
use tokio_util::sync::CancellationToken;

use super::{Engine, Error, Optimizer, Recipe, buffer::Buffer, device, optimizer::Moments, within};

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

/// Training that is under way: parameters and moments, which every step moves. Parameters, gradient
/// and moments are in memory once each.
pub struct Session<'a> {
    engine: &'a mut Engine,
    on: On,
}

/// Where parameters and moments are.
enum On {
    /// Here, and in the engine's buffers.
    Cpu { recipe: Recipe, learning_rate: f64, moments: Moments },
    /// On the engine's device.
    Device(Box<device::Training>),
}

impl<'a> Session<'a> {
    /// Before the first step of a window that has `windows` windows of its run before it. Moments go on from `optimizer`, or
    /// from zero where the run says `innerOptimizer: fresh`.
    pub fn new(
        engine: &'a mut Engine,
        base: &Tensors,
        optimizer: &Optimizer,
        training: &Training,
        windows: u64,
    ) -> Result<Self, Error> {
        let recipe = Recipe::new(training)?;
        let learning_rate = recipe.learning_rate(windows);
        let fresh = Optimizer::fresh();
        let optimizer = match training.inner_optimizer {
            InnerOptimizer::Kept => optimizer,
            InnerOptimizer::Fresh => &fresh,
        };
        if let Some(device) = engine.device.clone() {
            engine.check_fits(base, optimizer)?;
            let recipe = (recipe, learning_rate);
            let training = device::Training::new(device, base, optimizer, recipe, training.inner_optimizer)?;
            return Ok(Self { engine, on: On::Device(Box::new(training)) });
        }
        let moments = engine.moments(optimizer)?;
        engine.model.layout().flatten(base, &mut engine.parameters)?;
        Ok(Self { engine, on: On::Cpu { recipe, learning_rate, moments } })
    }

    /// One step on a batch. Gives the mean loss before it, in nats per token, and the norm of the gradient before clipping.
    pub fn step(&mut self, sequences: &[Vec<u32>]) -> Result<(f64, f64), Error> {
        self.engine.check_sequences(sequences)?;
        let (recipe, learning_rate, moments) = match &mut self.on {
            On::Cpu { recipe, learning_rate, moments } => (recipe, *learning_rate, moments),
            On::Device(training) => return training.step(sequences),
        };
        let (loss, squares) = self.engine.flat_gradient(sequences)?;
        let (norm, team) = (squares.sqrt(), self.engine.flat_team());
        let Engine { pool, parameters, gradient, .. } = &mut *self.engine;
        let factor = recipe.clip_factor(norm);
        within(pool.as_ref(), || {
            moments.step(team, recipe, learning_rate, parameters, gradient, factor);
        });
        Ok((loss, norm))
    }

    /// The local parameters and the moments.
    pub fn finish(self) -> Result<(Tensors, Optimizer), Error> {
        let Moments { m, v, t } = match self.on {
            On::Cpu { moments, .. } => moments,
            On::Device(training) => return training.finish(),
        };
        let layout = self.engine.model.layout();
        layout.check_finite("parameter", &self.engine.parameters)?;
        // One after the other, so that there is never more than one of them twice.
        let [m, v] = [m, v].map(|flat| layout.tensors(&flat));
        Ok((layout.tensors(&self.engine.parameters)?, Optimizer { m: m?, v: v?, t }))
    }
}

impl Engine {
    /// AdamW from the base over all sequences, as [`Session`] does it. `optimizer` changes only if training comes to its end.
    /// `cancelled` is looked at before every step.
    pub fn train(
        &mut self,
        work: &Work<'_>,
        optimizer: &mut Optimizer,
        cancelled: &CancellationToken,
        mut progress: impl FnMut(Step),
    ) -> Result<Trained, Error> {
        let Training { batch_sequences, inner_steps, .. } = work.training;
        let batch = *batch_sequences as usize;
        let wanted = batch.saturating_mul(*inner_steps as usize);
        let tokens = (work.sequences.len() * self.positions) as u64;
        let mut session = Session::new(self, work.base, optimizer, work.training, work.windows)?;
        if batch == 0 || work.sequences.len() != wanted {
            return Err(Error::Sequences { found: work.sequences.len(), wanted });
        }
        session.engine.check_sequences(work.sequences)?;
        let mut losses = 0.0;
        for (number, sequences) in (1..).zip(work.sequences.chunks_exact(batch)) {
            if cancelled.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let (loss, gradient_norm) = session.step(sequences)?;
            losses += loss;
            progress(Step { number, loss, gradient_norm });
        }
        let (parameters, moments) = session.finish()?;
        *optimizer = moments;
        Ok(Trained { parameters, loss: losses / f64::from(*inner_steps), tokens })
    }

    fn check_fits(&self, base: &Tensors, optimizer: &Optimizer) -> Result<(), Error> {
        let moments = [&optimizer.m, &optimizer.v].into_iter().filter(|_| optimizer.t > 0);
        [base].into_iter().chain(moments).try_for_each(|tensors| self.model.layout().check(tensors))
    }

    fn moments(&self, optimizer: &Optimizer) -> Result<Moments, Error> {
        let (mut m, mut v) = (Buffer::default(), Buffer::default());
        let layout = self.model.layout();
        for (tensors, flat) in [(&optimizer.m, &mut m), (&optimizer.v, &mut v)] {
            if optimizer.t == 0 {
                flat.resize(layout.length());
            } else {
                layout.flatten(tensors, flat)?;
            }
        }
        Ok(Moments { m, v, t: optimizer.t })
    }
}
