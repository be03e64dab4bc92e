//! The pod contract: all that a worker knows about where it runs.
//!
//! A cluster and `bistro up` keep the same contract, so a worker cannot tell them apart.

/// Name of the worker's container.
pub const CONTAINER: &str = "worker";
/// Port of `/metrics`, `/status`, `/healthz` and `/readyz`.
pub const PORT: i32 = 8080;
/// Name of that port.
pub const PORT_NAME: &str = "http";
/// Seconds between SIGTERM and SIGKILL: a running PUT ends and the state is saved.
pub const GRACE_SECONDS: i64 = 60;
/// Exit code of a fault that will not pass: do not start again, show the last line.
pub const PERMANENT: i32 = 2;

/// Path of settings.yaml.
pub const SETTINGS: &str = "BISTRO_SETTINGS";
/// Folder with the Secrets, each in its own folder: `wallet/` and `bucket/`.
pub const SECRETS: &str = "BISTRO_SECRETS";
/// Folder for everything that the worker keeps.
pub const STATE: &str = "BISTRO_STATE";
/// Address to serve HTTP on.
pub const HTTP: &str = "BISTRO_HTTP";
/// Size of every thread pool.
pub const THREADS: &str = "BISTRO_THREADS";
/// Number of the pod, which picks its hotkey.
pub const ORDINAL: &str = "BISTRO_ORDINAL";

/// Where settings.yaml is mounted.
pub const SETTINGS_FOLDER: &str = "/etc/bistro";
/// Name of the file, in the ConfigMap and in the pod.
pub const SETTINGS_FILE: &str = "settings.yaml";
/// Where the Secrets are mounted.
pub const SECRETS_FOLDER: &str = "/run/bistro/secrets";
/// Where the state is mounted.
pub const STATE_FOLDER: &str = "/var/lib/bistro";

/// Label that a StatefulSet puts on its pods.
pub const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// Folder and volume of the wallet Secret.
pub const WALLET: &str = "wallet";
/// Folder and volume of the bucket Secret.
pub const BUCKET: &str = "bucket";

/// All variables of the contract.
pub const VARIABLES: [&str; 6] = [SETTINGS, SECRETS, STATE, HTTP, THREADS, ORDINAL];
