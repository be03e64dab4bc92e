//! From paths to typed resources.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Manifests, Problem, Problems, Sourced, config_map_content, secret_content};
use crate::admission;

/// Larger files are no manifests; an API server takes 3 MiB per request.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most values that aliases may repeat: a few bytes of them can stand for a million values.
const MAX_REPEATED: usize = 2_000;
/// Most repeats of one anchor, which may be a long text.
const MAX_REPEATS: usize = 16;
/// Kinds of Kubernetes that come with Bistro's resources and mean nothing outside a cluster are named in a warning.
const BISTRO_GROUP: &str = "bistro.dev/";

/// Reads files and the manifests directly in folders.
pub fn read(paths: &[PathBuf]) -> Result<Manifests, Problems> {
    let mut reader = Reader::default();
    for path in paths {
        match files(path) {
            Ok(files) => files.iter().for_each(|file| reader.file(file)),
            Err(error) => reader.refuse(Problem::new(path, "", "", format!("failed to read: {error}"))),
        }
    }
    if reader.problems.is_empty() { Ok(reader.manifests) } else { Err(Problems(reader.problems)) }
}

/// Reads the text of one file, which messages call `file`.
pub fn read_text(file: &Path, text: &str) -> Result<Manifests, Problems> {
    let mut reader = Reader::default();
    reader.text(file, text);
    if reader.problems.is_empty() { Ok(reader.manifests) } else { Err(Problems(reader.problems)) }
}

/// A file, or those files of a folder that hold resources, in the order of their names.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let is_manifest = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if is_manifest && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(io::Error::other("the folder holds no .yaml, .yml or .json file"));
    }
    Ok(found)
}

#[derive(Default)]
struct Reader {
    manifests: Manifests,
    problems: Vec<Problem>,
    /// Kind and name of what was read, to notice what stands twice.
    names: BTreeSet<(String, String)>,
}

impl Reader {
    fn refuse(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn file(&mut self, file: &Path) {
        match read_bounded(file) {
            Ok(text) => self.text(file, &text),
            Err(error) => self.refuse(Problem::new(file, "", "", format!("failed to read: {error}"))),
        }
    }

    fn text(&mut self, file: &Path, text: &str) {
        // JSON is YAML, so one parser reads both.
        let limits = serde_yaml::alias_limits! {
            max_total_replayed_events: MAX_REPEATED,
            max_alias_expansions_per_anchor: MAX_REPEATS,
        };
        match serde_yaml::from_multiple_with_options::<Value>(text, serde_yaml::options! { alias_limits: limits }) {
            Ok(documents) => documents.into_iter().for_each(|document| self.document(file, document)),
            Err(error) => {
                let place = error.location().map(|l| format!("line {}, column {}", l.line(), l.column()));
                let what = error.without_snippet().to_string();
                let what = what.lines().next().unwrap_or_default();
                let message = format!("is no YAML: {what}: correct the syntax");
                self.refuse(Problem::new(file, &place.unwrap_or_default(), "", message));
            }
        }
    }

    fn document(&mut self, file: &Path, document: Value) {
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        if kind == "List" {
            let items = document.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            return items.into_iter().for_each(|item| self.document(file, item));
        }
        let resource = [kind.as_str(), name.as_str()].join(" ").trim().to_owned();
        if api_version.is_empty() || kind.is_empty() {
            let message = "is no resource: it needs apiVersion and kind, and metadata.name";
            return self.refuse(Problem::new(file, &resource, "", message));
        }
        let Some(schema) = admission::schema_of(&api_version, &kind) else {
            return self.unknown_kind(file, &resource, &api_version, &kind);
        };
        if name.is_empty() {
            return self.refuse(Problem::new(file, &resource, "metadata.name", "is missing: give the resource a name"));
        }
        if !self.names.insert((kind.clone(), name.clone())) {
            let message = "stands twice in the files: remove one or rename it";
            return self.refuse(Problem::new(file, &resource, "metadata.name", message));
        }
        if let Some(namespace) = document.pointer("/metadata/namespace").and_then(Value::as_str)
            && namespace != "default"
        {
            let warning = "metadata.namespace is not honoured outside a cluster, everything runs in `default`";
            self.manifests.warnings.push(format!("{}: {resource}: {warning}", file.display()));
        }
        match admission::admit(schema, &document) {
            Ok(object) => self.store(file, &resource, &kind, object),
            Err(violations) => {
                for violation in violations {
                    self.refuse(Problem::new(file, &resource, &violation.field, violation.message));
                }
            }
        }
    }

    fn unknown_kind(&mut self, file: &Path, resource: &str, api_version: &str, kind: &str) {
        let named = |kind: &str| admission::known_kinds().find(|(_, known)| *known == kind);
        if let Some((version, kind)) = named(kind) {
            let message = format!("{api_version:?} has no {kind} that is known here: write {version}");
            return self.refuse(Problem::new(file, resource, "apiVersion", message));
        }
        let meant = admission::nearest(kind, admission::known_kinds().map(|(_, known)| known));
        if api_version.starts_with(BISTRO_GROUP) {
            let remedy = meant.map_or("remove it".to_owned(), |meant| format!("did you mean {meant}?"));
            return self.refuse(Problem::new(file, resource, "kind", format!("{kind} does not exist: {remedy}")));
        }
        let warning = format!("{}: {resource}: means nothing outside a cluster and is left out", file.display());
        self.manifests.warnings.push(warning);
    }

    fn store(&mut self, file: &Path, resource: &str, kind: &str, mut object: Value) {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("namespace");
        }
        let stored = match kind {
            "Subnet" => typed(file, object).map(|o| self.manifests.subnets.push(o)),
            "Miner" => typed(file, object).map(|o| self.manifests.miners.push(o)),
            "Validator" => typed(file, object).map(|o| self.manifests.validators.push(o)),
            "Averager" => typed(file, object).map(|o| self.manifests.averagers.push(o)),
            "Job" => typed(file, object).map(|o| self.manifests.jobs.push(o)),
            "Secret" => typed(file, object).map(|o| {
                let name = resource.trim_start_matches("Secret ").to_owned();
                self.manifests.secrets.insert(name, secret_content(o.object));
            }),
            _ => typed(file, object).map(|o| {
                let name = resource.trim_start_matches("ConfigMap ").to_owned();
                self.manifests.config_maps.insert(name, config_map_content(o.object));
            }),
        };
        if let Err(message) = stored {
            self.refuse(Problem::new(file, resource, "", message));
        }
    }
}

/// The object as its type. The schema was checked, so only what a schema cannot say is left to fail here.
fn typed<T: DeserializeOwned>(file: &Path, object: Value) -> Result<Sourced<T>, String> {
    match serde_json::from_value(object) {
        Ok(object) => Ok(Sourced { file: file.to_owned(), object }),
        Err(error) => Err(error.to_string()),
    }
}

fn read_bounded(file: &Path) -> io::Result<String> {
    let size = fs::metadata(file)?.len();
    if size > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("the file has {size} bytes, at most {MAX_FILE_BYTES} are read")));
    }
    fs::read_to_string(file)
}
