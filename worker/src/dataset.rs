//! `bistro-worker dataset prepare`: from and to folders and buckets.

use std::path::Path;

use bistro_api::{Role, settings};

use crate::{
    bucket::{self, Bucket, Credentials},
    cli::Prepare,
    data::{
        self, BucketFolder, Document, Documents, Error, Folder, FolderDocuments, MAX_DOCUMENT, Nowhere, Prepared,
        has_extension,
    },
    failure::Failure,
    telemetry::Telemetry,
};

/// Most objects that are looked at in a bucket.
const MAX_OBJECTS: usize = 1_000_000;

/// Prepares and prints what was made.
pub async fn prepare(arguments: Prepare) -> Result<(), Failure> {
    let made = match Place::parse(&arguments.from) {
        Place::Folder(folder) => write(&arguments, &mut FolderDocuments::new(folder, &arguments.extensions)?).await?,
        Place::Bucket { name, prefix } => {
            let bucket = connect(&arguments, name).await?;
            write(&arguments, &mut BucketDocuments::new(bucket, prefix, &arguments.extensions).await?).await?
        }
    };
    if made.tokens == 0 {
        return Err(Error::Empty(arguments.from).into());
    }
    let Prepared { digest, tokens, shards, documents, skipped } = made;
    println!("digest: {digest}\ntokens: {tokens}\nshards: {shards}\ndocuments: {documents}\nskipped: {skipped}");
    Ok(())
}

async fn write(arguments: &Prepare, documents: &mut impl Documents) -> Result<Prepared, Failure> {
    let progress = |made: &Prepared| tracing::info!(tokens = made.tokens, shards = made.shards, "prepared");
    let limit = arguments.limit;
    let made = match arguments.to.as_deref().map(Place::parse) {
        None => data::prepare(documents, &Nowhere, limit, progress).await,
        Some(Place::Folder(folder)) => data::prepare(documents, &Folder(folder.to_owned()), limit, progress).await,
        Some(Place::Bucket { name, prefix }) => {
            let sink = BucketFolder::new(connect(arguments, name).await?, prefix);
            data::prepare(documents, &sink, limit, progress).await
        }
    };
    Ok(made?)
}

/// What `--from` and `--to` can be.
#[derive(Debug, PartialEq)]
enum Place<'a> {
    Folder(&'a Path),
    Bucket { name: &'a str, prefix: &'a str },
}

impl<'a> Place<'a> {
    fn parse(text: &'a str) -> Self {
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
    let settings = settings::Bucket {
        name: name.to_owned(),
        endpoint: arguments.endpoint.clone(),
        region: arguments.region.clone(),
        prefix: String::new(),
        ca_bundle: None,
    };
    let credentials = Credentials::from_secrets(&arguments.secrets, 0)?.unwrap_or(Credentials::Aws);
    // Nobody scrapes a tool; the role is a label that nobody sees.
    Ok(Bucket::new(&settings, credentials, Telemetry::new(Role::Averager)).await?)
}

/// The objects under a prefix of a bucket.
struct BucketDocuments {
    bucket: Bucket,
    /// Ends in a slash, or is empty.
    prefix: String,
    /// Relative to the prefix.
    keys: std::vec::IntoIter<String>,
}

impl BucketDocuments {
    async fn new(bucket: Bucket, prefix: &str, extensions: &[String]) -> Result<Self, Failure> {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let listed = bucket.list(&prefix, MAX_OBJECTS).await?;
        if listed.len() == MAX_OBJECTS {
            return Err(Failure::Permanent(format!(
                "more than {MAX_OBJECTS} objects are in --from: name a smaller prefix"
            )));
        }
        let relative = listed.iter().filter_map(|(key, _)| key.strip_prefix(&prefix));
        let mut keys: Vec<String> = relative.filter(|key| has_extension(key, extensions)).map(str::to_owned).collect();
        // Services differ in the order of their listings.
        keys.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        Ok(Self { bucket, prefix, keys: keys.into_iter() })
    }
}

impl Documents for BucketDocuments {
    async fn next(&mut self) -> Result<Option<Document>, Error> {
        let Some(key) = self.keys.next() else { return Ok(None) };
        let bytes = match self.bucket.get(&format!("{}{key}", self.prefix), MAX_DOCUMENT).await {
            Ok(Some(object)) => Some(object.bytes),
            // Gone since it was listed: a prefix that changes meanwhile has no digest worth having.
            Ok(None) => return Err(Error::Missing(key)),
            Err(bucket::Error::TooLarge { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Document { key, bytes }))
    }
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
