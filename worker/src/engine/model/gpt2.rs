//! A GPT-2-style decoder: forward, loss and exact gradient over flat buffers.
//!
//! Per block, with R = B T rows (B sequences of T tokens) and x (R,C) the residual stream, which begins as the sum of the
//! embeddings of token and position:
//! ```text
//! q, k, v = norm(x) Wqkv + bqkv
//! x = x + attention(q, k, v) Wo + bo
//! x = x + gelu(norm(x) Wf + bf) Wp + bp
//! ```
//! and logits = norm(x) We^T with the embedding We. Names and shapes of the tensors are those of Hugging Face's
//! `GPT2LMHeadModel`, whose matrices have one row for each input. Dropout is not applied.

use bistro_protocol::init::Init;

use super::{
    Config, Plan,
    head::{Head, embed, embed_backward, inputs},
};
use crate::engine::{
    buffer::Buffer,
    layout::{Layout, Place},
    ops::{
        attention::{self, Saved, Shape},
        gelu,
        layer_norm::{self, Rows},
        linear::{Linear, Order},
        math::add,
    },
};

/// Deviation of the first entries of matrices and embeddings.
const DEVIATION: f32 = 0.02;

/// The architecture and where its parameters lie.
pub struct Gpt2 {
    plan: Plan,
    shape: Shape,
    /// C
    width: usize,
    epsilon: f32,
    /// (V,C)
    embedding: Place,
    /// (positions, C)
    positions: Place,
    blocks: Vec<Block>,
    norm: Norm,
}

/// (C) each
struct Norm {
    weight: Place,
    bias: Place,
}

struct Block {
    norm1: Norm,
    /// (C,3C): q, k and v side by side
    qkv: Linear,
    /// (C,C)
    o: Linear,
    norm2: Norm,
    /// (C,F)
    up: Linear,
    /// (F,C)
    down: Linear,
}

/// Buffers of one forward and backward pass.
#[derive(Default)]
pub struct Workspace {
    /// One per block, or one for all where they are computed again.
    blocks: Vec<Activations>,
    /// (R,C) input of each block
    inputs: Vec<Buffer>,
    /// (R,C) residual stream, at the end the input of the last norm
    x: Buffer,
    rows: Rows,
    /// (R,C) gradient of the residual stream
    dx: Buffer,
    /// (R,3C)
    dqkv: Buffer,
    /// (R,C)
    dattention: Buffer,
    /// (R,F) input of the last matrix of a block
    hidden: Buffer,
    /// (R,F)
    dhidden: Buffer,
}

/// What a block's backward pass needs of its forward pass beside its input. What follows from these in a pass over them, as the
/// outputs of norms do, is computed again.
#[derive(Default)]
struct Activations {
    rows1: Rows,
    /// (R,3C)
    qkv: Buffer,
    /// (R,C)
    attention: Buffer,
    /// (B,H,T)
    lse: Buffer,
    /// (R,C) between attention and feed-forward
    middle: Buffer,
    rows2: Rows,
    /// (R,F) before the activation
    up: Buffer,
}

impl Gpt2 {
    /// Appends its parameters to `layout`; gives the layer of its logits besides.
    pub fn new(config: &Config, plan: Plan, layout: &mut Layout) -> (Self, Head) {
        let Config { vocabulary: v, width: c, intermediate: f, heads, head, layers, .. } = *config;
        let normal = || Init::Normal(DEVIATION);
        // The ends of residual branches are smaller, so that their sum does not grow with the depth.
        let end = Init::Normal(DEVIATION / ((2 * layers) as f32).sqrt());
        let embedding = layout.push("transformer.wte.weight".into(), &[v, c], normal());
        let positions = layout.push("transformer.wpe.weight".into(), &[config.longest, c], normal());
        let norm = |layout: &mut Layout, name: &str| Norm {
            weight: layout.push(format!("transformer.{name}.weight"), &[c], Init::Constant(1.0)),
            bias: layout.push(format!("transformer.{name}.bias"), &[c], Init::Constant(0.0)),
        };
        let linear = |layout: &mut Layout, name: &str, inputs: usize, outputs: usize, init: Init| Linear {
            weight: layout.push(format!("transformer.{name}.weight"), &[inputs, outputs], init),
            bias: Some(layout.push(format!("transformer.{name}.bias"), &[outputs], Init::Constant(0.0))),
            outputs,
            inputs,
            order: Order::InputsFirst,
        };
        let block = |i: usize| Block {
            norm1: norm(layout, &format!("h.{i}.ln_1")),
            qkv: linear(layout, &format!("h.{i}.attn.c_attn"), c, 3 * c, normal()),
            o: linear(layout, &format!("h.{i}.attn.c_proj"), c, c, end),
            norm2: norm(layout, &format!("h.{i}.ln_2")),
            up: linear(layout, &format!("h.{i}.mlp.c_fc"), c, f, normal()),
            down: linear(layout, &format!("h.{i}.mlp.c_proj"), f, c, end),
        };
        let blocks = (0..layers).map(block).collect();
        let norm = norm(layout, "ln_f");
        let weight = match config.tied {
            true => embedding.clone(),
            false => layout.push("lm_head.weight".into(), &[v, c], normal()),
        };
        let linear = Linear { weight, bias: None, outputs: v, inputs: c, order: Order::OutputsFirst };
        let model = Self {
            plan,
            shape: Shape { positions: plan.positions, from: 0, queries: heads, keys: heads, head },
            width: c,
            epsilon: config.epsilon,
            embedding,
            positions,
            blocks,
            norm,
        };
        (model, Head { linear })
    }

    /// Adds what the parameters get from the gradient `dh (R,C)` of the last norm's output to `gradient`; `dh` is scratch after it.
    pub fn backward(
        &self,
        parameters: &[f32],
        gradient: &mut [f32],
        sequences: &[Vec<u32>],
        dh: &mut [f32],
        w: &mut Workspace,
    ) {
        self.reserve_backward(w);
        let Workspace { dx, x, rows, .. } = w;
        dx.fill(0.0);
        self.norm_backward(&self.norm, parameters, gradient, dx, (dh, x, rows));
        for (i, block) in self.blocks.iter().enumerate().rev() {
            if self.plan.recompute {
                w.x.copy_from_slice(&w.inputs[i]);
                self.block_forward(parameters, block, self.shape, (&mut w.blocks[0], &mut w.hidden, dh), &mut w.x);
            }
            self.block_backward(parameters, gradient, block, i, dh, w);
        }
        let positions = self.plan.positions * self.width;
        for dx in w.dx.chunks_exact(positions) {
            add(&mut self.positions.of_mut(gradient)[..positions], dx);
        }
        embed_backward(self.embedding.of_mut(gradient), &w.dx, inputs(sequences), self.width);
    }

    /// Fills the workspace, and `h (R,C)` with the output of the last norm; what backward passes need is `kept`.
    pub fn forward(&self, parameters: &[f32], sequences: &[Vec<u32>], kept: bool, h: &mut Buffer, w: &mut Workspace) {
        let slots = if kept && !self.plan.recompute { self.blocks.len() } else { 1 };
        self.reserve(sequences.len() * self.plan.positions, 0, slots, if kept { self.blocks.len() } else { 0 }, w);
        h.resize(w.x.len());
        embed(&mut w.x, self.embedding.of(parameters), inputs(sequences), self.width);
        let positions = self.plan.positions * self.width;
        for x in w.x.chunks_exact_mut(positions) {
            add(x, &self.positions.of(parameters)[..positions]);
        }
        for (i, block) in self.blocks.iter().enumerate() {
            if kept {
                w.inputs[i].copy_from_slice(&w.x);
            }
            let a = &mut w.blocks[i.min(slots - 1)];
            self.block_forward(parameters, block, self.shape, (a, &mut w.hidden, h), &mut w.x);
        }
        self.norm_forward(&self.norm, parameters, h, &mut w.rows, &w.x);
    }

    /// Fills `h (n,C)` for the n tokens of a sequence that come after `from` others, of which this workspace has seen nothing
    /// else since.
    pub fn extend(&self, parameters: &[f32], tokens: &[u32], from: usize, h: &mut Buffer, w: &mut Workspace) {
        self.reserve(tokens.len(), from, self.blocks.len(), 0, w);
        h.resize(w.x.len());
        embed(&mut w.x, self.embedding.of(parameters), tokens.iter().copied(), self.width);
        add(&mut w.x, &self.positions.of(parameters)[from * self.width..(from + tokens.len()) * self.width]);
        let shape = self.shape.after(from, tokens.len());
        for (block, a) in self.blocks.iter().zip(&mut w.blocks) {
            self.block_forward(parameters, block, shape, (a, &mut w.hidden, h), &mut w.x);
        }
        self.norm_forward(&self.norm, parameters, h, &mut w.rows, &w.x);
    }

    /// Moves the residual stream `x (R,C)` through a block. `a.qkv` has the rows of tokens that were computed before; `hidden
    /// (R,F)` and `h (R,C)` are scratch.
    fn block_forward(
        &self,
        parameters: &[f32],
        block: &Block,
        shape: Shape,
        (a, hidden, h): (&mut Activations, &mut [f32], &mut [f32]),
        x: &mut [f32],
    ) {
        let (team, width) = (self.plan.team, shape.qkv_width());
        self.norm_forward(&block.norm1, parameters, h, &mut a.rows1, x);
        block.qkv.forward(team, parameters, &mut a.qkv[shape.from * width..], h);
        attention::forward(team, &mut a.attention, &mut a.lse, &a.qkv, shape);
        block.o.forward_add(team, parameters, x, &a.attention);

        a.middle.copy_from_slice(x);
        self.norm_forward(&block.norm2, parameters, h, &mut a.rows2, x);
        block.up.forward(team, parameters, &mut a.up, h);
        gelu::forward(team, hidden, &a.up);
        block.down.forward_add(team, parameters, x, hidden);
    }

    fn block_backward(
        &self,
        parameters: &[f32],
        gradient: &mut [f32],
        block: &Block,
        index: usize,
        dh: &mut [f32],
        w: &mut Workspace,
    ) {
        let team = self.plan.team;
        let Workspace { blocks, inputs, dx, dqkv, dattention, hidden, dhidden, .. } = w;
        let (a, x) = (&blocks[index.min(blocks.len() - 1)], &inputs[index]);

        block.down.backward(team, parameters, dhidden, dx);
        gelu::backward(team, dhidden, hidden, &a.up);
        block.down.add_gradient(team, gradient, dx, hidden);
        self.norm_again(&block.norm2, parameters, dh, &a.rows2, &a.middle);
        block.up.add_gradient(team, gradient, dhidden, dh);
        block.up.backward(team, parameters, dh, dhidden);
        self.norm_backward(&block.norm2, parameters, gradient, dx, (dh, &a.middle, &a.rows2));

        block.o.add_gradient(team, gradient, dx, &a.attention);
        block.o.backward(team, parameters, dattention, dx);
        let saved = Saved { qkv: &a.qkv, out: &a.attention, lse: &a.lse, dout: dattention };
        attention::backward(team, dqkv, &saved, self.shape);
        self.norm_again(&block.norm1, parameters, dh, &a.rows1, x);
        block.qkv.add_gradient(team, gradient, dqkv, dh);
        block.qkv.backward(team, parameters, dh, dqkv);
        self.norm_backward(&block.norm1, parameters, gradient, dx, (dh, x, &a.rows1));
    }

    fn norm_again(&self, norm: &Norm, parameters: &[f32], out: &mut [f32], rows: &Rows, x: &[f32]) {
        let (weight, bias) = (norm.weight.of(parameters), norm.bias.of(parameters));
        layer_norm::again(self.plan.team, out, rows, x, weight, bias);
    }

    fn norm_forward(&self, norm: &Norm, parameters: &[f32], out: &mut [f32], rows: &mut Rows, x: &[f32]) {
        let (weight, bias) = (norm.weight.of(parameters), norm.bias.of(parameters));
        layer_norm::forward(self.plan.team, out, rows, x, weight, bias, self.epsilon);
    }

    /// `dx +=`, from the gradient of the output, the input, and what the forward pass left.
    fn norm_backward(
        &self,
        norm: &Norm,
        parameters: &[f32],
        gradient: &mut [f32],
        dx: &mut [f32],
        (dy, x, rows): (&[f32], &[f32], &Rows),
    ) {
        // Weight and bias are neighbours in the layout.
        let (dweight, dbias) = norm.weight.to(&norm.bias).of_mut(gradient).split_at_mut(self.width);
        layer_norm::backward(self.plan.team, dx, dweight, dbias, dy, x, rows, norm.weight.of(parameters));
    }

    /// Gives the buffers of a forward pass the length for this number of rows, after `from` others.
    fn reserve(&self, rows: usize, from: usize, slots: usize, kept: usize, w: &mut Workspace) {
        let c = self.width;
        let f = self.blocks.first().map_or(0, |block| block.up.outputs);
        let size = |buffer: &mut Buffer, width: usize| buffer.resize(rows * width);
        w.blocks.resize_with(slots, Activations::default);
        w.inputs.resize_with(kept, Buffer::default);
        for a in &mut w.blocks {
            [&mut a.middle, &mut a.attention].into_iter().for_each(|buffer| size(buffer, c));
            [&mut a.rows1, &mut a.rows2].into_iter().for_each(|stats| stats.resize(rows));
            a.qkv.resize((from + rows) * 3 * c);
            size(&mut a.lse, self.shape.queries);
            size(&mut a.up, f);
        }
        size(&mut w.hidden, f);
        w.inputs.iter_mut().chain([&mut w.x]).for_each(|buffer| size(buffer, c));
        w.rows.resize(rows);
    }

    /// As [`Gpt2::reserve`], for the backward pass that follows.
    fn reserve_backward(&self, w: &mut Workspace) {
        let (c, rows) = (self.width, w.rows.mean.len());
        let f = self.blocks.first().map_or(0, |block| block.up.outputs);
        let size = |buffer: &mut Buffer, width: usize| buffer.resize(rows * width);
        [&mut w.dx, &mut w.dattention].into_iter().for_each(|buffer| size(buffer, c));
        size(&mut w.dqkv, 3 * c);
        size(&mut w.dhidden, f);
    }
}
