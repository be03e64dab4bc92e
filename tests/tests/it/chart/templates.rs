//! What the chart renders.

use std::{collections::BTreeSet, process::Command};

use bistro_tests::{cluster::Cluster, process::program};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{ALONE, EVERYTHING, checkout, render, template, text_of};

/// The spec of the pods that an object makes.
fn pod_spec(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Pod" => Some(&object["spec"]),
        "Deployment" | "StatefulSet" | "Job" => Some(&object["spec"]["template"]["spec"]),
        _ => None,
    }
}

#[tokio::test]
async fn the_chart_passes_helm_lint() {
    let Some(cluster) = Cluster::shared().await else { return };
    let chart = checkout("charts/bistro");
    let linted = cluster.helm(&["lint", "--strict", chart.to_str().expect("UTF-8")]).await;
    assert!(!linted.output().contains("[WARNING]"));
}

#[tokio::test]
async fn what_is_rendered_is_what_reviewers_saw() {
    let Some(cluster) = Cluster::shared().await else { return };
    let plain = render(cluster, "bistro", &["crds.enabled=false"]).await;
    insta::assert_snapshot!("chart_defaults", plain.text);
    let values =
        [EVERYTHING, &["crds.enabled=false", "dashboards.enabled=false", "prometheusRule.enabled=false"]].concat();
    let everything = render(cluster, "bistro", &values).await;
    insta::assert_snapshot!("chart_everything", everything.text);
}

#[tokio::test]
async fn every_container_is_restricted_and_says_what_it_needs() {
    let Some(cluster) = Cluster::shared().await else { return };
    for values in [&[], EVERYTHING, ALONE] {
        let rendered = render(cluster, "bistro", values).await;
        let mut pods = 0;
        for (object, spec) in rendered.objects.iter().filter_map(|object| Some((object, pod_spec(object)?))) {
            pods += 1;
            let name = &object["metadata"]["name"];
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            assert_eq!(spec["enableServiceLinks"], false, "{name}");
            let operator = object["kind"] == "Deployment";
            assert_eq!(spec["automountServiceAccountToken"], operator, "{name}: only the operator speaks to the API");
            for container in spec["containers"].as_array().expect("containers") {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }), "{name}");
                assert!(container["resources"]["requests"]["memory"].is_string(), "{name}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
            }
        }
        assert!(pods >= 2, "the operator and the pod of `helm test`");
    }
}

#[tokio::test]
async fn a_digest_wins_over_a_tag_and_the_registry_stands_before_every_image() {
    let Some(cluster) = Cluster::shared().await else { return };
    let digest = format!("sha256:{}", "a1".repeat(32));
    let pinned = format!("image.operator.digest={digest}");
    let values =
        ["image.registry=registry.example.org:5000/team/", &pinned, "image.worker.tag=9.9", "image.operator.tag=v8"];
    let rendered = render(cluster, "bistro", &values).await;
    let container = &rendered.only("Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], format!("registry.example.org:5000/team/bistro@{digest}"));
    let arguments: Vec<&str> = container["args"].as_array().expect("args").iter().filter_map(Value::as_str).collect();
    assert!(arguments.contains(&"--worker-image=registry.example.org:5000/team/bistro-worker:9.9"), "{arguments:?}");
    assert!(!arguments.iter().any(|a| a.starts_with("--worker-image-cuda")), "without one all pods get the same");
}

#[tokio::test]
async fn the_definitions_are_those_of_the_programs() {
    let Some(cluster) = Cluster::shared().await else { return };
    for (keep, expected) in [("true", json!("keep")), ("false", Value::Null)] {
        let rendered = render(cluster, "bistro", &[&format!("crds.keep={keep}"), "crds.annotations.note=one"]).await;
        let mut names = BTreeSet::new();
        for ours in bistro::crds::all() {
            let name = ours.name_any();
            let definition = rendered
                .of_kind("CustomResourceDefinition")
                .find(|rendered| rendered["metadata"]["name"] == name.as_str())
                .unwrap_or_else(|| panic!("{name} is missing"));
            // As a type, so that 1 and 1.0 are the same; not shown, because it is long.
            let typed: CustomResourceDefinition = serde_json::from_value(definition.clone()).expect("a definition");
            assert!(typed.spec == ours.spec, "{name} differs: run make generate");
            assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], expected, "{name}");
            assert_eq!(definition["metadata"]["annotations"]["note"], "one");
            assert_eq!(definition["metadata"]["labels"]["app.kubernetes.io/managed-by"], "Helm");
            names.insert(name);
        }
        assert_eq!(rendered.of_kind("CustomResourceDefinition").count(), names.len());
    }
}

#[tokio::test]
async fn the_chart_holds_no_resource_of_a_user() {
    let Some(cluster) = Cluster::shared().await else { return };
    let rendered = render(cluster, "bistro", EVERYTHING).await;
    let ours = |object: &&Value| object["apiVersion"].as_str().is_some_and(|group| group.starts_with("bistro.dev/"));
    assert_eq!(rendered.objects.iter().find(ours), None, "it would be deleted with the release");
}

#[tokio::test]
async fn every_right_has_its_reason_and_none_is_for_everything() {
    let Some(cluster) = Cluster::shared().await else { return };
    for values in [&["rbac.create=true"][..], &["watchNamespaces={one,two}"]] {
        let rendered = render(cluster, "bistro", values).await;
        let lines: Vec<&str> = rendered.text.lines().map(str::trim).collect();
        let rules: Vec<usize> = (1..lines.len()).filter(|at| lines[*at].starts_with("- apiGroups:")).collect();
        assert!(rules.len() >= 14, "{}", rules.len());
        for at in rules {
            assert!(lines[at - 1].starts_with("# "), "no comment above: {}", lines[at..at + 3].join(" "));
        }
        for role in rendered.of_kind("ClusterRole").chain(rendered.of_kind("Role")) {
            for rule in role["rules"].as_array().expect("rules") {
                let text = rule.to_string();
                for forbidden in ["\"*\"", "\"secrets\"", "\"nodes\"", "pods/exec", "\"escalate\"", "\"impersonate\""] {
                    assert!(!text.contains(forbidden), "{forbidden} in {text}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_install_for_some_namespaces_makes_nothing_cluster_scoped() {
    let Some(cluster) = Cluster::shared().await else { return };
    let values = ["watchNamespaces={one,two}", "crds.enabled=false", "rbac.aggregateClusterRoles=false"];
    let rendered = render(cluster, "bistro", &values).await;
    for object in &rendered.objects {
        assert!(object["metadata"]["namespace"].is_string(), "{} is cluster-scoped", object["kind"]);
    }
    let places = |kind| {
        let places = rendered.of_kind(kind).filter_map(|role| role["metadata"]["namespace"].as_str());
        places.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(places("Role"), ["bistro", "one", "two"]);
    assert_eq!(places("RoleBinding"), ["bistro", "one", "two"]);
    let deployment = rendered.only("Deployment").to_string();
    assert!(deployment.contains("--watch-namespace=one,two"), "{deployment}");
}

#[tokio::test]
async fn two_operators_never_work_without_a_lease() {
    let Some(cluster) = Cluster::shared().await else { return };
    let alone = render(cluster, "bistro", ALONE).await;
    assert_eq!(alone.only("Deployment")["spec"]["strategy"], json!({ "type": "Recreate" }));
    let refused = template(cluster, "bistro", &["leaderElection.enabled=false", "replicas=2"]).await.failure();
    assert!(refused.contains("set replicas to 1"), "{refused}");
}

/// One that it does not know would end it at its start.
#[tokio::test]
async fn the_operator_knows_its_arguments() {
    let Some(cluster) = Cluster::shared().await else { return };
    for values in [&["watchNamespaces={one,two}"][..], EVERYTHING, ALONE] {
        let rendered = render(cluster, "bistro", values).await;
        let container = &rendered.only("Deployment")["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array().expect("args").iter().filter_map(Value::as_str);
        let arguments = arguments.map(|argument| argument.replace("$(POD_NAMESPACE)", "bistro"));
        // With --help behind them all of them are read and nothing is started.
        let ran = Command::new(program("bistro")).args(arguments).arg("--help").output().expect("it is built");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
}

#[tokio::test]
async fn wrong_values_are_refused_by_name() {
    let Some(cluster) = Cluster::shared().await else { return };
    for (value, said) in [
        ("replica=2", "'replica' not allowed"),
        ("replicas=two", "/replicas"),
        ("image.operator.digest=abc", "/image/operator/digest"),
        ("image.worker.repostory=x", "'repostory' not allowed"),
        ("log.format=xml", "'json', 'text'"),
        ("pollInterval=30", "/pollInterval"),
        ("watchNamespaces={Upper}", "/watchNamespaces/0"),
        ("devnet.blockTime=1h", "/devnet/blockTime"),
        ("devnet.storage.size=big", "/devnet/storage/size"),
        ("prometheusRule.disabled={NoSuchAlert}", "/prometheusRule/disabled/0"),
        ("serviceAccount.create=false", "serviceAccount.name is empty"),
    ] {
        let refused = template(cluster, "bistro", &[value]).await.failure();
        assert!(refused.contains(said), "{value}: {refused}");
    }
}

#[test]
fn the_schema_knows_every_value_and_no_other() {
    let values: Value = serde_yaml::from_str(&text_of("charts/bistro/values.yaml")).expect("YAML");
    let schema: Value = serde_json::from_str(&text_of("charts/bistro/values.schema.json")).expect("JSON");
    compare("", &values, &schema);
}

/// Names below a path in values and schema; free maps (labels, resources) end the walk.
fn compare(path: &str, values: &Value, schema: &Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    assert_eq!(schema["additionalProperties"], false, "{path} takes names that do not exist");
    let known: BTreeSet<&str> = properties.keys().map(String::as_str).filter(|name| *name != "global").collect();
    let listed: BTreeSet<&str> = values.as_object().expect("a map").keys().map(String::as_str).collect();
    assert_eq!(known, listed, "in {path}");
    for name in known {
        compare(&format!("{path}/{name}"), &values[name], &properties[name]);
    }
}

#[test]
fn versions_are_those_of_the_programs() {
    let version = env!("CARGO_PKG_VERSION");
    let chart: Value = serde_yaml::from_str(&text_of("charts/bistro/Chart.yaml")).expect("YAML");
    assert_eq!(chart["appVersion"], version);
    let image = format!("image: bistro-worker:{version} ");
    assert!(text_of("manifests/quickstart.yaml").contains(&image), "the dataset Job must name {image}");
}
