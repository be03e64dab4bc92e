//! Files with resources: read, checked as an API server would, and sorted by kind.
//!
//! Every problem is one line that names the file, the resource, the field and the remedy.

mod read;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use bistro_api::{Averager, Miner, Subnet, Validator};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Secret},
};

pub use read::{read, read_text};

/// An object and the file that it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced<T> {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The object.
    pub object: T,
}

/// Everything that the files hold, in the order of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifests {
    /// Subnets.
    pub subnets: Vec<Sourced<Subnet>>,
    /// Miners.
    pub miners: Vec<Sourced<Miner>>,
    /// Validators.
    pub validators: Vec<Sourced<Validator>>,
    /// Averagers.
    pub averagers: Vec<Sourced<Averager>>,
    /// Jobs.
    pub jobs: Vec<Sourced<Job>>,
    /// Content of each Secret, by its name.
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Content of each ConfigMap, by its name.
    pub config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// What is in the files and means nothing here, one line each.
    pub warnings: Vec<String>,
}

/// One reason why files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Kind and name of the resource, as far as they are known.
    pub resource: String,
    /// Path of the field; empty for the whole resource.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem with a field of a resource.
    pub fn new(file: &Path, resource: &str, field: &str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), resource: resource.to_owned(), field: field.to_owned(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        for part in [&self.resource, &self.field, &self.message] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}

/// All problems, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// The content of a Secret, both ways of writing it.
fn secret_content(secret: Secret) -> BTreeMap<String, Vec<u8>> {
    let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    let text = secret.string_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    data.chain(text).collect()
}

/// The content of a ConfigMap, both ways of writing it.
fn config_map_content(map: ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    binary.chain(text).collect()
}
