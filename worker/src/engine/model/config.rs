//! The shape of a model, out of a preset or out of the config.json of a Hugging Face checkpoint.

use bistro_api::run::{Model, Preset};
use serde_json::Value;

use super::hugging_face;

/// Most parameters that the engine takes: 8 GiB in f32, four times that while training.
const MAX_PARAMETERS: u64 = 1 << 31;

/// A Llama-style decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
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
    /// Base of the rotary embedding's wavelengths.
    pub theta: f64,
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
        "model.config describes {found} parameters: the engine takes at most {MAX_PARAMETERS}, lower hidden_size or num_hidden_layers"
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
    #[error("dataset.sequenceLength is {0}: must be 1..=131072 and at most model.config.max_position_embeddings")]
    SequenceLength(u32),
}

impl Config {
    /// Reads and bounds the model of a run.
    pub fn new(model: &Model, vocabulary: u32, sequence_length: u32) -> Result<Self, ConfigError> {
        let (config, longest) = match (&model.preset, &model.config) {
            (Some(preset), None) => (Self::preset(*preset), 131_072),
            (None, Some(value)) => Self::hugging_face(value)?,
            _ => return Err(ConfigError::NotOne),
        };
        if vocabulary as usize > config.vocabulary {
            return Err(ConfigError::Vocabulary { dataset: vocabulary, model: config.vocabulary });
        }
        if sequence_length == 0 || sequence_length as usize > longest {
            return Err(ConfigError::SequenceLength(sequence_length));
        }
        match config.parameters() {
            0..=MAX_PARAMETERS => Ok(config),
            found => Err(ConfigError::TooLarge { found }),
        }
    }

    fn preset(preset: Preset) -> Self {
        let (width, layers, heads, intermediate) = match preset {
            Preset::Test => (32, 2, 2, 96),
            Preset::Tiny => (128, 4, 4, 344),
        };
        Self {
            vocabulary: 256,
            width,
            layers,
            heads,
            key_heads: heads,
            head: width / heads,
            intermediate,
            epsilon: 1e-5,
            theta: 10_000.0,
        }
    }

    /// The model and its longest sequence. Fields as `transformers.LlamaConfig` writes them.
    fn hugging_face(value: &Value) -> Result<(Self, usize), ConfigError> {
        let value = hugging_face::with_plain_rope(value);
        let fields = Fields(&value);
        fields.must_be("model_type", &[Value::from("llama")], "only the architecture \"llama\" is known")?;
        fields.may_be("architectures", &[Value::from(vec!["LlamaForCausalLM"])], "must be [\"LlamaForCausalLM\"]")?;
        fields.may_be("hidden_act", &["silu".into(), "swish".into()], "only \"silu\" is known")?;
        let no = [Value::from(false)];
        fields.may_be("tie_word_embeddings", &no, "tied embeddings are not known, set it to false")?;
        fields.may_be("attention_bias", &no, "biases are not known, set it to false")?;
        fields.may_be("mlp_bias", &no, "biases are not known, set it to false")?;
        for field in ["rope_scaling", "rope_parameters"] {
            fields.may_be(field, &[], "scaled rotary embeddings are not known, remove it")?;
        }

        let width = fields.integer("hidden_size", None, 8..=16_384)?;
        let heads = fields.integer("num_attention_heads", None, 1..=256)?;
        let key_heads = fields.integer("num_key_value_heads", Some(heads), 1..=256)?;
        let config = Self {
            vocabulary: fields.integer("vocab_size", None, 2..=1 << 20)?,
            width,
            layers: fields.integer("num_hidden_layers", None, 1..=256)?,
            heads,
            key_heads,
            head: fields.integer("head_dim", Some(width / heads), 2..=512)?,
            intermediate: fields.integer("intermediate_size", None, 8..=131_072)?,
            epsilon: fields.number("rms_norm_eps", 1e-6, 1e-12, 1e-2)? as f32,
            theta: fields.number("rope_theta", 10_000.0, 1.0, 1e9)?,
        };
        if !heads.is_multiple_of(key_heads) {
            return Err(fields.error("num_key_value_heads", format!("must divide num_attention_heads, {heads}")));
        }
        if fields.get("head_dim").is_none() && !width.is_multiple_of(heads) {
            return Err(fields.error("hidden_size", format!("must be a multiple of num_attention_heads, {heads}")));
        }
        if !config.head.is_multiple_of(2) {
            return Err(fields.error("head_dim", format!("{} entries of a head must be even", config.head)));
        }
        Ok((config, fields.integer("max_position_embeddings", Some(131_072), 1..=1 << 30)?))
    }

    /// Parameters in all; no factor exceeds 2^20, so nothing overflows.
    pub fn parameters(&self) -> u64 {
        let [v, c, l, f] = [self.vocabulary, self.width, self.layers, self.intermediate].map(|n| n as u64);
        let (q, kv) = ((self.heads * self.head) as u64, (self.key_heads * self.head) as u64);
        2 * v * c + c + l * (2 * c + 2 * c * q + 2 * c * kv + 3 * c * f)
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

    fn read(value: Value) -> Result<Config, ConfigError> {
        Config::new(&Model { preset: None, config: Some(value) }, 256, 128)
    }

    #[test]
    fn a_checkpoint_s_config_is_understood() {
        let config = read(valid()).expect("valid");
        assert_eq!((config.heads, config.key_heads, config.head, config.theta), (4, 2, 16, 500_000.0));
    }

    #[test]
    fn presets_have_the_size_that_they_promise() {
        let parameters =
            |preset| Config::new(&Model { preset: Some(preset), config: None }, 256, 128).expect("valid").parameters();
        assert_eq!(parameters(Preset::Test), 43_168);
        assert_eq!(parameters(Preset::Tiny), 857_216);
    }

    #[test]
    fn what_the_engine_cannot_follow_is_named() {
        let wrong = [
            ("model_type", json!("gpt2")),
            ("model_type", Value::Null),
            ("architectures", json!(["MistralForCausalLM"])),
            ("hidden_act", json!("gelu")),
            ("tie_word_embeddings", json!(true)),
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
        for (field, value) in wrong {
            let mut config = valid();
            config[field] = value;
            let error = read(config).expect_err(field).to_string();
            assert!(error.starts_with(&format!("model.config.{field} is ")), "{error}");
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
            "model.config.model_type is absent: only the architecture \"llama\" is known"
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
