//! Architectures: one file each, and the settings that describe them.

mod config;
mod gpt2;
mod head;
mod hugging_face;
mod llama;
pub mod reference;

pub use self::config::{Config, ConfigError, Family};
use self::{gpt2::Gpt2, llama::Llama};
use super::{layout::Layout, team::Team};

/// How a model computes; nothing of it shows in any bit but `team`.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// T, tokens of a sequence.
    pub positions: usize,
    /// Who computes an operation.
    pub team: Team,
    /// Whether the activations of a block are computed again for its backward pass instead of being kept.
    pub recompute: bool,
}

/// A model: what it looks like and where its parameters lie. The parameters themselves are passed in.
pub struct Model {
    config: Config,
    layout: Layout,
    kind: Kind,
}

enum Kind {
    Llama(Llama),
    Gpt2(Gpt2),
}

/// Buffers of one forward and backward pass, kept between passes.
#[derive(Default)]
pub struct Workspace {
    llama: llama::Workspace,
    gpt2: gpt2::Workspace,
}

impl Model {
    /// Lays out the parameters.
    pub fn new(config: Config, plan: Plan) -> Self {
        let mut layout = Layout::default();
        let kind = match config.family {
            Family::Llama => Kind::Llama(Llama::new(&config, plan, &mut layout)),
            Family::Gpt2 => Kind::Gpt2(Gpt2::new(&config, plan, &mut layout)),
        };
        Self { config, layout, kind }
    }

    /// Where each tensor lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The shape it was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sum of the losses of all tokens of `sequences`, in nats. Each has T + 1 tokens, all below V.
    pub fn loss(&self, parameters: &[f32], sequences: &[Vec<u32>], w: &mut Workspace) -> f64 {
        match &self.kind {
            Kind::Llama(model) => model.loss(parameters, sequences, &mut w.llama),
            Kind::Gpt2(model) => model.loss(parameters, sequences, &mut w.gpt2),
        }
    }

    /// As [`Model::loss`]; adds `scale` times the gradient of that sum to `gradient`.
    pub fn gradient(
        &self,
        parameters: &[f32],
        sequences: &[Vec<u32>],
        scale: f32,
        gradient: &mut [f32],
        w: &mut Workspace,
    ) -> f64 {
        match &self.kind {
            Kind::Llama(model) => model.gradient(parameters, sequences, scale, gradient, &mut w.llama),
            Kind::Gpt2(model) => model.gradient(parameters, sequences, scale, gradient, &mut w.gpt2),
        }
    }

    /// Logits (n,V) after each of the first n tokens of a sequence of T + 1.
    pub fn logits(&self, parameters: &[f32], sequence: &[Vec<u32>; 1], n: usize, w: &mut Workspace) -> Vec<f32> {
        match &self.kind {
            Kind::Llama(model) => model.logits(parameters, sequence, n, &mut w.llama),
            Kind::Gpt2(model) => model.logits(parameters, sequence, n, &mut w.gpt2),
        }
    }
}
