//! The ConfigMap with settings.yaml.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Validated, contract::SETTINGS_FILE, metadata};
use crate::yaml;

/// The settings of all pods of a resource.
pub fn build(validated: &Validated) -> ConfigMap {
    ConfigMap {
        metadata: metadata::child(validated),
        data: Some(BTreeMap::from([(SETTINGS_FILE.to_owned(), text(validated))])),
        ..ConfigMap::default()
    }
}

/// settings.yaml.
pub fn text(validated: &Validated) -> String {
    // Settings hold texts, numbers and lists only, all of which YAML can say.
    yaml::to_string(&validated.settings).expect("settings are YAML")
}

/// Digest of settings.yaml in hex.
pub fn digest(validated: &Validated) -> String {
    blake3::hash(text(validated).as_bytes()).to_hex().to_string()
}
