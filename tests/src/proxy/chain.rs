//! Faults of the connection to the chain, below WebSocket: bytes that do not come, connections that break.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{Closes, Door, Switch};

/// What is wrong with the way to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainFault {
    /// Nothing.
    None,
    /// The port is closed and open connections are cut.
    Refused,
    /// Connections are accepted and stay open, and no byte passes.
    Silent,
    /// Every connection is cut after this long.
    Cut(Duration),
}

impl Closes for ChainFault {
    fn closes(&self) -> bool {
        *self == ChainFault::Refused
    }
}

/// A proxy before a chain endpoint.
pub struct ChainProxy {
    door: Door<ChainFault>,
}

impl ChainProxy {
    /// Passes bytes to `server`, an address such as `127.0.0.1:9944`.
    pub async fn to(server: SocketAddr) -> Self {
        Self { door: Door::open(ChainFault::None, move |client, switch| serve(client, server, switch)).await }
    }

    /// What a node's settings name.
    pub fn url(&self) -> String {
        format!("ws://{}", self.door.address)
    }

    /// From now on this is wrong, or nothing.
    pub fn set(&self, fault: ChainFault) {
        self.door.set(fault);
    }

    /// How often a fault was met.
    pub fn met(&self) -> u64 {
        self.door.met.load(Ordering::Relaxed)
    }
}

async fn serve(client: TcpStream, server: SocketAddr, switch: Switch<ChainFault>) {
    // A new connection meets the silence before it reaches anybody.
    pass(&switch).await;
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pump(from_client, to_server, &switch) => {}
        () = pump(from_server, to_client, &switch) => {}
        () = cut(&switch) => switch.count(),
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, switch: &Switch<ChainFault>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        pass(switch).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Waits while nothing passes.
async fn pass(switch: &Switch<ChainFault>) {
    if switch.now() == ChainFault::Silent {
        switch.count();
        switch.until(|fault| *fault != ChainFault::Silent).await;
    }
}

/// Ends when this connection has lived long enough.
async fn cut(switch: &Switch<ChainFault>) {
    loop {
        switch.until(|fault| matches!(fault, ChainFault::Cut(_))).await;
        let ChainFault::Cut(after) = switch.now() else { continue };
        tokio::select! {
            () = tokio::time::sleep(after) => return,
            () = switch.until(|fault| !matches!(fault, ChainFault::Cut(_))) => {}
        }
    }
}
