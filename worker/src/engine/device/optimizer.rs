//! AdamW on a device: the recipe of [`crate::engine::optimizer`], step by step in the same order, on tensors that stay there.

use std::sync::Arc;

use bistro_api::run::InnerOptimizer;
use bistro_protocol::tensors::Tensors;
use candle_core::{DType, Tensor, Var};

use super::{Backend, Precision, check_finite, download, graph::Graph, pass, pass::Leaves, tokens};
use crate::engine::{
    Error, Optimizer, Recipe,
    optimizer::{Coefficients, EPSILON},
};

/// Training that is under way on a device.
pub struct Training {
    backend: Arc<Backend>,
    /// With the precision of training.
    graph: Graph,
    leaves: Leaves,
    m: Vec<Tensor>,
    v: Vec<Tensor>,
    t: u64,
    recipe: Recipe,
    learning_rate: f64,
}

impl Training {
    /// From `base` and `optimizer`, which fit the model, with moments of zero where it has none.
    pub fn new(
        backend: Arc<Backend>,
        base: &Tensors,
        optimizer: &Optimizer,
        (recipe, learning_rate): (Recipe, f64),
        inner: InnerOptimizer,
    ) -> Result<Self, Error> {
        // What starts with fresh moments may be computed again by a validator, in f32.
        let precision = match inner {
            InnerOptimizer::Kept => backend.place.precision(),
            InnerOptimizer::Fresh => Precision::F32,
        };
        let device = backend.place.device();
        let fault = |e: candle_core::Error| backend.place.fault(&e);
        let leaves = Leaves::new(base, DType::F32, device).map_err(fault)?;
        let moments = |saved: &Tensors| -> candle_core::Result<Vec<Tensor>> {
            if optimizer.t == 0 {
                return leaves.vars().iter().map(|var| var.as_detached_tensor().zeros_like()).collect();
            }
            saved.iter().map(|tensor| pass::upload(tensor, DType::F32, device)).collect()
        };
        let (m, v) = (moments(&optimizer.m).map_err(fault)?, moments(&optimizer.v).map_err(fault)?);
        Ok(Self { graph: backend.graph.with(precision), backend, leaves, m, v, t: optimizer.t, recipe, learning_rate })
    }

    /// One step. Gives the mean loss before it, in nats per token, and the norm of the gradient before clipping.
    pub fn step(&mut self, sequences: &[Vec<u32>]) -> Result<(f64, f64), Error> {
        let fault = |e| self.backend.place.fault(&e);
        let (units, device, count) = (self.backend.units, self.backend.place.device(), tokens(sequences));
        let (sums, gradient) =
            pass::gradient(&self.graph, &self.leaves, sequences, 1.0 / count, units, device).map_err(fault)?;
        let (sum, squares) = measured(&sums, &gradient).map_err(fault)?;
        let (loss, norm) = (sum / count, squares.sqrt());
        if !(loss.is_finite() && norm.is_finite()) {
            for (what, tensors) in [("parameter", self.detached()), ("gradient", gradient)] {
                check_finite(what, &Tensors::new(download(self.leaves.names(), &tensors).map_err(fault)?)?)?;
            }
            return Err(Error::Loss);
        }
        self.t += 1;
        let coefficients = self.recipe.coefficients(self.learning_rate, self.t, self.recipe.clip_factor(norm));
        let moments = self.m.iter_mut().zip(&mut self.v);
        for ((var, gradient), (m, v)) in self.leaves.vars().iter().zip(&gradient).zip(moments) {
            adamw(var, gradient, m, v, &coefficients).map_err(|e| self.backend.place.fault(&e))?;
        }
        Ok((loss, norm))
    }

    /// The local parameters and the moments.
    pub fn finish(self) -> Result<(Tensors, Optimizer), Error> {
        let named = |tensors: &[Tensor]| -> Result<Tensors, Error> {
            Ok(Tensors::new(download(self.leaves.names(), tensors).map_err(|e| self.backend.place.fault(&e))?)?)
        };
        let parameters = named(&self.detached())?;
        check_finite("parameter", &parameters)?;
        Ok((parameters, Optimizer { m: named(&self.m)?, v: named(&self.v)?, t: self.t }))
    }

    fn detached(&self) -> Vec<Tensor> {
        self.leaves.vars().iter().map(Var::as_detached_tensor).collect()
    }
}

/// Sum of the losses, and sum of squares of the gradient: read at once, for reading waits for the device.
fn measured(sums: &[Tensor], gradient: &[Tensor]) -> candle_core::Result<(f64, f64)> {
    let squares = gradient.iter().map(|g| pass::sum(&g.sqr()?)).collect::<candle_core::Result<Vec<_>>>()?;
    let all: Vec<f32> = Tensor::stack(&[sums, &squares].concat(), 0)?.to_vec1()?;
    let sum = |part: &[f32]| part.iter().copied().map(f64::from).sum();
    let (losses, squares) = all.split_at(sums.len());
    Ok((sum(losses), sum(squares)))
}

fn adamw(
    parameter: &Var,
    gradient: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    c: &Coefficients,
) -> candle_core::Result<()> {
    // Numbers beside tensors are f64; these are exact in f32.
    let [b1, b2, c1, c2] = [c.b1, c.b2, c.c1, c.c2].map(f64::from);
    let [keep, size, root, factor] = [c.keep, c.size, c.root, c.factor].map(f64::from);
    let g = (gradient * factor)?;
    *m = ((&*m * b1)? + (&g * c1)?)?;
    *v = ((&*v * b2)? + ((&g * c2)? * &g)?)?;
    let step = ((&*m * size)? / v.sqrt()?.affine(root, EPSILON.into())?)?;
    parameter.set(&((parameter.as_detached_tensor() * keep)? - step)?)
}
