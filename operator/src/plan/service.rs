//! The headless Service that gives each pod its name.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    Validated,
    contract::{PORT, PORT_NAME},
    metadata,
};

/// No address of its own; pods have names before they are ready, since a node that waits is worth asking why.
///
/// Left to the API server: `type`, `clusterIPs`, `ipFamilies`, `ipFamilyPolicy`, `sessionAffinity`,
/// `internalTrafficPolicy`.
pub fn build(validated: &Validated) -> Service {
    Service {
        metadata: metadata::child(validated),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(metadata::selector_labels(validated)),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
