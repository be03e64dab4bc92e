//! A model as Hugging Face's libraries keep it: a folder, on disk or in a bucket, with config.json, one or several
//! safetensors files, and perhaps a tokenizer.json.

use std::collections::BTreeSet;

use bistro_api::run;
use bistro_protocol::tensors::Tensors;
use bytes::Bytes;
use serde_json::Value;

use super::{Error, Text, names::Gathered};
use crate::{
    data::{MAX_TOKENIZER, Source},
    engine::{Config, Engine},
    failure::Failure,
};

/// The shape of a model.
pub const CONFIG: &str = "config.json";
/// Parameters in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// Which of several files has which parameter.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// What turns text into tokens.
pub const TOKENIZER: &str = "tokenizer.json";

/// How text is made, for those who do not say.
pub const GENERATION: &str = "generation_config.json";

/// Most bytes of a config.json.
pub const MAX_CONFIG: u64 = 1 << 20;
/// Most bytes of an index.
const MAX_INDEX: u64 = 16 << 20;
/// Most files of a model.
const MAX_FILES: usize = 1000;

/// Such a folder.
pub struct Folder<S> {
    /// Where its files are.
    source: S,
    /// Its name for people, as they gave it.
    name: String,
}

impl<S: Source> Folder<S> {
    /// The folder that people call `name`.
    pub fn new(source: S, name: &str) -> Self {
        Self { source, name: name.trim_end_matches('/').to_owned() }
    }

    fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    /// The model of its config.json, which the engine can follow.
    pub async fn model(&self) -> Result<run::Model, Failure> {
        let bytes = self.source.get(CONFIG, MAX_CONFIG).await?;
        let remedy = "name a folder that save_pretrained wrote";
        let bytes = bytes.ok_or_else(|| Error::Absent { file: self.path(CONFIG), remedy })?;
        Ok(model(&self.path(CONFIG), &bytes)?)
    }

    /// Its tokenizer, if it has one; `model` must know all its tokens.
    pub async fn text(&self, model: &Config) -> Result<Option<Text>, Failure> {
        let Some(file) = self.source.get(TOKENIZER, MAX_TOKENIZER).await? else { return Ok(None) };
        let mut end = None;
        for name in [GENERATION, CONFIG] {
            let bytes = self.source.get(name, MAX_CONFIG).await?;
            let config: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            end = end.or_else(|| config.as_ref().and_then(last_token));
        }
        let text = Text::json(&self.path(TOKENIZER), file, end)?;
        text.check(model.vocabulary)?;
        Ok(Some(text))
    }

    /// All parameters of `engine`'s model.
    pub async fn parameters(&self, engine: &Engine) -> Result<Tensors, Failure> {
        let mut gathered = Gathered::new(engine.shape());
        let most = gathered.most_bytes();
        if let Some(bytes) = self.source.get(WEIGHTS, most).await? {
            gathered.take(&self.path(WEIGHTS), &bytes)?;
            return Ok(gathered.finish(&self.path(WEIGHTS))?);
        }
        let Some(index) = self.source.get(WEIGHTS_INDEX, MAX_INDEX).await? else {
            let remedy = "other formats (pytorch_model.bin) can be saved again with transformers' save_pretrained";
            return Err(Error::Absent { file: self.path(WEIGHTS), remedy }.into());
        };
        for file in self.files(&index)? {
            let bytes = self.source.get(&file, most).await?;
            let remedy = "the index names it: fetch the whole folder";
            let bytes = bytes.ok_or_else(|| Error::Absent { file: self.path(&file), remedy })?;
            gathered.take(&self.path(&file), &bytes)?;
        }
        Ok(gathered.finish(&self.name)?)
    }

    /// The files that an index names.
    fn files(&self, index: &Bytes) -> Result<BTreeSet<String>, Error> {
        let fault = |reason: &str| Error::file(self.path(WEIGHTS_INDEX), reason);
        let index: Value = serde_json::from_slice(index).map_err(|error| fault(&format!("is no JSON ({error})")))?;
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| fault("has no weight_map: fetch it again"))?;
        let mut files = BTreeSet::new();
        for file in map.values() {
            let file = file.as_str().filter(|name| is_plain(name));
            let file = file.ok_or_else(|| fault("weight_map names something that is no safetensors file beside it"))?;
            files.insert(file.to_owned());
            if files.len() > MAX_FILES {
                return Err(fault(&format!("weight_map names more than {MAX_FILES} files")));
            }
        }
        if files.is_empty() {
            return Err(fault("weight_map names no file"));
        }
        Ok(files)
    }
}

/// Whether it is the name of a file in this very folder.
fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    name.len() <= 128 && !name.starts_with('.') && name.ends_with(".safetensors") && name.bytes().all(plain)
}

/// The token that ends a text, or the first of several.
fn last_token(config: &Value) -> Option<u32> {
    let end = config.get("eos_token_id")?;
    end.as_u64().or_else(|| end.get(0)?.as_u64()).and_then(|token| u32::try_from(token).ok())
}

/// The tokens with a meaning of their own that a config.json names: a number, or several.
pub fn special_tokens(model: &run::Model) -> Vec<(&'static str, Value)> {
    let own = |field: &'static str| {
        let value = model.config.as_ref()?.get(field)?;
        let numbers = value.as_array().is_some_and(|tokens| tokens.len() <= 16 && tokens.iter().all(Value::is_u64));
        (value.is_u64() || numbers).then(|| (field, value.clone()))
    };
    ["bos_token_id", "eos_token_id", "pad_token_id"].into_iter().filter_map(own).collect()
}

/// The model of a config.json that is called `file`.
pub fn model(file: &str, bytes: &[u8]) -> Result<run::Model, Error> {
    let config: Value =
        serde_json::from_slice(bytes).map_err(|error| Error::file(file, format!("is no JSON ({error})")))?;
    let model = run::Model { preset: None, config: Some(config) };
    shape(file, &model)?;
    Ok(model)
}

/// What the engine makes of it.
pub fn shape(file: &str, model: &run::Model) -> Result<Config, Error> {
    Config::new(model, 1, 1).map_err(|source| Error::Config { file: file.to_owned(), source })
}

/// The longest sequence that a config.json says its model was made for.
pub fn longest(model: &run::Model) -> Option<u32> {
    let config = model.config.as_ref()?;
    let longest = ["max_position_embeddings", "n_positions"].iter().find_map(|field| config.get(field)?.as_u64())?;
    u32::try_from(longest).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_files_of_its_folder_only() {
        for name in ["model-00001-of-00002.safetensors", "a.safetensors"] {
            assert!(is_plain(name), "{name}");
        }
        for name in
            ["../a.safetensors", "/a.safetensors", "a/b.safetensors", ".a.safetensors", "a.bin", "", "a\n.safetensors"]
        {
            assert!(!is_plain(name), "{name}");
        }
    }
}
