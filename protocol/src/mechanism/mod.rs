//! Mechanisms: how work is published, how it moves the base, and what it is worth. One file each.

pub mod audit;
pub mod cosine;
pub mod gradient_difference;
pub mod loss_reduction;
pub mod loss_wins;
pub mod taylor;

use bistro_api::{
    compression::{self, Compression, TopK},
    mechanism::{self as settings, slice_gain},
    run::{Run, Training},
};

use crate::{
    artifact::Form,
    base::Base,
    kernels::{self, Products},
    object::Kind,
    slice::{self, Slice, SliceOf},
    tensors::Tensors,
    topk,
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

    /// What the run says of compression, sound or not.
    pub fn compression(self) -> Option<&'a Compression> {
        match self {
            Self::Cosine(settings) => settings.compression.as_ref(),
            Self::LossReduction(settings) => settings.compression.as_ref(),
            Self::GradientDifference(_) | Self::Taylor(_) | Self::LossWins(_) => None,
        }
    }

    /// How published work is compressed, where it is.
    pub fn top_k(self) -> Option<&'a TopK> {
        self.compression()?.top_k.as_ref()
    }

    /// Share of what was not sent that the work of the next window starts with; 0 where nothing is carried on.
    pub fn decay(self) -> f32 {
        self.top_k().map_or(0.0, |top_k| top_k.decay.value_f32())
    }

    /// How files with published work are written.
    pub fn form(self) -> Form {
        let values = |values| match values {
            compression::Values::TwoBit => topk::Values::TwoBit,
            compression::Values::Bf16 => topk::Values::Bf16,
            compression::Values::F32 => topk::Values::F32,
        };
        self.top_k().map_or(Form::Dense, |TopK { k, values: kind, decay: _ }| {
            Form::TopK(topk::Settings { k: *k, values: values(*kind) })
        })
    }

    /// Names and shapes of published work over `parameters`: those of the slice; of compressed work and of whole models
    /// the parameters' own.
    pub fn work_shape(self, parameters: &Tensors) -> Vec<(String, Vec<usize>)> {
        if self.picks() { slice::shape(parameters, self.slice_ratio()) } else { parameters.shape() }
    }

    /// The entries of `parameters` that a window publishes; `of.ratio` is the mechanism's.
    pub fn slice(self, of: SliceOf<'_>, parameters: &Tensors) -> Slice {
        if self.picks() { Slice::derive(of, parameters) } else { Slice::Whole }
    }

    /// Whether a block picks which entries are published. Else all count: of whole models, and of compressed work, which
    /// is its largest entries already.
    fn picks(self) -> bool {
        self.has_common_base() && self.form() == Form::Dense
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

    /// What others read of work that was published with nothing carried into it: itself, or what compression leaves of it.
    /// On `threads` threads, whose number changes nothing.
    pub fn sent(self, work: Tensors, threads: usize) -> Result<Tensors, topk::Error> {
        match self.form() {
            Form::Dense => Ok(work),
            Form::TopK(settings) => Ok(topk::compress(&work, None, settings, threads)?.dense(&work.shape())),
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

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::tensors::Tensor;

    pub(crate) fn compressed() -> settings::Mechanism {
        serde_json::from_value(json!({ "cosine": { "sliceRatio": 1, "compression": { "topK": { "decay": "0" } } } }))
            .expect("a mechanism")
    }

    /// No block picks what is sent, nothing is permuted, and the gain is 1.
    #[test]
    fn compressed_work_is_about_the_whole_model() {
        let mechanism = compressed();
        let mechanism = Mechanism::of(&mechanism).expect("one member");
        let model =
            Tensors::new(vec![Tensor { name: "w".into(), shape: vec![2, 3], data: vec![0.5; 6] }]).expect("one");
        let of = SliceOf { netuid: 1, run: 1, window: 5, reveal: &[1; 32], ratio: mechanism.slice_ratio() };
        assert_eq!(mechanism.slice(of, &model), Slice::Whole);
        assert_eq!(mechanism.work_shape(&model), model.shape());
        let training =
            json!({ "learningRate": "1e-2", "batchSequences": 1, "innerSteps": 8, "outerLearningRate": "0.7" });
        assert_eq!(mechanism.factor(&serde_json::from_value(training).expect("sound settings")), 0.7);
        let base = Base::plain(model.clone());
        let work = mechanism.published(&model.map(|x| x + 0.25), &Slice::Whole, &base);
        assert_eq!(work, model.map(|_| 0.25));
        let settings::Mechanism { cosine, .. } = compressed();
        let dense = settings::Cosine { compression: None, ..cosine.expect("is there") };
        let dense = Mechanism::Cosine(&dense);
        assert_eq!((dense.form(), dense.work_shape(&model)), (Form::Dense, vec![("w".into(), vec![6])]));
        assert!(matches!(dense.slice(of, &model), Slice::Picked(_)));
    }
}
