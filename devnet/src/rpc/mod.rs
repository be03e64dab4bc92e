//! The JSON-RPC server: Substrate's legacy interface, over WebSocket and HTTP on one port.
//!
//! `chainHead_v1`, `archive_v1` and `transaction_v1` are not served and not listed: clients that find them
//! listed use nothing else.

mod error;
mod methods;
mod subscriptions;
mod view;

use crate::chain::Chain;
use jsonrpsee::{
    RpcModule,
    core::RegisterMethodError,
    server::{BatchRequestConfig, Server, ServerConfig, ServerHandle},
};
use std::{net::SocketAddr, sync::Arc};

const MAX_REQUEST_BYTES: u32 = 4 << 20;
const MAX_RESPONSE_BYTES: u32 = 64 << 20;
const MAX_CONNECTIONS: u32 = 1024;
const MAX_SUBSCRIPTIONS: u32 = 256;
const MAX_BATCH: u32 = 256;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to register a method")]
    Register(#[from] RegisterMethodError),
}

/// Serves the chain; the server stops when the handle is stopped or dropped.
pub async fn serve(chain: Arc<Chain>, address: SocketAddr) -> Result<(SocketAddr, ServerHandle), Error> {
    let config = ServerConfig::builder()
        .max_request_body_size(MAX_REQUEST_BYTES)
        .max_response_body_size(MAX_RESPONSE_BYTES)
        .max_connections(MAX_CONNECTIONS)
        .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
        .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH))
        .build();
    let listen = |source| Error::Listen { address, source };
    let server = Server::builder().set_config(config).build(address).await.map_err(listen)?;
    let bound = server.local_addr().map_err(listen)?;
    let mut module = RpcModule::from_arc(chain);
    methods::register(&mut module)?;
    subscriptions::register(&mut module)?;
    let mut names: Vec<&'static str> = module.method_names().collect();
    names.push("rpc_methods");
    names.sort_unstable();
    module.register_method("rpc_methods", move |_, _, _| serde_json::json!({ "methods": names }))?;
    Ok((bound, server.start(module)))
}
