//! A Llama-style decoder: forward, loss and exact gradient over flat buffers.
//!
//! Per block, with R = B T rows (B sequences of T tokens) and x (R,C) the residual stream:
//! ```text
//! q, k, v = rope(rms(x) Wq^T), rope(rms(x) Wk^T), rms(x) Wv^T
//! x = x + attention(q, k, v) Wo^T
//! x = x + (silu(rms(x) Wg^T) * (rms(x) Wu^T)) Wd^T
//! ```
//! and logits = rms(x) Wh^T, where Wh is the embedding if the two are tied. Names and shapes of the tensors, the
//! order of rotary entries and the epsilon are those of Hugging Face's `LlamaForCausalLM`.

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
        linear::{Linear, Order},
        rms_norm,
        rope::{Rope, Turn},
        swiglu,
    },
};

/// Deviation of the embedding's first entries.
const EMBEDDING_DEVIATION: f32 = 0.02;
/// Deviation of a matrix's first entries, times the square root of its inputs.
const MATRIX_DEVIATION: f32 = 0.6;

/// The architecture and where its parameters lie.
pub struct Llama {
    plan: Plan,
    shape: Shape,
    rope: Rope,
    /// C
    width: usize,
    /// F
    intermediate: usize,
    epsilon: f32,
    /// (V,C)
    embedding: Place,
    blocks: Vec<Block>,
    /// (C)
    norm: Place,
}

struct Block {
    /// (C)
    norm1: Place,
    /// ((Hq + 2 Hk) D, C): q, k and v side by side
    qkv: Linear,
    /// (C, Hq D)
    o: Linear,
    /// (C)
    norm2: Place,
    /// (2F, C): gate and up side by side
    gate_up: Linear,
    /// (C, F)
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
    /// (R)
    inverse: Buffer,
    /// (R,C) gradient of the residual stream
    dx: Buffer,
    /// (R, (Hq + 2 Hk) D)
    dqkv: Buffer,
    /// (R, Hq D)
    dattention: Buffer,
    /// (R,2F)
    dgate_up: Buffer,
    /// (R,F) input of the last matrix of a block, and its gradient
    hidden: Buffer,
}

/// What a block's backward pass needs of its forward pass beside its input. What follows from these in a pass over them, as the
/// outputs of norms do, is computed again.
#[derive(Default)]
struct Activations {
    /// (R)
    inverse1: Buffer,
    /// (R, (Hq + 2 Hk) D) after the rotation
    qkv: Buffer,
    /// (R, Hq D)
    attention: Buffer,
    /// (B, Hq, T)
    lse: Buffer,
    /// (R,C) between attention and feed-forward
    middle: Buffer,
    /// (R)
    inverse2: Buffer,
    /// (R,2F)
    gate_up: Buffer,
}

impl Llama {
    /// Appends its parameters to `layout`; gives the layer of its logits besides.
    pub fn new(config: &Config, plan: Plan, layout: &mut Layout) -> (Self, Head) {
        let Config { vocabulary: v, width: c, intermediate: f, heads, key_heads, head, .. } = *config;
        let (q, kv) = (heads * head, key_heads * head);
        let linear = |weight: Place, outputs: usize, inputs: usize| Linear {
            weight,
            bias: None,
            outputs,
            inputs,
            order: Order::OutputsFirst,
        };
        let embedding = layout.push("model.embed_tokens.weight".into(), &[v, c], Init::Normal(EMBEDDING_DEVIATION));
        let block = |i: usize| {
            let mut norm =
                |name: &str| layout.push(format!("model.layers.{i}.{name}.weight"), &[c], Init::Constant(1.0));
            let [norm1, norm2] = ["input_layernorm", "post_attention_layernorm"].map(&mut norm);
            let mut matrix = |name: &str, outputs: usize, inputs: usize| {
                layout.push(format!("model.layers.{i}.{name}.weight"), &[outputs, inputs], normal(inputs))
            };
            let [first, _, last] =
                [("q", q), ("k", kv), ("v", kv)].map(|(name, n)| matrix(&format!("self_attn.{name}_proj"), n, c));
            let [gate, up] = ["gate", "up"].map(|name| matrix(&format!("mlp.{name}_proj"), f, c));
            Block {
                norm1,
                qkv: linear(first.to(&last), q + 2 * kv, c),
                o: linear(matrix("self_attn.o_proj", c, q), c, q),
                norm2,
                gate_up: linear(gate.to(&up), 2 * f, c),
                down: linear(matrix("mlp.down_proj", c, f), c, f),
            }
        };
        let blocks = (0..config.layers).map(block).collect();
        let norm = layout.push("model.norm.weight".into(), &[c], Init::Constant(1.0));
        let head_place = match config.tied {
            true => embedding.clone(),
            false => layout.push("lm_head.weight".into(), &[v, c], normal(c)),
        };
        let model = Self {
            plan,
            shape: Shape { positions: plan.positions, from: 0, queries: heads, keys: key_heads, head },
            rope: Rope::new(plan.positions, head, config.theta),
            width: c,
            intermediate: f,
            epsilon: config.epsilon,
            embedding,
            blocks,
            norm,
        };
        (model, Head { linear: linear(head_place, v, c) })
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
        let team = self.plan.team;
        self.reserve_backward(w);
        let Workspace { dx, x, inverse, .. } = w;
        dx.fill(0.0);
        rms_norm::backward(team, dx, self.norm.of_mut(gradient), dh, x, inverse, self.norm.of(parameters));
        for (i, block) in self.blocks.iter().enumerate().rev() {
            if self.plan.recompute {
                w.x.copy_from_slice(&w.inputs[i]);
                self.block_forward(parameters, block, self.shape, (&mut w.blocks[0], &mut w.hidden, dh), &mut w.x);
            }
            self.block_backward(parameters, gradient, block, i, dh, w);
        }
        embed_backward(self.embedding.of_mut(gradient), &w.dx, inputs(sequences), self.width);
    }

    /// Fills the workspace, and `h (R,C)` with the output of the last norm; what backward passes need is `kept`.
    pub fn forward(&self, parameters: &[f32], sequences: &[Vec<u32>], kept: bool, h: &mut Buffer, w: &mut Workspace) {
        let slots = if kept && !self.plan.recompute { self.blocks.len() } else { 1 };
        self.reserve(sequences.len() * self.plan.positions, 0, slots, if kept { self.blocks.len() } else { 0 }, w);
        h.resize(w.x.len());
        embed(&mut w.x, self.embedding.of(parameters), inputs(sequences), self.width);
        for (i, block) in self.blocks.iter().enumerate() {
            if kept {
                w.inputs[i].copy_from_slice(&w.x);
            }
            let a = &mut w.blocks[i.min(slots - 1)];
            self.block_forward(parameters, block, self.shape, (a, &mut w.hidden, h), &mut w.x);
        }
        let norm = self.norm.of(parameters);
        rms_norm::forward(self.plan.team, h, &mut w.inverse, &w.x, norm, self.epsilon);
    }

    /// Fills `h (n,C)` for the n tokens of a sequence that come after `from` others, of which this workspace has seen nothing
    /// else since.
    pub fn extend(&self, parameters: &[f32], tokens: &[u32], from: usize, h: &mut Buffer, w: &mut Workspace) {
        self.reserve(tokens.len(), from, self.blocks.len(), 0, w);
        h.resize(w.x.len());
        embed(&mut w.x, self.embedding.of(parameters), tokens.iter().copied(), self.width);
        let shape = self.shape.after(from, tokens.len());
        for (block, a) in self.blocks.iter().zip(&mut w.blocks) {
            self.block_forward(parameters, block, shape, (a, &mut w.hidden, h), &mut w.x);
        }
        let norm = self.norm.of(parameters);
        rms_norm::forward(self.plan.team, h, &mut w.inverse, &w.x, norm, self.epsilon);
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
        rms_norm::forward(team, h, &mut a.inverse1, x, block.norm1.of(parameters), self.epsilon);
        let new = &mut a.qkv[shape.from * width..];
        block.qkv.forward(team, parameters, new, h);
        self.rope.apply(team, new, width, shape.queries + shape.keys, shape.from, Turn::Forward);
        attention::forward(team, &mut a.attention, &mut a.lse, &a.qkv, shape);
        block.o.forward_add(team, parameters, x, &a.attention);

        a.middle.copy_from_slice(x);
        rms_norm::forward(team, h, &mut a.inverse2, x, block.norm2.of(parameters), self.epsilon);
        block.gate_up.forward(team, parameters, &mut a.gate_up, h);
        swiglu::forward(team, hidden, &a.gate_up, self.intermediate);
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
        let Workspace { blocks, inputs, dx, dqkv, dattention, dgate_up, hidden, .. } = w;
        let (a, x) = (&blocks[index.min(blocks.len() - 1)], &inputs[index]);

        block.down.backward(team, parameters, hidden, dx);
        swiglu::backward(team, dgate_up, hidden, &a.gate_up, self.intermediate);
        block.down.add_gradient(team, gradient, dx, hidden);
        let norm = block.norm2.of(parameters);
        rms_norm::again(team, dh, &a.inverse2, &a.middle, norm);
        block.gate_up.add_gradient(team, gradient, dgate_up, dh);
        block.gate_up.backward(team, parameters, dh, dgate_up);
        rms_norm::backward(team, dx, block.norm2.of_mut(gradient), dh, &a.middle, &a.inverse2, norm);

        block.o.add_gradient(team, gradient, dx, &a.attention);
        block.o.backward(team, parameters, dattention, dx);
        let saved = Saved { qkv: &a.qkv, out: &a.attention, lse: &a.lse, dout: dattention };
        attention::backward(team, dqkv, &saved, self.shape);
        self.rope.apply(team, dqkv, self.shape.qkv_width(), self.shape.queries + self.shape.keys, 0, Turn::Backward);
        let norm = block.norm1.of(parameters);
        rms_norm::again(team, dh, &a.inverse1, x, norm);
        block.qkv.add_gradient(team, gradient, dqkv, dh);
        block.qkv.backward(team, parameters, dh, dqkv);
        rms_norm::backward(team, dx, block.norm1.of_mut(gradient), dh, x, &a.inverse1, norm);
    }

    /// Gives the buffers of a forward pass the length for this number of rows, after `from` others.
    fn reserve(&self, rows: usize, from: usize, slots: usize, kept: usize, w: &mut Workspace) {
        let (c, f) = (self.width, self.intermediate);
        let size = |buffer: &mut Buffer, width: usize| buffer.resize(rows * width);
        w.blocks.resize_with(slots, Activations::default);
        w.inputs.resize_with(kept, Buffer::default);
        for a in &mut w.blocks {
            size(&mut a.middle, c);
            [&mut a.inverse1, &mut a.inverse2].into_iter().for_each(|buffer| size(buffer, 1));
            a.qkv.resize((from + rows) * self.shape.qkv_width());
            size(&mut a.attention, self.shape.out_width());
            size(&mut a.lse, self.shape.queries);
            size(&mut a.gate_up, 2 * f);
        }
        size(&mut w.hidden, f);
        w.inputs.iter_mut().chain([&mut w.x]).for_each(|buffer| size(buffer, c));
        size(&mut w.inverse, 1);
    }

    /// As [`Llama::reserve`], for the backward pass that follows.
    fn reserve_backward(&self, w: &mut Workspace) {
        let (c, f, rows) = (self.width, self.intermediate, w.inverse.len());
        let size = |buffer: &mut Buffer, width: usize| buffer.resize(rows * width);
        size(&mut w.dx, c);
        size(&mut w.dqkv, self.shape.qkv_width());
        size(&mut w.dattention, self.shape.out_width());
        size(&mut w.dgate_up, 2 * f);
    }
}

fn normal(inputs: usize) -> Init {
    // Exact in f32 up to 2^24 inputs; square root and division round alike on every machine.
    Init::Normal(MATRIX_DEVIATION / (inputs as f32).sqrt())
}
