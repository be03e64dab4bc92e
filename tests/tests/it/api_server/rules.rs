//! Every CEL rule with an object that it accepts and one that it refuses, with words that name the remedy.

use std::collections::BTreeSet;

use bistro_api::{Averager, Miner, Subnet, Validator};
use bistro_tests::cluster::Cluster;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::objects::{KINDS, Objects, WORKLOADS, merge, sound};

/// Changes of a sound object: some keep a rule, some break it.
struct Rule {
    kinds: &'static [&'static str],
    /// A part of the message that is unlike all others.
    says: &'static str,
    keep: Vec<Value>,
    broken: Vec<Value>,
}

/// Rules of the object as it is.
fn rules() -> Vec<Rule> {
    let named = |name: &str| json!({ "metadata": { "name": name } });
    let spec = |spec: Value| json!({ "spec": spec });
    let run = |run: Value| json!({ "spec": { "run": run } });
    vec![
        Rule {
            kinds: &KINDS,
            says: "metadata.name needs at most 40 characters of a-z, 0-9 and -",
            keep: vec![named(&"n".repeat(40)), named("0"), named("a-1")],
            broken: vec![named(&"n".repeat(41)), named("a.b")],
        },
        Rule {
            kinds: &WORKLOADS,
            says: "wallet needs exactly one of secretRef (a Secret with hotkey files) and dev: true",
            keep: vec![spec(json!({ "wallet": { "dev": null, "secretRef": { "name": "hotkeys" } } }))],
            broken: vec![
                spec(json!({ "wallet": { "dev": null } })),
                spec(json!({ "wallet": { "secretRef": { "name": "hotkeys" } } })),
            ],
        },
        Rule {
            kinds: &WORKLOADS,
            says: "env cannot set BISTRO_ variables",
            keep: vec![spec(json!({ "pod": { "env": [{ "name": "AWS_REGION", "value": "x" }] } }))],
            broken: vec![spec(json!({ "pod": { "env": [{ "name": "BISTRO_THREADS", "value": "1" }] } }))],
        },
        Rule {
            kinds: &["Miner"],
            says: "startFrom needs exactly one member: base, best, hotkey or checkpoint",
            keep: vec![
                spec(json!({ "startFrom": { "base": {} } })),
                spec(json!({ "startFrom": { "best": {} } })),
                spec(json!({ "startFrom": { "hotkey": format!("5{}", "G".repeat(47)) } })),
                spec(json!({ "startFrom": { "checkpoint": "bases/1.safetensors" } })),
            ],
            broken: vec![
                spec(json!({ "startFrom": {} })),
                spec(json!({ "startFrom": { "best": {}, "checkpoint": "bases/1.safetensors" } })),
            ],
        },
        Rule {
            kinds: &["Subnet"],
            says: "from needs exactly one of seed, run, checkpoint",
            keep: vec![
                run(json!({ "from": { "seed": null, "run": 1 } })),
                run(json!({ "from": { "seed": null, "checkpoint": "bases/1" } })),
            ],
            broken: vec![run(json!({ "from": { "seed": null } })), run(json!({ "from": { "run": 1 } }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "windowBlocks must leave at least 5 blocks for training: raise windowBlocks",
            keep: vec![run(json!({ "schedule": { "windowBlocks": 29 } }))],
            broken: vec![run(json!({ "schedule": { "windowBlocks": 28 } }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "pagesPerWindow * pageSequences must equal batchSequences * innerSteps",
            keep: vec![run(json!({ "dataset": { "pagesPerWindow": 2 }, "training": { "innerSteps": 4 } }))],
            broken: vec![run(json!({ "dataset": { "pagesPerWindow": 2 } }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "model needs exactly one of preset and config",
            keep: vec![run(json!({ "model": { "preset": null, "config": { "hidden_size": 64, "rope_theta": 1e4 } } }))],
            broken: vec![run(json!({ "model": { "preset": null } })), run(json!({ "model": { "config": {} } }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "mechanism needs exactly one member: cosine",
            keep: vec![
                run(json!({ "mechanism": { "cosine": { "sliceRatio": 1 } } })),
                run(json!({ "mechanism": { "cosine": null, "taylor": {} } })),
            ],
            broken: vec![
                run(json!({ "mechanism": { "cosine": null } })),
                run(json!({ "mechanism": { "taylor": { "order": 2 } } })),
            ],
        },
        Rule {
            kinds: &["Subnet"],
            says: "averaging needs exactly one member: uniform, scoreWeighted or parameterized",
            keep: vec![averaging(json!({ "uniform": {} })), averaging(json!({ "parameterized": { "steps": 60 } }))],
            broken: vec![averaging(json!({})), averaging(json!({ "uniform": {}, "scoreWeighted": {} }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "gradientDifference publishes the gradient of one step: set training.innerSteps to 1",
            keep: vec![run(json!({
                "mechanism": { "cosine": null, "gradientDifference": {} },
                "training": { "innerSteps": 1, "batchSequences": 64 },
            }))],
            broken: vec![run(json!({ "mechanism": { "cosine": null, "gradientDifference": {} } }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "merge.rule must be mean with lossReduction",
            keep: vec![run(json!({ "mechanism": { "cosine": null, "lossReduction": {} } }))],
            broken: vec![run(json!({
                "mechanism": { "cosine": null, "lossReduction": {} },
                "merge": { "rule": { "mean": null, "median": {} } },
            }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "compression needs exactly one member: topK",
            keep: vec![reduction(json!({ "compression": { "topK": {} } }))],
            broken: vec![reduction(json!({ "compression": {} }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "topK.decay must be at least 0 and at most 1",
            keep: ["0", "1.0", "0e3", "5e-1"].map(|decay| reduction(top_k(decay))).into(),
            broken: ["-0.1", "1.1", "1e3"].map(|decay| reduction(top_k(decay))).into(),
        },
        Rule {
            kinds: &["Subnet"],
            says: "set cosine.sliceRatio to 1",
            keep: vec![cosine(json!({ "sliceRatio": 1, "compression": { "topK": {} } }))],
            broken: vec![
                cosine(json!({ "sliceRatio": 2, "compression": { "topK": {} } })),
                // Its default is 10.
                cosine(json!({ "sliceRatio": null, "compression": { "topK": {} } })),
            ],
        },
        Rule {
            kinds: &["Subnet"],
            says: "leave lossReduction.sliceRatio out",
            keep: vec![reduction(json!({ "sliceRatio": 1, "compression": { "topK": {} } }))],
            broken: vec![reduction(json!({ "sliceRatio": 10, "compression": { "topK": {} } }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "merge.rule must be mean with cosine.compression",
            keep: vec![with_run(cosine(top_k("0.9")), json!({ "merge": { "rule": { "mean": {} } } }))],
            broken: ["median", "trimmedMean"]
                .map(|rule| with_run(cosine(top_k("0.9")), json!({ "merge": { "rule": { "mean": null, rule: {} } } })))
                .into(),
        },
        Rule {
            kinds: &["Subnet"],
            says: "cosine.compression.topK.decay must be \"0\" with training.innerOptimizer: fresh",
            keep: ["0", "0.00"].map(|decay| fresh(cosine(top_k(decay)))).into(),
            broken: vec![fresh(cosine(top_k("0.9"))), fresh(cosine(top_k("1e-9")))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "lossReduction.compression.topK.decay must be \"0\" with training.innerOptimizer: fresh",
            keep: vec![fresh(reduction(top_k("0")))],
            broken: vec![fresh(reduction(top_k("1")))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "lossWins.floor must be above 0",
            keep: ["1e-3", "0.005"].map(floor).into(),
            broken: ["0", "0.000", "0e-3"].map(floor).into(),
        },
        Rule {
            kinds: &["Subnet"],
            says: "lossWins.epsilon must be at least floor and below 1",
            keep: vec![wins(json!({ "epsilon": "0.25", "floor": "0.25" }))],
            broken: vec![wins(json!({ "epsilon": "0.0009" })), wins(json!({ "epsilon": "1" }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "merge.rule needs exactly one member: mean, trimmedMean or median",
            keep: vec![run(json!({ "merge": { "rule": { "median": {} } } }))],
            broken: vec![
                run(json!({ "merge": { "rule": {} } })),
                run(json!({ "merge": { "rule": { "mean": {}, "median": {} } } })),
            ],
        },
        Rule {
            kinds: &["Subnet"],
            says: "trimmedMean.fraction must be written like 0.25, at least 0 and below 0.5",
            keep: ["0", "0.49", "0.1"].map(trimmed).into(),
            broken: ["0.5", "1", "1e-1", "-0.1"].map(trimmed).into(),
        },
    ]
}

fn averaging(members: Value) -> Value {
    json!({ "spec": { "run": { "mechanism": { "cosine": null, "lossReduction": { "averaging": members } } } } })
}

fn cosine(settings: Value) -> Value {
    json!({ "spec": { "run": { "mechanism": { "cosine": settings } } } })
}

fn reduction(settings: Value) -> Value {
    json!({ "spec": { "run": { "mechanism": { "cosine": null, "lossReduction": settings } } } })
}

/// Settings of a mechanism that sends whole deltas.
fn top_k(decay: &str) -> Value {
    json!({ "sliceRatio": 1, "compression": { "topK": { "decay": decay } } })
}

fn fresh(change: Value) -> Value {
    with_run(change, json!({ "training": { "innerOptimizer": "fresh" } }))
}

fn with_run(mut change: Value, run: Value) -> Value {
    merge(&mut change, &json!({ "spec": { "run": run } }));
    change
}

fn wins(settings: Value) -> Value {
    json!({ "spec": { "run": { "mechanism": { "cosine": null, "lossWins": settings } } } })
}

fn floor(floor: &str) -> Value {
    wins(json!({ "floor": floor }))
}

fn trimmed(fraction: &str) -> Value {
    json!({ "spec": { "run": { "merge": { "rule": { "trimmedMean": { "fraction": fraction } } } } } })
}

/// Rules of a change, where the sound object is there and has a volume.
fn rules_of_change() -> Vec<Rule> {
    let spec = |spec: Value| json!({ "spec": spec });
    let run = |run: Value| json!({ "spec": { "run": run } });
    vec![
        Rule {
            kinds: &WORKLOADS,
            says: "subnetRef cannot change: create a resource under another name",
            keep: vec![spec(json!({ "subnetRef": { "name": "demo" }, "suspend": true }))],
            broken: vec![spec(json!({ "subnetRef": { "name": "other" } }))],
        },
        Rule {
            kinds: &WORKLOADS,
            says: "storage cannot change, because the volumes of a StatefulSet cannot: create a resource under another name",
            keep: vec![spec(json!({ "storage": { "size": "20Gi" }, "replicas": 2 }))],
            broken: vec![
                spec(json!({ "storage": { "size": "30Gi" } })),
                spec(json!({ "storage": { "storageClassName": "fast" } })),
                spec(json!({ "storage": null })),
            ],
        },
        Rule {
            kinds: &["Subnet"],
            says: "netuid cannot change: create another Subnet for another netuid",
            keep: vec![spec(json!({ "netuid": 1, "scoring": { "power": "2" } }))],
            broken: vec![spec(json!({ "netuid": 2 }))],
        },
        Rule {
            kinds: &["Subnet"],
            says: "run is immutable under one id: raise run.id together with every other change of run",
            keep: vec![
                run(json!({ "id": 3, "training": { "learningRate": "1e-3" } })),
                // What was a default is the same when it is written.
                run(json!({ "training": { "weightDecay": "0.1" } })),
                spec(json!({ "chain": { "endpoints": ["wss://elsewhere:443"] } })),
            ],
            broken: vec![
                run(json!({ "training": { "learningRate": "1e-3" } })),
                run(json!({ "id": 1 })),
                run(json!({ "startWindow": 7 })),
            ],
        },
    ]
}

#[tokio::test]
async fn every_rule_accepts_and_refuses() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    for rule in rules() {
        for kind in rule.kinds {
            let objects = Objects::of(cluster, kind, &namespace).await;
            for change in &rule.keep {
                let object = changed(sound(kind), change);
                objects.would_create(&object).await.unwrap_or_else(|why| panic!("{kind} {change}: {why}"));
            }
            for change in &rule.broken {
                let why = objects.would_create(&changed(sound(kind), change)).await;
                let why = why.expect_err(&format!("{kind} with {change} breaks: {}", rule.says));
                assert!(why.contains(rule.says), "{kind} {change}: {why}");
            }
        }
    }
}

#[tokio::test]
async fn every_rule_of_a_change_accepts_and_refuses() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    for kind in KINDS {
        let volume = if kind == "Subnet" { json!({}) } else { json!({ "spec": { "storage": { "size": "20Gi" } } }) };
        Objects::of(cluster, kind, &namespace).await.create(&changed(sound(kind), &volume)).await;
    }
    for rule in rules_of_change() {
        for kind in rule.kinds {
            let objects = Objects::of(cluster, kind, &namespace).await;
            for change in &rule.keep {
                objects.would_change(change).await.unwrap_or_else(|why| panic!("{kind} {change}: {why}"));
            }
            for change in &rule.broken {
                let why = objects.would_change(change).await;
                let why = why.expect_err(&format!("{kind} with {change} breaks: {}", rule.says));
                assert!(why.contains(rule.says), "{kind} {change}: {why}");
            }
        }
    }
}

/// A volume that was not there cannot be added either.
#[tokio::test]
async fn a_volume_is_not_added_later() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace().await;
    let objects = Objects::of(cluster, "Miner", &namespace).await;
    objects.create(&sound("Miner")).await;
    let why = objects.would_change(&json!({ "spec": { "storage": { "size": "20Gi" } } })).await.expect_err("refused");
    assert!(why.contains("storage cannot change"), "{why}");
}

/// A rule without a case above is a rule that nobody has tried.
#[test]
fn every_rule_of_the_definitions_has_a_case() {
    let mut messages = BTreeSet::new();
    for definition in [Subnet::crd(), Miner::crd(), Validator::crd(), Averager::crd()] {
        let definition = serde_json::to_value(definition).expect("plain data");
        collect_messages(&definition["spec"]["versions"][0]["schema"], &mut messages);
    }
    assert!(messages.len() >= 14, "{messages:?}");
    let cases: Vec<&str> = rules().iter().chain(&rules_of_change()).map(|rule| rule.says).collect();
    for message in messages {
        assert!(cases.iter().any(|says| message.contains(says)), "no case breaks: {message}");
    }
}

fn collect_messages(schema: &Value, messages: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for rule in members.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                let message = rule["message"].as_str();
                messages.insert(message.unwrap_or_else(|| panic!("no remedy for {rule}")).to_owned());
            }
            members.values().for_each(|member| collect_messages(member, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_messages(item, messages)),
        _ => {}
    }
}

fn changed(mut object: Value, change: &Value) -> Value {
    merge(&mut object, change);
    object
}
