//! What is built from a resource, as snapshots: a change of the pod contract is a change of these files.

use bistro::{
    plan::{self, Children, Environment},
    yaml,
};
use bistro_api::{Averager, Miner, Node, Subnet};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{node, subnet, with};

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a resource")
}

fn validate<K: Node>(resource: Value) -> Result<plan::Validated, plan::Invalid> {
    let environment = Environment::local("registry.example/bistro-worker:1");
    plan::validate(&typed::<K>(resource), &typed::<Subnet>(subnet()), &environment)
}

fn children<K: Node>(resource: Value) -> Children {
    plan::build(&validate::<K>(resource).expect("valid"))
}

fn shown(children: &Children) -> String {
    let Children { config_map, service, pod_disruption_budget, stateful_set } = children;
    let budget = pod_disruption_budget.as_ref().map(|budget| yaml::to_string(budget).expect("YAML"));
    [
        yaml::to_string(config_map).expect("YAML"),
        yaml::to_string(service).expect("YAML"),
        budget.unwrap_or_else(|| "no budget\n".to_owned()),
        yaml::to_string(stateful_set).expect("YAML"),
    ]
    .join("---\n")
}

#[test]
fn a_miner_with_everything() {
    let resource = json!({
        "apiVersion": "bistro.dev/v1alpha1", "kind": "Miner",
        "metadata": {"name": "ibex", "namespace": "peaks", "uid": "5a3c", "generation": 2},
        "spec": {
            "subnetRef": {"name": "alps"}, "replicas": 3,
            "wallet": {"secretRef": {"name": "ibex-hotkeys"}},
            "bucket": {"credentialsSecretRef": {"name": "ibex-bucket"}},
            "gpu": {"count": 2},
            "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "4", "memory": "8Gi"}},
            "image": "registry.example/mine:2",
            "storage": {"size": "20Gi", "storageClassName": "fast"},
            "pod": {
                "labels": {"kueue.x-k8s.io/queue-name": "training"}, "annotations": {"note": "x"},
                "nodeSelector": {"zone": "a"}, "tolerations": [{"key": "spot", "operator": "Exists"}],
                "runtimeClassName": "nvidia", "priorityClassName": "low", "schedulerName": "volcano",
                "imagePullSecrets": [{"name": "pull"}], "serviceAccountName": "ibex",
                "env": [{"name": "RUST_LOG", "value": "debug"}]
            },
            "template": {"spec": {"hostname": "fixed", "containers": [{"name": "sidecar", "image": "x"}]}}
        }
    });
    insta::assert_snapshot!(shown(&children::<Miner>(resource)));
}

#[test]
fn an_averager_with_defaults() {
    insta::assert_snapshot!(shown(&children::<Averager>(node("Averager", "marmot"))));
}

#[test]
fn suspended_nodes_keep_everything_but_pods() {
    let suspended = with(with(node("Miner", "ibex"), "/spec/replicas", json!(5)), "/spec/suspend", json!(true));
    let children = children::<Miner>(suspended);
    assert_eq!(children.stateful_set.spec.expect("spec").replicas, Some(0));
    assert!(children.pod_disruption_budget.is_none());
}

#[test]
fn another_agreement_rolls_the_pods_and_the_same_does_not() {
    let digest = |resource: Value| {
        let template = children::<Miner>(resource).stateful_set.spec.expect("spec").template;
        template.metadata.and_then(|m| m.annotations).expect("annotations")["bistro.dev/settings-digest"].clone()
    };
    let miner = node("Miner", "ibex");
    assert_eq!(digest(miner.clone()), digest(with(miner.clone(), "/spec/replicas", json!(9))));
    assert_ne!(digest(miner), digest(node("Miner", "chamois")));
}

/// The worker reads what the plan writes.
#[test]
fn settings_survive_the_way_to_the_worker() {
    let validated = validate::<Miner>(node("Miner", "ibex")).expect("valid");
    let text = plan::build(&validated).config_map.data.expect("data")["settings.yaml"].clone();
    let read: bistro_api::Settings = serde_yaml::from_str(&text).expect("settings");
    assert_eq!(read, validated.settings);
    let run = |settings: &bistro_api::Settings| bistro_api::digest::run_digest(&settings.run);
    assert_eq!(run(&read), run(&validated.settings));
}

#[test]
fn a_template_may_not_break_the_contract() {
    let template = json!({"spec": {"containers": [{"name": "worker", "args": ["validator"]}]}});
    let error = validate::<Miner>(with(node("Miner", "ibex"), "/spec/template", template)).expect_err("refused");
    assert_eq!(error.field, "spec.template.spec.containers[worker].args");
}
