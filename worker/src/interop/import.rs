//! `import`: from a folder of Hugging Face's to the checkpoint that a run starts from.

use std::path::{Path, PathBuf};

use bistro_api::run::Model;
use bistro_protocol::{object::Hex32, tensors::Tensor};
use clap::Args;
use serde_json::Value;

use super::{
    Error,
    folder::{self, Folder},
    safetensors,
};
use crate::{
    data::{self, BucketFolder, Source},
    dataset::{Place, connect_to},
    engine::{Config, Engine},
    failure::Failure,
    files,
};

/// `import`.
#[derive(Args)]
pub struct Import {
    /// A folder with config.json and safetensors files, or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "DIR|s3://BUCKET/PREFIX")]
    pub from: String,
    /// The safetensors file that is written.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Address of the S3 service; absent: AWS.
    #[arg(long)]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, default_value = "us-east-1")]
    pub region: String,
    /// Folder with `bucket/access-key-id` and `bucket/secret-access-key`.
    #[arg(long, env = "BISTRO_SECRETS", default_value = "/run/bistro/secrets")]
    pub secrets: PathBuf,
}

/// Reads, checks, writes, and prints what belongs into the Subnet.
pub async fn import(what: Import) -> Result<(), Failure> {
    let said = match Place::parse(&what.from) {
        Place::Folder(folder) => convert(&Folder::new(data::Folder(folder.to_owned()), &what.from), &what.to).await?,
        Place::Bucket { name, prefix } => {
            let bucket = connect_to(name, what.endpoint.as_deref(), &what.region, &what.secrets).await?;
            convert(&Folder::new(BucketFolder::new(bucket, prefix), &what.from), &what.to).await?
        }
    };
    print!("{said}");
    Ok(())
}

/// Writes the checkpoint; gives what people are told.
pub async fn convert<S: Source>(from: &Folder<S>, to: &Path) -> Result<String, Failure> {
    let model = from.model().await?;
    let longest = folder::longest(&model);
    let engine = Engine::new(&model, 1, 1, 1).map_err(Error::from)?;
    let text = from.text(engine.config()).await?;
    let parameters = from.parameters(&engine).await?;
    let tensors: Vec<&Tensor> = parameters.iter().collect();
    files::write_atomic_with(to, |out| safetensors::write(out, "pt", &tensors)).map_err(Error::from)?;

    let tokens = match text {
        Some(text) => {
            format!("the tokenizer has {} tokens: prepare the dataset with it (--tokenizer)", text.vocabulary())
        }
        None => "there is no tokenizer.json: prepare the dataset with the one of this model".to_owned(),
    };
    Ok(format!(
        "# {}: {} parameters in {} tensors; put it into the bucket, and its key into run.from.checkpoint\n\
         # {tokens}\n\
         digest: {}\n\
         {}",
        to.display(),
        parameters.elements(),
        parameters.len(),
        Hex32(parameters.digest()),
        yaml(engine.config(), &model, longest),
    ))
}

/// The member `model` of a run, as YAML: values in JSON's own spelling, which YAML knows.
fn yaml(config: &Config, model: &Model, longest: Option<u32>) -> String {
    let mut fields = config.to_hugging_face(longest.unwrap_or(0) as usize);
    if longest.is_none() {
        fields["max_position_embeddings"] = Value::Null;
    }
    for (field, token) in folder::special_tokens(model) {
        fields[field] = token;
    }
    // Twice the same, and what only libraries ask for.
    let left_out = ["rope_parameters", "torch_dtype", "use_cache", "initializer_range", "attention_dropout"];
    let fields = fields.as_object().into_iter().flatten();
    let lines = fields
        .filter(|(name, value)| !value.is_null() && !left_out.contains(&name.as_str()))
        .map(|(name, value)| format!("    {name}: {value}\n"));
    format!("model:\n  config:\n{}", lines.collect::<String>())
}
