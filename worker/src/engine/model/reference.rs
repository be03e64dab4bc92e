//! The same model in candle, from operations that have a gradient alone: what the engine is checked against.
//!
//! candle's fused operations (`RmsNorm`, `softmax_last_dim`, `rope`) drop gradients without an error, so
//! none is used here. Slow, and obviously right; runs on any candle device.

use bistro_protocol::tensors::{Tensor as Named, Tensors};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops;

use super::Config;

/// Mean loss in nats per token and its gradient, computed in `dtype`.
pub fn gradient(
    config: &Config,
    parameters: &Tensors,
    sequences: &[Vec<u32>],
    dtype: DType,
    device: &Device,
) -> Result<(f64, Tensors)> {
    let load = |t: &Named| Var::from_tensor(&Tensor::from_slice(&t.data, t.shape.as_slice(), device)?.to_dtype(dtype)?);
    let vars = parameters.iter().map(load).collect::<Result<Vec<_>>>()?;
    let names: Vec<&str> = parameters.iter().map(|t| t.name.as_str()).collect();
    let model = Reference { config, names, vars: &vars };
    let loss = model.loss(sequences, device)?;
    let gradients = loss.backward()?;
    let named = parameters.iter().zip(&vars).map(|(t, var)| {
        let missing = || candle_core::Error::Msg(format!("tensor {:?} has no gradient", t.name));
        let gradient = gradients.get(var).ok_or_else(missing)?.to_dtype(DType::F32)?;
        Ok(Named { name: t.name.clone(), shape: t.shape.clone(), data: gradient.flatten_all()?.to_vec1()? })
    });
    let tensors = Tensors::new(named.collect::<Result<_>>()?).map_err(candle_core::Error::wrap)?;
    Ok((loss.to_dtype(DType::F64)?.to_scalar()?, tensors))
}

struct Reference<'a> {
    config: &'a Config,
    names: Vec<&'a str>,
    vars: &'a [Var],
}

impl Reference<'_> {
    fn get(&self, name: &str) -> Result<&Tensor> {
        let missing = || candle_core::Error::Msg(format!("no tensor {name:?}"));
        self.names.binary_search(&name).map(|i| self.vars[i].as_tensor()).map_err(|_| missing())
    }

    fn layer(&self, layer: usize, name: &str) -> Result<&Tensor> {
        self.get(&format!("model.layers.{layer}.{name}.weight"))
    }

    fn loss(&self, sequences: &[Vec<u32>], device: &Device) -> Result<Tensor> {
        let (b, t) = (sequences.len(), sequences[0].len() - 1);
        let tokens = |skip: usize| -> Vec<u32> { sequences.iter().flat_map(|s| &s[skip..skip + t]).copied().collect() };
        let inputs = Tensor::from_vec(tokens(0), b * t, device)?;
        let targets = Tensor::from_vec(tokens(1), (b * t, 1), device)?;
        let mut x = self.get("model.embed_tokens.weight")?.index_select(&inputs, 0)?.reshape((b, t, ()))?;
        for layer in 0..self.config.layers {
            let h = self.norm(&x, self.layer(layer, "input_layernorm")?)?;
            x = (x + self.attention(&h, layer)?)?;
            let h = self.norm(&x, self.layer(layer, "post_attention_layernorm")?)?;
            let gate = linear(&h, self.layer(layer, "mlp.gate_proj")?)?.silu()?;
            let hidden = (gate * linear(&h, self.layer(layer, "mlp.up_proj")?)?)?;
            x = (x + linear(&hidden, self.layer(layer, "mlp.down_proj")?)?)?;
        }
        let h = self.norm(&x, self.get("model.norm.weight")?)?;
        let logits = linear(&h, self.get("lm_head.weight")?)?.reshape((b * t, ()))?;
        ops::log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?.mean_all()?.neg()
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let square = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.epsilon))?;
        x.broadcast_div(&square.sqrt()?)?.broadcast_mul(weight)
    }

    /// (B,T,C) -> (B,T,C)
    fn attention(&self, h: &Tensor, layer: usize) -> Result<Tensor> {
        let Config { heads, key_heads, head, .. } = *self.config;
        let (b, t, _) = h.dims3()?;
        let split = |name: &str, heads: usize| -> Result<Tensor> {
            let x = linear(h, self.layer(layer, &format!("self_attn.{name}_proj"))?)?;
            x.reshape((b, t, heads, head))?.transpose(1, 2)?.contiguous()
        };
        let repeat = |x: Tensor| -> Result<Tensor> {
            let groups = vec![&x; heads / key_heads];
            Tensor::stack(&groups, 2)?.reshape((b, heads, t, head))
        };
        let q = self.rotate(&split("q", heads)?)?;
        let k = repeat(self.rotate(&split("k", key_heads)?)?)?;
        let v = repeat(split("v", key_heads)?)?;
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (head as f64).sqrt())?;
        let mask: Vec<f32> = (0..t * t).map(|i| if i % t > i / t { -1e30 } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (t, t), h.device())?.to_dtype(h.dtype())?;
        let p = ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        let out = p.matmul(&v)?.transpose(1, 2)?.reshape((b, t, heads * head))?;
        linear(&out, self.layer(layer, "self_attn.o_proj")?)
    }

    /// (B,H,T,D) -> (B,H,T,D)
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (t, d) = (x.dim(2)?, x.dim(3)?);
        let half = d / 2;
        let angle = |i: usize| (i / half) as f64 * self.config.theta.powf(-2.0 * (i % half) as f64 / d as f64);
        let table = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f64> = (0..t * half).map(|i| f(angle(i))).collect();
            Tensor::from_vec(values, (t, half), x.device())?.to_dtype(x.dtype())
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 3)
    }
}

/// (B,T,K) and (N,K) -> (B,T,N)
fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (b, t, k) = x.dims3()?;
    x.reshape((b * t, k))?.matmul(&w.t()?)?.reshape((b, t, ()))
}
