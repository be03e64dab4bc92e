//! `pod` and `template` add to a pod and never take what belongs to the operator.

use bistro::plan::{Invalid, contract};
use bistro_api::Miner;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{cases, documents, environment, of_kind, pod_security::violations, validate};
use crate::support::{node, subnet, with};

fn built(miner: &Value) -> Result<Value, Invalid> {
    let validated = validate::<Miner>(miner, &subnet(), &environment())?;
    Ok(of_kind(&documents(&bistro::plan::build(&validated)), "StatefulSet").clone())
}

/// Everything that is the operator's, whatever a template says.
fn owned(set: &Value) -> Value {
    let (template, pod) = (&set["spec"]["template"], &set["spec"]["template"]["spec"]);
    let find = |list: &Value, key: &str, name: &str| {
        list.as_array().into_iter().flatten().find(|item| item[key] == name).cloned().unwrap_or(Value::Null)
    };
    let worker = find(&pod["containers"], "name", "worker");
    let of_worker = [
        "name",
        "image",
        "args",
        "command",
        "resources",
        "livenessProbe",
        "readinessProbe",
        "workingDir",
        "stdin",
        "tty",
    ]
    .map(|member| worker[member].clone());
    let variables = contract::VARIABLES.map(|name| find(&worker["env"], "name", name));
    let mounts = ["/etc/bistro", "/run/bistro/secrets/wallet", "/run/bistro/secrets/bucket", "/var/lib/bistro", "/tmp"]
        .map(|path| find(&worker["volumeMounts"], "mountPath", path));
    let volumes = ["settings", "wallet", "bucket", "state", "tmp"].map(|name| find(&pod["volumes"], "name", name));
    let labels = ["name", "component", "instance", "managed-by"].map(|name| {
        let key = format!("app.kubernetes.io/{name}");
        (template["metadata"]["labels"][&key].clone(), set["metadata"]["labels"][&key].clone())
    });
    let context = &worker["securityContext"];
    let without =
        ["template"].iter().fold(set["spec"].clone(), |spec, member| with(spec, &format!("/{member}"), Value::Null));
    let of_pod = [
        "automountServiceAccountToken",
        "enableServiceLinks",
        "restartPolicy",
        "hostname",
        "subdomain",
        "serviceAccountName",
    ]
    .map(|member| pod[member].clone());
    let port = worker["ports"].as_array().into_iter().flatten().find(|port| port["name"] == "http").cloned();
    let gpu = pod["tolerations"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|t| t["key"] == "nvidia.com/gpu" && t["operator"] == "Exists");
    let digest = template["metadata"]["annotations"]["bistro.dev/settings-digest"].clone();
    let restrictions =
        [&context["allowPrivilegeEscalation"], &context["readOnlyRootFilesystem"], &context["capabilities"]["drop"]];
    let subnet = template["metadata"]["labels"]["bistro.dev/subnet"].clone();
    json!([of_worker, variables, mounts, volumes, labels, without, of_pod, port, gpu, digest, restrictions, subnet])
}

/// Parts of templates that are fine by themselves.
fn harmless() -> Vec<Value> {
    let worker = |member: Value| {
        let mut container = json!({"name": "worker"});
        container.as_object_mut().expect("an object").extend(member.as_object().expect("an object").clone());
        json!({"spec": {"containers": [container]}})
    };
    vec![
        json!({}),
        json!({"metadata": {"labels": {"team": "alps", "app.kubernetes.io/part-of": "x", "kueue.x-k8s.io/queue-name": "q"}}}),
        json!({"metadata": {"annotations": {"note": "", "container.apparmor.security.beta.kubernetes.io/worker": "runtime/default"}}}),
        json!({"spec": {"nodeSelector": {"zone": "b"}, "tolerations": [{"key": "x", "operator": "Exists"}]}}),
        json!({"spec": {"terminationGracePeriodSeconds": 600, "priorityClassName": "high", "runtimeClassName": "nvidia"}}),
        json!({"spec": {"securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "supplementalGroups": [44]}}}),
        json!({"spec": {"securityContext": {"seLinuxOptions": {"level": "s0:c1,c2"}, "seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}}}),
        json!({"spec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["chain.example"]}], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.2"]}}}),
        json!({"spec": {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Mi"}}]}}),
        json!({"spec": {"containers": [{"name": "sidecar", "image": "x", "args": ["y"], "resources": {"limits": {"cpu": "1000m"}}}]}}),
        json!({"spec": {"initContainers": [{"name": "first", "image": "x", "restartPolicy": "Always"}]}}),
        json!({"spec": {"hostNetwork": false, "nodeName": "machine-7", "volumes": null, "imagePullSecrets": [{"name": "more"}]}}),
        json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]}}),
        worker(json!({"env": [{"name": "RUST_LOG", "value": "trace"}, {"name": "EMPTY", "value": ""}]})),
        worker(json!({"env": [{"name": "RUST_LOG", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]})),
        worker(json!({"envFrom": [{"configMapRef": {"name": "more"}}]})),
        worker(
            json!({"volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "ca", "mountPath": "/etc/ssl/certs", "readOnly": false}]}),
        ),
        worker(json!({"ports": [{"containerPort": 9090, "name": "debug"}], "imagePullPolicy": "Always"})),
        worker(json!({"securityContext": {"runAsUser": 1000, "capabilities": {"add": ["NET_BIND_SERVICE"]}}})),
        worker(
            json!({"startupProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "failureThreshold": 90}, "terminationMessagePath": "/tmp/last"}),
        ),
    ]
}

/// Parts that would take something from the operator, or break Pod Security.
fn harmful() -> Vec<Value> {
    let worker = |member: Value| {
        let mut container = json!({"name": "worker"});
        container.as_object_mut().expect("an object").extend(member.as_object().expect("an object").clone());
        json!({"spec": {"containers": [container]}})
    };
    vec![
        json!({"metadata": {"labels": {"app.kubernetes.io/instance": "other"}}}),
        json!({"metadata": {"annotations": {"bistro.dev/settings-digest": "x"}}}),
        json!({"spec": {"hostNetwork": true}}),
        json!({"spec": {"enableServiceLinks": true}}),
        json!({"spec": {"volumes": [{"name": "tmp", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}}),
        json!({"spec": {"securityContext": {"runAsNonRoot": false}}}),
        json!({"spec": {"containers": [{"name": "sidecar", "image": "x", "securityContext": {"privileged": true}}]}}),
        json!({"spec": {"containers": [{"name": "sidecar", "image": "x", "imagee": "y"}]}}),
        worker(json!({"args": ["validator"]})),
        worker(json!({"image": "other"})),
        worker(json!({"env": [{"name": "BISTRO_ORDINAL", "value": "0"}]})),
        worker(json!({"volumeMounts": [{"name": "x", "mountPath": "/etc"}]})),
        worker(json!({"ports": [{"containerPort": 8080, "name": "other"}]})),
        worker(json!({"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}})),
    ]
}

fn miner(template: &Value) -> Value {
    let miner = with(node("Miner", "ibex"), "/spec/wallet", json!({"secretRef": {"name": "keys"}}));
    let miner = with(miner, "/spec/pod/env", json!([{"name": "RUST_LOG", "value": "debug"}]));
    with(with(miner, "/spec/storage", json!({"size": "1Gi"})), "/spec/template", template.clone())
}

/// One object in another: members are joined, lists put together.
fn join(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            more.into_iter().for_each(|(name, member)| join(into.entry(name).or_insert(Value::Null), member));
        }
        (Value::Array(into), Value::Array(more)) => more.into_iter().for_each(|item| {
            match into.iter_mut().find(|old| old["name"] == item["name"] && !item["name"].is_null()) {
                Some(old) => join(old, item),
                None => into.push(item),
            }
        }),
        (_, Value::Null) => {}
        (into, more) => *into = more,
    }
}

#[test]
fn harmless_templates_are_taken_and_harmful_ones_refused() {
    for template in harmless() {
        built(&miner(&template)).unwrap_or_else(|error| panic!("{template}: {error}"));
    }
    for template in harmful() {
        let error = built(&miner(&template)).expect_err("refused");
        assert!(error.field.starts_with("spec.template."), "{template}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a template holds: it is refused, or the operator's own fields stay and the pod is restricted.
    #[test]
    fn what_is_the_operators_survives_any_template(
        parts in proptest::sample::subsequence(harmless(), 0..=20),
        evil in proptest::sample::subsequence(harmful(), 0..=2),
        replicas in 0..4_u32,
    ) {
        let mut template = json!({});
        parts.into_iter().chain(evil.clone()).for_each(|part| join(&mut template, part));
        let of = |template: &Value| built(&with(miner(template), "/spec/replicas", json!(replicas)));
        let bare = of(&json!({})).expect("valid");
        match of(&template) {
            Err(_) => prop_assert!(!evil.is_empty(), "{template} is harmless"),
            Ok(set) => {
                prop_assert_eq!(owned(&set), owned(&bare), "{}", template);
                prop_assert_eq!(violations(&set["spec"]["template"]), Vec::<String>::new(), "{}", template);
                let grace = set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_i64();
                prop_assert!(grace >= Some(contract::GRACE_SECONDS));
            }
        }
    }
}

#[test]
fn a_template_adds_to_what_pod_says() {
    let set = built(&cases::everything()).expect("valid");
    let pod = &set["spec"]["template"]["spec"];
    let keys: Vec<&Value> = pod["tolerations"].as_array().expect("a list").iter().map(|t| &t["key"]).collect();
    assert_eq!(keys, ["spot", "amd.com/gpu", "dedicated"]);
    let selected = with(cases::everything(), "/spec/template", json!({"spec": {"nodeSelector": {"rack": "7"}}}));
    let set = built(&selected).expect("valid");
    assert_eq!(set["spec"]["template"]["spec"]["nodeSelector"], json!({"rack": "7", "zone": "a"}));
}

/// `value` and `valueFrom` together would be refused by every API server.
#[test]
fn a_variable_of_the_template_replaces_that_of_pod() {
    let from = json!({"name": "RUST_LOG", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}});
    let set = built(&miner(&json!({"spec": {"containers": [{"name": "worker", "env": [from]}]}}))).expect("valid");
    let variables = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("a list").clone();
    let found: Vec<&Value> = variables.iter().filter(|variable| variable["name"] == "RUST_LOG").collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].get("value"), None);
}

/// To Kubernetes a constraint without a selector counts no pods, so it would do nothing.
#[test]
fn pods_spread_among_their_own() {
    let set = built(&cases::everything()).expect("valid");
    let constraint = &set["spec"]["template"]["spec"]["topologySpreadConstraints"][0];
    assert_eq!(constraint["labelSelector"], set["spec"]["selector"]);
}

/// Containers beside the worker need no word about security.
#[test]
fn other_containers_are_restricted_unless_they_say_so_themselves() {
    let set = built(&cases::everything()).expect("valid");
    let sidecar = &set["spec"]["template"]["spec"]["containers"][1];
    assert_eq!(
        sidecar["securityContext"],
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
    );
}
