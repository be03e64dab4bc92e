//! The rules of the schema: for each an object that it takes and one that it refuses.

use bistro::admission::{admit, broken_rules, schema_of};
use serde_json::{Value, json};

use crate::support::{node, subnet, with};

fn schema(object: &Value) -> &'static Value {
    let text = |name: &str| object[name].as_str().expect("a text");
    schema_of(text("apiVersion"), text("kind")).expect("a known kind")
}

fn accepted(object: &Value) -> Value {
    admit(schema(object), object).unwrap_or_else(|violations| panic!("{object}: {violations:?}"))
}

fn refused(object: &Value, field: &str, message: &str) {
    let violations = admit(schema(object), object).expect_err("refused");
    let found = violations.iter().any(|v| v.field.contains(field) && v.message.contains(message));
    assert!(found, "{violations:?} does not hold {field}: {message}");
}

/// An update, as an API server checks it.
fn update(old: &Value, new: &Value) -> Result<(), String> {
    let (old, new) = (accepted(old), accepted(new));
    broken_rules(schema(&new), &new, Some(&old))
        .map_err(|violations| violations.into_iter().map(|v| v.message).collect::<Vec<_>>().join("; "))
}

#[test]
fn examples_pass_and_get_their_defaults() {
    let stored = accepted(&subnet());
    assert_eq!(stored["spec"]["run"]["training"]["betas"], json!(["0.9", "0.95"]));
    assert_eq!(stored["spec"]["run"]["schedule"]["snapshotWindows"], json!(20));
    assert_eq!(stored["spec"]["scoring"]["power"], json!("3"));
    assert_eq!(stored["spec"]["bucket"]["region"], json!("us-east-1"));
    let stored = accepted(&node("Miner", "ibex"));
    assert_eq!(stored["spec"]["replicas"], json!(1));
    assert_eq!(stored["spec"]["suspend"], json!(false));
    assert_eq!(stored["spec"]["startFrom"], json!({"base": {}}));
    accepted(&node("Validator", "ibex"));
    accepted(&node("Averager", "ibex"));
}

#[test]
fn a_run_changes_only_with_a_higher_id() {
    let run = |id: u32, rate: &str| {
        with(with(subnet(), "/spec/run/id", json!(id)), "/spec/run/training/learningRate", json!(rate))
    };
    update(&run(1, "3e-3"), &run(1, "3e-3")).expect("nothing changed");
    update(&run(1, "3e-3"), &run(2, "1e-3")).expect("a higher id");
    let refused = update(&run(1, "3e-3"), &run(1, "1e-3")).expect_err("the same id");
    assert!(refused.contains("raise run.id"), "{refused}");
    update(&run(2, "3e-3"), &run(1, "1e-3")).expect_err("a lower id");
}

#[test]
fn identities_cannot_change() {
    let refused = update(&subnet(), &with(subnet(), "/spec/netuid", json!(8))).expect_err("another netuid");
    assert!(refused.contains("another Subnet"), "{refused}");
    let miner = node("Miner", "ibex");
    let other = with(miner.clone(), "/spec/subnetRef/name", json!("andes"));
    assert!(update(&miner, &other).expect_err("another subnet").contains("subnetRef cannot change"));
    let stored = |size: &str| with(miner.clone(), "/spec/storage", json!({"size": size}));
    update(&stored("1Gi"), &stored("1Gi")).expect("nothing changed");
    for (old, new) in [(stored("1Gi"), stored("2Gi")), (miner.clone(), stored("1Gi")), (stored("1Gi"), miner.clone())] {
        assert!(update(&old, &new).expect_err("another volume").contains("storage cannot change"));
    }
    update(&miner, &with(miner.clone(), "/spec/replicas", json!(5))).expect("the number of pods can change");
}

#[test]
fn a_wallet_has_exactly_one_source() {
    let wallet = |wallet: Value| with(node("Averager", "ibex"), "/spec/wallet", wallet);
    accepted(&wallet(json!({"secretRef": {"name": "keys"}})));
    accepted(&wallet(json!({"secretRef": {"name": "keys"}, "dev": false})));
    for none_or_both in [json!({}), json!({"dev": false}), json!({"secretRef": {"name": "keys"}, "dev": true})] {
        refused(&wallet(none_or_both), "spec.wallet", "exactly one of secretRef");
    }
}

#[test]
fn names_leave_room_for_those_of_pods() {
    let named = |name: &str| with(node("Miner", "x"), "/metadata/name", json!(name));
    accepted(&named(&"a".repeat(40)));
    accepted(&named("a-1"));
    for name in ["a".repeat(41), "a.b".to_owned(), "-a".to_owned(), "A".to_owned()] {
        refused(&named(&name), "", "at most 40 characters");
    }
    refused(&with(subnet(), "/metadata/name", json!("a".repeat(41))), "", "at most 40 characters");
}

#[test]
fn sequences_of_a_window_are_all_trained_on() {
    refused(
        &with(subnet(), "/spec/run/training/innerSteps", json!(9)),
        "spec.run",
        "must equal batchSequences * innerSteps",
    );
}

#[test]
fn mechanisms_fit_the_rest_of_the_run() {
    let mechanism = |mechanism: serde_json::Value| with(subnet(), "/spec/run/mechanism", mechanism);
    let one_step = with(
        with(mechanism(json!({"gradientDifference": {}})), "/spec/run/training/innerSteps", json!(1)),
        "/spec/run/training/batchSequences",
        json!(64),
    );
    accepted(&one_step);
    refused(&mechanism(json!({"gradientDifference": {}})), "spec.run", "set training.innerSteps to 1");
    accepted(&mechanism(json!({"taylor": {"order": 2, "formula": "published"}})));
    refused(&mechanism(json!({"taylor": {"order": 3}})), "order", "above the maximum of 2");
    accepted(&mechanism(json!({"lossWins": {"epsilon": "1e-2", "floor": "0.01"}})));
    refused(&mechanism(json!({"lossWins": {"floor": "0"}})), "lossWins", "floor must be above 0");
    refused(&mechanism(json!({"lossWins": {"epsilon": "0.0001"}})), "lossWins", "epsilon must be at least floor");
    refused(&mechanism(json!({"lossWins": {"epsilon": "1.0"}})), "lossWins", "below 1");
    let weighed = mechanism(json!({"lossReduction": {}}));
    accepted(&weighed);
    refused(&with(weighed, "/spec/run/merge", json!({"rule": {"median": {}}})), "spec.run", "merge.rule must be mean");
}

#[test]
fn compressed_work_fits_the_rest_of_the_run() {
    let cosine = |settings: Value| with(subnet(), "/spec/run/mechanism", json!({ "cosine": settings }));
    let reduction = |settings: Value| with(subnet(), "/spec/run/mechanism", json!({ "lossReduction": settings }));
    let stored = accepted(&cosine(json!({"sliceRatio": 1, "compression": {"topK": {}}})));
    let top_k = &stored["spec"]["run"]["mechanism"]["cosine"]["compression"]["topK"];
    assert_eq!(*top_k, json!({"k": 64, "values": "twoBit", "decay": "0.95"}), "the defaults");
    let whole = json!({"compression": {"topK": {"k": 4096, "values": "bf16", "decay": "1"}}});
    accepted(&reduction(whole));
    refused(&cosine(json!({"compression": {"topK": {}}})), "spec.run.mechanism.cosine", "set cosine.sliceRatio to 1");
    refused(
        &reduction(json!({"sliceRatio": 2, "compression": {"topK": {}}})),
        "spec.run.mechanism.lossReduction",
        "leave lossReduction.sliceRatio out",
    );
    refused(&reduction(json!({"compression": {}})), "lossReduction.compression", "exactly one member: topK");
    let top = |settings: Value| reduction(json!({ "compression": { "topK": settings } }));
    refused(&top(json!({"k": 0})), "topK.k", "below the minimum of 1");
    refused(&top(json!({"k": 4097})), "topK.k", "above the maximum of 4096");
    refused(&top(json!({"values": "f16"})), "topK.values", "not one of twoBit, bf16, f32");
    refused(&top(json!({"decay": "1.01"})), "compression.topK", "at least 0 and at most 1");
    refused(&top(json!({"decay": "-0.1"})), "compression.topK", "at least 0 and at most 1");
    for run in [cosine(json!({"sliceRatio": 1, "compression": {"topK": {"decay": "0.5"}}})), top(json!({}))] {
        let fresh = with(run, "/spec/run/training/innerOptimizer", json!("fresh"));
        refused(&fresh, "spec.run", "compression.topK.decay must be \"0\" with training.innerOptimizer: fresh");
    }
    for decay in ["0", "0.0", "0e3"] {
        accepted(&with(top(json!({ "decay": decay })), "/spec/run/training/innerOptimizer", json!("fresh")));
    }
    let merged = cosine(json!({"sliceRatio": 1, "compression": {"topK": {}}}));
    for rule in [json!({"median": {}}), json!({"trimmedMean": {}})] {
        let run = with(merged.clone(), "/spec/run/merge", json!({ "rule": rule }));
        refused(&run, "spec.run", "merge.rule must be mean with cosine.compression");
    }
}

#[test]
fn phases_fit_into_a_window() {
    accepted(&with(subnet(), "/spec/run/schedule/windowBlocks", json!(29)));
    refused(&with(subnet(), "/spec/run/schedule/windowBlocks", json!(28)), "spec.run.schedule", "raise windowBlocks");
    refused(&with(subnet(), "/spec/run/schedule/commitBlocks", json!(4)), "commitBlocks", "below the minimum of 5");
}

#[test]
fn unions_have_exactly_one_member() {
    refused(&with(subnet(), "/spec/run/mechanism", json!({})), "spec.run.mechanism", "exactly one member");
    let two = json!({"cosine": {}, "taylor": {}});
    refused(&with(subnet(), "/spec/run/mechanism", two), "spec.run.mechanism", "exactly one member");
    let averaging = |members: serde_json::Value| {
        with(subnet(), "/spec/run/mechanism", json!({"lossReduction": {"averaging": members}}))
    };
    accepted(&averaging(json!({"scoreWeighted": {}})));
    refused(&averaging(json!({})), "spec.run.mechanism.lossReduction.averaging", "exactly one member");
    refused(&with(subnet(), "/spec/run/model", json!({})), "spec.run.model", "exactly one of preset and config");
    let both = json!({"preset": "tiny", "config": {"model_type": "llama"}});
    refused(&with(subnet(), "/spec/run/model", both), "spec.run.model", "exactly one of preset and config");
    accepted(&with(subnet(), "/spec/run/model", json!({"config": {"model_type": "llama", "rms_norm_eps": 1e-5}})));
    refused(&with(subnet(), "/spec/run/from", json!({})), "spec.run.from", "exactly one of seed, run, checkpoint");
    refused(&with(subnet(), "/spec/run/from", json!({"seed": 1, "run": 1})), "spec.run.from", "exactly one of seed");
    refused(&with(subnet(), "/spec/run/merge", json!({"rule": {}})), "spec.run.merge.rule", "exactly one member");
    refused(&with(node("Miner", "ibex"), "/spec/startFrom", json!({})), "spec.startFrom", "exactly one member");
}

#[test]
fn bounds_hold() {
    let miner = node("Miner", "ibex");
    accepted(&with(miner.clone(), "/spec/replicas", json!(256)));
    accepted(&with(miner.clone(), "/spec/replicas", json!(0)));
    refused(&with(miner.clone(), "/spec/replicas", json!(257)), "spec.replicas", "above the maximum of 256");
    refused(&with(miner.clone(), "/spec/replicas", json!(-1)), "spec.replicas", "below the minimum of 0");
    refused(&with(miner, "/spec/gpu", json!({"count": 65})), "spec.gpu.count", "above the maximum of 64");
    refused(&with(subnet(), "/spec/netuid", json!(65_536)), "spec.netuid", "above the maximum");
    refused(&with(subnet(), "/spec/chain/endpoints", json!([])), "spec.chain.endpoints", "at least 1");
    let nine = vec!["ws://a:1"; 9];
    refused(&with(subnet(), "/spec/chain/endpoints", json!(nine)), "spec.chain.endpoints", "at most 8");
    refused(&with(subnet(), "/spec/chain/endpoints", json!(["http://a"])), "endpoints[0]", "does not have the form");
}

#[test]
fn averagers_take_over_at_different_windows() {
    let hotkey = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    let terms = |second: u64| json!([{"hotkey": hotkey}, {"hotkey": hotkey, "fromWindow": second}]);
    accepted(&with(subnet(), "/spec/averagers", terms(10)));
    refused(&with(subnet(), "/spec/averagers", terms(0)), "spec.averagers[1]", "repeats the fromWindow");
    refused(
        &with(subnet(), "/spec/averagers", json!([{"hotkey": "5G"}])),
        "averagers[0].hotkey",
        "does not have the form",
    );
}

#[test]
fn the_pod_contract_belongs_to_the_operator() {
    let env = |name: &str| with(node("Miner", "ibex"), "/spec/pod", json!({"env": [{"name": name, "value": "x"}]}));
    accepted(&env("RUST_LOG"));
    refused(&env("BISTRO_STATE"), "spec.pod.env", "pod contract");
}

#[test]
fn no_field_of_a_resource_is_a_float() {
    fn walk(schema: &Value, path: &str) {
        assert_ne!(schema["type"], json!("number"), "{path} is a float: write it as a Decimal");
        for member in ["properties", "items", "additionalProperties"] {
            if let Some(inner) = schema.get(member).filter(|inner| inner.is_object()) {
                let children = if member == "properties" { inner.clone() } else { json!({ member: inner }) };
                children
                    .as_object()
                    .into_iter()
                    .flatten()
                    .for_each(|(name, child)| walk(child, &format!("{path}.{name}")));
            }
        }
    }
    for kind in ["Subnet", "Miner", "Validator", "Averager"] {
        walk(schema_of("bistro.dev/v1alpha1", kind).expect("known"), kind);
    }
}

/// Descriptions are what `kubectl explain` shows.
#[test]
fn every_field_of_our_own_is_described() {
    fn walk(schema: &Value, path: &str) {
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(child["description"].is_string(), "{path} has no description");
            walk(child, &path);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], path);
        }
    }
    for kind in ["Subnet", "Miner", "Validator", "Averager"] {
        let schema = schema_of("bistro.dev/v1alpha1", kind).expect("known");
        walk(&schema["properties"]["spec"], kind);
        walk(&schema["properties"]["status"], kind);
    }
}

/// Numbers inside the shared part of a spec must survive JSON text, however serde_json keeps numbers.
#[test]
fn resources_read_from_text_keep_their_numbers() {
    let text = with(node("Miner", "ibex"), "/spec/replicas", json!(3)).to_string();
    let miner: bistro_api::Miner = serde_json::from_str(&text).expect("a Miner");
    assert_eq!(miner.spec.workload.replicas, 3);
    assert_eq!(serde_json::to_value(&miner).expect("JSON")["spec"]["replicas"], json!(3));
}
