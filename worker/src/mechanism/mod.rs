//! What the mechanisms ask of the engine: a miner's work, a validator's scores, an averager's weights. No IO.

pub mod averaging;
pub mod residual;
mod score;

pub use score::{Accepted, Candidate, LookedAt, Scene, Scored, page_losses, score};

use bistro_protocol::{mechanism::Mechanism, tensors::Tensors};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Error, Optimizer, Step, Work};

/// Mean loss; infinite where somebody's work made parameters that do not compute.
pub fn loss_or_infinity(engine: &mut Engine, parameters: &Tensors, sequences: &[Vec<u32>]) -> Result<f64, Error> {
    match engine.loss(parameters, sequences) {
        Err(error) if error.is_not_finite() => Ok(f64::INFINITY),
        other => other,
    }
}

/// What a miner computed in one window.
pub struct Computed {
    /// Local parameters, or the gradient: what [`Mechanism::published`] takes the work from.
    pub tensors: Tensors,
    /// Mean loss on the way, in nats per token.
    pub loss: f64,
}

/// The work of one miner in one window: `innerSteps` steps of training, or the gradient at the base where the mechanism asks
/// for that. The moments of `optimizer` change only by training, and only if it comes to its end.
pub fn compute(
    mechanism: Mechanism<'_>,
    engine: &mut Engine,
    work: &Work<'_>,
    optimizer: &mut Optimizer,
    cancelled: &CancellationToken,
    mut progress: impl FnMut(Step),
) -> Result<Computed, Error> {
    if mechanism.trains() {
        let trained = engine.train(work, optimizer, cancelled, progress)?;
        return Ok(Computed { tensors: trained.parameters, loss: trained.loss });
    }
    let (loss, gradient) = engine.gradient(work.base, work.sequences)?;
    if cancelled.is_cancelled() {
        return Err(Error::Cancelled);
    }
    progress(Step { number: 1, loss, gradient_norm: gradient.norm() });
    Ok(Computed { tensors: gradient, loss })
}
