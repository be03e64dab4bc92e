//! From resources to Kubernetes objects, without any IO.
//!
//! `validate` turns a resource and its Subnet into one [`Validated`]; `build` turns that into the
//! objects of the pod contract. The controller applies them, `bistro up` runs the same pods as processes.

mod config_map;
pub mod contract;
mod metadata;
mod pod;
mod pod_disruption_budget;
mod service;
mod stateful_set;
mod template;
mod validate;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service},
    policy::v1::PodDisruptionBudget,
};

pub use validate::{Environment, Invalid, Validated, validate};

/// Everything that a resource needs in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// Holds settings.yaml; must exist before the pods.
    pub config_map: ConfigMap,
    /// Gives each pod a name.
    pub service: Service,
    /// Lets a drain take one pod at a time; absent where there is one pod only, which it could only block.
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
    /// Runs the pods.
    pub stateful_set: StatefulSet,
}

/// The objects for a resource.
pub fn build(validated: &Validated) -> Children {
    Children {
        config_map: config_map::build(validated),
        service: service::build(validated),
        pod_disruption_budget: pod_disruption_budget::build(validated),
        stateful_set: stateful_set::build(validated),
    }
}
