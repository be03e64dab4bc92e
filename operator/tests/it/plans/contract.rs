//! The pod contract in parts: what rolls pods, what a worker reads, what keeps a hotkey to one pod.

use bistro::plan::{self, Environment};
use bistro_api::{Averager, Miner, Settings, Validator, digest::run_digest};
use serde_json::{Value, json};

use super::{cases, children, environment, of_kind, validate};
use crate::support::{node, subnet, with};

fn stateful_set(miner: &Value) -> Value {
    of_kind(&children::<Miner>(miner), "StatefulSet").clone()
}

fn worker(miner: &Value) -> Value {
    stateful_set(miner)["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn suspended_nodes_keep_everything_but_pods() {
    let five = with(node("Miner", "ibex"), "/spec/replicas", json!(5));
    let (running, suspended) = (children::<Miner>(&five), children::<Miner>(&with(five, "/spec/suspend", json!(true))));
    assert_eq!(of_kind(&suspended, "StatefulSet")["spec"]["replicas"], 0);
    assert!(suspended.iter().all(|document| document["kind"] != "PodDisruptionBudget"));
    let without_replicas =
        |documents: &[Value]| with(of_kind(documents, "StatefulSet").clone(), "/spec/replicas", json!(0));
    assert_eq!(without_replicas(&running), without_replicas(&suspended));
}

#[test]
fn another_agreement_rolls_the_pods_and_the_same_does_not() {
    let digest = |resource: Value| {
        stateful_set(&resource)["spec"]["template"]["metadata"]["annotations"]["bistro.dev/settings-digest"].clone()
    };
    let miner = node("Miner", "ibex");
    assert!(digest(miner.clone()).is_string());
    assert_eq!(digest(miner.clone()), digest(with(miner.clone(), "/spec/replicas", json!(9))));
    assert_ne!(digest(miner), digest(node("Miner", "chamois")));
}

/// The worker reads what the plan writes.
#[test]
fn settings_survive_the_way_to_the_worker() {
    let validated = validate::<Miner>(&node("Miner", "ibex"), &subnet(), &environment()).expect("valid");
    let text = plan::build(&validated).config_map.data.expect("data")["settings.yaml"].clone();
    let read: Settings = serde_yaml::from_str(&text).expect("settings");
    assert_eq!(read, validated.settings);
    assert_eq!(run_digest(&read.run), run_digest(&validated.settings.run));
}

/// A name, a selector, a claim or a management policy that changed would mean another StatefulSet beside the first one,
/// with the same hotkeys.
#[test]
fn what_a_stateful_set_cannot_change_never_changes() {
    let fixed = |resource: &Value| {
        let set = stateful_set(resource);
        let spec = &set["spec"];
        let immutable = ["selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"];
        (set["metadata"]["name"].clone(), immutable.map(|member| spec[member].clone()))
    };
    let all = cases::everything();
    for (pointer, value) in [
        ("/spec/replicas", json!(7)),
        ("/spec/suspend", json!(true)),
        ("/spec/image", json!("other")),
        ("/spec/gpu/count", json!(0)),
        ("/spec/resources", json!({"limits": {"cpu": "1"}})),
        ("/spec/pod", json!({"labels": {"a": "b"}, "annotations": {"c": "d"}})),
        ("/spec/template", json!({"metadata": {"labels": {"e": "f"}}})),
        ("/spec/wallet", json!({"dev": true})),
    ] {
        assert_eq!(fixed(&with(all.clone(), pointer, value)), fixed(&all), "{pointer}");
    }
    assert_eq!(fixed(&all).1[2], "Parallel");
}

#[test]
fn a_gpu_brings_its_limit_its_image_and_its_toleration() {
    let of = |gpu: Value| with(node("Miner", "ibex"), "/spec/gpu", gpu);
    let pod = |miner: &Value| stateful_set(miner)["spec"]["template"]["spec"].clone();
    let toleration = |name: &str| json!([{"key": name, "operator": "Exists", "effect": "NoSchedule"}]);
    let default = node("Miner", "ibex");
    assert_eq!(worker(&default)["image"], "registry.example/bistro-worker-cuda:1");
    assert_eq!(worker(&default)["resources"], json!({"limits": {"nvidia.com/gpu": "1"}}));
    assert_eq!(pod(&default)["tolerations"], toleration("nvidia.com/gpu"));
    let amd = of(json!({"count": 8, "resourceName": "amd.com/gpu"}));
    assert_eq!(worker(&amd)["resources"], json!({"limits": {"amd.com/gpu": "8"}}));
    assert_eq!(pod(&amd)["tolerations"], toleration("amd.com/gpu"));
    let none = of(json!({"count": 0}));
    assert_eq!(worker(&none)["image"], "registry.example/bistro-worker:1");
    assert_eq!((&worker(&none)["resources"], &pod(&none)["tolerations"]), (&Value::Null, &Value::Null));
    let own_image = with(default, "/spec/image", json!("mine"));
    assert_eq!(worker(&own_image)["image"], "mine");
    let tolerated = with(node("Miner", "ibex"), "/spec/pod/tolerations", toleration("nvidia.com/gpu"));
    assert_eq!(pod(&tolerated)["tolerations"], toleration("nvidia.com/gpu"), "not twice");
}

#[test]
fn only_averagers_do_without_a_gpu_by_default() {
    let limits = |documents: &[Value]| {
        of_kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["resources"].clone()
    };
    assert_eq!(limits(&children::<Validator>(&node("Validator", "ibex")))["limits"]["nvidia.com/gpu"], "1");
    assert_eq!(limits(&children::<Averager>(&node("Averager", "ibex"))), Value::Null);
}

/// Kueue for StatefulSets reads the label of the StatefulSet.
#[test]
fn a_queue_stands_on_the_stateful_set_and_its_pods() {
    let queue = "kueue.x-k8s.io/queue-name";
    let labels = json!({queue: "training", "team": "alps"});
    let in_template = json!({"metadata": {"labels": labels.clone()}});
    for miner in [
        with(node("Miner", "ibex"), "/spec/pod/labels", labels),
        with(node("Miner", "ibex"), "/spec/template", in_template),
    ] {
        let set = stateful_set(&miner);
        assert_eq!(set["metadata"]["labels"][queue], "training");
        assert_eq!(set["spec"]["template"]["metadata"]["labels"][queue], "training");
        assert_eq!(set["metadata"]["labels"].get("team"), None, "only Kueue's labels");
    }
}

#[test]
fn the_operators_proxies_reach_pods_unless_they_have_their_own() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let proxy =
        vec![pair("HTTPS_PROXY", "http://p:3128"), pair("NO_PROXY", ".svc"), pair("https_proxy", "http://p:3128")];
    let environment = Environment { proxy, ..environment() };
    let variables = |env: Value| {
        let miner = with(node("Miner", "ibex"), "/spec/pod/env", env);
        let validated = validate::<Miner>(&miner, &subnet(), &environment).expect("valid");
        let set = serde_json::to_value(plan::build(&validated).stateful_set).expect("JSON");
        let all = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("a list").clone();
        let proxies =
            all.into_iter().filter(|v| v["name"].as_str().is_some_and(|n| n.to_lowercase().ends_with("_proxy")));
        proxies
            .map(|v| format!("{}={}", v["name"].as_str().expect("a name"), v["value"].as_str().expect("a value")))
            .collect::<Vec<_>>()
    };
    assert_eq!(variables(json!([])), ["HTTPS_PROXY=http://p:3128", "NO_PROXY=.svc", "https_proxy=http://p:3128"]);
    let own = json!([{"name": "https_proxy", "value": "http://mine:1"}]);
    assert_eq!(variables(own), ["NO_PROXY=.svc", "https_proxy=http://mine:1"], "in no other spelling either");
}

/// A cloud signs a service account in by a webhook: it adds a volume, a mount and AWS_ variables to each pod. Nothing that
/// it needs is taken by the operator, and the token for the API server stays out.
#[test]
fn a_web_identity_finds_its_place_free() {
    let set = stateful_set(&with(node("Miner", "ibex"), "/spec/pod/serviceAccountName", json!("ibex")));
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!((&pod["serviceAccountName"], &pod["automountServiceAccountToken"]), (&json!("ibex"), &json!(false)));
    // The token's file belongs to the pod's user or group.
    assert_eq!(
        (&pod["securityContext"]["runAsUser"], &pod["securityContext"]["fsGroup"]),
        (&json!(65532), &json!(65532))
    );
    let token = "/var/run/secrets/eks.amazonaws.com/serviceaccount";
    let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("a list");
    assert!(mounts.iter().all(|mount| !token.starts_with(mount["mountPath"].as_str().expect("a path"))));
    assert!(pod["volumes"].as_array().expect("a list").iter().all(|volume| volume["name"] != "aws-iam-token"));
    let variables = pod["containers"][0]["env"].as_array().expect("a list");
    assert!(variables.iter().all(|variable| !variable["name"].as_str().expect("a name").starts_with("AWS_")));
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0].get("command"), None, "the image starts the worker");
}

#[test]
fn quantities_are_sent_as_they_come_back() {
    let all = cases::everything();
    assert_eq!(worker(&all)["resources"]["requests"]["cpu"], "2");
    assert_eq!(worker(&all)["resources"]["limits"]["memory"], "8Gi");
    let claim = &stateful_set(&all)["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(claim["resources"]["requests"]["storage"], "1Ti");
}

#[test]
fn what_no_schema_sees_is_refused_with_a_remedy() {
    let ibex = || node("Miner", "ibex");
    for (miner, expected) in [
        (
            with(ibex(), "/spec/gpu", json!({"count": 1, "resourceName": "gpu"})),
            "spec.gpu.resourceName: \"gpu\" needs a domain: write it like nvidia.com/gpu",
        ),
        (
            with(ibex(), "/spec/resources", json!({"limits": {"nvidia.com/gpu": "1"}})),
            "spec.resources.limits[nvidia.com/gpu]: is set by spec.gpu.count: remove it here",
        ),
        (
            with(ibex(), "/spec/storage", json!({"size": "20GB"})),
            "spec.storage.size: \"20GB\" is no quantity: write a number with an optional suffix, for example 500m, 4 or 16Gi",
        ),
        (
            with(ibex(), "/spec/storage", json!({"size": 0})),
            "spec.storage.size: is nothing: write a size like 20Gi, or leave storage out",
        ),
        (
            with(ibex(), "/spec/pod/labels", json!({"app.kubernetes.io/name": "x"})),
            "spec.pod.labels[app.kubernetes.io/name]: belongs to the pod contract: the pods are found by it, so use another label",
        ),
        (
            with(ibex(), "/spec/pod/annotations", json!({"bistro.dev/settings-digest": "x"})),
            "spec.pod.annotations[bistro.dev/settings-digest]: belongs to the pod contract: use a key of your own",
        ),
    ] {
        let error = validate::<Miner>(&miner, &subnet(), &environment()).expect_err("refused").to_string();
        assert_eq!(error, expected);
    }
    let unusable = with(subnet(), "/spec/chain/endpoints", json!(["ws://chain.example:99999"]));
    let error = validate::<Miner>(&ibex(), &unusable, &environment()).expect_err("refused").to_string();
    let expected = "spec.subnetRef: Subnet alps cannot be used: spec.chain.endpoints[0] is no address: write it like wss://chain.example:443";
    assert_eq!(error, expected);
}
