//! The NetworkPolicy of a Subnet.

use bistro::plan::{self, Environment, Invalid};
use bistro_api::{Subnet, digest::run_digest};
use serde_json::{Value, json};

use super::{cases, children, environment, of_kind, stored, subnet_documents, typed};
use crate::support::{node, subnet, with};

fn policy(subnet: &Value, environment: &Environment) -> Option<Value> {
    let validated = plan::validate_subnet(&typed::<Subnet>(stored(subnet)), environment).expect("valid");
    subnet_documents(&plan::build_subnet(&validated)).pop()
}

fn ports(policy: &Value) -> Vec<&Value> {
    let services = policy["spec"]["egress"].as_array().expect("rules").last().expect("a rule");
    services["ports"].as_array().expect("ports").iter().map(|port| &port["port"]).collect()
}

#[test]
fn it_holds_for_all_pods_of_the_subnet_and_no_others() {
    let policy = policy(&subnet(), &environment()).expect("a policy");
    let selector = policy["spec"]["podSelector"]["matchLabels"].as_object().expect("labels").clone();
    let set = children::<bistro_api::Miner>(&node("Miner", "ibex"));
    let labels = &of_kind(&set, "StatefulSet")["spec"]["template"]["metadata"]["labels"];
    assert!(selector.iter().all(|(key, value)| labels[key] == *value), "{selector:?}");
    assert_eq!(selector["bistro.dev/subnet"], "alps");
    assert_eq!(policy["metadata"]["name"], "subnet-alps");
    assert_eq!(policy["metadata"]["ownerReferences"][0]["kind"], "Subnet");
}

#[test]
fn ports_are_those_of_chain_bucket_and_proxies() {
    assert_eq!(ports(&policy(&subnet(), &environment()).expect("a policy")), [9000, 9944]);
    assert_eq!(ports(&policy(&cases::on_aws(), &environment()).expect("a policy")), [443, 9443]);
    let proxy =
        vec![("HTTPS_PROXY".to_owned(), "http://p.example:3128".to_owned()), ("NO_PROXY".to_owned(), "x:1".to_owned())];
    let behind = Environment { proxy, ..environment() };
    assert_eq!(ports(&policy(&cases::on_aws(), &behind).expect("a policy")), [443, 3128, 9443]);
    let plain = with(subnet(), "/spec/bucket/endpoint", json!("http://minio.storage.svc"));
    assert_eq!(ports(&policy(&plain, &environment()).expect("a policy")), [80, 9944]);
}

/// The metadata service of a cloud hands out the machine's credentials at a link-local address.
#[test]
fn nothing_link_local_is_reached_but_the_cache_of_names() {
    let policy = policy(&cases::on_aws(), &environment()).expect("a policy");
    for rule in policy["spec"]["egress"].as_array().expect("rules") {
        for peer in rule["to"].as_array().expect("a rule without peers would allow everything") {
            let block = &peer["ipBlock"];
            match block["cidr"].as_str() {
                Some("0.0.0.0/0") => assert_eq!(block["except"], json!(["169.254.0.0/16"])),
                Some("::/0") => assert_eq!(block["except"], json!(["fe80::/10", "fd00:ec2::/32"])),
                Some(address) => {
                    assert_eq!(address, "169.254.20.10/32");
                    assert!(rule["ports"].as_array().expect("ports").iter().all(|port| port["port"] == 53));
                }
                None => assert_eq!(peer, &json!({"namespaceSelector": {}}), "pods are never link-local"),
            }
        }
    }
}

#[test]
fn only_named_namespaces_reach_the_nodes() {
    let reads = |environment: &Environment| {
        let policy = policy(&subnet(), environment).expect("a policy");
        let rules = policy["spec"]["ingress"].as_array().expect("rules").clone();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
        let peers = rules[0]["from"].as_array().expect("peers").clone();
        let name = |peer: &Value| peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"].clone();
        peers.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(reads(&environment()), ["bistro-system", "monitoring"]);
    let alone = Environment { metrics_namespaces: vec!["bistro-system".to_owned()], ..environment() };
    assert_eq!(reads(&alone), ["bistro-system"], "once");
}

#[test]
fn an_installation_may_do_without() {
    assert_eq!(policy(&subnet(), &Environment { network_policy: false, ..environment() }), None);
    assert_eq!(policy(&subnet(), &Environment::local("x")), None, "there is no network to bound outside a cluster");
}

#[test]
fn a_subnet_that_cannot_be_used_says_why() {
    let refused = |pointer: &str, value: Value| -> Invalid {
        let subnet = typed::<Subnet>(with(stored(&subnet()), pointer, value));
        plan::validate_subnet(&subnet, &environment()).expect_err("refused")
    };
    let error = refused("/spec/chain/endpoints", json!(["ws://a.example", "wss://"]));
    assert_eq!(error.to_string(), "spec.chain.endpoints[1]: is no address: write it like wss://chain.example:443");
    let error = refused("/spec/bucket/endpoint", json!("http://s3.example:0"));
    assert_eq!(error.to_string(), "spec.bucket.endpoint: is no address: write it like https://s3.example:9000");
    assert_eq!(refused("/spec/run/schedule/windowBlocks", json!(25)).field, "spec.run.schedule");
}

#[test]
fn the_digest_is_that_of_the_agreement() {
    let subnet = typed::<Subnet>(stored(&subnet()));
    let validated = plan::validate_subnet(&subnet, &environment()).expect("valid");
    let hex: String = run_digest(&subnet.spec.run).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(validated.run_digest, hex);
}
