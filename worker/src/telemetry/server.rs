//! The node's HTTP side: `/metrics`, `/status`, `/healthz`, `/readyz`. It answers GET, reads no bodies and holds nothing
//! per client, so that nobody who can reach it can make it grow.

use std::{future::Future, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Telemetry;

/// How long open connections may take to finish after the stop.
const GRACE: Duration = Duration::from_secs(3);

/// A running server.
pub struct Server {
    /// Where it listens; the port is the real one where port 0 was asked for.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Waits for the end, which comes soon after the token that [`serve`] got was cancelled.
    pub async fn finished(self) {
        if let Err(fault) = self.task.await {
            tracing::error!("the HTTP server failed: {fault}");
        }
    }
}

/// Listens on `address` (BISTRO_HTTP, such as `0.0.0.0:8080`; port 0 takes a free one) until `stop` is cancelled.
pub async fn serve(address: &str, telemetry: Telemetry, stop: CancellationToken) -> std::io::Result<Server> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(telemetry);
    let task = tokio::spawn(run(listener, routes, stop));
    Ok(Server { address, task })
}

/// Serves until the stop, and then no longer than [`GRACE`]: a client that keeps its connection open delays nobody.
async fn run(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let asked = stop.clone();
    let serving = axum::serve(listener, routes).with_graceful_shutdown(async move { asked.cancelled().await });
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    either(async { serving.await.map_or_else(|e| tracing::error!("the HTTP server failed: {e}"), |()| ()) }, overdue)
        .await;
}

async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    let text = telemetry.metrics.render(&telemetry.status.read());
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

async fn status(State(telemetry): State<Telemetry>) -> Response {
    Json(telemetry.answer()).into_response()
}

async fn healthz(State(telemetry): State<Telemetry>) -> Response {
    verdict(telemetry.health.alive())
}

async fn readyz(State(telemetry): State<Telemetry>) -> Response {
    verdict(telemetry.health.ready())
}

fn verdict(checked: Result<(), String>) -> Response {
    match checked {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}
