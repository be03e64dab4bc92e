//! Whole folders: out and in again, and everything that may be wrong with one.

use std::{fs, path::Path};

use bistro_api::run::{Model, Preset};
use bistro_protocol::tensors::{Tensor, Tensors};
use half::bf16;
use serde_json::{Value, json};

use super::{
    choice::Loaded,
    export,
    folder::{self, Folder},
    import, safetensors,
    text::Text,
};
use crate::{
    data,
    engine::{Config, Engine},
};

fn preset() -> Model {
    Model { preset: Some(Preset::Test), config: None }
}

fn loaded() -> Loaded {
    let model = preset();
    let config = folder::shape("preset", &model).expect("a preset");
    let parameters = Engine::new(&model, 256, 64, 1).expect("a preset").initial(3).expect("drawn");
    Loaded { model, config, context: 64, parameters, text: Some(Text::bytes()), what: "a test".into() }
}

fn open(path: &Path) -> Folder<data::Folder> {
    Folder::new(data::Folder(path.to_owned()), "m")
}

async fn read(path: &Path) -> Result<Tensors, String> {
    let folder = open(path);
    let read = async {
        let model = folder.model().await?;
        let engine = Engine::new(&model, 1, 1, 1).expect("the model was checked");
        folder.text(engine.config()).await?;
        folder.parameters(&engine).await
    };
    read.await.map_err(|failure| match failure {
        crate::failure::Failure::Permanent(line) => line,
        other => format!("not permanent: {other:?}"),
    })
}

/// A folder with a sound model in it.
fn exported(shard_size: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    export::write(&loaded(), folder.path(), shard_size).expect("written");
    folder
}

#[tokio::test]
async fn what_is_exported_is_read_back_from_any_number_of_files() {
    let parameters = loaded().parameters;
    for (shard_size, files) in [(5_000_000_000, 1), (100_000, 2), (1, parameters.len())] {
        let folder = exported(shard_size);
        let is_weights = |name: &str| name.ends_with(".safetensors");
        let names: Vec<String> = fs::read_dir(folder.path())
            .expect("a folder")
            .flatten()
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names.iter().filter(|name| is_weights(name)).count(), files, "{names:?}");
        assert_eq!(names.contains(&folder::WEIGHTS_INDEX.to_owned()), files > 1);
        assert_eq!(read(folder.path()).await, Ok(parameters.clone()));
    }
}

#[tokio::test]
async fn an_import_is_a_checkpoint_and_a_model_that_a_run_takes() {
    let (from, to) = (exported(100_000), tempfile::tempdir().expect("a folder"));
    let file = to.path().join("checkpoint.safetensors");
    let said = import::convert(&open(from.path()), &file).await.expect("sound");
    let bytes = fs::read(&file).expect("written");
    let tensors = safetensors::read("file", &bytes).expect("a sound file");
    let parameters = loaded().parameters;
    assert_eq!(tensors.len(), parameters.len());
    for (tensor, (name, view)) in parameters.iter().zip(&tensors) {
        assert_eq!((name, safetensors::floats(view).as_ref()), (&tensor.name, Some(&tensor.data)));
    }
    // All of it is YAML, and the model is the one that was exported.
    let said: Value = serde_yaml::from_str(&said).expect("YAML");
    assert_eq!(said["digest"], hex::encode(parameters.digest()));
    let model: Model = serde_json::from_value(said["model"].clone()).expect("a model");
    assert_eq!(folder::shape("said", &model).expect("sound"), Config { longest: 64, ..loaded().config });
    assert_eq!(folder::longest(&model), Some(64));
}

#[tokio::test]
async fn halves_are_read_as_the_numbers_that_they_are() {
    let folder = exported(5_000_000_000);
    let parameters = loaded().parameters;
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for Tensor { name, shape, data: entries } in &parameters {
        let start = data.len();
        data.extend(entries.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()));
        let info = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), info);
    }
    let header = Value::from(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(folder.path().join(folder::WEIGHTS), file).expect("written");
    assert_eq!(read(folder.path()).await, Ok(parameters.map(|x| bf16::from_f32(x).to_f32())));
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).expect("written")).expect("JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("written");
}

/// What is done to a sound folder.
type Change = Box<dyn Fn(&Path)>;

/// One line each, that names file and field.
#[tokio::test]
async fn a_folder_that_cannot_be_used_is_one_line() {
    let config = |change: fn(&mut Value)| move |path: &Path| change_json(&path.join("config.json"), change);
    let index =
        |change: fn(&mut Value)| move |path: &Path| change_json(&path.join("model.safetensors.index.json"), change);
    let wrong: Vec<(&str, Change)> = vec![
        ("m/config.json does not exist: ", Box::new(|p| fs::remove_file(p.join("config.json")).expect("there"))),
        ("m/config.json: is no JSON", Box::new(|p| fs::write(p.join("config.json"), "{\n\n").expect("written"))),
        (
            "m/config.json: model.config.model_type is \"mamba\": ",
            Box::new(config(|v| v["model_type"] = "mamba".into())),
        ),
        (
            "m/config.json: model.config.num_key_value_heads is 3: ",
            Box::new(config(|v| v["num_key_value_heads"] = 3.into())),
        ),
        (
            "m/config.json: model.config.hidden_size is 33: ",
            Box::new(config(|v| {
                v["hidden_size"] = 33.into();
                v["head_dim"] = Value::Null;
            })),
        ),
        (
            "m/config.json: model.config.rope_scaling is ",
            Box::new(config(|v| v["rope_scaling"] = json!({"factor": 8}))),
        ),
        (
            "m/tokenizer.json has tokens up to 256 but the model only 255: ",
            Box::new(config(|v| v["vocab_size"] = 255.into())),
        ),
        (
            "m/tokenizer.json: is no tokenizer.json",
            Box::new(|p| fs::write(p.join("tokenizer.json"), "[]").expect("written")),
        ),
        ("the model's has [32, 97]", Box::new(config(|v| v["intermediate_size"] = 97.into()))),
        (
            "m: no tensor \"model.layers.2.input_layernorm.weight\", which the model has: ",
            Box::new(config(|v| v["num_hidden_layers"] = 3.into())),
        ),
        (
            "tensor \"model.layers.1.input_layernorm.weight\" is none of the model's: ",
            Box::new(config(|v| v["num_hidden_layers"] = 1.into())),
        ),
        (
            "m/model.safetensors does not exist: other formats",
            Box::new(|p| fs::remove_file(p.join("model.safetensors.index.json")).expect("there")),
        ),
        (
            "m/model.safetensors.index.json: weight_map names something",
            Box::new(index(|v| v["weight_map"]["a"] = "../../etc/passwd.safetensors".into())),
        ),
        ("m/model.safetensors.index.json: has no weight_map", Box::new(index(|v| v["weight_map"] = Value::Null))),
        (
            "m/absent.safetensors does not exist: the index names it",
            Box::new(index(|v| v["weight_map"]["a"] = "absent.safetensors".into())),
        ),
        ("m/model-00001-of-00002.safetensors: is no safetensors file", Box::new(first_file(|_| vec![0xff; 100]))),
        (
            "m/model-00001-of-00002.safetensors: is no whole safetensors file",
            Box::new(first_file(|mut f| {
                f.truncate(f.len() - 1);
                f
            })),
        ),
        (
            "has an infinity or a NaN",
            Box::new(first_file(|mut f| {
                let end = f.len();
                f[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                f
            })),
        ),
        ("has numbers of the type I32: ", Box::new(first_file(|f| replaced(f, "\"F32\"", "\"I32\"")))),
        ("\"lm_heap.weight\" is none of the model's", Box::new(first_file(|f| replaced(f, "lm_head", "lm_heap")))),
    ];
    for (says, change) in wrong {
        let folder = exported(100_000);
        change(folder.path());
        let error = read(folder.path()).await.expect_err(says);
        assert!(error.contains(says) && error.lines().count() == 1 && error.len() < 400, "{says}: {error}");
    }
}

fn first_file(change: fn(Vec<u8>) -> Vec<u8>) -> impl Fn(&Path) {
    move |path| {
        let path = path.join("model-00001-of-00002.safetensors");
        let bytes = fs::read(&path).expect("written");
        fs::write(path, change(bytes)).expect("written");
    }
}

/// With each `from` replaced by `to`, which is as long.
fn replaced(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from.as_bytes())).collect();
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}
