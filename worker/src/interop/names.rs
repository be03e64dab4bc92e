//! Which tensor of somebody's file is which parameter of the model.
//!
//! Our names and shapes are those of `transformers`, so most are taken as they are. Around that stands one table: names
//! without the prefix of the model with a head, buffers that older versions stored, and a head that is the embedding.

use std::collections::BTreeMap;

use ::safetensors::tensor::TensorView;

use bistro_protocol::{
    base::STATE,
    tensors::{Tensor, Tensors},
};

use super::{Error, safetensors};

/// What may stand before the names of the model without a head.
const PREFIXES: [&str; 3] = ["", "model.", "transformer."];
/// Ends of names that hold no parameter: what can be computed, and what no training changes.
const BUFFERS: [&str; 3] = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];
/// The head, which files of models that tie it to the embedding may have all the same.
const HEAD: &str = "lm_head.weight";
/// Names of embeddings.
const EMBEDDINGS: [&str; 2] = ["model.embed_tokens.weight", "transformer.wte.weight"];

/// What a tensor is to the model.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// The parameter of this name.
    Parameter(String),
    /// The head of a model that has none of its own: must be the embedding.
    TiedHead,
    /// Nothing.
    Ignored,
    /// Not known.
    Unknown,
}

fn meaning(name: &str, wanted: impl Fn(&str) -> bool) -> Meaning {
    if let Some(full) = PREFIXES.iter().map(|prefix| format!("{prefix}{name}")).find(|full| wanted(full)) {
        return Meaning::Parameter(full);
    }
    match name {
        HEAD => Meaning::TiedHead,
        // A snapshot of a run has what its mechanism keeps beside the parameters.
        name if name.starts_with(STATE) || BUFFERS.iter().any(|end| name.ends_with(end)) => Meaning::Ignored,
        _ => Meaning::Unknown,
    }
}

/// The parameters of a model as they come out of its files.
pub struct Gathered {
    wanted: BTreeMap<String, Vec<usize>>,
    found: BTreeMap<String, Tensor>,
    /// The file that has a head of its own, and the head.
    head: Option<(String, Tensor)>,
}

impl Gathered {
    /// Nothing yet of a model with parameters of these names and shapes.
    pub fn new(shape: Vec<(String, Vec<usize>)>) -> Self {
        Self { wanted: shape.into_iter().collect(), found: BTreeMap::new(), head: None }
    }

    /// Most bytes that a file may have: each parameter as wide as f64, and as much again for what is ignored.
    pub fn most_bytes(&self) -> u64 {
        let elements = |shape: &Vec<usize>| shape.iter().map(|n| *n as u64).product::<u64>();
        let parameters: u64 = self.wanted.values().map(elements).sum();
        safetensors::MAX_HEADER + 16 * parameters + (64 << 20)
    }

    /// Takes the parameters of one file, whose name `file` is.
    pub fn take(&mut self, file: &str, bytes: &[u8]) -> Result<(), Error> {
        for (name, view) in safetensors::read(file, bytes)? {
            let fault = |what: String| Error::tensor(file, &name, what);
            match meaning(&name, |full| self.wanted.contains_key(full)) {
                Meaning::Ignored => {}
                Meaning::Unknown => {
                    return Err(fault(
                        "is none of the model's: take the files of the model that config.json describes".into(),
                    ));
                }
                Meaning::TiedHead => self.head = Some((file.to_owned(), tensor(file, &name, &name, &view)?)),
                Meaning::Parameter(full) => {
                    let wanted = &self.wanted[&full];
                    if view.shape() != wanted {
                        return Err(fault(format!("has the shape {:?}, the model's has {wanted:?}", view.shape())));
                    }
                    let tensor = tensor(file, &name, &full, &view)?;
                    if self.found.insert(full, tensor).is_some() {
                        return Err(fault("is there twice, here and in another file or under another name".into()));
                    }
                }
            }
        }
        Ok(())
    }

    /// All parameters. `place` is where they were looked for.
    pub fn finish(self, place: &str) -> Result<Tensors, Error> {
        if let Some(missing) = self.wanted.keys().find(|name| !self.found.contains_key(*name)) {
            return Err(Error::Missing { place: place.to_owned(), tensor: missing.clone() });
        }
        if let Some((file, head)) = self.head {
            let embedding = EMBEDDINGS.iter().find_map(|name| self.found.get(*name));
            if embedding.is_none_or(|embedding| embedding.shape != head.shape || embedding.data != head.data) {
                let what = "differs from the embedding, but config.json ties them: set tie_word_embeddings to false";
                return Err(Error::tensor(&file, HEAD, what));
            }
        }
        Tensors::new(self.found.into_values().collect()).map_err(|error| Error::file(place, error.to_string()))
    }
}

/// A tensor under its name in the model, in f32 and finite.
fn tensor(file: &str, name: &str, full: &str, view: &TensorView<'_>) -> Result<Tensor, Error> {
    let data = safetensors::floats(view).ok_or_else(|| {
        Error::tensor(file, name, format!("has numbers of the type {:?}: F32, BF16 and F16 are read", view.dtype()))
    })?;
    if !data.iter().all(|x| x.is_finite()) {
        return Err(Error::tensor(file, name, "has an infinity or a NaN"));
    }
    Ok(Tensor { name: full.to_owned(), shape: view.shape().to_vec(), data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(names: &[&str]) -> Vec<(String, Vec<usize>)> {
        names.iter().map(|name| ((*name).into(), vec![2])).collect()
    }

    fn file(tensors: &[(&str, [f32; 2])]) -> Vec<u8> {
        let tensors: Vec<Tensor> = tensors
            .iter()
            .map(|(name, data)| Tensor { name: (*name).into(), shape: vec![2], data: data.to_vec() })
            .collect();
        let mut bytes = Vec::new();
        safetensors::write(&mut bytes, "pt", &tensors.iter().collect::<Vec<_>>()).expect("memory takes it");
        bytes
    }

    fn gather(names: &[&str], tensors: &[(&str, [f32; 2])]) -> Result<Tensors, String> {
        let mut gathered = Gathered::new(shape(names));
        gathered.take("f", &file(tensors)).and_then(|()| gathered.finish("f")).map_err(|e| e.to_string())
    }

    const GPT2: [&str; 2] = ["transformer.h.0.attn.c_attn.bias", "transformer.wte.weight"];

    #[test]
    fn names_with_and_without_prefix_are_the_same() {
        let (bias, wte) = ([1.0, 2.0], [3.0, 4.0]);
        let full = gather(&GPT2, &[("transformer.h.0.attn.c_attn.bias", bias), ("transformer.wte.weight", wte)]);
        let bare = gather(&GPT2, &[("h.0.attn.c_attn.bias", bias), ("wte.weight", wte)]);
        assert_eq!(full.as_ref().map(Tensors::len), Ok(2));
        assert_eq!(bare, full);
        let llama = gather(&["lm_head.weight", "model.norm.weight"], &[("norm.weight", bias), ("lm_head.weight", wte)]);
        assert_eq!(llama.expect("both are there").get("model.norm.weight").expect("with its prefix").data, bias);
    }

    #[test]
    fn what_is_no_parameter_is_ignored_and_a_tied_head_must_be_the_embedding() {
        let (bias, wte) = ([1.0, 2.0], [3.0, 4.0]);
        let sound = [("h.0.attn.c_attn.bias", bias), ("wte.weight", wte)];
        let with = |name, data| gather(&GPT2, &[&sound[..], &[(name, data)]].concat());
        for name in ["h.0.attn.bias", "transformer.h.0.attn.masked_bias", "x.rotary_emb.inv_freq", "outer.m.wte"] {
            assert_eq!(with(name, [0.0; 2]), gather(&GPT2, &sound), "{name}");
        }
        assert_eq!(with("lm_head.weight", wte), gather(&GPT2, &sound));
        let other = with("lm_head.weight", bias).expect_err("another head");
        assert!(other.contains("\"lm_head.weight\" differs from the embedding"), "{other}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (bias, wte) = ([1.0, 2.0], [3.0, 4.0]);
        let sound = [("h.0.attn.c_attn.bias", bias), ("wte.weight", wte)];
        for (tensors, says) in [
            (vec![sound[0]], "f: no tensor \"transformer.wte.weight\""),
            ([&sound[..], &[("h.1.attn.c_attn.bias", bias)]].concat(), "f: tensor \"h.1.attn.c_attn.bias\" is none"),
            ([&sound[..], &[("transformer.wte.weight", wte)]].concat(), "is there twice"),
            (vec![sound[0], ("wte.weight", [f32::NAN, 0.0])], "f: tensor \"wte.weight\" has an infinity or a NaN"),
            ([&sound[..], &[("a\u{1b}[2J\n", bias)]].concat(), "f: tensor \"a\\u{1b}[2J\\n\" is none"),
        ] {
            let error = gather(&GPT2, &tensors).expect_err(says);
            assert!(error.contains(says) && error.lines().count() == 1, "{error}");
        }
        let mut other = shape(&GPT2);
        other[1].1 = vec![1, 2];
        let mut gathered = Gathered::new(other);
        let error = gathered.take("f", &file(&sound)).expect_err("another shape").to_string();
        assert_eq!(error, "f: tensor \"wte.weight\" has the shape [2], the model's has [1, 2]");
    }
}
