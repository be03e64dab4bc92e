//! A client of the API server that does not wait with what it sends.

use std::time::Duration;

use hyper::{
    body::Incoming,
    http::{Request, Response},
};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Config,
    client::{Body, ClientBuilder, ConfigExt},
};
use tower::{BoxError, Service, ServiceBuilder};

/// An API server that does not take a connection by then is away.
const CONNECT: Duration = Duration::from_secs(10);

/// kube's own client waits with each small write until the last one was acknowledged (Nagle's algorithm), which costs 40
/// milliseconds wherever acknowledgements are delayed. This one sends at once; it also leaves logging and retries to others.
/// Of `config` the proxy, programs that make certificates, compression and the time to connect do not count.
pub fn prompt(
    config: Config,
) -> Result<
    ClientBuilder<
        impl Service<Request<Body>, Response = Response<Incoming>, Error = BoxError, Future: Send + 'static>
        + Send
        + 'static,
    >,
    kube::Error,
> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_read_timeout(config.read_timeout);
    let http = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace))
}
