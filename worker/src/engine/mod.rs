//! The training engine: gradients, losses and local training of a model, on the CPU or on a GPU ([`device`]).
//!
//! Forward and backward passes are written by hand over flat f32 buffers, each operation in one file under
//! [`ops`], the architecture in one file under [`model`]; candle's differentiable operations, which compute on GPUs
//! ([`device::graph`]), are what the tests hold every gradient against.
//!
//! Work is cut into units of a fixed number of sequences, so that memory does not depend on how many there are. Threads
//! share it in one of two ways, which the size of the model alone decides: of a small model each computes whole units,
//! whose gradients are added in unit order; of a larger one all share the rows and heads of each operation ([`team`]). So
//! the bits do not depend on the number of threads.

mod buffer;
mod continuation;
pub mod device;
mod layout;
mod memory;
pub mod model;
mod ops;
mod optimizer;
mod team;
mod trainer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bistro_api::run::Model;
use bistro_protocol::{
    init::{self, TensorSpec},
    tensors::{Tensors, TensorsError},
};

use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

use self::{
    buffer::Buffer,
    device::Backend,
    model::{Model as Decoder, Plan, Workspace},
    ops::math,
    team::Team,
};
pub use self::{
    continuation::Continuation,
    device::{Choice, Place, Precision},
    model::{Config, ConfigError, Family},
    optimizer::{Optimizer, OptimizerError, Recipe},
    trainer::{Session, Step, Trained, Work},
};

/// Parameters from which on threads share each operation: a gradient for each thread would cost more than that.
const SHARED_FROM: u64 = 1 << 21;
/// Tokens of one unit of work where threads compute units: enough for efficient products, few enough that a small batch has
/// several.
const ALONE_TOKENS: usize = 512;
/// Tokens of a unit that go through the model at once: their activations stay in the second cache.
const PASS_TOKENS: usize = 256;
/// Tokens of one unit where threads share it.
const SHARED_TOKENS: usize = 1024;

/// Why the engine did not compute.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model of the run cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Parameters or moments of another model.
    #[error("tensors do not fit the model: found {found}, wanted {wanted}")]
    Schema {
        /// What the model has.
        wanted: String,
        /// What was given.
        found: String,
    },
    /// Tensors that do not form a set.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// A sequence that is not T + 1 tokens of the vocabulary.
    #[error("sequence {index} does not fit: needs {length} tokens below {vocabulary}")]
    Sequence {
        /// Its place in what was given.
        index: usize,
        /// T + 1.
        length: usize,
        /// V.
        vocabulary: usize,
    },
    /// Another number of sequences than the settings ask for.
    #[error("got {found} sequences but training needs {wanted}")]
    Sequences {
        /// Given.
        found: usize,
        /// batchSequences * innerSteps, or at least one.
        wanted: usize,
    },
    /// A setting of the training that makes no sense.
    #[error("training.{field} is {found}: {remedy}")]
    Training {
        /// Its name in the run.
        field: &'static str,
        /// As written.
        found: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// An infinity or a NaN in a tensor.
    #[error("{what} of {tensor:?} is not finite")]
    NotFinite {
        /// Parameter, gradient, ...
        what: &'static str,
        /// Which tensor.
        tensor: String,
    },
    /// The system gives no threads.
    #[error("failed to start threads: {0}: lower BISTRO_THREADS")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// Every tensor is finite but the loss is not: a lower learning rate helps.
    #[error("loss is not finite although every gradient is")]
    Loss,
    /// The GPU that was asked for does not answer, or fails.
    #[error("{device}: {reason}")]
    Device {
        /// Its number and name.
        device: String,
        /// What happened, and the remedy.
        reason: String,
    },
    /// The moments cannot be read.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// The caller asked to stop.
    #[error("training was cancelled")]
    Cancelled,
}

impl Error {
    /// The parameters do not make a model that computes: the fault of whoever they are from, not of this node.
    pub fn is_not_finite(&self) -> bool {
        matches!(self, Self::Loss | Self::NotFinite { .. })
    }
}

/// A model that computes. It holds buffers, not parameters: those come with every call.
pub struct Engine {
    model: Decoder,
    /// T
    positions: usize,
    team: Team,
    recompute: bool,
    /// `None`: the calling thread is enough.
    pool: Option<ThreadPool>,
    /// One per thread that computes units.
    workers: Vec<Worker>,
    /// Parameters of the current call, flat.
    parameters: Buffer,
    /// Gradient of the current call, flat.
    gradient: Buffer,
    /// `None`: the CPU.
    device: Option<Arc<Backend>>,
}

/// What one thread works with.
#[derive(Default)]
struct Worker {
    workspace: Workspace,
    /// Gradient of one unit, where threads compute units.
    gradient: Buffer,
}

impl Engine {
    /// An engine for sequences of `sequence_length` + 1 tokens below `vocabulary`, on `threads` threads
    /// (at least one). [`Error::Config`] where model and dataset do not fit.
    pub fn new(model: &Model, vocabulary: u32, sequence_length: u32, threads: usize) -> Result<Self, Error> {
        Self::with(Config::new(model, vocabulary, sequence_length)?, sequence_length, threads, false)
    }

    /// As [`Engine::new`]; activations are computed again for the backward pass instead of being kept: a third more work, the
    /// same bits, and memory for one block instead of all.
    pub fn recomputing(model: &Model, vocabulary: u32, sequence_length: u32, threads: usize) -> Result<Self, Error> {
        Self::with(Config::new(model, vocabulary, sequence_length)?, sequence_length, threads, true)
    }

    fn with(config: Config, sequence_length: u32, threads: usize, recompute: bool) -> Result<Self, Error> {
        // At most 131072: the configuration bounds it.
        let positions = sequence_length as usize;
        let team = if config.parameters() < SHARED_FROM { Team::Alone } else { Team::Shared };
        let threads = threads.max(1);
        let pool = match team {
            Team::Alone if threads == 1 => None,
            _ => Some(ThreadPoolBuilder::new().num_threads(threads).build()?),
        };
        let mut workers = Vec::new();
        workers.resize_with(if team == Team::Alone { threads } else { 1 }, Worker::default);
        let model = Decoder::new(config, Plan { positions, team, recompute });
        let (parameters, gradient) = (Buffer::default(), Buffer::default());
        Ok(Self { model, positions, team, recompute, pool, workers, parameters, gradient, device: None })
    }

    /// The same engine, computing on `place`, where there is one. [`Error::Device`] where that has no room for it.
    pub fn on(mut self, place: Option<&Place>) -> Result<Self, Error> {
        self.device = place.map(|place| Backend::new(place, self.config(), self.positions)).transpose()?;
        Ok(self)
    }

    /// Name and shape of each tensor, in name order.
    pub fn shape(&self) -> Vec<(String, Vec<usize>)> {
        self.model.layout().specs().into_iter().map(|TensorSpec { name, shape, init: _ }| (name, shape)).collect()
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        self.model.config()
    }

    /// Fresh parameters: the same bits for the same seed on every machine.
    pub fn initial(&self, seed: u64) -> Result<Tensors, Error> {
        Ok(init::initial(seed, &self.model.layout().specs())?)
    }

    /// Mean loss in nats per token over all sequences, each of T + 1 tokens.
    pub fn loss(&mut self, parameters: &Tensors, sequences: &[Vec<u32>]) -> Result<f64, Error> {
        self.check_sequences(sequences)?;
        if let Some(device) = self.device_for(parameters)? {
            return device.loss(parameters, sequences);
        }
        self.model.layout().flatten(parameters, &mut self.parameters)?;
        let (model, parameters) = (&self.model, &self.parameters[..]);
        let (unit, workers, team) = (self.unit_sequences(), &mut self.workers, self.team);
        let total = within(self.pool.as_ref(), || {
            sequences.chunks(unit * workers.len()).fold(0.0, |total, round| {
                let losses = in_parallel(team, workers, round.chunks(unit), |worker, sequences| {
                    model.loss(parameters, sequences, &mut worker.workspace)
                });
                // One by one, so that the grouping into rounds does not show.
                losses.iter().fold(total, |sum, loss| sum + loss)
            })
        });
        let mean = total / self.tokens(sequences.len());
        if mean.is_finite() {
            return Ok(mean);
        }
        self.model.layout().check_finite("parameter", &self.parameters)?;
        Err(Error::Loss)
    }

    /// Logits (n,V) of each next token after the n `tokens`, at least one and at most T, each below V.
    pub fn logits(&mut self, parameters: &Tensors, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let (length, vocabulary) = (self.positions, self.model.config().vocabulary);
        if !(1..=length).contains(&tokens.len()) || tokens.iter().any(|t| *t as usize >= vocabulary) {
            return Err(Error::Sequence { index: 0, length, vocabulary });
        }
        if let Some(device) = self.device_for(parameters)? {
            return device.logits(parameters, tokens, length);
        }
        self.model.layout().flatten(parameters, &mut self.parameters)?;
        // No token sees those after it: what fills the sequence up does not matter.
        let mut sequence = tokens.to_vec();
        sequence.resize(length + 1, 0);
        let (model, parameters, workspace) = (&self.model, &self.parameters, &mut self.workers[0].workspace);
        Ok(within(self.pool.as_ref(), || model.logits(parameters, &[sequence], tokens.len(), workspace)))
    }

    /// Mean loss as [`Engine::loss`] and its exact gradient.
    pub fn gradient(&mut self, parameters: &Tensors, sequences: &[Vec<u32>]) -> Result<(f64, Tensors), Error> {
        self.check_sequences(sequences)?;
        if let Some(device) = self.device_for(parameters)? {
            return device.gradient(parameters, sequences);
        }
        self.model.layout().flatten(parameters, &mut self.parameters)?;
        let (loss, _) = self.flat_gradient(sequences)?;
        Ok((loss, self.model.layout().tensors(&self.gradient)?))
    }

    /// Who computes with these parameters instead, which fit then.
    fn device_for(&self, parameters: &Tensors) -> Result<Option<&Backend>, Error> {
        let Some(device) = &self.device else { return Ok(None) };
        self.model.layout().check(parameters)?;
        Ok(Some(device))
    }

    /// Mean loss at `self.parameters` and the sum of the squares of its gradient, which it leaves in `self.gradient`.
    fn flat_gradient(&mut self, sequences: &[Vec<u32>]) -> Result<(f64, f64), Error> {
        let tokens = self.tokens(sequences.len());
        let scale = (1.0 / tokens) as f32;
        let (unit, pass, team, flat) = (self.unit_sequences(), self.pass_sequences(), self.team, self.flat_team());
        let Self { model, pool, workers, parameters, gradient, .. } = self;
        gradient.resize(parameters.len());
        let (total, squares) = within(pool.as_ref(), || match team {
            Team::Shared => {
                flat.clear(gradient);
                let compute = |round| model.gradient(parameters, round, scale, gradient, &mut workers[0].workspace);
                let total: f64 = sequences.chunks(unit).map(compute).sum();
                (total, flat.sum(gradient, math::sum_of_squares))
            }
            Team::Alone => {
                let (mut total, mut squares) = (0.0, 0.0);
                for (number, round) in sequences.chunks(unit * workers.len()).enumerate() {
                    let losses =
                        in_parallel(team, workers, round.chunks(unit), |Worker { workspace, gradient }, sequences| {
                            gradient.zero(parameters.len());
                            let compute = |sequences| model.gradient(parameters, sequences, scale, gradient, workspace);
                            sequences.chunks(pass).map(compute).sum::<f64>()
                        });
                    let units: Vec<&[f32]> =
                        workers.iter().take(losses.len()).map(|worker| &worker.gradient[..]).collect();
                    squares = flat.gather(gradient, &units, number > 0);
                    // One by one, so that the grouping into rounds does not show.
                    total = losses.iter().fold(total, |sum, loss| sum + loss);
                }
                (total, squares)
            }
        });
        // One sum sees every infinity and NaN; only then is the tensor looked up.
        if !(total.is_finite() && squares.is_finite()) {
            self.model.layout().check_finite("parameter", &self.parameters)?;
            self.model.layout().check_finite("gradient", &self.gradient)?;
            return Err(Error::Loss);
        }
        Ok((total / tokens, squares))
    }

    fn check_sequences(&self, sequences: &[Vec<u32>]) -> Result<(), Error> {
        let (length, vocabulary) = (self.positions + 1, self.model.config().vocabulary);
        let fits = |s: &Vec<u32>| s.len() == length && s.iter().all(|t| (*t as usize) < vocabulary);
        match sequences.iter().position(|s| !fits(s)) {
            Some(index) => Err(Error::Sequence { index, length, vocabulary }),
            None if sequences.is_empty() => Err(Error::Sequences { found: 0, wanted: 1 }),
            None => Ok(()),
        }
    }

    /// Sequences of one unit: depends on the model alone.
    fn unit_sequences(&self) -> usize {
        let tokens = if self.team == Team::Alone { ALONE_TOKENS } else { SHARED_TOKENS };
        (tokens / self.positions).max(1)
    }

    /// Sequences that go through the model at once.
    fn pass_sequences(&self) -> usize {
        match self.team {
            Team::Alone => (PASS_TOKENS / self.positions).max(1),
            Team::Shared => self.unit_sequences(),
        }
    }

    /// Who computes what goes over all parameters.
    fn flat_team(&self) -> Team {
        if self.pool.is_some() { Team::Shared } else { Team::Alone }
    }

    fn tokens(&self, sequences: usize) -> f64 {
        // Below 2^53: exact.
        (sequences * self.positions) as f64
    }
}

/// Runs `f` in the pool, where there is one.
fn within<R: Send>(pool: Option<&ThreadPool>, f: impl FnOnce() -> R + Send) -> R {
    match pool {
        Some(pool) => pool.install(f),
        None => f(),
    }
}

/// Runs `f` on each item with a worker of its own, at once where threads compute units. There are at most as many items as
/// workers. Results are in the order of the items.
fn in_parallel<'a, R: Send>(
    team: Team,
    workers: &mut [Worker],
    items: impl Iterator<Item = &'a [Vec<u32>]>,
    f: impl Fn(&mut Worker, &'a [Vec<u32>]) -> R + Sync,
) -> Vec<R> {
    let items: Vec<_> = items.collect();
    if team == Team::Shared || workers.len() == 1 {
        return workers.iter_mut().zip(items).map(|(worker, item)| f(worker, item)).collect();
    }
    workers.par_iter_mut().zip(items).map(|(worker, item)| f(worker, item)).collect()
}
