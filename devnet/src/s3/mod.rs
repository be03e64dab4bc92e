//! The bucket: an S3 server over a folder, with signatures, rules of access and atomic conditional writes.

mod access;
mod answer;
mod auth;
mod body;
mod folder;
mod listing;
mod objects;
mod uploads;

use access::Rules;
use auth::Keys;
use folder::Folder;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use objects::Bucket;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

pub use auth::secret_of;

/// The one bucket.
pub const BUCKET: &str = "bistro";

/// How long a stop waits for open requests.
const GRACE: Duration = Duration::from_secs(5);

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to use {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// What the server serves.
pub struct Settings {
    /// Where the objects are.
    pub folder: PathBuf,
    /// A folder whose files can be read under `corpus/`.
    pub corpus: Option<PathBuf>,
    /// The secret of the access key `admin`.
    pub admin_secret: String,
}

/// A running server. Dropping it stops it without waiting.
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    /// Opens the bucket and serves it.
    pub async fn start(settings: Settings, address: SocketAddr) -> Result<Server, Error> {
        let Settings { folder, corpus, admin_secret } = settings;
        let opened = Folder::open(&folder, corpus.as_deref());
        let opened = opened.map_err(|source| Error::Folder { path: corpus.unwrap_or(folder), source })?;
        let mut builder = S3ServiceBuilder::new(Bucket::new(opened));
        builder.set_auth(Keys::new(admin_secret));
        builder.set_access(Rules);
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(listener, builder.build(), stopped));
        Ok(Server { address, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and waits, not for ever, until open requests are answered.
    pub async fn shutdown(self) {
        let Server { address: _, stop, task } = self;
        drop(stop);
        // The task catches nothing and returns nothing: there is no error to report.
        let _ = task.await;
    }
}

/// Serves connections until `stopped`, which a dropped sender is too.
async fn accept(listener: TcpListener, service: S3Service, mut stopped: oneshot::Receiver<()>) {
    let connections = GracefulShutdown::new();
    let http = auto::Builder::new(TokioExecutor::new());
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of file handles, most likely: let some be closed.
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = &mut stopped => break,
        };
        // Small answers must not wait for the next packet.
        let _ = socket.set_nodelay(true);
        let connection = http.serve_connection(TokioIo::new(socket), service.clone());
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "connection ended");
            }
        });
    }
    drop(listener);
    tokio::select! {
        () = connections.shutdown() => {}
        () = tokio::time::sleep(GRACE) => tracing::warn!("stopped with requests unanswered"),
    }
}
