//! Asks a node for its status, as somebody who does not trust it: bounded in time and bytes, one reason for each failure.

use std::{net::SocketAddr, time::Duration};

use bistro_api::NodeStatus;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

use crate::text::plain;

/// Why a node gave no status.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PollError {
    /// Nothing listens there.
    #[error("it cannot be reached")]
    Unreachable,
    /// It took too long.
    #[error("it takes longer than {} s to answer", .0.as_secs())]
    Slow(Duration),
    /// It answered with another code than 200.
    #[error("it answers {0}")]
    Code(u16),
    /// It broke off.
    #[error("its answer breaks off")]
    Broken,
    /// It answered too much.
    #[error("its answer is larger than {} KiB", .0 >> 10)]
    TooLarge(usize),
    /// It answered something else.
    #[error("its answer is no status: {0}")]
    NoStatus(String),
}

/// A client for `/status`.
#[derive(Clone, Debug)]
pub struct Asker {
    client: Client<HttpConnector, Empty<Bytes>>,
    patience: Duration,
    most_bytes: usize,
}

impl Asker {
    /// Waits so long for an answer of so many bytes. Keeps one connection to each node open if it asks it often.
    pub fn new(patience: Duration, most_bytes: usize, often: bool) -> Self {
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_max_idle_per_host(usize::from(often));
        Self { client: client.build_http(), patience, most_bytes }
    }

    /// The status of the node at this address.
    pub async fn status(&self, node: SocketAddr) -> Result<NodeStatus, PollError> {
        timeout(self.patience, self.ask(node)).await.unwrap_or(Err(PollError::Slow(self.patience)))
    }

    async fn ask(&self, node: SocketAddr) -> Result<NodeStatus, PollError> {
        let address = format!("http://{node}/status").parse().expect("a socket address makes a URI");
        let response = self.client.get(address).await.map_err(|error| match error.is_connect() {
            true => PollError::Unreachable,
            false => PollError::Broken,
        })?;
        let code = response.status();
        if !code.is_success() {
            return Err(PollError::Code(code.as_u16()));
        }
        let body = Limited::new(response.into_body(), self.most_bytes).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => PollError::TooLarge(self.most_bytes),
            false => PollError::Broken,
        })?;
        // The error quotes the answer.
        serde_json::from_slice(&body.to_bytes()).map_err(|error| PollError::NoStatus(plain(&error.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn asker() -> Asker {
        Asker::new(Duration::from_secs(2), 512 << 10, false)
    }

    /// What the poller makes of a node that sends these bytes `times` over and closes.
    async fn asked(head: &str, body: &[u8], times: usize) -> Result<NodeStatus, PollError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (head, body) = (head.to_owned(), body.to_owned());
        let node = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(head.as_bytes()).await;
            for _ in 0..times {
                if stream.write_all(&body).await.is_err() {
                    return;
                }
            }
        });
        let answer = asker().status(address).await;
        node.abort();
        answer
    }

    #[tokio::test]
    async fn whatever_a_node_answers_has_one_reason() {
        let ok = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        let megabyte = vec![b'['; 1 << 20];
        assert_eq!(asked(ok, &megabyte, 100).await, Err(PollError::TooLarge(512 << 10)));
        assert_eq!(asked("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", b"", 0).await, Err(PollError::Code(500)));
        assert_eq!(asked("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"{", 1).await, Err(PollError::Broken));
        assert_eq!(asked("\x1b]0;evil\x07\r\n\r\n", b"", 0).await, Err(PollError::Broken));
        let garbage = asked(ok, br#"{"role": "\u001b[2J"}"#, 1).await.expect_err("no status").to_string();
        assert!(garbage.starts_with("its answer is no status: ") && !garbage.contains('\x1b'), "{garbage:?}");
        let nested = asked(ok, format!("{{\"x\": {}", "[".repeat(100_000)).as_bytes(), 1).await;
        assert!(matches!(nested, Err(PollError::NoStatus(_))), "{nested:?}");
        // The port is free again.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
        assert_eq!(asker().status(free).await, Err(PollError::Unreachable));
    }
}
