//! `export`: a folder that `transformers` loads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bistro_protocol::tensors::{Tensor, Tensors};
use clap::Args;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    choice::{Choice, Loaded},
    folder::{self, CONFIG, GENERATION, TOKENIZER, WEIGHTS, WEIGHTS_INDEX},
    safetensors,
};
use crate::{failure::Failure, files};

/// Most bytes of one file of parameters, as `transformers` cuts them.
const SHARD: &str = "5GB";
/// The metadata without which older versions of `transformers` refuse a file: the tensors are as torch has them.
const FORMAT: &str = "pt";
/// What turns text into tokens, and how long texts may be.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// `export`.
#[derive(Args)]
pub struct Export {
    /// The folder that is written: a new one, or an empty one.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Most bytes of a file of parameters, with KB, MB or GB; what is larger is cut into several.
    #[arg(long, value_name = "SIZE", default_value = SHARD, value_parser = size)]
    pub shard_size: u64,
    #[command(flatten)]
    pub choice: Choice,
}

/// Loads, writes, and says what is there.
pub async fn export(what: Export, stop: CancellationToken) -> Result<(), Failure> {
    is_free(&what.to)?;
    let (loaded, _) = what.choice.load(None, stop).await?;
    let files = write(&loaded, &what.to, what.shard_size)?;
    println!(
        "{}: {}: {} parameters in {files} file{}, {}; AutoModelForCausalLM.from_pretrained({:?}) loads it",
        what.to.display(),
        loaded.what,
        loaded.parameters.elements(),
        if files == 1 { "" } else { "s" },
        if loaded.text.is_some() { "with its tokenizer" } else { "without a tokenizer: none was named" },
        what.to.display().to_string(),
    );
    Ok(())
}

/// Nothing is overwritten: an older model in several files would be mixed with this one.
fn is_free(folder: &Path) -> Result<(), Error> {
    let fault = |reason: String| Error::Argument { argument: "to", reason };
    match fs::read_dir(folder).map(|mut entries| entries.next()) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(fault(format!("{} is not empty: name a new folder", folder.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(format!("{} cannot be read ({error}): name a new folder", folder.display()))),
    }
}

/// Writes the folder, config.json last: without it nobody takes the rest for a model. Gives the number of files with
/// parameters.
pub fn write(loaded: &Loaded, folder: &Path, shard_size: u64) -> Result<usize, Error> {
    fs::create_dir_all(folder).map_err(|source| files::Error::Write { path: folder.to_owned(), source })?;
    let json = |name: &str, value: &Value| files::write_atomic(&folder.join(name), format!("{value:#}\n").as_bytes());
    let files = write_parameters(&loaded.parameters, folder, shard_size)?;
    let mut end = None;
    if let Some(text) = &loaded.text {
        files::write_atomic(&folder.join(TOKENIZER), &text.to_json())?;
        json(TOKENIZER_CONFIG, &text.config(loaded.context as usize))?;
        end = text.separator();
    }
    json(GENERATION, &json!({ "do_sample": false, "bos_token_id": null, "eos_token_id": end, "pad_token_id": end }))?;
    json(CONFIG, &config(loaded))?;
    Ok(files)
}

/// config.json: the shape, and what the run's own says of tokens.
fn config(loaded: &Loaded) -> Value {
    let positions = folder::longest(&loaded.model).unwrap_or(loaded.context);
    let mut config = loaded.config.to_hugging_face(positions as usize);
    for (field, token) in folder::special_tokens(&loaded.model) {
        config[field] = token;
    }
    config
}

/// One file, or as many as it takes with an index of them.
fn write_parameters(parameters: &Tensors, folder: &Path, shard_size: u64) -> Result<usize, Error> {
    let shards = shards(parameters, shard_size);
    let name = |i: usize| match shards.len() {
        1 => WEIGHTS.to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    for (i, shard) in shards.iter().enumerate() {
        files::write_atomic_with(&folder.join(name(i)), |out| safetensors::write(out, FORMAT, shard))?;
    }
    if shards.len() > 1 {
        let places = shards.iter().enumerate().flat_map(|(i, shard)| shard.iter().map(move |t| (t.name.clone(), i)));
        let map: Map<String, Value> = places.map(|(tensor, i)| (tensor, name(i).into())).collect();
        let total: u64 = parameters.iter().map(bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        files::write_atomic(&folder.join(WEIGHTS_INDEX), format!("{index:#}\n").as_bytes())?;
    }
    Ok(shards.len())
}

/// The tensors in their order, cut before each that would make a file larger than `most`. A larger tensor has a file of
/// its own.
fn shards(parameters: &Tensors, most: u64) -> Vec<Vec<&Tensor>> {
    let mut shards: Vec<Vec<&Tensor>> = vec![Vec::new()];
    let mut size = 0;
    for tensor in parameters {
        if size + bytes(tensor) > most && size > 0 {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes(tensor);
        shards.last_mut().expect("there is one from the start on").push(tensor);
    }
    shards
}

fn bytes(tensor: &Tensor) -> u64 {
    size_of_val(tensor.data.as_slice()) as u64
}

/// A number of bytes, perhaps with a unit of 1000, 1000^2 or 1000^3.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => Some(1),
        "KB" => Some(1000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        _ => None,
    };
    let size = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit)).filter(|size| *size > 0);
    size.ok_or_else(|| "write a whole number of bytes, KB, MB or GB, for example 5GB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, wanted) in [("5GB", 5_000_000_000), ("20KB", 20_000), ("7", 7), ("1MB", 1_000_000)] {
            assert_eq!(size(text), Ok(wanted));
        }
        for text in ["", "GB", "0", "5 GB", "5GiB", "-1", "1.5GB", "99999999999999GB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_is_full_before_the_next_one() {
        let tensor = |name: &str, n: usize| Tensor { name: name.into(), shape: vec![n], data: vec![0.0; n] };
        let tensors =
            Tensors::new(vec![tensor("a", 2), tensor("b", 1), tensor("c", 9), tensor("d", 1), tensor("e", 0)]);
        let tensors = tensors.expect("valid");
        let names = |most| -> Vec<String> {
            let join = |shard: &Vec<&Tensor>| shard.iter().map(|t| t.name.as_str()).collect::<String>();
            shards(&tensors, most).iter().map(join).collect()
        };
        assert_eq!(names(1000), ["abcde"]);
        assert_eq!(names(12), ["ab", "c", "de"]);
        assert_eq!(names(1), ["a", "b", "c", "d", "e"]);
        assert_eq!(shards(&Tensors::default(), 1), [Vec::<&Tensor>::new()]);
    }
}
