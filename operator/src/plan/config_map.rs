//! The ConfigMap with settings.yaml.

use std::collections::BTreeMap;

use bistro_api::Settings;
use k8s_openapi::api::core::v1::ConfigMap;

use super::{Validated, contract::SETTINGS_FILE, metadata};
use crate::yaml;

/// The settings of all pods of a resource.
pub fn build(validated: &Validated) -> ConfigMap {
    ConfigMap {
        metadata: metadata::child(validated),
        data: Some(BTreeMap::from([(SETTINGS_FILE.to_owned(), validated.settings_yaml.clone())])),
        ..ConfigMap::default()
    }
}

/// settings.yaml.
pub fn text(settings: &Settings) -> String {
    // Settings hold texts, numbers and lists only, all of which YAML can say.
    yaml::to_string(settings).expect("settings are YAML")
}

/// Digest of settings.yaml in hex.
pub fn digest(validated: &Validated) -> String {
    blake3::hash(validated.settings_yaml.as_bytes()).to_hex().to_string()
}
