//! The connection to the API server.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
};
use tower::{BoxError, ServiceBuilder};

use super::gate::GateLayer;

/// A connection on which nothing came for so long is dead: longer than a watch is asked for.
const SILENCE: Duration = Duration::from_secs(150);
/// An API server that does not take a connection by then is away.
const CONNECT: Duration = Duration::from_secs(10);

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
///
/// kube's own waits with each small write until the last one was acknowledged (Nagle's algorithm), which costs tens of
/// milliseconds wherever acknowledgements are delayed. This one sends at once, and lets the gate count and log.
pub async fn connect(gate: GateLayer) -> Result<Client, ConnectError> {
    let mut config = Config::infer().await.map_err(ConnectError::Config)?;
    // The queue tries again, so that every attempt passes the fence.
    config.default_retry = false;
    config.read_timeout = Some(SILENCE);
    // A proxy, and a certificate that a program makes and that runs out, are kube's matter.
    if config.proxy_url.is_some() || config.auth_info.exec.is_some() {
        return Ok(ClientBuilder::try_from(config)?.with_layer(&gate).build());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_read_timeout(Some(SILENCE));
    let http = Http::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).with_layer(&gate).build())
}
