//! Both architectures in candle's tensors, in parts: an embedding, layers, a norm and the matrix that makes logits.
//!
//! candle's fused operations (`RmsNorm`, `softmax_last_dim`, `rope`) drop gradients without an error, so none is used here.
//! It is the oracle of the engine's tests too: in double precision, and obviously right.

use candle_core::{D, DType, Device, Error, Result, Tensor};

use super::Precision;
use crate::engine::{Config, Family};

/// Parameters on a device, in name order.
pub struct Parameters {
    names: Vec<String>,
    tensors: Vec<Tensor>,
}

impl Parameters {
    /// Both in name order.
    pub fn new(names: Vec<String>, tensors: Vec<Tensor>) -> Self {
        Self { names, tensors }
    }

    /// In order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Place of the tensor `name`.
    pub fn index(&self, name: &str) -> Result<usize> {
        let missing = |_| Error::Msg(format!("no tensor {name:?}"));
        self.names.binary_search_by(|other| other.as_str().cmp(name)).map_err(missing)
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        Ok(&self.tensors[self.index(name)?])
    }
}

/// How a model computes; it holds no parameters.
#[derive(Clone)]
pub struct Graph {
    config: Config,
    precision: Precision,
    /// (T,T): 0 where a token may look, else so low that nothing is left.
    mask: Tensor,
    /// (T,D/2) each: of the rotary embedding's angles.
    rotation: (Tensor, Tensor),
}

impl Graph {
    /// For sequences of `positions` tokens, computed in `dtype`.
    pub fn new(config: Config, positions: usize, dtype: DType, device: &Device) -> Result<Self> {
        let t = positions;
        let mask: Vec<f32> = (0..t * t).map(|i| if i % t > i / t { -1e30 } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (t, t), device)?.to_dtype(dtype)?;
        let (d, half) = (config.head, config.head / 2);
        let angle = |i: usize| (i / half) as f64 * config.theta.powf(-2.0 * (i % half) as f64 / d as f64);
        let table = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f64> = (0..t * half).map(|i| f(angle(i))).collect();
            // Cast here: not every device has double precision.
            Tensor::from_vec(values, (t, half), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        let rotation = (table(f64::cos)?, table(f64::sin)?);
        Ok(Self { config, precision: Precision::F32, mask, rotation })
    }

    /// The same with products in another precision.
    pub fn with(&self, precision: Precision) -> Self {
        Self { precision, ..self.clone() }
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tokens (B T) -> (B,T,C)
    pub fn embed(&self, p: &Parameters, tokens: &Tensor, (b, t): (usize, usize)) -> Result<Tensor> {
        let rows = |name: &str| p.get(name)?.index_select(tokens, 0)?.reshape((b, t, ()));
        match self.config.family {
            Family::Llama => rows("model.embed_tokens.weight"),
            Family::Gpt2 => {
                rows("transformer.wte.weight")?.broadcast_add(&p.get("transformer.wpe.weight")?.narrow(0, 0, t)?)
            }
        }
    }

    /// (B,T,C) -> (B,T,C)
    pub fn layer(&self, p: &Parameters, layer: usize, x: &Tensor) -> Result<Tensor> {
        match self.config.family {
            Family::Llama => self.llama(p, &format!("model.layers.{layer}"), x),
            Family::Gpt2 => self.gpt2(p, &format!("transformer.h.{layer}"), x),
        }
    }

    /// The last norm: (R,C) -> (R,C)
    pub fn norm(&self, p: &Parameters, x: &Tensor) -> Result<Tensor> {
        match self.config.family {
            Family::Llama => self.rms_norm(p, "model.norm", x),
            Family::Gpt2 => self.layer_norm(p, "transformer.ln_f", x),
        }
    }

    /// Name of the matrix (V,C) that makes logits.
    pub fn head(&self) -> &'static str {
        match (self.config.tied, self.config.family) {
            (false, _) => "lm_head.weight",
            (true, Family::Llama) => "model.embed_tokens.weight",
            (true, Family::Gpt2) => "transformer.wte.weight",
        }
    }

    /// (R,C) -> logits (R,V)
    pub fn logits(&self, p: &Parameters, h: &Tensor) -> Result<Tensor> {
        self.product(h, &p.get(self.head())?.t()?)
    }

    /// A matrix product, in the precision of products; what goes in and comes out is in the graph's.
    pub fn product(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self.precision {
            Precision::F32 => a.matmul(b),
            Precision::Bf16 => a.to_dtype(DType::BF16)?.matmul(&b.to_dtype(DType::BF16)?)?.to_dtype(a.dtype()),
        }
    }

    fn llama(&self, p: &Parameters, name: &str, x: &Tensor) -> Result<Tensor> {
        let linear = |x: &Tensor, tensor: &str| self.linear(x, &p.get(&format!("{name}.{tensor}.weight"))?.t()?);
        let h = self.rms_norm(p, &format!("{name}.input_layernorm"), x)?;
        let project = |tensor: &str| linear(&h, &format!("self_attn.{tensor}_proj"));
        let out = self.attention(&project("q")?, &project("k")?, &project("v")?)?;
        let x = (x + linear(&out, "self_attn.o_proj")?)?;
        let h = self.rms_norm(p, &format!("{name}.post_attention_layernorm"), &x)?;
        let hidden = (linear(&h, "mlp.gate_proj")?.silu()? * linear(&h, "mlp.up_proj")?)?;
        x + linear(&hidden, "mlp.down_proj")?
    }

    fn gpt2(&self, p: &Parameters, name: &str, x: &Tensor) -> Result<Tensor> {
        let affine = |x: &Tensor, tensor: &str| {
            let bias = p.get(&format!("{name}.{tensor}.bias"))?;
            self.linear(x, p.get(&format!("{name}.{tensor}.weight"))?)?.broadcast_add(bias)
        };
        let qkv = affine(&self.layer_norm(p, &format!("{name}.ln_1"), x)?, "attn.c_attn")?;
        let part = |number: usize| qkv.narrow(2, number * self.config.width, self.config.width);
        let out = self.attention(&part(0)?, &part(1)?, &part(2)?)?;
        let x = (x + affine(&out, "attn.c_proj")?)?;
        let up = affine(&self.layer_norm(p, &format!("{name}.ln_2"), &x)?, "mlp.c_fc")?;
        x + affine(&gelu(&up)?, "mlp.c_proj")?
    }

    fn rms_norm(&self, p: &Parameters, name: &str, x: &Tensor) -> Result<Tensor> {
        self.unit(x)?.broadcast_mul(p.get(&format!("{name}.weight"))?)
    }

    fn layer_norm(&self, p: &Parameters, name: &str, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scaled = self.unit(&centred)?.broadcast_mul(p.get(&format!("{name}.weight"))?)?;
        scaled.broadcast_add(p.get(&format!("{name}.bias"))?)
    }

    /// Rows with a mean square of 1.
    fn unit(&self, x: &Tensor) -> Result<Tensor> {
        let square = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.epsilon))?;
        x.broadcast_mul(&square.sqrt()?.recip()?)
    }

    /// (B,T,K) and (K,N) -> (B,T,N)
    fn linear(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (b, t, k) = x.dims3()?;
        self.product(&x.reshape((b * t, k))?, w)?.reshape((b, t, ()))
    }

    /// (B,T,Hq D), (B,T,Hk D) and (B,T,Hk D) -> (B,T,Hq D)
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let Config { heads, key_heads, head, .. } = self.config;
        let (b, t, _) = q.dims3()?;
        let split = |x: &Tensor, heads: usize| x.reshape((b, t, heads, head))?.transpose(1, 2)?.contiguous();
        let (mut q, mut k) = (split(q, heads)?, split(k, key_heads)?);
        if self.config.family == Family::Llama {
            (q, k) = (self.rotate(&q)?, self.rotate(&k)?);
        }
        // Heads that share a key stand side by side: their rows are the rows of one product.
        let rows = heads / key_heads * t;
        let q = (q / (head as f64).sqrt())?.reshape((b, key_heads, rows, head))?;
        let scores = self.product(&q, &k.transpose(2, 3)?.contiguous()?)?.reshape((b, heads, t, t))?;
        let p = softmax(&scores.broadcast_add(&self.mask)?)?.reshape((b, key_heads, rows, t))?;
        let out = self.product(&p, &split(v, key_heads)?)?.reshape((b, heads, t, head))?;
        out.transpose(1, 2)?.reshape((b, t, heads * head))
    }

    /// (B,H,T,D) -> (B,H,T,D)
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let half = self.config.head / 2;
        let (cos, sin) = &self.rotation;
        let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
        Tensor::cat(&[first, second], 3)
    }
}

/// The approximation with tanh, as GPT-2 was trained with; candle's own has constants of six digits.
fn gelu(x: &Tensor) -> Result<Tensor> {
    let inner = (x * x.sqr()?.affine(0.044715, 1.0)?)?.affine((2.0 / std::f64::consts::PI).sqrt(), 0.0)?;
    x * inner.tanh()?.affine(0.5, 0.5)?
}

/// Of each row.
fn softmax(x: &Tensor) -> Result<Tensor> {
    // What is subtracted from a whole row does not change it: no gradient goes through there.
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_mul(&e.sum_keepdim(D::Minus1)?.recip()?)
}
