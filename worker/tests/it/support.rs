//! What the tests share: a devnet of their own, settings for it, and a proxy that can fail.

use std::{net::SocketAddr, path::Path, time::Duration};

use bistro_api::{Role, settings};
use bistro_devnet::{Devnet, Options};
use bistro_worker::{
    bucket::{Bucket, Credentials},
    chain::{Chain, Hotkey},
    telemetry::Telemetry,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Longest wait for anything: only so that a broken test ends.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Options for quick windows.
pub fn quick(data: &Path) -> Options {
    Options { data: data.to_owned(), block_time: Duration::from_millis(100), window_blocks: 10, ..Options::default() }
}

pub async fn devnet(data: &Path) -> Devnet {
    Devnet::start(quick(data)).await.expect("a devnet starts")
}

pub fn telemetry() -> Telemetry {
    Telemetry::new(Role::Miner)
}

pub async fn connect(url: &str) -> Chain {
    connect_to(&[url.to_owned()], telemetry()).await
}

pub async fn connect_to(endpoints: &[String], telemetry: Telemetry) -> Chain {
    let settings = settings::Chain { endpoints: endpoints.to_vec(), genesis_hash: None };
    soon(Chain::connect(&settings, telemetry)).await.expect("the chain answers")
}

pub async fn bucket(devnet: &Devnet, prefix: &str, hotkey: &Hotkey, telemetry: Telemetry) -> Bucket {
    let settings = bucket_settings(&devnet.s3_url(), prefix);
    let credentials = Credentials::development(&hotkey.ss58());
    Bucket::new(&settings, credentials, telemetry).await.expect("the settings are sound")
}

pub fn bucket_settings(endpoint: &str, prefix: &str) -> settings::Bucket {
    settings::Bucket {
        name: "bistro".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".to_owned(),
        prefix: prefix.to_owned(),
        ca_bundle: None,
    }
}

/// The output of `work`, or a failed test.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it ends in time")
}

/// Passes connections on to a server, until it is told to cut them.
pub struct Proxy {
    pub address: SocketAddr,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let cuts = watch::Sender::new(0);
        let seen = cuts.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut seen = seen.clone();
                seen.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = seen.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    /// Cuts every open connection; new ones work.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}
