//! The connection to the API server.

use std::time::Duration;

use kube::{Client, Config, client::ClientBuilder};

use super::gate::GateLayer;
use crate::client::prompt;

/// A connection on which nothing came for so long is dead: longer than a watch is asked for.
const SILENCE: Duration = Duration::from_secs(150);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody said where the API server is.
    #[error("failed to find a cluster: set KUBECONFIG, or run in a pod with a service account")]
    Config(#[source] kube::config::InferConfigError),
    /// What was said does not make a client.
    #[error("failed to make a client for the API server")]
    Client(#[from] kube::Error),
}

/// A client for the API server that the environment names, behind the gate.
pub async fn connect(gate: GateLayer) -> Result<Client, ConnectError> {
    let mut config = Config::infer().await.map_err(ConnectError::Config)?;
    // The queue tries again, so that every attempt passes the fence.
    config.default_retry = false;
    config.read_timeout = Some(SILENCE);
    // A proxy, and a certificate that a program makes and that runs out, are kube's matter.
    if config.proxy_url.is_some() || config.auth_info.exec.is_some() {
        return Ok(ClientBuilder::try_from(config)?.with_layer(&gate).build());
    }
    Ok(prompt(config)?.with_layer(&gate).build())
}
