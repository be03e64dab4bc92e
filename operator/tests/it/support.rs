//! What the tests share: resources as JSON, and a running `bistro`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

/// The binary under test.
pub const BISTRO: &str = env!("CARGO_BIN_EXE_bistro");

/// A valid Subnet.
pub fn subnet() -> Value {
    json!({
        "apiVersion": "bistro.dev/v1alpha1", "kind": "Subnet", "metadata": {"name": "alps"},
        "spec": {
            "netuid": 7,
            "chain": {"endpoints": ["ws://chain.example:9944"]},
            "bucket": {"name": "glacier", "endpoint": "http://bucket.example:9000"},
            "run": {
                "id": 1, "from": {"seed": 42},
                "schedule": {"windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8, "skewSeconds": 0},
                "dataset": {"prefix": "datasets/rust", "digest": "ab".repeat(32), "sequenceLength": 128, "pageSequences": 16, "pagesPerWindow": 4},
                "model": {"preset": "tiny"},
                "training": {"learningRate": "3e-3", "batchSequences": 8, "innerSteps": 8},
                "mechanism": {"cosine": {"sliceRatio": 4}}
            }
        }
    })
}

/// A valid Miner, Validator or Averager.
pub fn node(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": "bistro.dev/v1alpha1", "kind": kind, "metadata": {"name": name},
        "spec": {"subnetRef": {"name": "alps"}, "wallet": {"dev": true}}
    })
}

/// The object with a member set (`/spec/replicas`), made where it does not exist, or removed by `null`.
pub fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let mut place = &mut object;
    for step in parent.split('/').skip(1) {
        place = match place {
            Value::Array(items) => &mut items[step.parse::<usize>().expect("an index")],
            other => &mut other[step],
        };
    }
    if value.is_null() {
        place.as_object_mut().expect("an object").remove(name);
    } else {
        place[name] = value;
    }
    object
}

/// Writes objects as the documents of one file.
pub fn write(folder: &Path, name: &str, objects: &[Value]) -> PathBuf {
    let path = folder.join(name);
    let documents: Vec<String> =
        objects.iter().map(|object| format!("---\n{}", bistro::yaml::to_string(object).expect("YAML"))).collect();
    fs::write(&path, documents.concat()).expect("written");
    path
}

/// Runs `bistro` with arguments to its end.
pub fn bistro(arguments: &[&str]) -> Output {
    Command::new(BISTRO).args(arguments).output().expect("bistro runs")
}

/// Standard output or error as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
