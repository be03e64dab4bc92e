//! The chart's monitoring without the Prometheus Operator: its monitors as scrape configurations, so that a Prometheus of a
//! test scrapes by the chart's own relabelings, and the queries of its dashboards and alerts.

use std::path::Path;

use serde_json::{Map, Value, json};

/// The dashboards in `charts/bistro/files/dashboards`.
pub const DASHBOARDS: [&str; 2] = ["operator", "subnet"];

/// A query, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// `operator: Queue depth` or `alert NoLeader`.
    pub of: String,
    /// PromQL without variables.
    pub text: String,
}

/// A dashboard of the chart.
pub fn dashboard(name: &str) -> Value {
    serde_json::from_str(&file(&format!("files/dashboards/{name}.json"))).expect("JSON")
}

/// Every alert of the chart, as it stands in its group.
pub fn alerts() -> Vec<Value> {
    let rules: Value = serde_yaml::from_str(&file("files/rules/bistro.yaml")).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

/// Every query of every panel, with Grafana's variables replaced; `operator` and `nodes` are namespaces.
pub fn panel_queries(operator: &str, nodes: &str, subnet: &str) -> Vec<Query> {
    let mut queries = Vec::new();
    for name in DASHBOARDS {
        let namespace = if name == "operator" { operator } else { nodes };
        for panel in dashboard(name)["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let text = target["expr"].as_str().expect("a query");
                let text =
                    text.replace("$__rate_interval", "1m").replace("$namespace", namespace).replace("$subnet", subnet);
                queries.push(Query { of: format!("{name}: {}", panel["title"].as_str().unwrap_or_default()), text });
            }
        }
    }
    queries
}

/// Every selector (`metric{...}`) in every alert. An alert itself has no data while all is well; what it looks at has.
pub fn alert_selectors() -> Vec<Query> {
    let mut all = Vec::new();
    for alert in alerts() {
        let of = format!("alert {}", alert["alert"].as_str().expect("a name"));
        let text = alert["expr"].as_str().expect("a query");
        all.extend(selectors(text).map(|text| Query { of: of.clone(), text: text.to_owned() }));
    }
    all
}

/// `metric{...}` in a query, in order. No label value of ours has a brace.
pub fn selectors(query: &str) -> impl Iterator<Item = &str> {
    query.match_indices('{').map(|(at, _)| {
        let begin = query[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        let end = query[at..].find('}').map_or(query.len(), |length| at + length + 1);
        &query[begin..end]
    })
}

/// Scrape configurations that do what the Prometheus Operator would do for the PodMonitors and ServiceMonitors among
/// `objects`. `kubeconfig` is for Prometheus; `interval` replaces theirs.
pub fn scrape_configs(objects: &[Value], kubeconfig: &Path, interval: &str) -> Vec<Value> {
    objects
        .iter()
        .filter_map(|monitor| match monitor["kind"].as_str()? {
            "PodMonitor" => Some((monitor, "pod", "pod", "pod_container", &monitor["spec"]["podMetricsEndpoints"][0])),
            "ServiceMonitor" => Some((monitor, "endpoints", "service", "endpoint", &monitor["spec"]["endpoints"][0])),
            _ => None,
        })
        .map(|(monitor, role, labelled, port, endpoint)| {
            let spec = &monitor["spec"];
            let mut discovery = json!({ "role": role, "kubeconfig_file": kubeconfig });
            if let Some(names) = spec["namespaceSelector"].get("matchNames") {
                discovery["namespaces"] = json!({ "names": names });
            }
            let mut relabelings = selected(&spec["selector"], labelled);
            relabelings.push(keep(&format!("__meta_kubernetes_{port}_port_name"), &text(&endpoint["port"])));
            relabelings.push(json!({
                "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop",
            }));
            for (label, target) in [("namespace", "namespace"), ("pod_name", "pod")] {
                let source = format!("__meta_kubernetes_{label}");
                relabelings.push(json!({ "source_labels": [source], "target_label": target }));
            }
            relabelings.extend(endpoint["relabelings"].as_array().into_iter().flatten().map(in_snake_case));
            json!({
                "job_name": format!("{}/{}", text(&monitor["kind"]), text(&monitor["metadata"]["name"])),
                "metrics_path": endpoint["path"],
                "scrape_interval": interval,
                "kubernetes_sd_configs": [discovery],
                "relabel_configs": relabelings,
            })
        })
        .collect()
}

/// Keeps what a label selector selects.
fn selected(selector: &Value, labelled: &str) -> Vec<Value> {
    let name = |label: &str| {
        let plain: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        format!("__meta_kubernetes_{labelled}_label_{plain}")
    };
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = equal.map(|(label, value)| keep(&name(label), &text(value)));
    let within = selector["matchExpressions"].as_array().into_iter().flatten().map(|expression| {
        assert_eq!(expression["operator"], "In", "only this is translated");
        let values: Vec<String> = expression["values"].as_array().into_iter().flatten().map(text).collect();
        keep(&name(&text(&expression["key"])), &values.join("|"))
    });
    equal.chain(within).collect()
}

fn keep(label: &str, values: &str) -> Value {
    json!({ "source_labels": [label], "regex": format!("({values})"), "action": "keep" })
}

/// A relabeling in Prometheus' own spelling.
fn in_snake_case(relabeling: &Value) -> Value {
    let snake = |name: &String| {
        name.chars()
            .flat_map(|c| c.is_ascii_uppercase().then_some('_').into_iter().chain([c.to_ascii_lowercase()]))
            .collect()
    };
    let members = relabeling.as_object().expect("a relabeling");
    Value::Object(members.iter().map(|(name, value)| (snake(name), value.clone())).collect::<Map<String, Value>>())
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/bistro").join(path);
    std::fs::read_to_string(path).expect("it is in the checkout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_found_with_their_labels() {
        let query = r#"sum by (a) (rate(one{x="1", y="2"}[5m])) / two{} unless on (a) up{job="b"} == 1"#;
        assert_eq!(selectors(query).collect::<Vec<_>>(), [r#"one{x="1", y="2"}"#, "two{}", r#"up{job="b"}"#]);
        assert!(alert_selectors().len() >= 14);
    }

    #[test]
    fn a_pod_monitor_becomes_a_scrape_configuration() {
        let monitor = json!({
            "kind": "PodMonitor",
            "metadata": { "name": "workers" },
            "spec": {
                "namespaceSelector": { "matchNames": ["a"] },
                "selector": { "matchExpressions": [{ "key": "app/x-y", "operator": "In", "values": ["m", "v"] }] },
                "podMetricsEndpoints": [{
                    "port": "http", "path": "/metrics",
                    "relabelings": [{ "sourceLabels": ["__meta_kubernetes_pod_label_s"], "targetLabel": "subnet" }],
                }],
            },
        });
        let configs = scrape_configs(&[monitor], Path::new("/kubeconfig"), "1s");
        let [config] = configs.as_slice() else { panic!("{configs:?}") };
        assert_eq!(config["kubernetes_sd_configs"][0]["namespaces"]["names"], json!(["a"]));
        let relabelings = config["relabel_configs"].as_array().expect("relabelings");
        assert_eq!(relabelings[0], keep("__meta_kubernetes_pod_label_app_x_y", "m|v"));
        assert_eq!(relabelings[1], keep("__meta_kubernetes_pod_container_port_name", "http"));
        let last = json!({ "source_labels": ["__meta_kubernetes_pod_label_s"], "target_label": "subnet" });
        assert_eq!(relabelings.last(), Some(&last));
    }
}
