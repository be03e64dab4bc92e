//! What is built from resources.

mod cases;
mod contract;
mod fields;
mod network;
mod pod_security;
mod snapshots;
mod templates;

use bistro::{
    admission::{admit, schema_of},
    plan::{self, Children, Environment, Invalid, SubnetChildren, Validated},
};
use bistro_api::{Node, Subnet};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::support::with;

/// An installation in a cluster.
pub fn environment() -> Environment {
    Environment {
        image: "registry.example/bistro-worker:1".to_owned(),
        image_cuda: "registry.example/bistro-worker-cuda:1".to_owned(),
        network_policy: true,
        operator_namespace: "bistro-system".to_owned(),
        metrics_namespaces: vec!["monitoring".to_owned()],
        proxy: Vec::new(),
    }
}

/// The object as a cluster would hand it to the controller: admitted, with its defaults, stored in a namespace.
pub fn stored(object: &Value) -> Value {
    let text = |name: &str| object[name].as_str().expect("a text");
    let schema = schema_of(text("apiVersion"), text("kind")).expect("a known kind");
    let admitted = admit(schema, object).unwrap_or_else(|violations| panic!("{object}: {violations:?}"));
    with(with(admitted, "/metadata/namespace", json!("peaks")), "/metadata/uid", json!("5a3c"))
}

pub fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a resource")
}

pub fn validate<K: Node>(resource: &Value, subnet: &Value, environment: &Environment) -> Result<Validated, Invalid> {
    plan::validate(&typed::<K>(stored(resource)), &typed::<Subnet>(stored(subnet)), environment)
}

/// The children as the controller sends them, in its order.
pub fn documents(children: &Children) -> Vec<Value> {
    let Children { config_map, service, pod_disruption_budget, stateful_set } = children;
    let budget = pod_disruption_budget.as_ref().map(document);
    [document(config_map), document(service)].into_iter().chain(budget).chain([document(stateful_set)]).collect()
}

/// The same for those of a Subnet.
pub fn subnet_documents(children: &SubnetChildren) -> Vec<Value> {
    let SubnetChildren { network_policy } = children;
    network_policy.iter().map(document).collect()
}

/// The children of a resource of the subnet `alps`.
pub fn children<K: Node>(resource: &Value) -> Vec<Value> {
    let validated = validate::<K>(resource, &crate::support::subnet(), &environment()).expect("valid");
    documents(&plan::build(&validated))
}

/// The document of a kind.
pub fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("a {kind}"))
}

fn document<T: Serialize>(object: &T) -> Value {
    serde_json::to_value(object).expect("JSON")
}
