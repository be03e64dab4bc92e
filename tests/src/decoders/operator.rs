//! What people apply.

use std::path::Path;

use serde_json::json;

use super::{Decoder, api::a_run, worker::yaml};
use crate::mutate::Form;

pub const DECODERS: &[Decoder] =
    &[Decoder { name: "resources", decode: resources, bound: yaml, form: Form::Json, seeds: resource_files }];

fn resources(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| bistro::manifests::read_text(Path::new("file.yaml"), text).is_ok())
}

fn resource_files() -> Vec<Vec<u8>> {
    // The schemas are made once and stay: they are no part of what a file takes.
    bistro::admission::known_kinds().for_each(drop);
    let group = "bistro.dev/v1alpha1";
    let mut run = a_run();
    run["model"] = json!({"preset": "tiny"});
    let subnet = json!({
        "apiVersion": group, "kind": "Subnet", "metadata": {"name": "demo"},
        "spec": {"netuid": 1, "chain": {"endpoints": ["ws://devnet:9944"]}, "bucket": {"name": "bistro"}, "run": run}
    });
    let averager = json!({
        "apiVersion": group, "kind": "Averager", "metadata": {"name": "a"},
        "spec": {"subnetRef": {"name": "d"}, "wallet": {"dev": true}}
    });
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "YQ=="}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let blocks = "apiVersion: v1\nkind: Secret\nmetadata: {name: t}\nstringData:\n  a: &a |\n    text\n  b: *a\n";
    let json = [subnet, averager, secret, map, other].map(|resource| resource.to_string().into_bytes());
    // A subnet takes twenty times as long as a Secret.
    [json.to_vec(), vec![blocks.into(); 4]].concat()
}
