//! The resources whose children are kept as snapshots; every rule about children in general is checked on all of them.

use std::{fs, path::Path};

use bistro::plan::{self, Environment};
use bistro_api::{Averager, Miner, Node, Subnet, Validator};
use serde_json::{Value, json};

use super::{documents, environment, stored, subnet_documents, typed, validate};
use crate::support::{node, subnet, with};

/// Name and children of every case.
pub fn all() -> Vec<(&'static str, Vec<Value>)> {
    let demo = manifest("quickstart", "Subnet");
    let built = |resource: &Value| built(resource, &demo, &environment());
    let behind_proxy = Environment {
        proxy: vec![
            ("HTTPS_PROXY".to_owned(), "http://proxy.example:3128".to_owned()),
            ("NO_PROXY".to_owned(), ".svc,10.0.0.0/8".to_owned()),
        ],
        ..environment()
    };
    vec![
        ("quickstart_miner", built(&manifest("quickstart", "Miner"))),
        ("quickstart_averager", built(&manifest("quickstart", "Averager"))),
        ("miner", built(&manifest("miner", "Miner"))),
        ("validator", built(&manifest("validator", "Validator"))),
        ("averager", built(&manifest("averager", "Averager"))),
        ("miner_with_everything", self::built(&everything(), &subnet(), &behind_proxy)),
        ("suspended", built(&with(manifest("quickstart", "Miner"), "/spec/suspend", json!(true)))),
        ("one_replica", built(&with(manifest("miner", "Miner"), "/spec/replicas", json!(1)))),
        ("subnet_on_the_devnet", of_subnet(&demo, &environment())),
        ("subnet_on_aws", of_subnet(&on_aws(), &environment())),
        ("subnet_behind_a_proxy", of_subnet(&on_aws(), &behind_proxy)),
    ]
}

/// A Miner that sets every field.
pub fn everything() -> Value {
    let affinity = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"topologyKey": "rack", "labelSelector": {"matchLabels": {"team": "alps"}}}}
    ]}});
    let template = json!({
        "metadata": {"annotations": {"sidecar.example/inject": "false"}},
        "spec": {
            "terminationGracePeriodSeconds": 120,
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "training", "effect": "NoSchedule"}],
            "containers": [
                {
                    "name": "worker",
                    "env": [{"name": "SSL_CERT_FILE", "value": "/etc/ssl/private-ca/ca.crt"}],
                    "volumeMounts": [{"name": "private-ca", "mountPath": "/etc/ssl/private-ca", "readOnly": true}]
                },
                {"name": "log-shipper", "image": "registry.example/shipper:3", "resources": {"limits": {"cpu": "100m"}}}
            ],
            "volumes": [{"name": "private-ca", "configMap": {"name": "private-ca"}}]
        }
    });
    json!({
        "apiVersion": "bistro.dev/v1alpha1", "kind": "Miner", "metadata": {"name": "ibex"},
        "spec": {
            "subnetRef": {"name": "alps"}, "replicas": 3,
            "wallet": {"secretRef": {"name": "ibex-hotkeys"}},
            "bucket": {"credentialsSecretRef": {"name": "ibex-bucket"}},
            "gpu": {"count": 2, "resourceName": "amd.com/gpu"},
            "resources": {"requests": {"cpu": "2000m"}, "limits": {"cpu": "4", "memory": "8192Mi"}},
            "suspend": false,
            "image": "registry.example/mine:2",
            "storage": {"size": "1024Gi", "storageClassName": "fast"},
            "startFrom": {"base": {}},
            "pod": {
                "labels": {"kueue.x-k8s.io/queue-name": "training", "team": "alps"}, "annotations": {"note": "x"},
                "nodeSelector": {"zone": "a"}, "tolerations": [{"key": "spot", "operator": "Exists"}],
                "affinity": affinity,
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
                "runtimeClassName": "rocm", "priorityClassName": "low", "schedulerName": "volcano",
                "imagePullSecrets": [{"name": "pull"}], "serviceAccountName": "ibex",
                "env": [{"name": "RUST_LOG", "value": "debug"}]
            },
            "template": template
        }
    })
}

/// A Subnet of a public chain with its bucket at AWS.
pub fn on_aws() -> Value {
    let endpoints = json!(["wss://entrypoint-finney.example", "wss://archive.example:9443/ws"]);
    let aws = json!({"name": "glacier", "region": "eu-central-1"});
    with(with(subnet(), "/spec/chain/endpoints", endpoints), "/spec/bucket", aws)
}

fn of_subnet(subnet: &Value, environment: &Environment) -> Vec<Value> {
    let validated = plan::validate_subnet(&typed::<Subnet>(stored(subnet)), environment).expect("valid");
    subnet_documents(&plan::build_subnet(&validated))
}

fn built(resource: &Value, subnet: &Value, environment: &Environment) -> Vec<Value> {
    fn of<K: Node>(resource: &Value, subnet: &Value, environment: &Environment) -> Vec<Value> {
        documents(&plan::build(&validate::<K>(resource, subnet, environment).expect("valid")))
    }
    match resource["kind"].as_str() {
        Some("Miner") => of::<Miner>(resource, subnet, environment),
        Some("Validator") => of::<Validator>(resource, subnet, environment),
        _ => of::<Averager>(resource, subnet, environment),
    }
}

/// The first document of a kind in a file of manifests/.
fn manifest(file: &str, kind: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../manifests/{file}.yaml"));
    let text = fs::read_to_string(path).expect("an example");
    let documents: Vec<Value> = serde_yaml::from_multiple(&text).expect("YAML");
    documents.into_iter().find(|document| document["kind"] == kind).expect("a document of this kind")
}

#[test]
fn the_full_example_is_taken_as_it_stands() {
    assert_ne!(stored(&everything()), stored(&node("Miner", "ibex")));
}
