//! A Subnet becomes one [`ValidatedSubnet`], the single input of its builders (no client required).

use std::collections::BTreeSet;

use bistro_api::{Subnet, digest::run_digest};
use hyper::Uri;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::{Environment, Invalid, validate::check_schedule};

/// Everything that the builders of a Subnet's objects need, resolved and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedSubnet {
    /// Name of the Subnet.
    pub name: String,
    /// Namespace of the Subnet, its nodes and its children.
    pub namespace: String,
    /// The Subnet as owner of its children; absent where it was never stored in a cluster.
    pub owner: Option<OwnerReference>,
    /// Digest of `spec.run` in hex.
    pub run_digest: String,
    /// TCP ports that the nodes connect to: those of chain, bucket and proxies, in ascending order.
    pub ports: Vec<u16>,
    /// Whether a NetworkPolicy is wanted.
    pub network_policy: bool,
    /// Namespaces whose pods may reach the nodes' HTTP port, in ascending order.
    pub readers: Vec<String>,
}

/// Checks a Subnet and resolves everything that the builders need.
pub fn validate_subnet(subnet: &Subnet, environment: &Environment) -> Result<ValidatedSubnet, Invalid> {
    check_schedule(subnet)?;
    let mut ports = endpoint_ports(subnet)?;
    // A proxy that cannot be read is none: programs ignore it too.
    ports.extend(environment.proxy.iter().filter_map(|(name, value)| proxy_port(name, value)));
    let readers = environment.metrics_namespaces.iter().chain([&environment.operator_namespace]);
    Ok(ValidatedSubnet {
        name: subnet.name_any(),
        namespace: subnet.namespace().unwrap_or_else(|| "default".to_owned()),
        owner: subnet.controller_owner_ref(&()),
        run_digest: blake3::Hash::from_bytes(run_digest(&subnet.spec.run)).to_hex().to_string(),
        ports: ports.into_iter().collect(),
        network_policy: environment.network_policy,
        readers: readers.cloned().collect::<BTreeSet<_>>().into_iter().collect(),
    })
}

/// The ports of chain and bucket.
pub(super) fn endpoint_ports(subnet: &Subnet) -> Result<BTreeSet<u16>, Invalid> {
    let mut ports = BTreeSet::new();
    for (i, endpoint) in subnet.spec.chain.endpoints.iter().enumerate() {
        let example = "wss://chain.example:443";
        ports.insert(port(endpoint).ok_or_else(|| no_address(&format!("spec.chain.endpoints[{i}]"), example))?);
    }
    match &subnet.spec.bucket.endpoint {
        Some(endpoint) => {
            let example = "https://s3.example:9000";
            ports.insert(port(endpoint).ok_or_else(|| no_address("spec.bucket.endpoint", example))?);
        }
        // AWS.
        None => {
            ports.insert(443);
        }
    }
    Ok(ports)
}

fn no_address(field: &str, example: &str) -> Invalid {
    Invalid::new(field, format!("is no address: write it like {example}"))
}

/// The port of an address; that of its scheme where it names none.
fn port(address: &str) -> Option<u16> {
    let uri: Uri = address.parse().ok()?;
    let authority = uri.authority()?;
    let host = Some(authority.host()).filter(|host| !host.is_empty())?;
    let (_, after_user) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
    match (after_user.strip_prefix(host)?.strip_prefix(':'), uri.scheme_str()?) {
        (Some(port), "ws" | "wss" | "http" | "https") => port.parse().ok().filter(|port| *port > 0),
        (None, "wss" | "https") => Some(443),
        (None, "ws" | "http") => Some(80),
        _ => None,
    }
}

fn proxy_port(name: &str, value: &str) -> Option<u16> {
    if name.eq_ignore_ascii_case("NO_PROXY") {
        return None;
    }
    // `proxy:3128` means http, as curl has it.
    port(value).or_else(|| port(&format!("http://{value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_port_that_they_name_or_that_of_their_scheme() {
        for (address, expected) in [
            ("ws://devnet:9944", Some(9944)),
            ("wss://entrypoint.example", Some(443)),
            ("wss://entrypoint.example/v1/key?x=y", Some(443)),
            ("ws://[::1]", Some(80)),
            ("https://[fd00::1]:9000/", Some(9000)),
            ("http://user:pass@s3.example:9000", Some(9000)),
            ("http://s3.example", Some(80)),
            ("http://s3.example:0", None),
            ("http://s3.example:70000", None),
            ("http://", None),
            ("http://:80", None),
            ("ftp://s3.example", None),
            ("s3.example", None),
        ] {
            assert_eq!(port(address), expected, "{address}");
        }
    }

    #[test]
    fn proxies_may_leave_out_their_scheme() {
        assert_eq!(proxy_port("HTTPS_PROXY", "http://proxy:3128"), Some(3128));
        assert_eq!(proxy_port("https_proxy", "proxy:3128"), Some(3128));
        assert_eq!(proxy_port("HTTP_PROXY", "https://proxy"), Some(443));
        assert_eq!(proxy_port("NO_PROXY", "proxy:3128"), None);
    }
}
