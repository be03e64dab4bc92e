//! From resources to Kubernetes objects, without any IO.
//!
//! `validate` turns a resource and its Subnet into one [`Validated`]; `build` turns that into the
//! objects of the pod contract. The controller applies them, `bistro up` runs the same pods as processes.

mod config_map;
pub mod contract;
mod environment;
mod metadata;
mod network_policy;
mod pod;
mod pod_disruption_budget;
mod pod_template;
mod quantity;
mod restricted;
mod service;
mod stateful_set;
mod stored;
mod subnet;
mod template;
mod validate;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};

pub use environment::{Environment, proxy_variables};
pub use metadata::WORKLOAD;
pub use subnet::{ValidatedSubnet, validate_subnet};
pub use validate::{Invalid, Validated, validate};

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

/// Everything that a Subnet needs in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct SubnetChildren {
    /// Bounds what the subnet's pods may reach and who may reach them; absent where the installation wants none.
    pub network_policy: Option<NetworkPolicy>,
}

/// The objects for a Subnet.
pub fn build_subnet(validated: &ValidatedSubnet) -> SubnetChildren {
    SubnetChildren { network_policy: network_policy::build(validated) }
}
