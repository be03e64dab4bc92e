//! Alerts and dashboards.

use std::{collections::BTreeSet, path::PathBuf};

use bistro_tests::{
    cluster::{Cluster, Ran},
    monitoring::{DASHBOARDS, Query, alert_selectors, alerts, dashboard, panel_queries, scrape_configs, selectors},
};
use serde_json::{Value, json};

use super::{checkout, render, text_of};

/// What the operator shows beside its process; the names are controller-runtime's where it has one.
const OF_THE_OPERATOR: [&str; 16] = [
    "bistro_operator_polls_total",
    "bistro_operator_resources",
    "bistro_operator_watch_errors_total",
    "bistro_operator_writes_total",
    "controller_runtime_active_workers",
    "controller_runtime_max_concurrent_reconciles",
    "controller_runtime_reconcile_errors_total",
    "controller_runtime_reconcile_time_seconds_bucket",
    "controller_runtime_reconcile_total",
    "leader_election_master_status",
    "rest_client_requests_total",
    "workqueue_adds_total",
    "workqueue_depth",
    "workqueue_queue_duration_seconds_bucket",
    "workqueue_retries_total",
    "workqueue_work_duration_seconds_bucket",
];

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().expect("panels").iter()
}

fn promtool(cluster: &Cluster, arguments: &[&str], file: PathBuf) -> Ran {
    let ran = std::process::Command::new(cluster.program("promtool")).args(arguments).arg(file).output();
    let ran = ran.expect("hack/kube has built it");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { ok: ran.status.success(), out: text(ran.stdout), err: text(ran.stderr) }
}

#[tokio::test]
async fn each_alert_fires_when_it_should_and_not_before() {
    let Some(cluster) = Cluster::shared().await else { return };
    promtool(cluster, &["test", "rules"], checkout("charts/bistro/tests/alerts.yaml")).output();
    let rules = checkout("charts/bistro/files/rules/bistro.yaml");
    promtool(cluster, &["check", "rules", "--lint=all", "--lint-fatal"], rules).output();
    let tests = text_of("charts/bistro/tests/alerts.yaml");
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        assert!(tests.contains(&format!("- name: \"{name}: ")), "no test of {name}");
    }
}

#[tokio::test]
async fn every_panel_has_a_query_that_prometheus_understands() {
    let Some(cluster) = Cluster::shared().await else { return };
    let queries = panel_queries("bistro", "training", "demo");
    assert!(queries.len() > 50);
    let rule = |(number, query): (usize, Query)| json!({ "record": format!("panel:{number}"), "expr": query.text });
    let rules: Vec<Value> = queries.into_iter().enumerate().map(rule).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("panels.yaml");
    let groups = json!({ "groups": [{ "name": "panels", "rules": rules }] });
    std::fs::write(&file, groups.to_string()).expect("written");
    promtool(cluster, &["check", "rules", "--lint=none"], file).output();
}

#[test]
fn panels_and_alerts_ask_for_metrics_that_exist() {
    let worker = text_of("worker/src/telemetry/metrics.rs");
    let panels = panel_queries("bistro", "training", "demo");
    let panels = panels.iter().flat_map(|query| {
        selectors(&query.text).map(|selector| Query { of: query.of.clone(), text: selector.to_owned() })
    });
    for Query { of, text } in panels.chain(alert_selectors()) {
        let name = text.split('{').next().unwrap_or_default();
        let known = name == "up"
            || name.starts_with("process_")
            || OF_THE_OPERATOR.contains(&name)
            || worker.contains(&format!("\"{name}\""));
        assert!(known, "{of}: nobody shows {text}");
        assert!(text.contains("job=\"bistro-"), "{of}: {text} would take the metrics of strangers");
    }
}

#[tokio::test]
async fn the_monitors_are_scrape_configurations_of_prometheus() {
    let Some(cluster) = Cluster::shared().await else { return };
    let values = ["serviceMonitor.enabled=true", "podMonitor.enabled=true"];
    let rendered = render(cluster, "bistro", &values).await;
    let configs = scrape_configs(&rendered.objects, &cluster.kubeconfig(), "1s");
    assert_eq!(configs.len(), 2);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("prometheus.yaml");
    std::fs::write(&file, json!({ "scrape_configs": configs }).to_string()).expect("written");
    promtool(cluster, &["check", "config"], file).output();
}

#[test]
fn every_panel_says_what_it_shows_and_none_covers_another() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().expect("a title");
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{name}: {title}");
            let place = |side: &str| panel["gridPos"][side].as_u64().expect("a place");
            assert!(place("x") + place("w") <= 24, "{name}: {title} is too wide");
            for (x, y) in (place("x")..place("x") + place("w"))
                .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
            {
                assert!(cells.insert((x, y)), "{name}: {title} covers another panel");
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}: {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{name}: {title} has no unit");
            for target in panel["targets"].as_array().expect("queries") {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}: {title}");
                assert!(target["legendFormat"].is_string(), "{name}: {title} has no legend");
            }
        }
    }
}

#[test]
fn the_runbook_has_a_section_for_every_alert_and_every_reason() {
    let runbook = text_of("docs/runbook.md");
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        assert!(runbook.contains(&format!("\n### {name}\n")), "docs/runbook.md says nothing about {name}");
        let link = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], link.as_str());
        for field in ["summary", "description"] {
            assert!(alert["annotations"][field].is_string(), "{name} has no {field}");
        }
    }
    let conditions = text_of("api/src/conditions.rs");
    let reasons = conditions.split_once("pub mod reason").expect("the module").1.lines();
    let reasons: Vec<&str> = reasons.filter_map(|line| line.split_once("&str = \"")?.1.strip_suffix("\";")).collect();
    assert!(reasons.len() >= 16, "{reasons:?}");
    for reason in reasons {
        let told = runbook.contains(&format!("\n### {reason}\n")) || runbook.contains(&format!("\n| {reason} |"));
        assert!(told, "docs/runbook.md says nothing about the reason {reason}");
    }
}

#[tokio::test]
async fn alerts_can_be_left_out_labelled_and_linked() {
    let Some(cluster) = Cluster::shared().await else { return };
    let values = [
        "prometheusRule.enabled=true",
        "prometheusRule.disabled={WeightsNotSet,NoLeader}",
        "prometheusRule.alertLabels.team=training",
        "prometheusRule.runbookURL=https://docs.example.org/runbook",
        "prometheusRule.labels.release=prometheus",
    ];
    let rendered = render(cluster, "bistro", &values).await;
    let rule = rendered.only("PrometheusRule");
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
    let groups = rule["spec"]["groups"].as_array().expect("groups").iter();
    let rendered: Vec<&Value> = groups.flat_map(|group| group["rules"].as_array().expect("rules")).collect();
    assert_eq!(rendered.len(), alerts().len() - 2);
    for alert in rendered {
        let name = alert["alert"].as_str().expect("a name");
        assert!(!["WeightsNotSet", "NoLeader"].contains(&name));
        assert_eq!(alert["labels"]["team"], "training");
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().expect("a severity")));
        let link = format!("https://docs.example.org/runbook#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], link.as_str());
    }
}

#[test]
fn only_alerts_that_exist_can_be_left_out() {
    let schema: Value = serde_json::from_str(&text_of("charts/bistro/values.schema.json")).expect("JSON");
    let listed = &schema["properties"]["prometheusRule"]["properties"]["disabled"]["items"]["enum"];
    let known: Vec<Value> = alerts().iter().map(|alert| alert["alert"].clone()).collect();
    assert_eq!(listed, &json!(known));
}

#[tokio::test]
async fn dashboards_are_where_the_sidecar_looks() {
    let Some(cluster) = Cluster::shared().await else { return };
    let values = ["dashboards.enabled=true", "dashboards.namespace=grafana", "dashboards.annotations.folder=Bistro"];
    let rendered = render(cluster, "bistro", &values).await;
    let maps: Vec<&Value> =
        rendered.of_kind("ConfigMap").filter(|map| map["metadata"]["namespace"] == "grafana").collect();
    assert_eq!(maps.len(), DASHBOARDS.len());
    for (map, name) in maps.iter().zip(DASHBOARDS) {
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(map["metadata"]["annotations"]["folder"], "Bistro");
        let text = map["data"][format!("bistro-{name}.json")].as_str().expect("the file");
        assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), dashboard(name));
    }
}
