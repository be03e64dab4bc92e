//! The command line of `bistro operator`, checked once.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, ValueEnum};

use super::election::{Timing, Unfit};
use crate::plan::{Environment, proxy_variables};

/// Arguments of `bistro operator`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Image of the worker for nodes without a GPU
    #[arg(long, env = "BISTRO_WORKER_IMAGE", value_name = "IMAGE")]
    worker_image: String,
    /// Image of the worker for nodes with GPUs; absent: the same
    #[arg(long, env = "BISTRO_WORKER_IMAGE_CUDA", value_name = "IMAGE")]
    worker_image_cuda: Option<String>,
    /// Namespaces to look after; absent: all
    #[arg(long, env = "BISTRO_WATCH_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub(super) http: SocketAddr,
    /// Let one replica of several lead
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub(super) leader_elect: bool,
    /// Namespace of the lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", value_name = "NAMESPACE")]
    pub(super) lease_namespace: String,
    /// Name of the lease
    #[arg(long, default_value = "bistro-operator")]
    pub(super) lease_name: String,
    /// How long a lease counts that nobody renews
    #[arg(long, default_value = "15s", value_parser = seconds)]
    lease_duration: Duration,
    /// How long a leader tries to renew before it stops writing
    #[arg(long, default_value = "10s", value_parser = seconds)]
    renew_deadline: Duration,
    /// Time between renewals
    #[arg(long, default_value = "2s", value_parser = seconds)]
    retry_period: Duration,
    /// Name of this replica in the lease; absent: made from the host's
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// Resources that are worked on at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    pub(super) max_concurrent_reconciles: u16,
    /// How often each node is asked for its status; 0s: never
    #[arg(long, default_value = "30s", value_parser = seconds)]
    pub(super) poll_interval: Duration,
    /// Namespaces whose pods may read the metrics of nodes (in the NetworkPolicy of each Subnet)
    #[arg(long, env = "BISTRO_METRICS_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',')]
    metrics_namespace: Vec<String>,
    /// Make a NetworkPolicy for each Subnet
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    network_policy: bool,
    /// Form of the log
    #[arg(long, default_value = "json")]
    pub(super) log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// For people.
    Text,
}

impl Arguments {
    /// What plans are made with.
    pub fn environment(&self) -> Environment {
        let given = |names: &[String]| names.iter().filter(|name| !name.is_empty()).cloned().collect();
        Environment {
            image: self.worker_image.clone(),
            image_cuda: self
                .worker_image_cuda
                .clone()
                .filter(|image| !image.is_empty())
                .unwrap_or_else(|| self.worker_image.clone()),
            network_policy: self.network_policy,
            operator_namespace: self.lease_namespace.clone(),
            metrics_namespaces: given(&self.metrics_namespace),
            proxy: proxy_variables(std::env::vars()),
        }
    }

    /// Namespaces to look after; empty: all.
    pub fn namespaces(&self) -> Vec<String> {
        self.watch_namespace.iter().filter(|name| !name.is_empty()).cloned().collect()
    }

    /// The times of the election.
    pub fn timing(&self) -> Result<Timing, Unfit> {
        Timing { duration: self.lease_duration, deadline: self.renew_deadline, period: self.retry_period }.check()
    }

    /// Name of this replica.
    pub fn identity(&self) -> String {
        // Two on one host must differ: whoever shares a name takes the other's lease for its own.
        let host = || {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}_{}", name.trim(), std::process::id())
        };
        self.identity.clone().filter(|name| !name.is_empty()).unwrap_or_else(host)
    }
}

/// "30s", "500ms" or "2m".
fn seconds(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text} is no duration: write 30s, 500ms or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| fault())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(u64::from(number) * 60)),
        _ => Err(fault()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(seconds("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(seconds("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "30", "s", "1h", "-1s", "99999999999s"] {
            assert!(seconds(bad).expect_err("refused").contains("30s"), "{bad}");
        }
    }
}
