//! Names and labels of all children.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{Validated, ValidatedSubnet};
use crate::role;

/// Annotation of the pods with the digest of their settings: a change rolls them.
pub const SETTINGS_DIGEST: &str = "bistro.dev/settings-digest";

/// Labels that select the pods; they can never change.
pub fn selector_labels(validated: &Validated) -> BTreeMap<String, String> {
    labels([
        ("app.kubernetes.io/name", "bistro"),
        ("app.kubernetes.io/component", role::spec(validated.role).command),
        ("app.kubernetes.io/instance", &validated.name),
    ])
}

/// Labels of every child.
pub fn all_labels(validated: &Validated) -> BTreeMap<String, String> {
    let mut all = selector_labels(validated);
    all.extend(labels([("app.kubernetes.io/managed-by", "bistro"), ("bistro.dev/subnet", &validated.settings.subnet)]));
    all
}

/// Selects the pods.
pub fn selector(validated: &Validated) -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels(validated)), ..LabelSelector::default() }
}

/// Metadata of every child.
pub fn child(validated: &Validated) -> ObjectMeta {
    ObjectMeta {
        name: Some(validated.child_name()),
        namespace: Some(validated.namespace.clone()),
        labels: Some(all_labels(validated)),
        owner_references: validated.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Labels that select all pods of a Subnet.
pub fn pods_of_subnet(subnet: &str) -> BTreeMap<String, String> {
    labels([("app.kubernetes.io/name", "bistro"), ("bistro.dev/subnet", subnet)])
}

/// Metadata of every child of a Subnet, which is named `subnet-<name>`.
pub fn subnet_child(validated: &ValidatedSubnet) -> ObjectMeta {
    let mut all = pods_of_subnet(&validated.name);
    all.extend(labels([
        ("app.kubernetes.io/component", "subnet"),
        ("app.kubernetes.io/instance", &validated.name),
        ("app.kubernetes.io/managed-by", "bistro"),
    ]));
    ObjectMeta {
        name: Some(format!("subnet-{}", validated.name)),
        namespace: Some(validated.namespace.clone()),
        labels: Some(all),
        owner_references: validated.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
