//! Every field of a spec means something: changing it changes what is built.

use bistro::admission::schema_of;
use bistro_api::{Miner, Settings};
use serde_json::{Value, json};

use super::{cases, children, environment, stored, validate};
use crate::support::{subnet, with};

/// Fields that show in no child, each with the reason.
const ELSEWHERE: [(&str, &str); 5] = [
    ("/subnetRef/name", "chooses the Subnet that the controller reads; the builders get that Subnet"),
    ("/startFrom/base", "the default"),
    ("/startFrom/best", "a choice with lossWins only: see below"),
    ("/startFrom/hotkey", "a choice with lossWins only: see below"),
    ("/startFrom/checkpoint", "a choice with lossWins only: see below"),
];
/// Fields whose members are Kubernetes' own and are passed on as a whole.
const WHOLE: [&str; 5] =
    ["/resources", "/pod/affinity", "/pod/tolerations", "/pod/topologySpreadConstraints", "/template"];

/// For each field of a Miner another value than in the full example.
fn changes() -> Vec<(&'static str, Value)> {
    vec![
        ("/replicas", json!(4)),
        ("/wallet/secretRef/name", json!("other")),
        ("/wallet/dev", json!(true)),
        ("/bucket/credentialsSecretRef/name", json!("other")),
        ("/gpu/count", json!(1)),
        ("/gpu/resourceName", json!("nvidia.com/gpu")),
        ("/resources", json!({"limits": {"cpu": "5"}})),
        ("/suspend", json!(true)),
        ("/image", json!("other")),
        ("/storage/size", json!("2Gi")),
        ("/storage/storageClassName", json!("slow")),
        ("/pod/labels", json!({"team": "other"})),
        ("/pod/annotations", json!({"note": "other"})),
        ("/pod/nodeSelector", json!({"zone": "b"})),
        ("/pod/tolerations", json!([{"key": "other", "operator": "Exists"}])),
        (
            "/pod/affinity",
            json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}
            ]}}),
        ),
        (
            "/pod/topologySpreadConstraints",
            json!([{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]),
        ),
        ("/pod/runtimeClassName", json!("other")),
        ("/pod/priorityClassName", json!("other")),
        ("/pod/schedulerName", json!("other")),
        ("/pod/imagePullSecrets", json!([{"name": "other"}])),
        ("/pod/serviceAccountName", json!("other")),
        ("/pod/env", json!([{"name": "RUST_LOG", "value": "other"}])),
        ("/template", json!({"metadata": {"labels": {"other": "x"}}})),
    ]
}

#[test]
fn every_field_of_a_miner_shows_in_its_children() {
    let example = cases::everything();
    let before = children::<Miner>(&example);
    for (field, value) in changes() {
        let mut changed = with(example.clone(), &format!("/spec{field}"), value);
        if field == "/wallet/dev" {
            changed = with(changed, "/spec/wallet/secretRef", Value::Null);
        }
        assert_ne!(children::<Miner>(&changed), before, "{field} changes nothing");
    }
}

#[test]
fn where_a_miner_starts_is_its_choice_where_it_has_a_model_of_its_own() {
    let models = with(subnet(), "/spec/run/mechanism", json!({"lossWins": {}}));
    let starts = [
        json!({"best": {}}),
        json!({"hotkey": format!("5{}", "G".repeat(47))}),
        json!({"checkpoint": "bases/1.safetensors"}),
    ];
    for start in starts {
        let miner = with(cases::everything(), "/spec/startFrom", start.clone());
        let settings = validate::<Miner>(&miner, &models, &environment()).expect("valid").settings;
        assert_eq!(serde_json::to_value(&settings).expect("JSON")["startFrom"], start);
        let Err(refused) = validate::<Miner>(&miner, &subnet(), &environment()) else { panic!("one base for all") };
        assert_eq!(refused.field, "spec.startFrom");
    }
    let settings = validate::<Miner>(&cases::everything(), &models, &environment()).expect("valid").settings;
    let written = serde_json::to_value(settings).expect("JSON");
    assert!(written["startFrom"].is_null(), "what is not chosen does not roll pods when the operator learns of it");
}

#[test]
fn every_field_of_a_miner_is_in_the_test_above() {
    let known: Vec<&str> =
        changes().into_iter().map(|(field, _)| field).chain(ELSEWHERE.map(|(field, _)| field)).collect();
    let schema = schema_of("bistro.dev/v1alpha1", "Miner").expect("a schema");
    let fields = leaves(&schema["properties"]["spec"], "");
    let missing: Vec<&String> = fields.iter().filter(|field| !known.contains(&field.as_str())).collect();
    assert!(missing.is_empty(), "no change is known for {missing:?}");
    for field in known {
        assert!(fields.iter().any(|leaf| leaf == field), "{field} does not exist");
    }
}

/// Paths of all fields that hold no further fields of ours.
fn leaves(schema: &Value, path: &str) -> Vec<String> {
    match schema["properties"].as_object() {
        Some(properties) if !properties.is_empty() && !WHOLE.contains(&path) => {
            properties.iter().flat_map(|(name, schema)| leaves(schema, &format!("{path}/{name}"))).collect()
        }
        _ => vec![path.to_owned()],
    }
}

/// A worker reads its Subnet in its settings, so every field of a Subnet has to be there.
#[test]
fn every_field_of_a_subnet_stands_in_the_settings() {
    let full = with(subnet(), "/spec/averagers", json!([{"hotkey": format!("5{}", "G".repeat(47)), "fromWindow": 3}]));
    let full = with(full, "/spec/bucket/caBundle", json!("-----BEGIN CERTIFICATE-----"));
    let full = with(full, "/spec/chain/genesisHash", json!(format!("0x{}", "ab".repeat(32))));
    let validated = validate::<Miner>(&cases::everything(), &full, &environment()).expect("valid");
    let settings: Settings = validated.settings;
    let (written, spec) = (serde_json::to_value(settings).expect("JSON"), stored(&full)["spec"].clone());
    let schema = schema_of("bistro.dev/v1alpha1", "Subnet").expect("a schema");
    for (name, _) in schema["properties"]["spec"]["properties"].as_object().expect("fields") {
        assert!(!spec[name].is_null(), "{name} is not in the example");
        assert_eq!(written[name], spec[name], "{name}");
    }
}
