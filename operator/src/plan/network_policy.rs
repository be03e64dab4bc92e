//! The NetworkPolicy of a Subnet: what its pods may reach, and who may reach them.
//!
//! Rules name ports, because endpoints are host names. Most network plugins compare the port after a Service was resolved
//! to a pod, so an endpoint inside the cluster needs a Service whose `targetPort` is its `port`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{ValidatedSubnet, contract, metadata};

/// Where clusters run a cache of names on each machine. It is link-local, and the one such address that is allowed.
const NODE_LOCAL_DNS: &str = "169.254.20.10/32";
/// Label that Kubernetes itself puts on every namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Absent where the installation wants none.
pub fn build(validated: &ValidatedSubnet) -> Option<NetworkPolicy> {
    validated.network_policy.then(|| NetworkPolicy {
        metadata: metadata::subnet_child(validated),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(metadata::pods_of_subnet(&validated.name)),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![ingress(validated)]),
            egress: Some(vec![names(), services(validated)]),
        }),
    })
}

/// The operator reads `/status`, Prometheus `/metrics`. The kubelet's probes pass any policy.
fn ingress(validated: &ValidatedSubnet) -> NetworkPolicyIngressRule {
    let pods_of = |namespace: &String| NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(NAMESPACE_LABEL.to_owned(), namespace.clone())])),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicyIngressRule {
        from: Some(validated.readers.iter().map(pods_of).collect()),
        ports: Some(vec![port(contract::PORT, "TCP")]),
    }
}

/// DNS, over UDP and for long answers over TCP.
fn names() -> NetworkPolicyEgressRule {
    let cache = block(NODE_LOCAL_DNS, &[]);
    NetworkPolicyEgressRule {
        to: Some(anywhere().into_iter().chain([cache]).collect()),
        ports: Some(vec![port(53, "UDP"), port(53, "TCP")]),
    }
}

/// Chain, bucket and proxies, by port: their addresses are names, which a NetworkPolicy does not know.
fn services(validated: &ValidatedSubnet) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        to: Some(anywhere()),
        ports: Some(validated.ports.iter().map(|number| port(i32::from(*number), "TCP")).collect()),
    }
}

/// Everywhere but link-local, where clouds' metadata services hand out the machine's credentials, and where Amazon's does so
/// over IPv6.
fn anywhere() -> Vec<NetworkPolicyPeer> {
    // Some network plugins hold that addresses are never pods, so pods are named too.
    let pods = NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    vec![block("0.0.0.0/0", &["169.254.0.0/16"]), block("::/0", &["fe80::/10", "fd00:ec2::/32"]), pods]
}

fn block(cidr: &str, except: &[&str]) -> NetworkPolicyPeer {
    let except = (!except.is_empty()).then(|| except.iter().map(|cidr| (*cidr).to_owned()).collect());
    NetworkPolicyPeer { ip_block: Some(IPBlock { cidr: cidr.to_owned(), except }), ..NetworkPolicyPeer::default() }
}

fn port(number: i32, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some(protocol.to_owned()),
        ..NetworkPolicyPort::default()
    }
}
