//! `bistro-worker dataset prepare`: from and to folders and buckets.

use std::{path::Path, sync::Arc};

use bistro_api::{Role, settings};
use tokio_util::sync::CancellationToken;

use crate::{
    bucket::{Bucket, Credentials},
    cli::Prepare,
    data::{
        self, BucketDocuments, BucketFolder, Documents, Error, Folder, FolderDocuments, MAX_TOKENIZER, Nowhere,
        Options, Prepared, Progress, Tokenizer,
    },
    environment,
    failure::Failure,
    files,
    telemetry::Telemetry,
};

/// Prepares and prints what was made.
pub async fn prepare(arguments: Prepare, stop: CancellationToken) -> Result<(), Failure> {
    let options = Options {
        tokenizer: Arc::new(tokenizer(&arguments).await?),
        text_field: arguments.text_field.clone(),
        limit: arguments.limit,
        threads: environment::threads()?,
        restart: arguments.restart,
        stop,
        ..Options::default()
    };
    let made = match Place::parse(&arguments.from) {
        Place::Folder(folder) => {
            write(&arguments, options, FolderDocuments::new(folder, &arguments.extensions)?).await?
        }
        Place::Bucket { name, prefix } => {
            let bucket = connect(&arguments, name).await?;
            write(&arguments, options, BucketDocuments::new(bucket, prefix, &arguments.extensions).await?).await?
        }
    };
    if made.tokens == 0 {
        return Err(Error::Empty(arguments.from).into());
    }
    let Prepared { digest, tokens, shards, documents, skipped, text } = made;
    println!(
        "digest: {digest}\ntokens: {tokens}\nshards: {shards}\ndocuments: {documents}\nskipped: {skipped}\ntext: {text}"
    );
    Ok(())
}

async fn tokenizer(arguments: &Prepare) -> Result<Tokenizer, Failure> {
    let Some(path) = &arguments.tokenizer else { return Ok(Tokenizer::Bytes) };
    let absent = || Failure::Permanent(format!("{} does not exist: correct --tokenizer", path.display()));
    let file = files::read_bounded(path, MAX_TOKENIZER).map_err(Failure::permanent)?.ok_or_else(absent)?;
    let separator = arguments.separator.clone();
    // A file from outside may make its reader panic: not the program.
    let reading = tokio::task::spawn_blocking(move || Tokenizer::from_json(file.into(), separator.as_deref()));
    Ok(reading.await.unwrap_or_else(|panic| Err(Error::Tokenizer(panic.to_string())))?)
}

async fn write(arguments: &Prepare, options: Options, documents: impl Documents) -> Result<Prepared, Failure> {
    let mut progress = Progress::new(documents.files().iter().map(|file| file.size).sum());
    let show = |made: &Prepared, read| progress.show(made, read);
    let outcome = match arguments.to.as_deref().map(Place::parse) {
        None => data::prepare_with(&documents, &Nowhere, options, show).await,
        Some(Place::Folder(folder)) => data::prepare_with(&documents, &Folder(folder.to_owned()), options, show).await,
        Some(Place::Bucket { name, prefix }) => {
            let sink = BucketFolder::new(connect(arguments, name).await?, prefix);
            data::prepare_with(&documents, &sink, options, show).await
        }
    };
    outcome.map_err(|error| {
        progress.end();
        match Failure::from(error) {
            // Also when asked to: whoever waits for a dataset must not take a part of one for the whole.
            Failure::Transient(line) if arguments.to.is_some() => {
                Failure::Transient(format!("{line}: the same command goes on where this one stopped"))
            }
            failure => failure,
        }
    })
}

/// What `--from` and `--to` can be.
#[derive(Debug, PartialEq)]
pub(crate) enum Place<'a> {
    Folder(&'a Path),
    Bucket { name: &'a str, prefix: &'a str },
}

impl<'a> Place<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        match text.strip_prefix("s3://") {
            None => Self::Folder(Path::new(text)),
            Some(place) => {
                let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
                Self::Bucket { name, prefix: prefix.trim_matches('/') }
            }
        }
    }
}

async fn connect(arguments: &Prepare, name: &str) -> Result<Bucket, Failure> {
    connect_to(name, arguments.endpoint.as_deref(), &arguments.region, &arguments.secrets).await
}

/// The bucket that a tool reads or writes: with the keys in the folder `secrets`, else with those of AWS's default chain.
pub(crate) async fn connect_to(
    name: &str,
    endpoint: Option<&str>,
    region: &str,
    secrets: &Path,
) -> Result<Bucket, Failure> {
    let settings = settings::Bucket {
        name: name.to_owned(),
        endpoint: endpoint.map(str::to_owned),
        region: region.to_owned(),
        prefix: String::new(),
        ca_bundle: None,
    };
    let credentials = Credentials::from_secrets(secrets, 0)?.unwrap_or(Credentials::Aws);
    // Nobody scrapes a tool; the role is a label that nobody sees.
    Ok(Bucket::new(&settings, credentials, Telemetry::new(Role::Averager)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_folders_or_buckets() {
        assert_eq!(Place::parse("./corpus"), Place::Folder(Path::new("./corpus")));
        assert_eq!(Place::parse("s3://b/a/c/"), Place::Bucket { name: "b", prefix: "a/c" });
        assert_eq!(Place::parse("s3://b"), Place::Bucket { name: "b", prefix: "" });
    }
}
