//! Names and labels of all children.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{Validated, ValidatedSubnet, contract};
use crate::role;

/// Annotation of the pods with the digest of their settings: a change rolls them.
pub const SETTINGS_DIGEST: &str = "bistro.dev/settings-digest";

/// Label of the pods with the name of their StatefulSet.
pub const WORKLOAD: &str = "bistro.dev/workload";

/// What to do about an owned label.
pub const OTHER_LABEL: &str = "the pods are found by it, so use another label";
/// What to do about an owned annotation.
pub const OTHER_ANNOTATION: &str = "use a key of your own";
/// Labels that the operator and the StatefulSet controller set on pods.
const OWNED_LABELS: [&str; 7] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "controller-revision-hash",
    contract::POD_INDEX_LABEL,
    "statefulset.kubernetes.io/pod-name",
];
/// Labels and annotations with this prefix are the operator's.
const OWNED_PREFIX: &str = "bistro.dev/";

/// Whether a label of pods is not for people to set.
pub fn is_owned_label(key: &str) -> bool {
    OWNED_LABELS.contains(&key) || key.starts_with(OWNED_PREFIX)
}

/// Whether an annotation of pods is not for people to set.
pub fn is_owned_annotation(key: &str) -> bool {
    key.starts_with(OWNED_PREFIX)
}

/// The label that selects the pods; it can never change.
///
/// One label, because Kubernetes compares each change of a pod with the selectors of all budgets and Services of its
/// namespace: with a thousand resources in one, three labels cost its controllers 52 s of processor time, one costs 33 s.
pub fn selector_labels(validated: &Validated) -> BTreeMap<String, String> {
    labels([(WORKLOAD, &validated.child_name())])
}

/// Labels of every child.
pub fn all_labels(validated: &Validated) -> BTreeMap<String, String> {
    labels([
        ("app.kubernetes.io/name", "bistro"),
        ("app.kubernetes.io/component", role::spec(validated.role).command),
        ("app.kubernetes.io/instance", &validated.name),
        ("app.kubernetes.io/managed-by", "bistro"),
        ("bistro.dev/subnet", &validated.settings.subnet),
        (WORKLOAD, &validated.child_name()),
    ])
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
