//! Architectures: one file each, and the settings that describe them.

mod config;
mod gpt2;
mod head;
mod hugging_face;
mod llama;

pub use self::{
    config::{Config, ConfigError, Family},
    head::logits,
};
use self::{
    gpt2::Gpt2,
    head::{Head, targets},
    llama::Llama,
};
use super::{buffer::Buffer, layout::Layout, team::Team};

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
    team: Team,
    kind: Kind,
    head: Head,
}

enum Kind {
    Llama(Llama),
    Gpt2(Gpt2),
}

/// Buffers of one forward and backward pass, kept between passes.
#[derive(Default)]
pub struct Workspace {
    /// (R,C) output of the last norm
    h: Buffer,
    /// (R,C) gradient of a norm's output
    dh: Buffer,
    logits: Buffer,
    llama: llama::Workspace,
    gpt2: gpt2::Workspace,
}

impl Model {
    /// Lays out the parameters.
    pub fn new(config: Config, plan: Plan) -> Self {
        let mut layout = Layout::default();
        let (kind, head) = match config.family {
            Family::Llama => {
                let (model, head) = Llama::new(&config, plan, &mut layout);
                (Kind::Llama(model), head)
            }
            Family::Gpt2 => {
                let (model, head) = Gpt2::new(&config, plan, &mut layout);
                (Kind::Gpt2(model), head)
            }
        };
        Self { config, layout, team: plan.team, kind, head }
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
        self.forward(parameters, sequences, false, w);
        self.head.loss(self.team, parameters, &w.h, &targets(sequences), &mut w.logits)
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
        self.forward(parameters, sequences, true, w);
        let Workspace { h, dh, logits, llama, gpt2 } = w;
        dh.resize(h.len());
        let loss = self.head.gradient(self.team, parameters, gradient, dh, h, &targets(sequences), scale, logits);
        match &self.kind {
            Kind::Llama(model) => model.backward(parameters, gradient, sequences, dh, llama),
            Kind::Gpt2(model) => model.backward(parameters, gradient, sequences, dh, gpt2),
        }
        loss
    }

    /// Logits (n,V) after each of the first n tokens of a sequence of T + 1.
    pub fn logits(&self, parameters: &[f32], sequence: &[Vec<u32>; 1], n: usize, w: &mut Workspace) -> Vec<f32> {
        self.forward(parameters, sequence, false, w);
        let mut logits = vec![0.0; n * self.config.vocabulary];
        self.head.linear.forward(self.team, parameters, &mut logits, &w.h);
        logits
    }

    /// Logits (V) after the last of `tokens`, at least one, which come after `from` others. They and the others were the last
    /// that this workspace saw.
    pub fn extend(&self, parameters: &[f32], tokens: &[u32], from: usize, w: &mut Workspace) -> Vec<f32> {
        match &self.kind {
            Kind::Llama(model) => model.extend(parameters, tokens, from, &mut w.h, &mut w.llama),
            Kind::Gpt2(model) => model.extend(parameters, tokens, from, &mut w.h, &mut w.gpt2),
        }
        let mut logits = vec![0.0; self.config.vocabulary];
        self.head.linear.forward(self.team, parameters, &mut logits, &w.h[w.h.len() - self.config.width..]);
        logits
    }

    /// Fills the workspace up to the output of the last norm; what backward passes need is `kept`.
    fn forward(&self, parameters: &[f32], sequences: &[Vec<u32>], kept: bool, w: &mut Workspace) {
        match &self.kind {
            Kind::Llama(model) => model.forward(parameters, sequences, kept, &mut w.h, &mut w.llama),
            Kind::Gpt2(model) => model.forward(parameters, sequences, kept, &mut w.h, &mut w.gpt2),
        }
    }
}
