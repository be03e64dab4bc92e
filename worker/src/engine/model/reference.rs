//! The same model in candle, from operations that have a gradient alone: what the engine is checked against.
//!
//! candle's fused operations (`RmsNorm`, `softmax_last_dim`, `rope`) drop gradients without an error, so
//! none is used here. Slow, and obviously right; runs on any candle device.

use bistro_protocol::tensors::{Tensor as Named, Tensors};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops;

use super::{Config, Family};

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
        let (h, embedding) = match self.config.family {
            Family::Llama => (self.llama(&inputs, (b, t))?, "model.embed_tokens.weight"),
            Family::Gpt2 => (self.gpt2(&inputs, (b, t))?, "transformer.wte.weight"),
        };
        let head = self.get(if self.config.tied { embedding } else { "lm_head.weight" })?;
        let logits = linear(&h, head)?.reshape((b * t, ()))?;
        ops::log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?.mean_all()?.neg()
    }

    /// Tokens (B T) -> (B,T,C)
    fn llama(&self, inputs: &Tensor, (b, t): (usize, usize)) -> Result<Tensor> {
        let mut x = self.get("model.embed_tokens.weight")?.index_select(inputs, 0)?.reshape((b, t, ()))?;
        for layer in 0..self.config.layers {
            let h = self.rms_norm(&x, self.layer(layer, "input_layernorm")?)?;
            let project = |name: &str| linear(&h, self.layer(layer, &format!("self_attn.{name}_proj"))?);
            let out = self.attention(project("q")?, project("k")?, project("v")?)?;
            x = (x + linear(&out, self.layer(layer, "self_attn.o_proj")?)?)?;
            let h = self.rms_norm(&x, self.layer(layer, "post_attention_layernorm")?)?;
            let gate = linear(&h, self.layer(layer, "mlp.gate_proj")?)?.silu()?;
            let hidden = (gate * linear(&h, self.layer(layer, "mlp.up_proj")?)?)?;
            x = (x + linear(&hidden, self.layer(layer, "mlp.down_proj")?)?)?;
        }
        self.rms_norm(&x, self.get("model.norm.weight")?)
    }

    /// Tokens (B T) -> (B,T,C)
    fn gpt2(&self, inputs: &Tensor, (b, t): (usize, usize)) -> Result<Tensor> {
        let get = |name: String| self.get(&format!("transformer.{name}"));
        let norm = |x: &Tensor, name: &str| -> Result<Tensor> {
            let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let square = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.epsilon))?;
            let scaled = x.broadcast_div(&square.sqrt()?)?.broadcast_mul(get(format!("{name}.weight"))?)?;
            scaled.broadcast_add(get(format!("{name}.bias"))?)
        };
        let affine = |x: &Tensor, name: &str| -> Result<Tensor> {
            linear(x, &get(format!("{name}.weight"))?.t()?)?.broadcast_add(get(format!("{name}.bias"))?)
        };
        let positions = get("wpe.weight".into())?.narrow(0, 0, t)?;
        let x = get("wte.weight".into())?.index_select(inputs, 0)?.reshape((b, t, ()))?;
        let mut x = x.broadcast_add(&positions)?;
        for layer in 0..self.config.layers {
            let qkv = affine(&norm(&x, &format!("h.{layer}.ln_1"))?, &format!("h.{layer}.attn.c_attn"))?;
            let part = |number: usize| qkv.narrow(2, number * self.config.width, self.config.width);
            let out = self.attention(part(0)?, part(1)?, part(2)?)?;
            x = (x + affine(&out, &format!("h.{layer}.attn.c_proj"))?)?;
            let up = affine(&norm(&x, &format!("h.{layer}.ln_2"))?, &format!("h.{layer}.mlp.c_fc"))?;
            // candle's own has constants of six digits.
            let inner = ((&up + (up.powf(3.0)? * 0.044715)?)? * (2.0 / std::f64::consts::PI).sqrt())?;
            let hidden = ((up * 0.5)? * (inner.tanh()? + 1.0)?)?;
            x = (x + affine(&hidden, &format!("h.{layer}.mlp.c_proj"))?)?;
        }
        norm(&x, "ln_f")
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let square = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.epsilon))?;
        x.broadcast_div(&square.sqrt()?)?.broadcast_mul(weight)
    }

    /// (B,T,Hq D), (B,T,Hk D) and (B,T,Hk D) -> (B,T,Hq D)
    fn attention(&self, q: Tensor, k: Tensor, v: Tensor) -> Result<Tensor> {
        let Config { heads, key_heads, head, .. } = *self.config;
        let (b, t, _) = q.dims3()?;
        let split = |x: Tensor, heads: usize| x.reshape((b, t, heads, head))?.transpose(1, 2)?.contiguous();
        let repeat = |x: Tensor| -> Result<Tensor> {
            let groups = vec![&x; heads / key_heads];
            Tensor::stack(&groups, 2)?.reshape((b, heads, t, head))
        };
        let (mut q, mut k) = (split(q, heads)?, split(k, key_heads)?);
        if self.config.family == Family::Llama {
            (q, k) = (self.rotate(&q)?, self.rotate(&k)?);
        }
        let (k, v) = (repeat(k)?, repeat(split(v, key_heads)?)?);
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (head as f64).sqrt())?;
        let mask: Vec<f32> = (0..t * t).map(|i| if i % t > i / t { -1e30 } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (t, t), q.device())?.to_dtype(q.dtype())?;
        let p = ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        p.matmul(&v)?.transpose(1, 2)?.reshape((b, t, heads * head))
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
