//! Which model: of the run, out of its bucket, out of a file, or out of a folder.

use std::path::{Path, PathBuf};

use bistro_api::run::{self, Preset};
use bistro_protocol::tensors::Tensors;
use bytes::Bytes;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Text,
    folder::{self, Folder},
    names::Gathered,
};
use crate::{
    data::{self, MAX_TOKENIZER},
    engine::{Config, Engine},
    environment,
    failure::Failure,
    files,
    follow::{Follower, averager_of},
    look, models,
    node::Node,
    origin,
};

/// Tokens that a model sees at once where nobody says how many it was made for, or more than people wait for.
const CONTEXT: u32 = 1024;
/// Windows in which the newest base is looked for.
const LOOK_BACK: usize = 20;

/// The model that a command is about. Without any of these: the newest one of the run.
#[derive(Args, Clone)]
pub struct Choice {
    /// A folder with config.json, model.safetensors and tokenizer.json, as save_pretrained writes it; needs no run.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["window", "checkpoint", "model", "hotkey"])]
    pub from: Option<PathBuf>,
    /// The run's base before this window; absent: the newest.
    #[arg(long, value_name = "W", conflicts_with_all = ["checkpoint", "hotkey"])]
    pub window: Option<u64>,
    /// A safetensors file of parameters on disk, or the key of one in the bucket.
    #[arg(long, value_name = "FILE|KEY", conflicts_with = "hotkey")]
    pub checkpoint: Option<String>,
    /// The miner whose model it is (mechanism lossWins); absent there: the one that the chain pays most.
    #[arg(long, value_name = "SS58")]
    pub hotkey: Option<String>,
    /// The config.json of the checkpoint, or the name of a preset (tiny); then no run is needed.
    #[arg(long, value_name = "FILE|PRESET", requires = "checkpoint")]
    pub model: Option<String>,
    /// The tokenizer.json of the model; absent: that of the run or of the folder, else every byte is a token.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens that the model sees at once; absent: run.dataset.sequenceLength, else what config.json says up to 1024.
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<u32>,
}

/// A model with all that belongs to it.
pub struct Loaded {
    /// Its shape, as a run names it.
    pub model: run::Model,
    /// The same, read.
    pub config: Config,
    /// Tokens that it sees at once.
    pub context: u32,
    /// Its parameters; they fit the shape and are finite.
    pub parameters: Tensors,
    /// What makes its tokens; `None` where a folder has no tokenizer.
    pub text: Option<Text>,
    /// What it is, for people.
    pub what: String,
}

/// Held-out pages of the run, as sequences of sequenceLength + 1 tokens.
pub type Sequences = Vec<Vec<u32>>;

impl Loaded {
    /// An engine for sequences of up to `positions` tokens.
    pub fn engine(&self, positions: u32, threads: usize) -> Result<Engine, Error> {
        Ok(Engine::new(&self.model, 1, positions, threads)?)
    }

    /// Its tokenizer, which there must be.
    pub fn text(&self) -> Result<&Text, Error> {
        let reason = || format!("{} has no tokenizer.json: name one", self.what);
        self.text.as_ref().ok_or_else(|| Error::Argument { argument: "tokenizer", reason: reason() })
    }
}

impl Choice {
    /// Whether neither chain nor bucket is needed.
    fn is_local(&self) -> bool {
        self.from.is_some() || self.model.is_some()
    }

    /// The model, and so many held-out pages of the run where they are asked for.
    pub async fn load(
        &self,
        pages: Option<u64>,
        stop: CancellationToken,
    ) -> Result<(Loaded, Option<Sequences>), Failure> {
        if self.is_local() && pages.is_none() {
            return Ok((self.local().await?, None));
        }
        look::onlooker(stop, async |node| {
            let loaded = if self.is_local() { self.local().await? } else { self.of_run(node).await? };
            let Some(count) = pages else { return Ok((loaded, None)) };
            let (tokens, vocabulary) = (node.dataset.vocabulary(), loaded.config.vocabulary);
            if tokens as usize > vocabulary {
                let reason = format!("the run's dataset has tokens up to {tokens}, the model only {vocabulary}");
                return Err(Error::Argument { argument: "pages", reason }.into());
            }
            Ok((loaded, Some(node.sequences(&node.pages.unseen(count)).await?)))
        })
        .await
    }

    /// Out of a folder, or a file with its config.json.
    async fn local(&self) -> Result<Loaded, Failure> {
        if let Some(path) = &self.from {
            let name = path.display().to_string();
            let folder = Folder::new(data::Folder(path.clone()), &name);
            let model = folder.model().await?;
            let config = folder::shape(&name, &model)?;
            let text = match self.named_text(&config)? {
                Some(text) => Some(text),
                None => folder.text(&config).await?.or_else(|| bytes_for(&config)),
            };
            let context = self.context_of(&model, None)?;
            let parameters = folder.parameters(&engine(&model)?).await?;
            return Ok(Loaded { model, config, context, parameters, text, what: name });
        }
        let (Some(checkpoint), Some(model)) = (&self.checkpoint, &self.model) else {
            let reason = "name the checkpoint that it describes".to_owned();
            return Err(Error::Argument { argument: "model", reason }.into());
        };
        let (name, model) = (model.as_str(), named_model(model)?);
        let config = folder::shape(name, &model)?;
        let text = self.named_text(&config)?.or_else(|| bytes_for(&config));
        let context = self.context_of(&model, None)?;
        let parameters = read_file(Path::new(checkpoint), &engine(&model)?)?;
        Ok(Loaded { model, config, context, parameters, text, what: checkpoint.clone() })
    }

    /// Out of the run.
    async fn of_run(&self, node: &Node) -> Result<Loaded, Failure> {
        let run = &node.settings.run;
        let model = run.model.clone();
        let config = folder::shape("run.model", &model)?;
        let (parameters, what) = self.parameters_of_run(node).await?;
        let text = match self.named_text(&config)? {
            Some(text) => text,
            None => match node.dataset.tokenizer().await? {
                Some(file) => {
                    let name = format!("{}/{}", run.dataset.prefix, folder::TOKENIZER);
                    Text::json(&name, file, node.dataset.separator())?
                }
                None => Text::bytes(),
            },
        };
        text.check(config.vocabulary)?;
        let context = self.context_of(&model, Some(run.dataset.sequence_length))?;
        Ok(Loaded { model, config, context, parameters, text: Some(text), what })
    }

    async fn parameters_of_run(&self, node: &Node) -> Result<(Tensors, String), Failure> {
        let id = node.settings.run.id;
        if let Some(key) = &self.checkpoint {
            let parameters = match Path::new(key) {
                path if path.is_file() => read_file(path, &engine(&node.settings.run.model)?)?,
                _ => origin::read_checkpoint(node, "--checkpoint", key).await?,
            };
            return Ok((parameters, key.clone()));
        }
        if !node.mechanism().has_common_base() && self.window.is_none() {
            return self.whole_model(node).await;
        }
        if self.hotkey.is_some() {
            let reason = "this subnet has one base for all, and no miner a model of its own: leave it out".to_owned();
            return Err(Error::Argument { argument: "hotkey", reason }.into());
        }
        let window = match self.window {
            Some(window) => window,
            None => newest(node).await?,
        };
        let reached = Follower::reach(node, window).await?;
        Ok((reached.base.parameters, format!("the base before window {window} of run {id}")))
    }

    /// Where miners have models of their own: that of one miner, or the first that there is of those that are paid most.
    async fn whole_model(&self, node: &Node) -> Result<(Tensors, String), Failure> {
        let hotkeys = match &self.hotkey {
            Some(hotkey) => vec![look::hotkey(hotkey)?],
            None => models::paid(node).await?,
        };
        for hotkey in &hotkeys {
            if let Some(found) = models::fetch(node, hotkey).await? {
                return Ok((found.parameters, format!("the model of {hotkey} of window {}", found.window)));
            }
        }
        Err(Failure::Permanent(match hotkeys.as_slice() {
            [hotkey] => format!("{hotkey} is committed to no model that is in the bucket: bistro-worker runs miners lists who is"),
            _ => "the chain pays for no model that is in the bucket: name a miner with --hotkey (bistro-worker runs miners lists them), or a base with --window".to_owned(),
        }))
    }

    /// The tokenizer that is named.
    fn named_text(&self, config: &Config) -> Result<Option<Text>, Failure> {
        let Some(path) = &self.tokenizer else { return Ok(None) };
        let file = files::read_bounded(path, MAX_TOKENIZER).map_err(Error::from)?;
        let (name, remedy) = (path.display().to_string(), "correct --tokenizer");
        let file = file.ok_or_else(|| Error::Absent { file: name.clone(), remedy })?;
        let text = Text::json(&name, Bytes::from(file), None)?;
        text.check(config.vocabulary)?;
        Ok(Some(text))
    }

    fn context_of(&self, model: &run::Model, trained: Option<u32>) -> Result<u32, Error> {
        let longest = folder::longest(model);
        let usual = trained.unwrap_or_else(|| longest.unwrap_or(CONTEXT).min(CONTEXT));
        let context = self.context.unwrap_or(usual);
        let most = longest.unwrap_or(u32::MAX);
        if Config::new(model, 1, context).is_err() || context > most {
            let reason = format!(
                "{context} tokens are not possible: 1 to what config.json says in max_position_embeddings (n_positions)"
            );
            return Err(Error::Argument { argument: "context", reason });
        }
        Ok(context)
    }
}

/// The last window whose base the averager has made: it may be late, or away.
async fn newest(node: &Node) -> Result<u64, Failure> {
    let (now, start) = (node.clock.window_of(node.head().number), node.settings.run.start_window);
    for window in (start..=now).rev().take(LOOK_BACK) {
        if window == start {
            return Ok(window);
        }
        if let Some(averager) = averager_of(node, window - 1).await?
            && node.manifest(&averager, window - 1).await?.is_some()
        {
            return Ok(window);
        }
    }
    Err(Failure::Permanent(format!(
        "the averager has published nothing for {LOOK_BACK} windows before window {now}: name an older base with --window"
    )))
}

/// Every byte is a token where the vocabulary is that of bytes and nothing says otherwise.
fn bytes_for(config: &Config) -> Option<Text> {
    let bytes = Text::bytes();
    (bytes.vocabulary() as usize == config.vocabulary).then_some(bytes)
}

/// Only for its names and shapes: sequences of one token take no memory.
fn engine(model: &run::Model) -> Result<Engine, Error> {
    Ok(Engine::new(model, 1, 1, 1)?)
}

/// A preset by its name, or the model of a config.json.
fn named_model(name: &str) -> Result<run::Model, Error> {
    let preset: Option<Preset> = serde_json::from_value(name.into()).ok();
    if preset.is_some() {
        return Ok(run::Model { preset, config: None });
    }
    let bytes = files::read_bounded(Path::new(name), folder::MAX_CONFIG)?;
    let bytes = bytes.ok_or_else(|| Error::Absent { file: name.to_owned(), remedy: "correct --model" })?;
    folder::model(name, &bytes)
}

/// The parameters in a safetensors file.
fn read_file(path: &Path, engine: &Engine) -> Result<Tensors, Error> {
    let (name, mut gathered) = (path.display().to_string(), Gathered::new(engine.shape()));
    let bytes = files::read_bounded(path, gathered.most_bytes())?;
    let bytes = bytes.ok_or_else(|| Error::Absent { file: name.clone(), remedy: "correct --checkpoint" })?;
    gathered.take(&name, &bytes)?;
    gathered.finish(&name)
}

/// Threads of the engine.
pub fn threads() -> Result<usize, Failure> {
    environment::threads()
}
