//! What is compared: what each is asked for, what it makes of that, and how it is started.

use std::{env, path::PathBuf, process::Command};

use kube::api::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::program::Start;
use crate::{cluster::Cluster, process::program};

/// One operator, or none.
pub struct Subject {
    /// As it is called in reports.
    pub name: &'static str,
    /// The kind that is created and awaited.
    pub resource: ApiResource,
    /// What is created for one resource, in this order; `resource` among it.
    pub objects: fn(name: &str) -> Vec<Value>,
    /// Whether such an object says that all is done.
    pub ready: fn(&Value) -> bool,
    /// What must exist for each resource in the end.
    pub children: Vec<Child>,
    /// How it is started; the floor is nobody.
    pub command: Option<fn(&Start<'_>) -> Command>,
    /// What it answers, at the address of its metrics, once it is ready.
    pub ready_path: &'static str,
    /// Name of its lease, in the namespace `default`.
    pub lease: &'static str,
}

/// A kind of child.
pub struct Child {
    /// The kind.
    pub resource: ApiResource,
    /// How many there are for each resource.
    pub count: usize,
    /// Its name; absent where it is not foreseeable, and nothing is done to it.
    pub name: Option<fn(name: &str) -> String>,
    /// What somebody may do to it that must be undone.
    pub edit: Option<Edit>,
}

/// A JSON pointer, and the value that somebody puts there.
pub type Edit = (&'static str, fn() -> Value);

/// The kind by its group, version and name; the plural is the usual one.
pub fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Where `hack/peers/build` put its programs: `BISTRO_PEERS`, or the usual folder.
pub fn peers() -> PathBuf {
    let usual = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/bistro/peers");
    env::var_os("BISTRO_PEERS").map_or_else(usual, PathBuf::from)
}

/// The four children that Bistro and crbase make, and their pods.
fn four(child: fn(&str) -> String) -> Vec<Child> {
    let one = |resource, edit| Child { resource, count: 1, name: Some(child), edit: Some(edit) };
    vec![
        one(resource("", "v1", "ConfigMap"), ("/data/settings.yaml", || json!("edited"))),
        one(resource("", "v1", "Service"), ("/spec/publishNotReadyAddresses", || json!(false))),
        one(resource("policy", "v1", "PodDisruptionBudget"), ("/spec/maxUnavailable", || json!(2))),
        one(resource("apps", "v1", "StatefulSet"), ("/spec/replicas", || json!(1))),
        pods(),
    ]
}

fn pods() -> Child {
    Child { resource: resource("", "v1", "Pod"), count: 2, name: None, edit: None }
}

fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Bistro with its defaults.
pub fn bistro() -> Subject {
    Subject {
        name: "bistro",
        resource: resource("bistro.dev", "v1alpha1", "Miner"),
        objects: |name| {
            vec![json!({
                "apiVersion": "bistro.dev/v1alpha1", "kind": "Miner", "metadata": { "name": name },
                "spec": {
                    "subnetRef": { "name": "demo" }, "replicas": 2, "wallet": { "dev": true }, "gpu": { "count": 0 },
                    "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
                },
            })]
        },
        ready: is_ready,
        children: four(|name| format!("miner-{name}")),
        command: Some(|start| {
            let mut command = Command::new(program("bistro"));
            command.args(["operator", "--worker-image", "none:1", "--lease-namespace", "default", "--http"]);
            command.arg(start.metrics.to_string());
            command.arg(format!("--leader-elect={}", start.replica.is_some()));
            // The machines are not there, nor do their pods answer.
            command.args(start.quiet.then_some("--poll-interval=0s"));
            command.env("POD_NAME", start.replica.unwrap_or("alone"));
            command
        }),
        ready_path: "/readyz",
        lease: "bistro-operator",
    }
}

/// The least that controller-runtime allows, with as many reconciles at once as ours and no limit of its client.
pub fn crbase() -> Subject {
    Subject {
        name: "crbase",
        resource: resource("bench.bistro.dev", "v1", "Baseline"),
        objects: |name| {
            vec![json!({
                "apiVersion": "bench.bistro.dev/v1", "kind": "Baseline", "metadata": { "name": name },
                "spec": { "image": "none:1", "replicas": 2, "settings": settings(name) },
            })]
        },
        ready: is_ready,
        children: four(|name| format!("baseline-{name}")),
        command: Some(|start| {
            let mut command = Command::new(peers().join("crbase"));
            command.arg(format!("--metrics={}", start.metrics));
            command.arg(format!("--leader-elect={}", start.replica.is_some()));
            command
        }),
        ready_path: "/metrics",
        lease: "crbase",
    }
}

/// KubeRay with its defaults: a head with its Service, and one worker.
pub fn kuberay() -> Subject {
    Subject {
        name: "kuberay",
        resource: resource("ray.io", "v1", "RayCluster"),
        objects: |name| {
            let pod = |name: &str| {
                let requests = json!({ "cpu": "10m", "memory": "16Mi" });
                json!({ "spec": { "containers": [{ "name": name, "image": "none:1", "resources": { "requests": requests } }] } })
            };
            vec![json!({
                "apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": { "name": name },
                "spec": {
                    "rayVersion": "2.46.0",
                    "headGroupSpec": { "rayStartParams": {}, "template": pod("ray-head") },
                    "workerGroupSpecs": [{
                        "groupName": "workers", "replicas": 1, "minReplicas": 1, "maxReplicas": 1,
                        "rayStartParams": {}, "template": pod("ray-worker"),
                    }],
                },
            })]
        },
        ready: |object| object.pointer("/status/state").is_some_and(|state| state == "ready"),
        children: vec![
            Child {
                resource: resource("", "v1", "Service"),
                count: 1,
                name: Some(|name| format!("{name}-head-svc")),
                // It makes its Service and never looks at it again.
                edit: None,
            },
            pods(),
        ],
        command: Some(|start| {
            let mut command = Command::new(peers().join("kuberay"));
            command.arg(format!("--metrics-addr={}", start.metrics));
            command.arg(format!("--health-probe-bind-address={}", start.health));
            command.arg(format!("--enable-leader-election={}", start.replica.is_some()));
            command.arg("--leader-election-namespace=default");
            command
        }),
        ready_path: "/metrics",
        lease: "ray-operator-leader",
    }
}

/// Nobody: what crbase makes, made by the load itself. What is left is Kubernetes' own time.
pub fn floor() -> Subject {
    Subject {
        name: "floor",
        resource: resource("apps", "v1", "StatefulSet"),
        objects: |name| {
            let labels = json!({ "app.kubernetes.io/name": "floor", "app.kubernetes.io/instance": name });
            let metadata = json!({ "name": name, "labels": labels });
            let selector = json!({ "matchLabels": labels });
            vec![
                json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
                    "data": { "settings.yaml": settings(name) },
                }),
                json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                    "spec": {
                        "clusterIP": "None", "publishNotReadyAddresses": true, "selector": labels,
                        "ports": [{ "name": "http", "port": 8080, "targetPort": "http" }],
                    },
                }),
                json!({
                    "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata,
                    "spec": { "maxUnavailable": 1, "selector": selector },
                }),
                json!({
                    "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata,
                    "spec": {
                        "replicas": 2, "serviceName": name, "selector": selector, "podManagementPolicy": "Parallel",
                        "revisionHistoryLimit": 2,
                        "template": { "metadata": { "labels": labels }, "spec": pod(name) },
                    },
                }),
            ]
        },
        ready: |object| object.pointer("/status/readyReplicas").is_some_and(|ready| *ready == json!(2)),
        children: four(str::to_owned),
        command: None,
        ready_path: "/metrics",
        lease: "",
    }
}

/// As long as ours are.
fn settings(name: &str) -> String {
    format!("role: miner\nname: {name}\n{}", "# what a worker would read\n".repeat(40))
}

/// The same that crbase asks for (hack/peers/crbase/children.go).
fn pod(config_map: &str) -> Value {
    let probe = |path: &str| json!({ "httpGet": { "path": path, "port": "http" }, "timeoutSeconds": 5 });
    let ordinal = json!({ "fieldRef": { "fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']" } });
    json!({
        "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [{
            "name": "worker", "image": "none:1", "args": ["miner"],
            "env": [
                { "name": "SETTINGS", "value": "/etc/baseline/settings.yaml" },
                { "name": "STATE", "value": "/var/lib/baseline" },
                { "name": "HTTP", "value": "0.0.0.0:8080" },
                { "name": "ORDINAL", "valueFrom": ordinal },
            ],
            "ports": [{ "name": "http", "containerPort": 8080 }],
            "volumeMounts": [
                { "name": "settings", "mountPath": "/etc/baseline", "readOnly": true },
                { "name": "state", "mountPath": "/var/lib/baseline" },
                { "name": "tmp", "mountPath": "/tmp" },
            ],
            "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
            },
            "readinessProbe": probe("/readyz"), "livenessProbe": probe("/healthz"),
        }],
        "volumes": [
            { "name": "settings", "configMap": { "name": config_map } },
            { "name": "state", "emptyDir": {} },
            { "name": "tmp", "emptyDir": {} },
        ],
    })
}

/// The definitions of a subject's kinds, and what it needs besides.
pub async fn install(subject: &Subject, cluster: &Cluster, namespaces: &[String]) {
    match subject.name {
        "bistro" => {
            cluster.apply_crds().await;
            let quickstart = include_str!("../../../manifests/quickstart.yaml");
            let document =
                quickstart.split("\n---").find(|text| text.contains("\nkind: Subnet\n")).expect("it has a Subnet");
            let mut subnet: Value = serde_yaml::from_str(document).expect("YAML");
            for namespace in namespaces {
                subnet["metadata"]["namespace"] = json!(namespace);
                cluster.create(&subnet).await.expect("the quickstart's Subnet");
            }
        }
        "floor" => {}
        name => {
            let file = peers().join(format!("{name}.crds.yaml"));
            assert!(file.exists(), "{} is missing: run make peers", file.display());
            // Larger than what `apply` could note in an annotation.
            cluster.kubectl(&["create", "--filename", &file.to_string_lossy()]).await.output();
            cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]).await.output();
        }
    }
}
