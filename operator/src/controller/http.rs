//! `/healthz`, `/readyz` and `/metrics`.

use std::{sync::Arc, time::Duration};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use super::{context::Context, gate::Beats, watch::Synced};

/// A watch that could not start for so long is stuck: the kubelet starts the operator anew. An API server that is away for
/// minutes is no reason yet.
const STUCK_AFTER: Duration = Duration::from_secs(600);

/// What the answers are made from.
#[derive(Clone, Debug)]
pub struct Health {
    /// For metrics.
    pub context: Context,
    /// When each watch last succeeded.
    pub beats: Beats,
    /// Whether the cache is complete.
    pub synced: Arc<Synced>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, health: Health) -> std::io::Result<()> {
    let (healthy, ready) = (health.clone(), health.clone());
    let router = Router::new()
        .route("/healthz", get(async move || healthy.healthz()))
        .route("/readyz", get(async move || ready.readyz()))
        .route("/metrics", get(async move || health.metrics()));
    axum::serve(listener, router).await
}

impl Health {
    fn healthz(&self) -> impl IntoResponse + use<> {
        match self.beats.silent_for(STUCK_AFTER) {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(path) => {
                let text =
                    format!("the watch of {path} has not succeeded for {} minutes\n", STUCK_AFTER.as_secs() / 60);
                (StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }
    }

    /// Followers are ready too: they could lead at once.
    fn readyz(&self) -> impl IntoResponse + use<> {
        match self.synced.is() {
            true => (StatusCode::OK, "ok\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "the first lists of the watches are not complete\n"),
        }
    }

    fn metrics(&self) -> impl IntoResponse + use<> {
        match self.context.metrics.text(&self.context.cache, &self.context.queue) {
            Ok(text) => (StatusCode::OK, [("content-type", "text/plain; version=0.0.4")], text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], error.to_string()),
        }
    }
}
