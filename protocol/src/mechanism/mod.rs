//! Mechanisms: how work is published, how it moves the base, and what it is worth. One file each.

pub mod cosine;
pub mod gradient_difference;
pub mod loss_reduction;
pub mod loss_wins;
pub mod taylor;

use bistro_api::{
    mechanism::{self as settings, slice_gain},
    run::{Run, Training},
};

use crate::{
    base::Base,
    kernels::{self, Products},
    object::Kind,
    slice::Slice,
    tensors::Tensors,
};

/// The mechanism of a run with its settings.
#[derive(Clone, Copy, Debug)]
pub enum Mechanism<'a> {
    /// [`cosine`]
    Cosine(&'a settings::Cosine),
    /// [`gradient_difference`]
    GradientDifference(&'a settings::GradientDifference),
    /// [`taylor`]
    Taylor(&'a settings::Taylor),
    /// [`loss_reduction`]
    LossReduction(&'a settings::LossReduction),
    /// [`loss_wins`]
    LossWins(&'a settings::LossWins),
}

impl<'a> Mechanism<'a> {
    /// The one member; `None` if there is none or more than one.
    pub fn of(mechanism: &'a settings::Mechanism) -> Option<Self> {
        let settings::Mechanism { cosine, gradient_difference, taylor, loss_reduction, loss_wins } = mechanism;
        match (cosine, gradient_difference, taylor, loss_reduction, loss_wins) {
            (Some(settings), None, None, None, None) => Some(Self::Cosine(settings)),
            (None, Some(settings), None, None, None) => Some(Self::GradientDifference(settings)),
            (None, None, Some(settings), None, None) => Some(Self::Taylor(settings)),
            (None, None, None, Some(settings), None) => Some(Self::LossReduction(settings)),
            (None, None, None, None, Some(settings)) => Some(Self::LossWins(settings)),
            _ => None,
        }
    }

    /// Its name in resources.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine(_) => "cosine",
            Self::GradientDifference(_) => "gradientDifference",
            Self::Taylor(_) => "taylor",
            Self::LossReduction(_) => "lossReduction",
            Self::LossWins(_) => "lossWins",
        }
    }

    /// What miners publish.
    pub fn kind(self) -> Kind {
        match self {
            Self::Cosine(_) | Self::LossReduction(_) => Kind::Delta,
            Self::GradientDifference(_) => Kind::Gradient,
            Self::Taylor(_) => Kind::Weights,
            Self::LossWins(_) => Kind::Model,
        }
    }

    /// Whether miners train, instead of taking a gradient at the base.
    pub fn trains(self) -> bool {
        !matches!(self, Self::GradientDifference(_))
    }

    /// Whether all miners start each window from the same base, and their work is merged into the next one. Where they do
    /// not, the base of the run stays what it was, and who is paid has a model of its own.
    pub fn has_common_base(self) -> bool {
        !matches!(self, Self::LossWins(_))
    }

    /// A miner publishes one entry in so many.
    pub fn slice_ratio(self) -> u32 {
        match self {
            Self::Cosine(settings) => settings.slice_ratio,
            Self::GradientDifference(settings) => settings.slice_ratio,
            Self::Taylor(settings) => settings.slice_ratio,
            Self::LossReduction(settings) => settings.slice_ratio,
            Self::LossWins(_) => 1,
        }
    }

    /// The factor on merged work: the run's outer learning rate times the gain that makes up for what was not published.
    pub fn factor(self, training: &Training) -> f32 {
        // Measured pairs of ratio and steps are fitted by min(c, 300 / H).
        let by_steps = 300 / training.inner_steps.max(1);
        let (gain, most) = match self {
            Self::Cosine(settings) => (&settings.gain, by_steps),
            Self::Taylor(settings) => (&settings.gain, by_steps),
            Self::LossReduction(settings) => (&settings.gain, by_steps),
            Self::GradientDifference(settings) => (&settings.gain, gradient_difference::LARGEST_GAIN),
            Self::LossWins(_) => (&None, by_steps),
        };
        training.outer_learning_rate.value_f32() * slice_gain(gain.as_ref(), self.slice_ratio(), most)
    }

    /// A base of these parameters before anything was merged into it.
    pub fn first_base(self, parameters: Tensors) -> Base {
        match self {
            Self::GradientDifference(_) => gradient_difference::first_base(parameters),
            _ => Base::plain(parameters),
        }
    }

    /// Names and shapes of the mechanism's own state beside parameters of these.
    pub fn state_shape(self, parameters: &[(String, Vec<usize>)]) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::GradientDifference(_) => gradient_difference::state_shape(parameters),
            _ => Vec::new(),
        }
    }

    /// The entries that a miner publishes of what it computed from the base ([`Self::kind`] says what that is: local
    /// parameters, or the gradient).
    pub fn published(self, computed: &Tensors, slice: &Slice, base: &Base) -> Tensors {
        match self {
            Self::Cosine(_) | Self::LossReduction(_) => slice.gather(&computed.minus(&base.parameters)),
            Self::GradientDifference(_) | Self::Taylor(_) => slice.gather(computed),
            Self::LossWins(_) => computed.clone(),
        }
    }

    /// What published work would change: what norms are taken of and what is merged. Of weights that is their distance
    /// from the base, since two honest sets of weights differ by less than their common norm hides.
    pub fn effect(self, work: Tensors, slice: &Slice, base: &Base) -> Tensors {
        match self {
            Self::Taylor(_) => work.minus(&slice.gather(&base.parameters)),
            _ => work,
        }
    }

    /// Moves the base by merged work. `windows` of the run came before this one.
    pub fn outer_step(self, base: &mut Base, slice: &Slice, merged: &Tensors, training: &Training, windows: u64) {
        match self {
            Self::GradientDifference(_) => {
                gradient_difference::outer_step(base, slice, merged, training, self.factor(training), windows);
            }
            _ => slice.scatter_add(&mut base.parameters, merged, self.factor(training)),
        }
    }
}

/// The mechanism of a run whose settings were checked.
pub fn of(run: &Run) -> Mechanism<'_> {
    Mechanism::of(&run.mechanism).expect("exactly one member: checked when the settings were read")
}

/// Sums of products of one set with each of `others`, which have its schema: per tensor by [`kernels::many`], then over
/// the tensors in name order.
fn products(of: &Tensors, others: &[&Tensors]) -> Vec<Products> {
    let mut sums = vec![Products::default(); others.len()];
    for (number, tensor) in of.iter().enumerate() {
        let others: Vec<_> = others.iter().map(|other| other.tensor(number).data.as_slice()).collect();
        let parts = kernels::many(&tensor.data, &others, 1);
        sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum = sum.plus(part));
    }
    sums
}

/// Dot product over all entries.
fn dot(a: &Tensors, b: &Tensors) -> f64 {
    products(a, &[b])[0].dot
}
