//! A linear layer: y = x W^T + b, with its backward pass dx = dy W, dW = dy^T x, db = sum of dy over rows.

use super::{
    math::{add, simd},
    matmul::{Matrix, MatrixMut},
};
use crate::engine::{layout::Place, team::Team};

/// How the entries of W lie in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// (N,K): one row for each output.
    OutputsFirst,
    /// (K,N): one row for each input.
    InputsFirst,
}

/// Where the parameters of a layer lie, and its sizes.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W
    pub weight: Place,
    /// b (N)
    pub bias: Option<Place>,
    /// N
    pub outputs: usize,
    /// K
    pub inputs: usize,
    /// Of `weight`.
    pub order: Order,
}

impl Linear {
    /// W^T as (K,N).
    fn transposed<'a>(&self, parameters: &'a [f32]) -> Matrix<'a> {
        let weight = self.weight.of(parameters);
        match self.order {
            Order::OutputsFirst => Matrix::new(weight, self.outputs, self.inputs, self.inputs).transposed(),
            Order::InputsFirst => Matrix::new(weight, self.inputs, self.outputs, self.outputs),
        }
    }

    /// `out (R,N) = x (R,K) W^T + b`; more rows of `x` are left alone.
    pub fn forward(&self, team: Team, parameters: &[f32], out: &mut [f32], x: &[f32]) {
        let rows = out.len() / self.outputs;
        let (x, w) = (Matrix::new(x, rows, self.inputs, self.inputs), self.transposed(parameters));
        MatrixMut::new(out, rows, self.outputs, self.outputs).set(team, x, w, 1.0);
        self.add_bias(team, parameters, out);
    }

    /// `out (R,N) += x (R,K) W^T + b`: the end of a residual branch.
    pub fn forward_add(&self, team: Team, parameters: &[f32], out: &mut [f32], x: &[f32]) {
        let rows = out.len() / self.outputs;
        let (x, w) = (Matrix::new(x, rows, self.inputs, self.inputs), self.transposed(parameters));
        MatrixMut::new(out, rows, self.outputs, self.outputs).add(team, x, w);
        self.add_bias(team, parameters, out);
    }

    fn add_bias(&self, team: Team, parameters: &[f32], out: &mut [f32]) {
        let Some(bias) = self.bias.as_ref().map(|bias| bias.of(parameters)) else { return };
        let part = team.part(out.len() / self.outputs) * self.outputs;
        team.each(out.chunks_mut(part).collect(), |rows| add_rows(rows, bias));
    }

    /// `dx (R,K) =` the gradient of the input, from `dy (R,N)`.
    pub fn backward(&self, team: Team, parameters: &[f32], dx: &mut [f32], dy: &[f32]) {
        let (n, k, rows) = (self.outputs, self.inputs, dy.len() / self.outputs);
        let w = self.transposed(parameters).transposed();
        MatrixMut::new(dx, rows, k, k).set(team, Matrix::new(dy, rows, n, n), w, 1.0);
    }

    /// `gradient +=` that of the layer's parameters, from `dy (R,N)` and the input `x (R,K)`.
    pub fn add_gradient(&self, team: Team, gradient: &mut [f32], dy: &[f32], x: &[f32]) {
        let (n, k, rows) = (self.outputs, self.inputs, dy.len() / self.outputs);
        let (dy_rows, x) = (Matrix::new(dy, rows, n, n), Matrix::new(x, rows, k, k));
        let dw = self.weight.of_mut(gradient);
        match self.order {
            Order::OutputsFirst => MatrixMut::new(dw, n, k, k).add(team, dy_rows.transposed(), x),
            Order::InputsFirst => MatrixMut::new(dw, k, n, n).add(team, x.transposed(), dy_rows),
        }
        if let Some(bias) = &self.bias {
            let sums = team.blocks(rows, |rows| {
                let mut sum = vec![0.0; n];
                sum_rows(&mut sum, &dy[rows.start * n..rows.end * n]);
                sum
            });
            sums.iter().for_each(|sum| add(bias.of_mut(gradient), sum));
        }
    }
}

simd! {
    /// Adds `row (N)` to each row of `out (R,N)`.
    fn add_rows(out: &mut [f32], row: &[f32]) {
        for out in out.chunks_exact_mut(row.len()) {
            for (out, x) in out.iter_mut().zip(row) {
                *out += x;
            }
        }
    }
}

simd! {
    /// Adds each row of `x (R,N)` to `sum (N)`.
    fn sum_rows(sum: &mut [f32], x: &[f32]) {
        for row in x.chunks_exact(sum.len()) {
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}
