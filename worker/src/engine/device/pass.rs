//! Forward and backward passes on a device, a unit of sequences and a layer at a time.
//!
//! Each layer has a graph of its own, from a copy of its input to its output. What its backward pass needs is either kept from
//! the forward pass or, where that is too much, computed again. So memory is bounded, and graphs stay shallow: candle walks
//! and frees them recursively.

use bistro_protocol::tensors::{Tensor as Named, Tensors};
use candle_core::{D, DType, Device, Error, Result, Tensor, Var, backprop::GradStore};

use super::graph::{Graph, Parameters};
use crate::engine::Config;

/// Logits that are held at once, a few times over.
const LOGITS: usize = 1 << 25;
/// Numbers that one unit may keep for its backward pass: 6 GiB.
const KEPT: usize = 3 << 29;
/// Tokens of a unit where so many fit: more fill no GPU better.
const MOST_TOKENS: usize = 1 << 14;

/// How work is cut; depends on the model alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// Sequences of a unit.
    pub sequences: usize,
    /// Whether layers keep what their backward passes need.
    pub kept: bool,
}

impl Units {
    /// For sequences of `positions` tokens.
    pub fn new(config: &Config, positions: usize) -> Self {
        Self::within(config, positions, KEPT)
    }

    fn within(config: &Config, positions: usize, numbers: usize) -> Self {
        // What the operations of a layer leave behind for one sequence, counted roughly.
        let rows =
            positions.saturating_mul(16 * config.width + 12 * config.heads * config.head + 8 * config.intermediate);
        let scores = positions.saturating_mul(positions).saturating_mul(8 * config.heads);
        let layer = rows.saturating_add(scores);
        let all = layer.saturating_mul(config.layers);
        let kept = all <= numbers;
        let most = (MOST_TOKENS / positions).max(1);
        Self { sequences: (numbers / if kept { all } else { layer }.max(1)).clamp(1, most), kept }
    }
}

/// Parameters that gradients are taken of, on a device.
pub struct Leaves {
    vars: Vec<Var>,
    /// The same storage; its operations leave a graph behind.
    tracked: Parameters,
    /// The same storage; its operations leave nothing behind.
    plain: Parameters,
}

impl Leaves {
    /// Uploads `parameters`.
    pub fn new(parameters: &Tensors, dtype: DType, device: &Device) -> Result<Self> {
        let names: Vec<String> = parameters.iter().map(|t| t.name.clone()).collect();
        let load = |t: &Named| Var::from_tensor(&upload(t, dtype, device)?);
        let vars = parameters.iter().map(load).collect::<Result<Vec<_>>>()?;
        let tracked = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let plain = vars.iter().map(Var::as_detached_tensor).collect();
        Ok(Self { vars, tracked: Parameters::new(names.clone(), tracked), plain: Parameters::new(names, plain) })
    }

    /// In order.
    pub fn names(&self) -> &[String] {
        self.plain.names()
    }

    /// In name order.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }
}

/// Copies a tensor to a device.
pub fn upload(tensor: &Named, dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::from_slice(&tensor.data, tensor.shape.as_slice(), device)?.to_dtype(dtype)
}

/// Copies tensors to a device, without a way to gradients.
pub fn upload_all(parameters: &Tensors, dtype: DType, device: &Device) -> Result<Parameters> {
    let tensors = parameters.iter().map(|t| upload(t, dtype, device)).collect::<Result<_>>()?;
    Ok(Parameters::new(parameters.iter().map(|t| t.name.clone()).collect(), tensors))
}

/// Tokens on a device.
struct Batch {
    /// (B T)
    inputs: Tensor,
    /// (B T)
    targets: Tensor,
    /// B and T
    shape: (usize, usize),
}

impl Batch {
    fn new(sequences: &[Vec<u32>], device: &Device) -> Result<Self> {
        let (b, t) = (sequences.len(), sequences[0].len() - 1);
        let tokens = |skip: usize| -> Vec<u32> { sequences.iter().flat_map(|s| &s[skip..skip + t]).copied().collect() };
        let load = |skip| Tensor::from_vec(tokens(skip), b * t, device);
        Ok(Self { inputs: load(0)?, targets: load(1)?, shape: (b, t) })
    }
}

/// Sum of the losses of all tokens of each unit, in nats, in the order of the units.
pub fn losses(
    graph: &Graph,
    p: &Parameters,
    sequences: &[Vec<u32>],
    units: Units,
    device: &Device,
) -> Result<Vec<Tensor>> {
    let mut sums = Vec::new();
    // Without a backward pass nothing is kept, however much of it there is.
    for unit in sequences.chunks(units.sequences) {
        let batch = Batch::new(unit, device)?;
        let x = forward(graph, p, &batch)?;
        for (x, targets) in rows(graph, &x, &batch.targets)? {
            let logits = graph.logits(p, &graph.norm(p, &x)?)?;
            sums.push(cross_entropy(&logits, &targets)?.0);
        }
    }
    Ok(sums)
}

/// Logits (T,V) of one sequence of T tokens.
pub fn logits(graph: &Graph, p: &Parameters, tokens: &[u32], device: &Device) -> Result<Tensor> {
    let shape = (1, tokens.len());
    let inputs = Tensor::from_slice(tokens, tokens.len(), device)?;
    let x = forward(graph, p, &Batch { targets: inputs.clone(), inputs, shape })?;
    graph.logits(p, &graph.norm(p, &flat(&x)?)?)
}

/// As [`losses`], with `scale` times the gradient of their sum, in name order.
pub fn gradient(
    graph: &Graph,
    leaves: &Leaves,
    sequences: &[Vec<u32>],
    scale: f64,
    units: Units,
    device: &Device,
) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let (mut sums, mut total) = (Vec::new(), Total(vec![None; leaves.vars.len()]));
    for unit in sequences.chunks(units.sequences) {
        let batch = Batch::new(unit, device)?;
        let mut layers = Vec::new();
        let mut x = graph.embed(&leaves.plain, &batch.inputs, batch.shape)?;
        for layer in 0..graph.config().layers {
            let input = Var::from_tensor(&x)?;
            let output = match units.kept {
                true => graph.layer(&leaves.tracked, layer, &input)?,
                false => graph.layer(&leaves.plain, layer, &x)?,
            };
            x = output.detach();
            layers.push((input, units.kept.then_some(output)));
        }
        let mut parts = Vec::new();
        for (x, targets) in rows(graph, &x, &batch.targets)? {
            let (sum, dx) = head(graph, leaves, &x, &targets, scale, &mut total)?;
            sums.push(sum);
            parts.push(dx);
        }
        let mut dx = Tensor::cat(&parts, 0)?.reshape(x.shape())?;
        drop((parts, x));
        while let Some((input, output)) = layers.pop() {
            let output = match output {
                Some(output) => output,
                None => graph.layer(&leaves.tracked, layers.len(), &input)?,
            };
            let mut gradients = pull(&output, &dx)?;
            dx = of(&mut gradients, &input)?;
            total.add(leaves, gradients)?;
        }
        let embedded = graph.embed(&leaves.tracked, &batch.inputs, batch.shape)?;
        total.add(leaves, pull(&embedded, &dx)?)?;
    }
    let missing = || Error::Msg("a tensor has no gradient".into());
    let gradient = total.0.into_iter().map(|g| g.ok_or_else(missing)).collect::<Result<_>>()?;
    Ok((sums, gradient))
}

/// Up to the last norm: (B T,C)
fn forward(graph: &Graph, p: &Parameters, batch: &Batch) -> Result<Tensor> {
    let mut x = graph.embed(p, &batch.inputs, batch.shape)?;
    for layer in 0..graph.config().layers {
        x = graph.layer(p, layer, &x)?;
    }
    Ok(x)
}

/// (B,T,C) -> (B T,C)
fn flat(x: &Tensor) -> Result<Tensor> {
    x.flatten(0, 1)
}

/// Pieces of rows (R,C) with their targets (R), so many that their logits fit.
fn rows(graph: &Graph, x: &Tensor, targets: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
    let x = flat(x)?;
    let (all, most) = (x.dim(0)?, (LOGITS / graph.config().vocabulary).max(1));
    let piece = |start: usize| {
        let length = most.min(all - start);
        Ok((x.narrow(0, start, length)?, targets.narrow(0, start, length)?))
    };
    (0..all).step_by(most).map(piece).collect()
}

/// The loss of rows (R,C), and the gradient of their input. The matrix that makes logits has most of the work of small models
/// with large vocabularies: its gradient and that of the cross entropy are written out.
fn head(
    graph: &Graph,
    leaves: &Leaves,
    x: &Tensor,
    targets: &Tensor,
    scale: f64,
    total: &mut Total,
) -> Result<(Tensor, Tensor)> {
    let input = Var::from_tensor(x)?;
    let normed = graph.norm(&leaves.tracked, &input)?;
    let h = normed.detach();
    let matrix = leaves.tracked.index(graph.head())?;
    let (sum, p) = cross_entropy(&graph.logits(&leaves.plain, &h)?, targets)?;
    let targets = targets.unsqueeze(1)?;
    let minus = Tensor::ones(targets.shape(), p.dtype(), p.device())?.neg()?;
    let dlogits = (p.scatter_add(&targets, &minus, 1)? * scale)?;
    total.one(matrix, graph.product(&dlogits.t()?, &h)?)?;
    let dh = graph.product(&dlogits, &leaves.vars[matrix].as_detached_tensor())?;
    let mut gradients = pull(&normed, &dh)?;
    let dx = of(&mut gradients, &input)?;
    total.add(leaves, gradients)?;
    Ok((sum, dx))
}

/// Sum of the losses of logits (R,V), and the probabilities (R,V).
fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
    let e = shifted.exp()?;
    let sum = e.sum_keepdim(1)?;
    let of_targets = shifted.gather(&targets.unsqueeze(1)?, 1)?;
    Ok(((sum.log()? - of_targets)?.sum_all()?, e.broadcast_div(&sum)?))
}

/// Gradients of what `output` was made of, where its own is `gradient`.
fn pull(output: &Tensor, gradient: &Tensor) -> Result<GradStore> {
    sum(&(output * gradient)?)?.backward()
}

/// Of all entries, by rows first: a GPU has one group of threads for each number that comes out.
pub fn sum(x: &Tensor) -> Result<Tensor> {
    x.sum(D::Minus1)?.sum_all()
}

fn of(gradients: &mut GradStore, input: &Var) -> Result<Tensor> {
    let missing = || Error::Msg("a layer's input has no gradient".into());
    // Without the graph of the backward pass, which the next one would walk into.
    Ok(gradients.remove(input).ok_or_else(missing)?.detach())
}

/// The gradient so far, in name order.
struct Total(Vec<Option<Tensor>>);

impl Total {
    fn add(&mut self, leaves: &Leaves, mut gradients: GradStore) -> Result<()> {
        for (index, var) in leaves.vars.iter().enumerate() {
            if let Some(gradient) = gradients.remove(var) {
                self.one(index, gradient)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, index: usize, gradient: Tensor) -> Result<()> {
        let sum = match self.0[index].take() {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        self.0[index] = Some(sum.detach());
        Ok(())
    }
}
