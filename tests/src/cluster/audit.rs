//! What users asked of the API server, by its own audit log: counted alike for any client.

use std::{fs, path::Path};

use serde::Deserialize;
use serde_json::json;

/// One request that the API server has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// create, update, patch, delete, deletecollection, get, list, watch
    pub verb: String,
    /// The plural, for example statefulsets.
    pub resource: String,
    /// For example status; empty for the resource itself.
    pub subresource: String,
    /// Empty for what has no namespace.
    pub namespace: String,
    /// Empty for lists, and for objects that the server names.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
}

impl Request {
    /// Whether it was meant to change something.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }
}

/// Everything that people and operators ask; what the cluster's own parts ask is not of interest, and much.
pub(super) fn policy() -> String {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            { "level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"] },
            { "level": "None", "users": ["admin", "system:apiserver", "system:kube-scheduler"] },
            { "level": "None", "nonResourceURLs": ["*"] },
            { "level": "Metadata" },
        ],
    });
    policy.to_string()
}

/// The requests of one user in the order of their answers.
pub(super) fn requests(log: &Path, user: &str) -> Vec<Request> {
    let text = fs::read(log).unwrap_or_default();
    let events = text.split_inclusive(|byte| *byte == b'\n');
    // The last line may be half written.
    let whole = events.filter(|line| line.ends_with(b"\n"));
    whole.map(entry).filter(|(who, _)| who == user).map(|(_, request)| request).collect()
}

/// One line of the log: who asked, and what.
pub(crate) fn entry(line: &[u8]) -> (String, Request) {
    let Event { verb, user, object_ref, response_status } =
        serde_json::from_slice(line).expect("the audit log is JSON");
    let Object { resource, subresource, namespace, name } = object_ref;
    (user.username, Request { verb, resource, subresource, namespace, name, code: response_status.code })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Answer,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
}
