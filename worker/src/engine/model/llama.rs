//! A Llama-style decoder: forward, loss and exact gradient over flat buffers.
//!
//! Per block, with R = B T rows (B sequences of T tokens) and x (R,C) the residual stream:
//! ```text
//! q, k, v = rope(rms(x) Wq^T), rope(rms(x) Wk^T), rms(x) Wv^T
//! x = x + attention(q, k, v) Wo^T
//! x = x + (silu(rms(x) Wg^T) * (rms(x) Wu^T)) Wd^T
//! ```
//! and logits = rms(x) Wh^T with an embedding of their own (untied). Names and shapes of the tensors, the
//! order of rotary entries and the epsilon are those of Hugging Face's `LlamaForCausalLM`.

use bistro_protocol::init::Init;

use super::Config;
use crate::engine::{
    layout::{Layout, Place},
    ops::{
        attention::{self, Scratch, Shape},
        cross_entropy,
        math::add,
        matmul::{linear, linear_add, linear_backward},
        rms_norm,
        rope::{Rope, Turn},
        swiglu,
    },
};

/// Deviation of the embedding's first entries.
const EMBEDDING_DEVIATION: f32 = 0.02;
/// Deviation of a matrix's first entries, times the square root of its inputs.
const MATRIX_DEVIATION: f32 = 0.6;
/// Most logits held at once; more rows go through the head in turns.
const MAX_LOGITS: usize = 1 << 20;

/// The model: what it looks like and where its parameters lie. The parameters themselves are passed in.
pub struct Llama {
    config: Config,
    layout: Layout,
    places: Places,
    shape: Shape,
    rope: Rope,
}

/// Where the parameters lie.
struct Places {
    /// (V,C)
    embedding: Place,
    blocks: Vec<Block>,
    /// (C)
    norm: Place,
    /// (V,C)
    head: Place,
}

struct Block {
    /// (C)
    norm1: Place,
    /// ((Hq + 2 Hk) D, C): q, k and v side by side
    qkv: Place,
    /// (C, Hq D)
    o: Place,
    /// (C)
    norm2: Place,
    /// (2F, C): gate and up side by side
    gate_up: Place,
    /// (C, F)
    down: Place,
}

/// Buffers of one forward and backward pass; one per thread, kept between passes.
#[derive(Default)]
pub struct Workspace {
    blocks: Vec<Activations>,
    /// (R,C) residual stream, at the end the input of the last norm
    x: Vec<f32>,
    /// (R)
    inverse: Vec<f32>,
    /// (R,C) output of the last norm
    h: Vec<f32>,
    /// (rows of a turn, V)
    logits: Vec<f32>,
    scratch: Scratch,
    /// (R,C) gradient of the residual stream
    dx: Vec<f32>,
    /// (R,C) gradient of a norm's output
    dh: Vec<f32>,
    /// (R, (Hq + 2 Hk) D)
    dqkv: Vec<f32>,
    /// (R, Hq D)
    dattention: Vec<f32>,
    /// (R,2F)
    dgate_up: Vec<f32>,
    /// (R,F)
    dhidden: Vec<f32>,
}

/// What a block's backward pass needs of its forward pass.
#[derive(Default)]
struct Activations {
    /// (R,C) its input
    x: Vec<f32>,
    /// (R)
    inverse1: Vec<f32>,
    /// (R,C)
    h1: Vec<f32>,
    /// (R, (Hq + 2 Hk) D) after the rotation
    qkv: Vec<f32>,
    /// (R, Hq D)
    attention: Vec<f32>,
    /// (B, Hq, T)
    lse: Vec<f32>,
    /// (R,C) between attention and feed-forward
    middle: Vec<f32>,
    /// (R)
    inverse2: Vec<f32>,
    /// (R,C)
    h2: Vec<f32>,
    /// (R,2F)
    gate_up: Vec<f32>,
    /// (R,F)
    hidden: Vec<f32>,
}

impl Llama {
    /// Lays out the parameters; `positions` is T.
    pub fn new(config: Config, positions: usize) -> Self {
        let mut layout = Layout::default();
        let places = places(&config, &mut layout);
        let shape = Shape { positions, queries: config.heads, keys: config.key_heads, head: config.head };
        let rope = Rope::new(positions, config.head, config.theta);
        Self { config, layout, places, shape, rope }
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
        self.forward(parameters, sequences, w);
        self.turns(sequences, |first, targets| {
            let rows = targets.len();
            let (h, logits) = (&w.h[first * self.config.width..], &mut w.logits[..rows * self.config.vocabulary]);
            linear(logits, h, self.places.head.of(parameters), rows, self.config.vocabulary, self.config.width);
            cross_entropy::loss(logits, targets)
        })
    }

    /// Logits (n, V) after each of the n `tokens`, at most T.
    pub fn logits(&self, parameters: &[f32], tokens: &[u32], w: &mut Workspace) -> Vec<f32> {
        // No token sees those after it: what fills the sequence up does not matter, nor does the target of the last.
        let mut sequence = tokens.to_vec();
        sequence.resize(self.shape.positions + 1, 0);
        self.forward(parameters, &[sequence], w);
        let (rows, v, c) = (tokens.len(), self.config.vocabulary, self.config.width);
        let mut logits = vec![0.0; rows * v];
        linear(&mut logits, &w.h, self.places.head.of(parameters), rows, v, c);
        logits
    }

    /// As [`Llama::loss`]; adds `scale` times the gradient of that sum to `gradient`.
    pub fn gradient(
        &self,
        parameters: &[f32],
        sequences: &[Vec<u32>],
        scale: f32,
        gradient: &mut [f32],
        w: &mut Workspace,
    ) -> f64 {
        self.forward(parameters, sequences, w);
        let (v, c) = (self.config.vocabulary, self.config.width);
        let Places { embedding, blocks, norm, head } = &self.places;
        let loss = self.turns(sequences, |first, targets| {
            let rows = targets.len();
            let (h, logits) = (&w.h[first * c..], &mut w.logits[..rows * v]);
            linear(logits, h, head.of(parameters), rows, v, c);
            let loss = cross_entropy::loss_and_gradient(logits, targets, scale);
            linear_backward(&mut w.dh[first * c..], head.of_mut(gradient), logits, h, head.of(parameters), rows, v, c);
            loss
        });
        w.dx.fill(0.0);
        rms_norm::backward(&mut w.dx, norm.of_mut(gradient), &w.dh, &w.x, &w.inverse, norm.of(parameters));
        for (i, block) in blocks.iter().enumerate().rev() {
            self.block_backward(parameters, gradient, block, i, w);
        }
        for (token, dx) in inputs(sequences).zip(w.dx.chunks_exact(c)) {
            let row = token as usize * c;
            add(&mut embedding.of_mut(gradient)[row..row + c], dx);
        }
        loss
    }

    /// Fills the workspace up to the output of the last norm.
    fn forward(&self, parameters: &[f32], sequences: &[Vec<u32>], w: &mut Workspace) {
        self.reserve(sequences.len(), w);
        let c = self.config.width;
        let embedding = self.places.embedding.of(parameters);
        for (token, x) in inputs(sequences).zip(w.x.chunks_exact_mut(c)) {
            let row = token as usize * c;
            x.copy_from_slice(&embedding[row..row + c]);
        }
        for (i, block) in self.places.blocks.iter().enumerate() {
            self.block_forward(parameters, block, i, w);
        }
        let norm = self.places.norm.of(parameters);
        rms_norm::forward(&mut w.h, &mut w.inverse, &w.x, norm, self.config.epsilon);
    }

    fn block_forward(&self, parameters: &[f32], block: &Block, index: usize, w: &mut Workspace) {
        let Config { width: c, intermediate: f, epsilon, .. } = self.config;
        let (qkv_width, out_width) = (self.shape.qkv_width(), self.shape.out_width());
        let (a, x) = (&mut w.blocks[index], &mut w.x);
        let rows = x.len() / c;

        a.x.copy_from_slice(x);
        rms_norm::forward(&mut a.h1, &mut a.inverse1, x, block.norm1.of(parameters), epsilon);
        linear(&mut a.qkv, &a.h1, block.qkv.of(parameters), rows, qkv_width, c);
        self.rope.apply(&mut a.qkv, qkv_width, self.shape.queries + self.shape.keys, Turn::Forward);
        let t = self.shape.positions;
        let outputs = a.attention.chunks_exact_mut(t * out_width).zip(a.lse.chunks_exact_mut(t * self.shape.queries));
        for (qkv, (out, lse)) in a.qkv.chunks_exact(t * qkv_width).zip(outputs) {
            attention::forward(out, lse, qkv, self.shape, &mut w.scratch);
        }
        linear_add(x, &a.attention, block.o.of(parameters), rows, c, out_width);

        a.middle.copy_from_slice(x);
        rms_norm::forward(&mut a.h2, &mut a.inverse2, x, block.norm2.of(parameters), epsilon);
        linear(&mut a.gate_up, &a.h2, block.gate_up.of(parameters), rows, 2 * f, c);
        swiglu::forward(&mut a.hidden, &a.gate_up, f);
        linear_add(x, &a.hidden, block.down.of(parameters), rows, c, f);
    }

    fn block_backward(&self, parameters: &[f32], gradient: &mut [f32], block: &Block, index: usize, w: &mut Workspace) {
        let Config { width: c, intermediate: f, .. } = self.config;
        let (qkv_width, out_width) = (self.shape.qkv_width(), self.shape.out_width());
        let Workspace { blocks, dx, dh, dqkv, dattention, dgate_up, dhidden, scratch, .. } = w;
        let a = &blocks[index];
        let rows = dx.len() / c;

        linear_backward(dhidden, block.down.of_mut(gradient), dx, &a.hidden, block.down.of(parameters), rows, c, f);
        swiglu::backward(dgate_up, dhidden, &a.gate_up, f);
        let gate_up = &block.gate_up;
        linear_backward(dh, gate_up.of_mut(gradient), dgate_up, &a.h2, gate_up.of(parameters), rows, 2 * f, c);
        rms_norm::backward(dx, block.norm2.of_mut(gradient), dh, &a.middle, &a.inverse2, block.norm2.of(parameters));

        linear_backward(
            dattention,
            block.o.of_mut(gradient),
            dx,
            &a.attention,
            block.o.of(parameters),
            rows,
            c,
            out_width,
        );
        let t = self.shape.positions;
        for (i, dqkv) in dqkv.chunks_exact_mut(t * qkv_width).enumerate() {
            let rows = |width: usize| i * t * width..(i + 1) * t * width;
            let saved = attention::Saved {
                qkv: &a.qkv[rows(qkv_width)],
                out: &a.attention[rows(out_width)],
                lse: &a.lse[rows(self.shape.queries)],
                dout: &dattention[rows(out_width)],
            };
            attention::backward(dqkv, &saved, self.shape, scratch);
        }
        self.rope.apply(dqkv, qkv_width, self.shape.queries + self.shape.keys, Turn::Backward);
        linear_backward(dh, block.qkv.of_mut(gradient), dqkv, &a.h1, block.qkv.of(parameters), rows, qkv_width, c);
        rms_norm::backward(dx, block.norm1.of_mut(gradient), dh, &a.x, &a.inverse1, block.norm1.of(parameters));
    }

    /// Calls `turn(first row, targets)` for runs of rows whose logits are held at once; sums what it returns.
    fn turns(&self, sequences: &[Vec<u32>], mut turn: impl FnMut(usize, &[u32]) -> f64) -> f64 {
        let targets: Vec<u32> = sequences.iter().flat_map(|s| &s[1..]).copied().collect();
        let rows = self.rows_per_turn();
        targets.chunks(rows).enumerate().map(|(i, targets)| turn(i * rows, targets)).sum()
    }

    fn rows_per_turn(&self) -> usize {
        (MAX_LOGITS / self.config.vocabulary).max(1)
    }

    /// Gives every buffer the length for this number of sequences.
    fn reserve(&self, sequences: usize, w: &mut Workspace) {
        let Config { width: c, intermediate: f, vocabulary, layers, .. } = self.config;
        let (qkv, out) = (self.shape.qkv_width(), self.shape.out_width());
        let rows = sequences * self.shape.positions;
        let size = |buffer: &mut Vec<f32>, width: usize| buffer.resize(rows * width, 0.0);
        w.blocks.resize_with(layers, Activations::default);
        for a in &mut w.blocks {
            for buffer in [&mut a.x, &mut a.h1, &mut a.middle, &mut a.h2] {
                size(buffer, c);
            }
            for buffer in [&mut a.inverse1, &mut a.inverse2] {
                size(buffer, 1);
            }
            size(&mut a.qkv, qkv);
            size(&mut a.attention, out);
            size(&mut a.lse, self.shape.queries);
            size(&mut a.gate_up, 2 * f);
            size(&mut a.hidden, f);
        }
        for buffer in [&mut w.x, &mut w.h, &mut w.dx, &mut w.dh] {
            size(buffer, c);
        }
        size(&mut w.inverse, 1);
        size(&mut w.dqkv, qkv);
        size(&mut w.dattention, out);
        size(&mut w.dgate_up, 2 * f);
        size(&mut w.dhidden, f);
        w.logits.resize(self.rows_per_turn().min(rows) * vocabulary, 0.0);
    }
}

/// The tokens that the model sees: all but the last of each sequence.
fn inputs(sequences: &[Vec<u32>]) -> impl Iterator<Item = u32> {
    sequences.iter().flat_map(|s| &s[..s.len() - 1]).copied()
}

fn places(config: &Config, layout: &mut Layout) -> Places {
    let Config { vocabulary: v, width: c, intermediate: f, .. } = *config;
    let (q, kv) = (config.heads * config.head, config.key_heads * config.head);
    let embedding = layout.push("model.embed_tokens.weight".into(), &[v, c], Init::Normal(EMBEDDING_DEVIATION));
    let blocks = (0..config.layers).map(|i| {
        let mut norm = |name: &str| layout.push(format!("model.layers.{i}.{name}.weight"), &[c], Init::Constant(1.0));
        let norms = (norm("input_layernorm"), norm("post_attention_layernorm"));
        let mut matrix = |name: &str, outputs: usize, inputs: usize| {
            layout.push(format!("model.layers.{i}.{name}.weight"), &[outputs, inputs], normal(inputs))
        };
        let [first, _, last] =
            [("q", q), ("k", kv), ("v", kv)].map(|(name, n)| matrix(&format!("self_attn.{name}_proj"), n, c));
        let [gate, up] = ["gate", "up"].map(|name| matrix(&format!("mlp.{name}_proj"), f, c));
        Block {
            norm1: norms.0,
            qkv: first.to(&last),
            o: matrix("self_attn.o_proj", c, q),
            norm2: norms.1,
            gate_up: gate.to(&up),
            down: matrix("mlp.down_proj", c, f),
        }
    });
    let blocks = blocks.collect();
    let norm = layout.push("model.norm.weight".into(), &[c], Init::Constant(1.0));
    let head = layout.push("lm_head.weight".into(), &[v, c], normal(c));
    Places { embedding, blocks, norm, head }
}

fn normal(inputs: usize) -> Init {
    // Exact in f32 up to 2^24 inputs; square root and division round alike on every machine.
    Init::Normal(MATRIX_DEVIATION / (inputs as f32).sqrt())
}
