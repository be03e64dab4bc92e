//! A real Prometheus that scrapes a cluster.

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr};

use serde_json::{Value, json};

use super::{Cluster, daemon::Daemon};
use crate::process::{ask, free_port};

/// One answer to a query: labels, and the value now.
pub type Sample = (BTreeMap<String, String>, f64);

/// A Prometheus on a port of its own. It ends when it is dropped.
pub struct Prometheus {
    daemon: Daemon,
    address: SocketAddr,
}

impl Cluster {
    /// Starts a Prometheus with these scrape configurations and groups of rules. It runs on this machine, from where
    /// pods of a real node are reached; to discover them it takes the administrator's file ([`Cluster::kubeconfig`]).
    pub async fn prometheus(&self, scrape_configs: &[Value], rule_groups: &[Value]) -> Prometheus {
        let rules = self.site.write("rules.json", &json!({ "groups": rule_groups }).to_string());
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules], "scrape_configs": scrape_configs,
        });
        let config = self.site.write("prometheus.json", &config.to_string());
        let address = free_port();
        let command: Vec<OsString> = vec![
            self.program("prometheus").into(),
            format!("--config.file={}", config.display()).into(),
            format!("--storage.tsdb.path={}", self.site.file("prometheus").display()).into(),
            format!("--web.listen-address={address}").into(),
        ];
        let daemon = Daemon::start("prometheus", self.folder(), command);
        self.until("a ready Prometheus", async || {
            daemon.check();
            ask(address, "/-/ready").await.filter(|answer| answer.starts_with(b"Prometheus Server is Ready"))
        })
        .await;
        Prometheus { daemon, address }
    }
}

impl Prometheus {
    /// What a query gives now; a query that Prometheus does not understand fails the test.
    pub async fn query(&self, query: &str) -> Vec<Sample> {
        self.daemon.check();
        let escaped: String = query.bytes().map(escape).collect();
        let answer = self.get(&format!("/api/v1/query?query={escaped}")).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = &answer["data"]["result"];
        let samples = match answer["data"]["resultType"].as_str() {
            // A number without labels.
            Some("scalar") => vec![json!({ "metric": {}, "value": result })],
            _ => result.as_array().cloned().unwrap_or_default(),
        };
        samples.iter().map(sample).collect()
    }

    /// All groups of rules with their health.
    pub async fn rules(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/rules").await;
        answer["data"]["groups"].as_array().cloned().unwrap_or_default()
    }

    /// The targets that are scraped.
    pub async fn targets(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/targets?state=active").await;
        answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default()
    }

    async fn get(&self, path: &str) -> Value {
        let answer = ask(self.address, path).await.expect("Prometheus answers");
        serde_json::from_slice(&answer).expect("Prometheus answers JSON")
    }
}

fn escape(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

fn sample(sample: &Value) -> Sample {
    let labels = serde_json::from_value(sample["metric"].clone()).expect("labels are texts");
    let value = sample["value"][1].as_str().and_then(|value| value.parse().ok());
    (labels, value.unwrap_or(f64::NAN))
}
