//! One connection at a time to one of the chain endpoints, in order.
//!
//! subxt and everything else here speak through this, so it is the one place that counts requests, notes whether the chain
//! answers, fails over, and makes sure that every new connection leads to the same chain as the one before. A request is
//! never sent twice: who asked decides whether to ask again, because a call that was submitted may have arrived.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use subxt::{
    ext::jsonrpsee::{
        core::client::Client,
        ws_client::{PingConfig, WsClientBuilder},
    },
    rpcs::{
        self,
        client::{RawRpcFuture, RawRpcSubscription, RawValue, RpcClientT},
    },
};

use super::error::{LOST, OTHER_CHAIN, chained};
use crate::telemetry::Telemetry;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// After all endpoints failed, requests fail at once for this long instead of queueing up behind each other's attempts.
const REST: Duration = Duration::from_millis(250);

/// Largest answer in bytes: metadata has about 1 MB.
const LARGEST: u32 = 16 << 20;

/// The connection that requests go over. Clones share it.
#[derive(Clone)]
pub(super) struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Vec<String>,
    telemetry: Telemetry,
    connection: tokio::sync::Mutex<Connection>,
    identity: Mutex<Identity>,
}

#[derive(Default)]
struct Connection {
    open: Option<Open>,
    /// Where the next attempt starts: the first endpoint, unless the one in use went silent.
    next: usize,
    /// When and why all endpoints failed the last time.
    failed: Option<(Instant, String)>,
    /// Connections made so far; tells a fault of this connection from a late fault of an earlier one.
    number: u64,
}

#[derive(Clone)]
struct Open {
    endpoint: usize,
    number: u64,
    client: Arc<Client>,
}

/// What tells this chain from others: the first block's hash is not enough where a chain with the same genesis was
/// started anew, so the second one's counts too, once it is there.
#[derive(Default)]
struct Identity {
    genesis: Option<String>,
    second: Option<String>,
}

/// An error with its text alone: subxt keeps the text through all its layers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

fn said(text: String) -> rpcs::Error {
    rpcs::Error::Client(Box::new(Said(text)))
}

impl Transport {
    pub fn new(endpoints: &[String], genesis: Option<&str>, telemetry: Telemetry) -> Self {
        let identity = Identity { genesis: genesis.map(str::to_lowercase), second: None };
        let inner = Inner {
            endpoints: endpoints.to_vec(),
            telemetry,
            connection: tokio::sync::Mutex::default(),
            identity: Mutex::new(identity),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The open connection, or a new one to the first endpoint that answers.
    async fn open(&self) -> Result<Open, rpcs::Error> {
        let mut connection = self.inner.connection.lock().await;
        if let Some(open) = connection.open.as_ref().filter(|open| open.client.is_connected()) {
            return Ok(open.clone());
        }
        if let Some((when, why)) = connection.failed.as_ref().filter(|(when, _)| when.elapsed() < REST) {
            tracing::trace!("asked again {:?} after all endpoints failed", when.elapsed());
            return Err(said(why.clone()));
        }
        let mut reasons = Vec::new();
        for offset in 0..self.inner.endpoints.len() {
            let endpoint = (connection.next + offset) % self.inner.endpoints.len();
            match self.connect(endpoint).await {
                Ok(client) => {
                    connection.number += 1;
                    connection.next = 0;
                    connection.failed = None;
                    let open = Open { endpoint, number: connection.number, client: Arc::new(client) };
                    connection.open = Some(open.clone());
                    tracing::info!("connected to {}", self.shown(endpoint));
                    return Ok(open);
                }
                Err(reason) => reasons.push(format!("{}: {reason}", self.shown(endpoint))),
            }
        }
        // Only where nobody else can still come back is another chain a fault that stays.
        let another = reasons.iter().all(|reason| reason.contains(OTHER_CHAIN));
        let why = if another { reasons.join("; ") } else { format!("{LOST} ({})", reasons.join("; ")) };
        connection.open = None;
        connection.failed = Some((Instant::now(), why.clone()));
        self.inner.telemetry.chain(Err(why.clone()));
        Err(said(why))
    }

    async fn connect(&self, endpoint: usize) -> Result<Client, String> {
        let address = self.inner.endpoints.get(endpoint).ok_or("there are no endpoints")?;
        let client = WsClientBuilder::new()
            .connection_timeout(CONNECT)
            .request_timeout(ANSWER)
            .max_response_size(LARGEST)
            .max_buffer_capacity_per_subscription(256)
            .enable_ws_ping(
                PingConfig::new().ping_interval(Duration::from_secs(10)).inactive_limit(Duration::from_secs(20)),
            )
            .build(address);
        let client = match tokio::time::timeout(CONNECT, client).await {
            Ok(built) => built.map_err(|e| chained(&e))?,
            Err(_) => return Err(format!("no connection within {} s", CONNECT.as_secs())),
        };
        let genesis = self.block_hash(&client, 0).await?.ok_or("it does not know the genesis block")?;
        let second = self.block_hash(&client, 1).await?;
        let mut identity = self.identity();
        let Identity { genesis: known_genesis, second: known_second } = &mut *identity;
        same("genesis hash", known_genesis, Some(genesis))?;
        same("block 1", known_second, second)?;
        Ok(client)
    }

    async fn block_hash(&self, client: &Client, number: u64) -> Result<Option<String>, String> {
        let params = RawValue::from_string(format!("[{number}]")).map_err(|e| e.to_string())?;
        let answer = client.request_raw("chain_getBlockHash", Some(params));
        let answer = tokio::time::timeout(ANSWER, answer).await.map_err(|_| "no answer".to_owned())?;
        let answer = answer.map_err(|e| chained(&e))?;
        serde_json::from_str(answer.get()).map_err(|e| format!("chain_getBlockHash answered oddly: {e}"))
    }

    /// Gives this connection up; the next request makes a new one, at the next endpoint if this one went `silent`.
    pub async fn give_up(&self, silent: bool) {
        let mut connection = self.inner.connection.lock().await;
        if let Some(open) = connection.open.take() {
            connection.next = if silent { (open.endpoint + 1) % self.inner.endpoints.len() } else { 0 };
        }
    }

    async fn lost(&self, number: u64, why: &str) {
        let mut connection = self.inner.connection.lock().await;
        if connection.number == number && connection.open.take().is_some() {
            tracing::warn!("lost the connection to the chain: {why}");
        }
    }

    /// Counts and sorts the outcome of one request.
    async fn judged<T>(&self, open: &Open, method: &str, outcome: Result<T, rpcs::Error>) -> Result<T, rpcs::Error> {
        let telemetry = &self.inner.telemetry;
        let count = |word| telemetry.metrics.chain_requests.with_label_values(&[method, word]).inc();
        match outcome {
            Ok(value) => {
                count("ok");
                telemetry.chain(Ok(()));
                Ok(value)
            }
            Err(rpcs::Error::User(refusal)) => {
                count("refused");
                telemetry.chain(Ok(()));
                Err(rpcs::Error::User(refusal))
            }
            Err(error) => {
                count("unreachable");
                let why = format!("{LOST} ({}: {method}: {})", self.shown(open.endpoint), chained(&error));
                telemetry.chain(Err(why.clone()));
                self.lost(open.number, &why).await;
                Err(said(why))
            }
        }
    }

    /// An endpoint without its path, which often holds a key.
    fn shown(&self, endpoint: usize) -> &str {
        let address = self.inner.endpoints.get(endpoint).map_or("", String::as_str);
        let host = address.find("://").map_or(0, |at| at + 3);
        let end = address[host..].find('/').map_or(address.len(), |at| host + at);
        &address[..end]
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.inner.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Learns the value the first time and insists on it from then on. An absent one says nothing.
fn same(what: &str, known: &mut Option<String>, found: Option<String>) -> Result<(), String> {
    let Some(found) = found else { return Ok(()) };
    match known {
        Some(known) if *known != found => Err(format!("{OTHER_CHAIN}: its {what} is {found}, not {known}")),
        Some(_) => Ok(()),
        None => {
            *known = Some(found);
            Ok(())
        }
    }
}

impl RpcClientT for Transport {
    fn request_raw<'a>(&'a self, method: &'a str, params: Option<Box<RawValue>>) -> RawRpcFuture<'a, Box<RawValue>> {
        Box::pin(async move {
            let open = self.open().await?;
            let answer = tokio::time::timeout(ANSWER, open.client.request_raw(method, params)).await;
            let answer = answer.unwrap_or_else(|_| Err(said(format!("no answer within {} s", ANSWER.as_secs()))));
            self.judged(&open, method, answer).await
        })
    }

    fn subscribe_raw<'a>(
        &'a self,
        sub: &'a str,
        params: Option<Box<RawValue>>,
        unsub: &'a str,
    ) -> RawRpcFuture<'a, RawRpcSubscription> {
        Box::pin(async move {
            let open = self.open().await?;
            let answer = tokio::time::timeout(ANSWER, open.client.subscribe_raw(sub, params, unsub)).await;
            let answer = answer.unwrap_or_else(|_| Err(said(format!("no answer within {} s", ANSWER.as_secs()))));
            self.judged(&open, sub, answer).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_learned_once() {
        let mut known = None;
        same("genesis hash", &mut known, None).expect("absent says nothing");
        same("genesis hash", &mut known, Some("0x01".into())).expect("the first one is learned");
        same("genesis hash", &mut known, Some("0x01".into())).expect("the same one");
        let fault = same("genesis hash", &mut known, Some("0x02".into())).expect_err("another one");
        assert!(fault.contains(OTHER_CHAIN));
    }

    #[test]
    fn keys_in_endpoints_are_not_shown() {
        let telemetry = Telemetry::new(bistro_api::Role::Miner);
        let transport = Transport::new(&["wss://chain.example:443/v1/secret".into()], None, telemetry);
        assert_eq!(transport.shown(0), "wss://chain.example:443");
    }
}
