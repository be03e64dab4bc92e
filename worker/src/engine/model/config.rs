//! The shape of a model, out of a preset or out of the config.json of a Hugging Face checkpoint.

use bistro_api::run::{Model, Preset};
use serde_json::Value;

use super::hugging_face;

/// Most tokens of a sequence.
const LONGEST: usize = 131_072;
/// Most parameters that the engine takes: 8 GiB in f32, four times that while training.
const MAX_PARAMETERS: u64 = 1 << 31;

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// RMS norms, rotary positions, gated feed-forward layers, no biases.
    Llama,
    /// Layer norms, learned positions, GELU, biases.
    Gpt2,
}

/// A decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which architecture.
    pub family: Family,
    /// V, tokens that the model knows.
    pub vocabulary: usize,
    /// C, entries of a row of the residual stream.
    pub width: usize,
    /// L, blocks.
    pub layers: usize,
    /// Hq, heads of queries; a multiple of `key_heads`.
    pub heads: usize,
    /// Hk, heads of keys and values.
    pub key_heads: usize,
    /// D, entries of a head; even.
    pub head: usize,
    /// F, width of the feed-forward layer.
    pub intermediate: usize,
    /// Added to the mean square in normalisations.
    pub epsilon: f32,
    /// Base of the rotary embedding's wavelengths (Llama).
    pub theta: f64,
    /// Whether the embedding makes the logits too.
    pub tied: bool,
    /// Most tokens of a sequence; GPT-2 has an embedding for each.
    pub longest: usize,
}

/// Why a model cannot be built. Each message names the field and the remedy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Neither or both of preset and config.
    #[error("model needs exactly one of preset and config")]
    NotOne,
    /// A field that the engine cannot follow.
    #[error("model.config.{field} is {found}: {remedy}")]
    Field {
        /// Its name in config.json.
        field: &'static str,
        /// Its value, shortened.
        found: String,
        /// What to write instead.
        remedy: String,
    },
    /// Too many parameters in all.
    #[error(
        "model.config describes {found} parameters: the engine takes at most {MAX_PARAMETERS}, lower hidden_size or num_hidden_layers (n_embd or n_layer)"
    )]
    TooLarge {
        /// Parameters described.
        found: u64,
    },
    /// The dataset has tokens that the model does not know.
    #[error(
        "dataset.digest names a vocabulary of {dataset} but the model has {model}: use model.config with vocab_size {dataset} or more"
    )]
    Vocabulary {
        /// Tokens of the dataset.
        dataset: u32,
        /// Tokens of the model.
        model: usize,
    },
    /// A sequence longer than the model was made for.
    #[error(
        "dataset.sequenceLength is {0}: must be 1..=131072 and at most model.config.max_position_embeddings (n_positions)"
    )]
    SequenceLength(u32),
}

impl Config {
    /// Reads and bounds the model of a run.
    pub fn new(model: &Model, vocabulary: u32, sequence_length: u32) -> Result<Self, ConfigError> {
        let config = match (&model.preset, &model.config) {
            (Some(preset), None) => Self::preset(*preset),
            (None, Some(value)) => Self::hugging_face(value)?,
            _ => return Err(ConfigError::NotOne),
        };
        if vocabulary as usize > config.vocabulary {
            return Err(ConfigError::Vocabulary { dataset: vocabulary, model: config.vocabulary });
        }
        if sequence_length == 0 || sequence_length as usize > config.longest.min(LONGEST) {
            return Err(ConfigError::SequenceLength(sequence_length));
        }
        match config.parameters() {
            0..=MAX_PARAMETERS => Ok(config),
            found => Err(ConfigError::TooLarge { found }),
        }
    }

    fn preset(preset: Preset) -> Self {
        let llama = |vocabulary, width, layers, heads, intermediate| Self {
            family: Family::Llama,
            vocabulary,
            width,
            layers,
            heads,
            key_heads: heads,
            head: width / heads,
            intermediate,
            epsilon: 1e-5,
            theta: 10_000.0,
            tied: false,
            longest: LONGEST,
        };
        match preset {
            Preset::Test => llama(256, 32, 2, 2, 96),
            Preset::Tiny => llama(256, 128, 4, 4, 344),
            Preset::Small => Self { tied: true, ..llama(8192, 256, 4, 4, 688) },
            Preset::Medium => Self { tied: true, ..llama(8192, 384, 6, 6, 1024) },
            Preset::Gpt2 => {
                Self { family: Family::Gpt2, tied: true, longest: 1024, ..llama(50_257, 768, 12, 12, 4 * 768) }
            }
            Preset::Llama1b => Self { key_heads: 4, ..llama(32_000, 2048, 22, 32, 5632) },
        }
    }

    /// Out of the config.json of a checkpoint, whose architecture decides which fields it has.
    fn hugging_face(value: &Value) -> Result<Self, ConfigError> {
        let value = hugging_face::with_plain_rope(value);
        let fields = Fields(&value);
        fields.must_be(
            "model_type",
            &["llama".into(), "gpt2".into()],
            "the architectures \"llama\" and \"gpt2\" are known",
        )?;
        let config =
            if fields.get("model_type") == Some(&"gpt2".into()) { Self::gpt2(&fields)? } else { Self::llama(&fields)? };
        if !config.heads.is_multiple_of(config.key_heads) {
            let remedy = format!("must divide num_attention_heads, {}", config.heads);
            return Err(fields.error("num_key_value_heads", remedy));
        }
        Ok(config)
    }

    /// Fields as `transformers.LlamaConfig` writes them.
    fn llama(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        fields.may_be("architectures", &[Value::from(vec!["LlamaForCausalLM"])], "must be [\"LlamaForCausalLM\"]")?;
        fields.may_be("hidden_act", &["silu".into(), "swish".into()], "only \"silu\" is known")?;
        let no = [Value::from(false)];
        fields.may_be("attention_bias", &no, "biases are not known, set it to false")?;
        fields.may_be("mlp_bias", &no, "biases are not known, set it to false")?;
        for field in ["rope_scaling", "rope_parameters"] {
            fields.may_be(field, &[], "scaled rotary embeddings are not known, remove it")?;
        }

        let width = fields.integer("hidden_size", None, 8..=16_384)?;
        let heads = fields.integer("num_attention_heads", None, 1..=256)?;
        if fields.get("head_dim").is_none() && !width.is_multiple_of(heads) {
            return Err(fields.error("hidden_size", format!("must be a multiple of num_attention_heads, {heads}")));
        }
        let head = fields.integer("head_dim", Some(width / heads), 2..=512)?;
        if !head.is_multiple_of(2) {
            return Err(fields.error("head_dim", format!("{head} entries of a head must be even")));
        }
        Ok(Self {
            family: Family::Llama,
            vocabulary: fields.integer("vocab_size", None, 2..=1 << 20)?,
            width,
            layers: fields.integer("num_hidden_layers", None, 1..=256)?,
            heads,
            key_heads: fields.integer("num_key_value_heads", Some(heads), 1..=256)?,
            head,
            intermediate: fields.integer("intermediate_size", None, 8..=131_072)?,
            epsilon: fields.number("rms_norm_eps", 1e-6, 1e-12, 1e-2)? as f32,
            theta: fields.number("rope_theta", 10_000.0, 1.0, 1e9)?,
            tied: fields.flag("tie_word_embeddings", false)?,
            longest: fields.integer("max_position_embeddings", Some(LONGEST), 1..=1 << 30)?,
        })
    }

    /// Fields as `transformers.GPT2Config` writes them.
    fn gpt2(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        fields.may_be("architectures", &[Value::from(vec!["GPT2LMHeadModel"])], "must be [\"GPT2LMHeadModel\"]")?;
        let tanh = ["gelu_new".into(), "gelu_pytorch_tanh".into()];
        fields.may_be("activation_function", &tanh, "only \"gelu_new\" is known")?;
        fields.may_be("scale_attn_weights", &[Value::from(true)], "must be true")?;
        let no = [Value::from(false)];
        for field in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"] {
            fields.may_be(field, &no, "must be false")?;
        }
        let width = fields.integer("n_embd", Some(768), 8..=16_384)?;
        let heads = fields.integer("n_head", Some(12), 1..=256)?;
        if !width.is_multiple_of(heads) {
            return Err(fields.error("n_embd", format!("must be a multiple of n_head, {heads}")));
        }
        Ok(Self {
            family: Family::Gpt2,
            vocabulary: fields.integer("vocab_size", Some(50_257), 2..=1 << 20)?,
            width,
            layers: fields.integer("n_layer", Some(12), 1..=256)?,
            heads,
            key_heads: heads,
            head: width / heads,
            intermediate: fields.integer("n_inner", Some(4 * width), 8..=131_072)?,
            epsilon: fields.number("layer_norm_epsilon", 1e-5, 1e-12, 1e-2)? as f32,
            theta: 10_000.0,
            tied: fields.flag("tie_word_embeddings", true)?,
            longest: fields.integer("n_positions", Some(1024), 1..=LONGEST)?,
        })
    }

    /// Parameters in all; no factor exceeds 2^20, so nothing overflows.
    pub fn parameters(&self) -> u64 {
        let [v, c, l, f] = [self.vocabulary, self.width, self.layers, self.intermediate].map(|n| n as u64);
        let (q, kv) = ((self.heads * self.head) as u64, (self.key_heads * self.head) as u64);
        let embeddings = if self.tied { v * c } else { 2 * v * c };
        match self.family {
            Family::Llama => embeddings + c + l * (2 * c + 2 * c * q + 2 * c * kv + 3 * c * f),
            Family::Gpt2 => {
                let blocks = l * (4 * c + 4 * c * c + 4 * c + 2 * c * f + f + c);
                embeddings + self.longest as u64 * c + 2 * c + blocks
            }
        }
    }
}

/// The members of config.json; what is null counts as absent.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    fn error(&self, field: &'static str, remedy: impl Into<String>) -> ConfigError {
        let found = self.get(field).map_or_else(|| "absent".to_owned(), Value::to_string);
        ConfigError::Field { field, found: found.chars().take(64).collect(), remedy: remedy.into() }
    }

    fn must_be(&self, field: &'static str, allowed: &[Value], remedy: &str) -> Result<(), ConfigError> {
        match self.get(field) {
            Some(value) if allowed.contains(value) => Ok(()),
            _ => Err(self.error(field, remedy)),
        }
    }

    fn may_be(&self, field: &'static str, allowed: &[Value], remedy: &str) -> Result<(), ConfigError> {
        if self.get(field).is_none() { Ok(()) } else { self.must_be(field, allowed, remedy) }
    }

    fn integer(
        &self,
        field: &'static str,
        default: Option<usize>,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        let value = match (self.get(field), default) {
            (None, Some(default)) => Some(default),
            (value, _) => value.and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()),
        };
        let remedy = || format!("must be an integer in {}..={}", range.start(), range.end());
        value.filter(|n| range.contains(n)).ok_or_else(|| self.error(field, remedy()))
    }

    fn flag(&self, field: &'static str, default: bool) -> Result<bool, ConfigError> {
        let value = self.get(field).map_or(Some(default), Value::as_bool);
        value.ok_or_else(|| self.error(field, "must be true or false"))
    }

    fn number(&self, field: &'static str, default: f64, low: f64, high: f64) -> Result<f64, ConfigError> {
        let value = self.get(field).map_or(Some(default), Value::as_f64);
        let remedy = || format!("must be a number in {low:e}..={high:e}");
        value.filter(|x| (low..=high).contains(x)).ok_or_else(|| self.error(field, remedy()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn valid() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
            "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 512, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 256,
            "tie_word_embeddings": false, "rope_scaling": null,
        })
    }

    fn valid_gpt2() -> Value {
        json!({
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new", "n_embd": 96,
            "n_head": 6, "n_inner": null, "n_layer": 2, "n_positions": 128, "vocab_size": 512,
        })
    }

    fn read(value: Value) -> Result<Config, ConfigError> {
        Config::new(&Model { preset: None, config: Some(value) }, 256, 128)
    }

    #[test]
    fn a_checkpoint_s_config_is_understood() {
        let config = read(valid()).expect("valid");
        assert_eq!((config.heads, config.key_heads, config.head, config.theta), (4, 2, 16, 500_000.0));
        let config = read(valid_gpt2()).expect("valid");
        assert_eq!((config.heads, config.head, config.intermediate, config.tied), (6, 16, 384, true));
    }

    #[test]
    fn presets_have_the_size_that_they_promise() {
        let parameters =
            |preset| Config::new(&Model { preset: Some(preset), config: None }, 256, 128).expect("valid").parameters();
        assert_eq!(parameters(Preset::Test), 43_168);
        assert_eq!(parameters(Preset::Tiny), 857_216);
        assert_eq!(parameters(Preset::Small), 5_261_568);
        assert_eq!(parameters(Preset::Medium), 13_767_552);
        assert_eq!(parameters(Preset::Gpt2), 124_439_808);
        assert_eq!(parameters(Preset::Llama1b), 1_100_048_384);
    }

    #[test]
    fn what_the_engine_cannot_follow_is_named() {
        let wrong = [
            ("model_type", json!("mamba")),
            ("model_type", Value::Null),
            ("architectures", json!(["MistralForCausalLM"])),
            ("hidden_act", json!("gelu")),
            ("tie_word_embeddings", json!("yes")),
            ("attention_bias", json!(true)),
            ("rope_scaling", json!({"rope_type": "llama3"})),
            ("hidden_size", json!(66)),
            ("hidden_size", json!(-1)),
            ("hidden_size", Value::Null),
            ("num_key_value_heads", json!(3)),
            ("num_hidden_layers", json!(1_000_000_000)),
            ("head_dim", json!(15)),
            ("vocab_size", json!("many")),
            ("rms_norm_eps", json!(0.0)),
        ];
        let wrong_gpt2 = [
            ("architectures", json!(["LlamaForCausalLM"])),
            ("activation_function", json!("relu")),
            ("n_embd", json!(100)),
            ("n_embd", json!(4)),
            ("n_head", json!(0)),
            ("n_layer", json!(1_000_000_000)),
            ("n_inner", json!(-1)),
            ("n_positions", json!(1 << 20)),
            ("vocab_size", json!(1)),
            ("layer_norm_epsilon", json!(1.0)),
            ("tie_word_embeddings", json!("yes")),
            ("scale_attn_weights", json!(false)),
            ("scale_attn_by_inverse_layer_idx", json!(true)),
            ("reorder_and_upcast_attn", json!(true)),
            ("add_cross_attention", json!(true)),
        ];
        let wrong = wrong.map(|wrong| (valid(), wrong)).into_iter();
        for (mut config, (field, value)) in wrong.chain(wrong_gpt2.map(|wrong| (valid_gpt2(), wrong))) {
            config[field] = value;
            let error = read(config).expect_err(field).to_string();
            assert!(error.starts_with(&format!("model.config.{field} is ")) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn a_model_beyond_all_bounds_is_refused() {
        let mut config = valid();
        config["hidden_size"] = json!(16_384);
        config["num_attention_heads"] = json!(64);
        config["intermediate_size"] = json!(131_072);
        assert!(matches!(read(config), Err(ConfigError::TooLarge { .. })));
        assert_eq!(
            read(json!([])).expect_err("no object").to_string(),
            "model.config.model_type is absent: the architectures \"llama\" and \"gpt2\" are known"
        );
    }

    #[test]
    fn dataset_and_model_must_fit() {
        let model = Model { preset: Some(Preset::Tiny), config: None };
        assert_eq!(Config::new(&model, 257, 128), Err(ConfigError::Vocabulary { dataset: 257, model: 256 }));
        let model = Model { preset: None, config: Some(valid()) };
        assert_eq!(Config::new(&model, 256, 257), Err(ConfigError::SequenceLength(257)));
        assert_eq!(Config::new(&Model::default(), 256, 128), Err(ConfigError::NotOne));
    }
}
