//! Every bound in the schema of a spec, tried from both sides: what lies on it is accepted, what lies beyond is refused.
//!
//! The cases come from the definitions themselves, so a new bound is tried the day it is written.

use bistro_api::{Averager, Miner, Subnet, Validator};
use bistro_tests::cluster::Cluster;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::objects::{KINDS, Objects, merge, sound};

/// For each pattern a text that it takes and texts that it does not.
const PATTERNS: [(&str, &str, &[&str]); 9] = [
    (bistro_api::decimal::PATTERN, "3e-3", &["0,1", ".5", "1.", "01", "+1", "NaN", "1e+3", ""]),
    (r"^wss?://[^ ]+$", "wss://a.example:443", &["http://a.example", "ws://a b"]),
    (r"^0x[0-9a-f]{64}$", "0x0000000000000000000000000000000000000000000000000000000000000000", &["0x00", "00"]),
    (r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$", "a-bucket.x", &["-bucket", "Bucket", "bucket_1"]),
    (r"^https?://[^ ]+$", "https://s3.example", &["s3.example", "ftp://s3.example"]),
    (r"^([A-Za-z0-9._-]+/)*$", "runs/a/", &["/runs/", "runs", "runs//"]),
    (r"^5[1-9A-HJ-NP-Za-km-z]{47}$", "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY", &["5Grwva", "0xd4"]),
    (
        r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        "datasets/rust-1",
        &["/datasets", "datasets/", "datasets//rust", "data sets"],
    ),
    (
        r"^[0-9a-f]{64}$",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        &["ff", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"],
    ),
];

/// One bound: where it is, and values on either side of it.
struct Bound {
    /// Members from the object down; a list is entered at its first item.
    path: Vec<String>,
    keyword: String,
    within: Value,
    beyond: Vec<Value>,
}

impl Bound {
    /// As messages of the API server write it.
    fn field(&self) -> String {
        self.path.join(".").replace(".[]", "[0]")
    }

    /// The sound object of a kind with this value here.
    fn object(&self, kind: &str, value: &Value) -> Value {
        let nested = self.path.iter().rev().fold(value.clone(), |inner, name| match name.as_str() {
            "[]" => json!([inner]),
            name => json!({ name: inner }),
        });
        let mut object = sound(kind);
        merge(&mut object, &nested);
        object
    }
}

/// All bounds below a schema.
fn bounds(schema: &Value, path: &[String], found: &mut Vec<Bound>) {
    let below = |name: &str| path.iter().cloned().chain([name.to_owned()]).collect::<Vec<_>>();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        bounds(property, &below(name), found);
    }
    if schema["items"].is_object() {
        bounds(&schema["items"], &below("[]"), found);
    }
    let keywords = schema.as_object().into_iter().flatten();
    for (keyword, limit) in keywords {
        if let Some((within, beyond)) = sides(schema, keyword, limit) {
            found.push(Bound { path: path.to_vec(), keyword: keyword.clone(), within, beyond });
        }
    }
}

/// A value that keeps a bound only just, and values that break it; nothing for what is no bound.
fn sides(schema: &Value, keyword: &str, limit: &Value) -> Option<(Value, Vec<Value>)> {
    let number = || limit.as_f64().expect("a number") as i64;
    let size = || limit.as_u64().expect("a size") as usize;
    let text = |length: usize| Value::from(filler(schema, length));
    let items = |count: usize| Value::from((0..count).map(|i| item(&schema["items"], i)).collect::<Vec<_>>());
    let members = |count: usize| Value::from((0..count).map(|i| (format!("k{i}"), json!("v"))).collect::<Map<_, _>>());
    let sides = match keyword {
        "minimum" => (number().into(), vec![(number() - 1).into()]),
        "maximum" => (number().into(), vec![(number() + 1).into()]),
        "minLength" => (text(size()), vec![text(size() - 1)]),
        "maxLength" => (text(size()), vec![text(size() + 1)]),
        "minItems" => (items(size()), vec![items(size() - 1)]),
        "maxItems" => (items(size()), vec![items(size() + 1)]),
        "maxProperties" => (members(size()), vec![members(size() + 1)]),
        "enum" => (limit[0].clone(), vec![json!("neither")]),
        "pattern" => {
            let pattern = limit.as_str().expect("a text");
            let known = PATTERNS.iter().find(|(known, ..)| *known == pattern);
            let (_, within, beyond) = known.unwrap_or_else(|| panic!("give an example of {pattern} in PATTERNS"));
            (json!(within), beyond.iter().map(|text| json!(text)).collect())
        }
        _ => return None,
    };
    Some(sides)
}

/// A text of this length that looks like what the schema asks for.
fn filler(schema: &Value, length: usize) -> String {
    let begin = match schema["pattern"].as_str() {
        Some(r"^wss?://[^ ]+$") => "ws://",
        Some(r"^https?://[^ ]+$") => "http://",
        Some(bistro_api::decimal::PATTERN) => "0.",
        _ => "",
    };
    let rest = length.saturating_sub(begin.len());
    let fill = if schema["pattern"] == bistro_api::decimal::PATTERN { "1" } else { "a" };
    let text = format!("{}{}", &begin[..begin.len().min(length)], fill.repeat(rest));
    // A prefix ends in a slash.
    if schema["pattern"] == r"^([A-Za-z0-9._-]+/)*$" && length > 0 { text[1..].to_owned() + "/" } else { text }
}

/// The i-th of a list of different, sound items.
fn item(schema: &Value, i: usize) -> Value {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let keys = ["name", "fromWindow"].into_iter().filter(|key| schema["properties"][key].is_object());
    let members: Map<String, Value> = required
        .chain(keys)
        .map(|name| {
            let property = &schema["properties"][name];
            let value = match (property["type"].as_str(), property["pattern"].as_str()) {
                (Some("integer"), _) => json!(i + 1),
                (_, Some(pattern)) => example(pattern),
                _ => json!(format!("a{i}")),
            };
            (name.to_owned(), value)
        })
        .collect();
    match schema["type"].as_str() {
        Some("string") => schema["pattern"].as_str().map_or(json!(format!("a{i}")), example),
        _ => members.into(),
    }
}

fn example(pattern: &str) -> Value {
    PATTERNS.iter().find(|(known, ..)| *known == pattern).map_or(json!("a"), |(_, within, _)| json!(within))
}

fn bounds_of(kind: &str) -> Vec<Bound> {
    let definition = match kind {
        "Subnet" => Subnet::crd(),
        "Miner" => Miner::crd(),
        "Validator" => Validator::crd(),
        _ => Averager::crd(),
    };
    let definition = serde_json::to_value(definition).expect("plain data");
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut found = Vec::new();
    bounds(schema, &["spec".to_owned()], &mut found);
    found
}

#[tokio::test]
async fn every_bound_of_every_field_holds() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    for kind in KINDS {
        let objects = Objects::of(cluster, kind, &namespace).await;
        let bounds = bounds_of(kind);
        assert!(bounds.len() > 20, "{kind} has {} bounds", bounds.len());
        for bound in bounds {
            let (field, keyword) = (bound.field(), &bound.keyword);
            // A value on the bound may break what another field promises; its own field it may not.
            let within = objects.would_create(&bound.object(kind, &bound.within)).await;
            let complaint = within.err().filter(|why| complains(why, &field));
            assert_eq!(complaint, None, "{kind} {field} {keyword} {}", bound.within);
            for beyond in &bound.beyond {
                let why = objects.would_create(&bound.object(kind, beyond)).await;
                let why = why.err().unwrap_or_else(|| panic!("{kind} {field} {keyword}: {beyond} is accepted"));
                assert!(complains(&why, &field), "{kind} {field} {keyword} {beyond}: {why}");
            }
        }
    }
}

/// Whether a refusal is about this field. One item too many is told of the list.
fn complains(why: &str, field: &str) -> bool {
    why.contains(&format!("{field}: "))
}

#[tokio::test]
async fn what_is_required_is_missed_by_name() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    let required = [
        ("Miner", vec!["subnetRef", "wallet"]),
        ("Validator", vec!["subnetRef", "wallet"]),
        ("Averager", vec!["subnetRef", "wallet"]),
        ("Subnet", vec!["netuid", "chain", "bucket", "run"]),
    ];
    for (kind, fields) in required {
        let objects = Objects::of(cluster, kind, &namespace).await;
        for field in fields {
            let mut object = sound(kind);
            merge(&mut object, &json!({ "spec": { field: null } }));
            let why = objects.would_create(&object).await.expect_err("it is required");
            assert!(why.contains(&format!("spec.{field}: Required value")), "{kind}: {why}");
        }
    }
}
