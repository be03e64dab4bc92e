//! Cheats that are about the work itself: what each would publish in a window instead of honest work.
//!
//! A cheat sees what every miner sees, and besides what others publish in the same window, as if the bucket had
//! leaked it before the commits closed. That makes the copiers stronger than the protocol allows.

use std::collections::VecDeque;

use bistro_api::run::{Run, Training};
use bistro_protocol::{
    check::lower_median,
    init::{self, Init, TensorSpec},
    mechanism,
    slice::Slice,
    tensors::{Tensor, Tensors},
};
use bistro_worker::{
    engine::{Engine, Error, Optimizer, Work},
    mechanism::compute,
};
use tokio_util::sync::CancellationToken;

/// Noise of `copy-noise`, as a part of the copied norm.
const NOISE: f64 = 0.1;
/// What `x1000` shouts.
const SHOUT: f32 = 1000.0;

/// A way to be paid without the work, or for a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// Publishes zeros.
    Zero,
    /// Publishes noise of an honest norm.
    Random,
    /// Trains, but on other pages than its own.
    OtherPages,
    /// Stops after half of the steps.
    HalfSteps,
    /// Reads half of its pages, each twice.
    HalfPages,
    /// Publishes, under this window's slice, what it learned so many windows ago from that window's base and pages.
    Stale(usize),
    /// Publishes what somebody else published.
    Copy,
    /// Publishes that with noise, so that it differs.
    CopyNoise,
    /// Publishes the mean of what the others published.
    MeanOfOthers,
    /// Publishes, under this window's slice, the values of its own slice of the window before.
    Replay,
    /// Adds the mean of the others to half of the steps.
    HalfAndMean,
    /// Publishes the descent direction on its own pages instead of learning from them: the score's own reference.
    Gradient,
    /// Publishes the descent direction on a quarter of its pages.
    QuarterGradient,
    /// Stops after a quarter of the steps.
    QuarterSteps,
    /// Adds the descent direction on a quarter of its pages to a quarter of the steps: half of the work, for both
    /// things that a validator could compare it with.
    QuarterMix,
    /// Shares the work with another key of the same pages' worth: half of its own pages and half of the other's, published
    /// under both.
    Pair,
    /// Works like everybody else for so many windows and copies from then on.
    Turncoat(u64),
    /// Works and publishes the opposite.
    SignFlip,
    /// Stops after a quarter of the steps and publishes four times the result.
    QuarterShout,
    /// Works and publishes a thousand times the result.
    Shout,
    /// Publishes a number that is none.
    NotANumber,
    /// Works and leaves a tensor out.
    Partial,
    /// Works like everybody, and where work is compressed drops what it did not send: more of what it sends is of its own pages.
    Forgetful,
}

impl Cheat {
    /// All but the forgetful, who does nothing wrong where work is sent as it is.
    pub const ALL: [Cheat; 23] = [
        Cheat::Zero,
        Cheat::Random,
        Cheat::OtherPages,
        Cheat::HalfSteps,
        Cheat::HalfPages,
        Cheat::Stale(1),
        Cheat::Stale(3),
        Cheat::Copy,
        Cheat::CopyNoise,
        Cheat::MeanOfOthers,
        Cheat::Replay,
        Cheat::HalfAndMean,
        Cheat::Gradient,
        Cheat::QuarterGradient,
        Cheat::QuarterSteps,
        Cheat::QuarterMix,
        Cheat::Pair,
        Cheat::Turncoat(20),
        Cheat::SignFlip,
        Cheat::QuarterShout,
        Cheat::Shout,
        Cheat::NotANumber,
        Cheat::Partial,
    ];

    /// The word for it.
    pub fn name(self) -> String {
        let name = match self {
            Cheat::Zero => "zero",
            Cheat::Random => "random",
            Cheat::OtherPages => "other-pages",
            Cheat::HalfSteps => "half-steps",
            Cheat::HalfPages => "half-pages",
            Cheat::Stale(windows) => return format!("stale-{windows}"),
            Cheat::Copy => "copy",
            Cheat::CopyNoise => "copy-noise",
            Cheat::MeanOfOthers => "mean-of-others",
            Cheat::Replay => "replay",
            Cheat::HalfAndMean => "half-and-mean",
            Cheat::Gradient => "gradient",
            Cheat::QuarterGradient => "quarter-gradient",
            Cheat::QuarterSteps => "quarter-steps",
            Cheat::QuarterMix => "quarter-mix",
            Cheat::Pair => "pair",
            Cheat::Turncoat(windows) => return format!("turncoat-{windows}"),
            Cheat::SignFlip => "sign-flip",
            Cheat::QuarterShout => "quarter-steps-x4",
            Cheat::Shout => "x1000",
            Cheat::NotANumber => "nan",
            Cheat::Partial => "partial",
            Cheat::Forgetful => "forgetful",
        };
        name.to_owned()
    }

    /// Whether nothing of what it publishes was learned from its own pages of the window.
    pub fn does_no_work(self) -> bool {
        use Cheat::*;
        matches!(
            self,
            Zero | Random | OtherPages | Stale(_) | Copy | CopyNoise | MeanOfOthers | Replay | SignFlip | NotANumber
        )
    }
}

/// What a cheat can know in a window.
pub struct View<'a> {
    /// The parameters that everybody starts from.
    pub base: &'a Tensors,
    /// The entries that must be published.
    pub slice: &'a Slice,
    /// The agreement.
    pub run: &'a Run,
    /// Windows of the run before this one.
    pub windows: u64,
    /// Sequences of its own pages, in the order of training.
    pub own: &'a [Vec<u32>],
    /// As many sequences of other pages.
    pub other: &'a [Vec<u32>],
    /// What others published, this window's if it leaked. Copiers of nothing publish zeros.
    pub published: &'a [&'a Tensors],
}

/// One cheat from window to window.
pub struct Cheater {
    cheat: Cheat,
    /// Makes its noise its own.
    seed: u64,
    /// Moments of its own training, where it trains.
    optimizer: Optimizer,
    /// Its deltas, the newest first; only for those who publish them later.
    deltas: VecDeque<Tensors>,
    /// What it published in the window before.
    last: Option<Tensors>,
}

impl Cheater {
    /// One that never published before.
    pub fn new(cheat: Cheat, seed: u64) -> Self {
        Self { cheat, seed, optimizer: Optimizer::fresh(), deltas: VecDeque::new(), last: None }
    }

    /// Which one.
    pub fn cheat(&self) -> Cheat {
        self.cheat
    }

    /// What its work of this window would change, on the slice.
    pub fn publish(&mut self, engine: &mut Engine, view: &View<'_>) -> Result<Tensors, Error> {
        let half = view.own.len() / 2;
        let nothing = || view.slice.gather(view.base).zeros_like();
        Ok(match self.cheat {
            Cheat::Zero => nothing(),
            Cheat::Random => self.noise(&nothing(), honest_norm(view), view.windows),
            Cheat::OtherPages => view.slice.gather(&self.learn(engine, view, view.other)?),
            Cheat::HalfSteps => view.slice.gather(&self.learn(engine, view, &view.own[..half])?),
            Cheat::HalfPages => {
                let twice = [&view.own[..half], &view.own[..half]].concat();
                view.slice.gather(&self.learn(engine, view, &twice)?)
            }
            Cheat::Stale(windows) => self.stale(engine, view, windows)?.unwrap_or_else(nothing),
            Cheat::Copy => view.published.first().map_or_else(nothing, |w| (*w).clone()),
            Cheat::CopyNoise => {
                let copied = view.published.first().map_or_else(nothing, |w| (*w).clone());
                let noise = self.noise(&copied, NOISE * copied.norm(), view.windows);
                plus(&copied, &noise)
            }
            Cheat::MeanOfOthers => mean(view.published).unwrap_or_else(nothing),
            Cheat::Replay => {
                let work = view.slice.gather(&self.learn(engine, view, view.own)?);
                self.last.replace(work).unwrap_or_else(nothing)
            }
            Cheat::HalfAndMean => {
                let work = view.slice.gather(&self.learn(engine, view, &view.own[..half])?);
                plus(&work, &mean(view.published).unwrap_or_else(nothing))
            }
            Cheat::Gradient => descent(engine, view, view.own)?,
            Cheat::QuarterGradient => descent(engine, view, &view.own[..half / 2])?,
            Cheat::QuarterSteps => view.slice.gather(&self.learn(engine, view, &view.own[..half / 2])?),
            Cheat::QuarterMix => {
                let steps = view.slice.gather(&self.learn(engine, view, &view.own[..half / 2])?);
                let direction = descent(engine, view, &view.own[..half / 2])?;
                let factor = (steps.norm() / direction.norm().max(f64::MIN_POSITIVE)) as f32;
                plus(&steps, &direction.map(|x| factor * x))
            }
            Cheat::Pair => {
                let shared = [&view.own[..half], &view.other[..half]].concat();
                view.slice.gather(&self.learn(engine, view, &shared)?)
            }
            Cheat::Forgetful => view.slice.gather(&self.learn(engine, view, view.own)?),
            Cheat::Turncoat(windows) if view.windows < windows => {
                view.slice.gather(&self.learn(engine, view, view.own)?)
            }
            Cheat::Turncoat(_) => view.published.first().map_or_else(nothing, |w| (*w).clone()),
            Cheat::SignFlip => view.slice.gather(&self.learn(engine, view, view.own)?).map(|x| -x),
            Cheat::QuarterShout => {
                view.slice.gather(&self.learn(engine, view, &view.own[..half / 2])?).map(|x| 4.0 * x)
            }
            Cheat::Shout => view.slice.gather(&self.learn(engine, view, view.own)?).map(|x| SHOUT * x),
            Cheat::NotANumber => nothing().map(|_| f32::NAN),
            Cheat::Partial => without_last(&view.slice.gather(&self.learn(engine, view, view.own)?)),
        })
    }

    /// Trains as an honest miner would, or takes the gradient, on these sequences: fewer of them are fewer steps.
    fn learn(&mut self, engine: &mut Engine, view: &View<'_>, sequences: &[Vec<u32>]) -> Result<Tensors, Error> {
        // At most innerSteps: nobody trains on more sequences than the window has.
        let steps = sequences.len() / view.run.training.batch_sequences as usize;
        let training = Training { inner_steps: steps as u32, ..view.run.training.clone() };
        let work = Work { base: view.base, sequences, training: &training, windows: view.windows };
        let mechanism = mechanism::of(view.run);
        let cancel = CancellationToken::new();
        let computed = compute(mechanism, engine, &work, &mut self.optimizer, &cancel, |_| ())?.tensors;
        Ok(if mechanism.trains() { computed.minus(view.base) } else { computed })
    }

    fn stale(&mut self, engine: &mut Engine, view: &View<'_>, windows: usize) -> Result<Option<Tensors>, Error> {
        let delta = self.learn(engine, view, view.own)?;
        self.deltas.push_front(delta);
        self.deltas.truncate(windows + 1);
        Ok(self.deltas.get(windows).map(|old| view.slice.gather(old)))
    }

    /// Normal noise with the names and shapes of `like`, another in every window.
    fn noise(&self, like: &Tensors, norm: f64, windows: u64) -> Tensors {
        let spec = |t: &Tensor| TensorSpec { name: t.name.clone(), shape: t.shape.clone(), init: Init::Normal(1.0) };
        let specs: Vec<_> = like.iter().map(spec).collect();
        let noise = init::initial(self.seed ^ (windows << 32), &specs).expect("names as unique as they were");
        let factor = (norm / noise.norm()) as f32;
        noise.map(|x| factor * x)
    }
}

/// Lower median norm of what others published; without them a guess: AdamW moves an entry by at most about the
/// learning rate in a step, and steps of one window rarely agree.
fn honest_norm(view: &View<'_>) -> f64 {
    let norms: Vec<f64> = view.published.iter().map(|w| w.norm()).collect();
    let Training { learning_rate, inner_steps, .. } = &view.run.training;
    let entries = view.slice.gather(view.base).elements() as f64;
    lower_median(&norms).unwrap_or_else(|| learning_rate.value() * f64::from(*inner_steps).sqrt() * entries.sqrt())
}

/// The negative gradient on `sequences`, of an honest norm.
fn descent(engine: &mut Engine, view: &View<'_>, sequences: &[Vec<u32>]) -> Result<Tensors, Error> {
    let (_, gradient) = engine.gradient(view.base, sequences)?;
    let gradient = view.slice.gather(&gradient);
    let factor = (-honest_norm(view) / gradient.norm().max(f64::MIN_POSITIVE)) as f32;
    Ok(gradient.map(|g| factor * g))
}

fn mean(works: &[&Tensors]) -> Option<Tensors> {
    let (first, rest) = works.split_first()?;
    let sum = rest.iter().fold((*first).clone(), |sum, work| plus(&sum, work));
    Some(sum.map(|x| x / works.len() as f32))
}

fn plus(a: &Tensors, b: &Tensors) -> Tensors {
    a.minus(&b.map(|x| -x))
}

fn without_last(work: &Tensors) -> Tensors {
    let tensors = work.iter().take(work.len().saturating_sub(1)).cloned();
    Tensors::new(tensors.collect()).expect("a part of a set is a set")
}
