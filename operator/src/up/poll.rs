//! Asks nodes for their status.

use std::{net::SocketAddr, time::Duration};

use bistro_api::NodeStatus;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// 64 windows and 256 scored miners fit several times.
const MAX_BYTES: usize = 512 << 10;
/// A node answers from memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client for `/status`.
#[derive(Clone, Debug)]
pub struct Poller {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Default for Poller {
    fn default() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http() }
    }
}

impl Poller {
    /// The status of a node; `None` where it does not answer (yet), or not with a status.
    pub async fn status(&self, node: SocketAddr) -> Option<NodeStatus> {
        let address = format!("http://{node}/status").parse().ok()?;
        let answer = async {
            let response = self.client.get(address).await.ok()?;
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.ok()?;
            serde_json::from_slice(&body.to_bytes()).ok()
        };
        tokio::time::timeout(PATIENCE, answer).await.ok().flatten()
    }
}
