//! config.json: the shape of a model in the words of Hugging Face's `transformers`, as it writes and reads them.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{Config, Family};

impl Config {
    /// The config.json with which `transformers` builds this model for sequences of up to `positions` tokens; GPT-2 has an
    /// embedding for each position, and so as many as it has. [`Config::new`] reads the same shape out of it.
    pub fn to_hugging_face(&self, positions: usize) -> Value {
        let mut config = match self.family {
            Family::Llama => self.as_llama(positions),
            Family::Gpt2 => self.as_gpt2(),
        };
        let common = json!({
            "bos_token_id": null,
            "eos_token_id": null,
            "pad_token_id": null,
            "initializer_range": 0.02,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": self.vocabulary,
        });
        if let (Some(config), Value::Object(common)) = (config.as_object_mut(), common) {
            config.extend(common);
        }
        config
    }

    fn as_llama(&self, positions: usize) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "head_dim": self.head,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": positions,
            "mlp_bias": false,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_heads,
            "rms_norm_eps": decimal(self.epsilon),
            // Versions below 5 read the first and the second of these, later ones the third.
            "rope_scaling": null,
            "rope_theta": self.theta,
            "rope_parameters": { "rope_theta": self.theta, "rope_type": "default" },
        })
    }

    fn as_gpt2(&self) -> Value {
        json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "layer_norm_epsilon": decimal(self.epsilon),
            "n_embd": self.width,
            "n_head": self.heads,
            "n_inner": self.intermediate,
            "n_layer": self.layers,
            "n_positions": self.longest,
        })
    }
}

/// Versions of `transformers` from 5 on write the rotary embedding as an object, `rope_parameters`, whose members come
/// before those at the top. Where it says no more than the base of the wavelengths, that is put where it was before;
/// anything else stays, for the reader to refuse.
pub(super) fn with_plain_rope(config: &Value) -> Cow<'_, Value> {
    let Some(rope) = config.get("rope_parameters").and_then(Value::as_object) else { return Cow::Borrowed(config) };
    let plain = |(name, value): (&String, &Value)| match name.as_str() {
        "rope_theta" => true,
        "rope_type" | "type" => value == "default",
        "partial_rotary_factor" => value.as_f64() == Some(1.0),
        _ => value.is_null(),
    };
    if !rope.iter().all(plain) {
        return Cow::Borrowed(config);
    }
    let mut members: Map<String, Value> = config.as_object().cloned().unwrap_or_default();
    members.remove("rope_parameters");
    if let Some(theta) = rope.get("rope_theta").filter(|theta| !theta.is_null()) {
        members.insert("rope_theta".to_owned(), theta.clone());
    }
    Cow::Owned(members.into())
}

/// The number that people write for an f32: 1e-5, not 9.999999747378752e-6.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

#[cfg(test)]
mod tests {
    use bistro_api::run::{Model, Preset};

    use super::*;
    use crate::engine::ConfigError;

    fn read(config: Value) -> Result<Config, ConfigError> {
        Config::new(&Model { preset: None, config: Some(config) }, 256, 128)
    }

    #[test]
    fn what_is_written_is_read_back() {
        for preset in [Preset::Test, Preset::Tiny, Preset::Small, Preset::Gpt2, Preset::Llama1b] {
            let ours = Config::new(&Model { preset: Some(preset), config: None }, 256, 128).expect("a preset");
            let written = ours.to_hugging_face(128);
            let (epsilon, longest) = match ours.family {
                Family::Llama => ("rms_norm_eps", 128),
                Family::Gpt2 => ("layer_norm_epsilon", 1024),
            };
            assert_eq!(written[epsilon], 1e-5);
            assert_eq!(read(written), Ok(Config { longest, ..ours }));
        }
    }

    #[test]
    fn both_ways_to_write_the_rotary_embedding_are_read() {
        let ours = Config::new(&Model { preset: Some(Preset::Test), config: None }, 256, 128).expect("a preset");
        let mut written = ours.to_hugging_face(128);
        written["rope_theta"] = Value::Null;
        for (rope, theta) in [
            (json!({ "rope_theta": 500_000.0, "rope_type": "default" }), 500_000.0),
            (json!({ "rope_theta": 500_000.0, "partial_rotary_factor": 1.0 }), 500_000.0),
            (json!({ "rope_type": "default" }), 10_000.0),
            (Value::Null, 10_000.0),
        ] {
            written["rope_parameters"] = rope;
            assert_eq!(read(written.clone()).expect("plain").theta, theta);
        }
        // The object comes before what stands at the top, as it does there.
        written["rope_theta"] = json!(7.0);
        written["rope_parameters"] = json!({ "rope_theta": 9.0 });
        assert_eq!(read(written.clone()).expect("plain").theta, 9.0);
        for rope in [
            json!({ "rope_theta": 500_000.0, "rope_type": "llama3", "factor": 8.0 }),
            json!({ "partial_rotary_factor": 0.5 }),
            json!({ "full_attention": { "rope_theta": 5.0 } }),
            json!(7),
        ] {
            written["rope_parameters"] = rope;
            let error = read(written.clone()).expect_err("not plain").to_string();
            assert!(error.starts_with("model.config.rope_parameters is "), "{error}");
        }
    }
}
