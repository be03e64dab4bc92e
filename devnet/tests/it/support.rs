//! A devnet in a temporary folder, and a subxt client that speaks to it.

use bistro_devnet::{Devnet, Options};
use std::{sync::Arc, time::Duration};
use subxt::{
    OnlineClient, SubstrateConfig,
    backend::LegacyBackend,
    config::{DefaultExtrinsicParamsBuilder, RpcConfigFor},
    dynamic::{self, Value},
    error::{BackendError, DispatchError, ExtrinsicError, RpcError, TransactionEventsError},
    ext::{
        frame_decode::storage::{IntoDecodableValues, IntoEncodableValues},
        scale_decode::DecodeAsType,
    },
    rpcs::{RpcClient, methods::LegacyRpcMethods},
    transactions::DynamicPayload,
};
use subxt_signer::sr25519::Keypair;
use tempfile::TempDir;

pub type Api = OnlineClient<SubstrateConfig>;
pub type Call = DynamicPayload<Vec<Value>>;

/// Long enough for any number of blocks that a test waits for, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Block time of tests that need no human pace.
pub const FAST: Duration = Duration::from_millis(100);

/// A devnet, a client of it, and the folder that goes with them.
pub struct Net {
    pub devnet: Devnet,
    pub client: Client,
    pub _folder: TempDir,
}

impl Net {
    pub async fn start(options: Options) -> Net {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = Options { data: folder.path().to_path_buf(), block_time: FAST, ..options };
        let devnet = Devnet::start(options).await.expect("the devnet starts");
        let client = Client::connect(&devnet.rpc_url()).await;
        Net { devnet, client, _folder: folder }
    }

    pub async fn stop(self) {
        self.devnet.shutdown().await;
    }
}

pub struct Client {
    pub api: Api,
    pub rpc: RpcClient,
    pub legacy: LegacyRpcMethods<RpcConfigFor<SubstrateConfig>>,
}

impl Client {
    pub async fn connect(url: &str) -> Client {
        let rpc = RpcClient::from_url(url).await.expect("the chain accepts a connection");
        let backend = LegacyBackend::<SubstrateConfig>::builder().build(rpc.clone());
        let api = Api::from_backend(Arc::new(backend)).await.expect("the legacy backend starts");
        Client { api, legacy: LegacyRpcMethods::new(rpc.clone()), rpc }
    }

    /// Signs, submits and waits for finality: the names of the events, or the name of the error.
    pub async fn send(&self, signer: &Keypair, call: &Call) -> Result<Vec<String>, String> {
        let nonce = self.next_nonce(signer).await;
        let params = DefaultExtrinsicParamsBuilder::new().nonce(nonce).immortal().build();
        let at = self.api.at_current_block().await.expect("a finalised block");
        let watched = at.tx().sign_and_submit_then_watch(call, signer, params).await.map_err(|e| pool_error(&e))?;
        let included = tokio::time::timeout(PATIENCE, watched.wait_for_finalized());
        let included = included.await.expect("finality comes").expect("the transaction is included");
        match included.wait_for_success().await {
            Ok(events) => {
                let name =
                    |event: subxt::events::Event<'_, _>| format!("{}.{}", event.pallet_name(), event.event_name());
                Ok(events.iter().map(|event| name(event.expect("events decode"))).collect())
            }
            Err(TransactionEventsError::ExtrinsicFailed(DispatchError::Module(module))) => Err(module.details_string()),
            Err(other) => Err(other.to_string()),
        }
    }

    pub async fn next_nonce(&self, signer: &Keypair) -> u64 {
        let address = address(signer);
        self.rpc.request("system_accountNextIndex", subxt::rpcs::rpc_params![address]).await.expect("a nonce")
    }

    /// A value of SubtensorModule at the newest final block.
    pub async fn read<K, V>(&self, entry: &str, key: K) -> V
    where
        K: IntoEncodableValues + IntoDecodableValues,
        V: DecodeAsType,
    {
        let at = self.api.at_current_block().await.expect("a finalised block");
        let entry = dynamic::storage::<K, V>("SubtensorModule", entry);
        at.storage().fetch(entry, key).await.expect("the entry exists").decode().expect("the value decodes")
    }

    /// Waits until `count` more blocks are final.
    pub async fn blocks(&self, count: u64) {
        let mut stream = self.api.stream_blocks().await.expect("a stream of blocks");
        for _ in 0..=count {
            let next = tokio::time::timeout(PATIENCE, stream.next()).await.expect("a block comes");
            next.expect("the stream goes on").expect("a block");
        }
    }
}

pub fn address(key: &Keypair) -> String {
    key.public_key().to_account_id().to_string()
}

pub fn key(uri: &str) -> Keypair {
    Keypair::from_uri(&uri.parse().expect("a key path")).expect("a key")
}

/// What the pool answers: code and data, as a client sees them.
pub fn pool_error(error: &ExtrinsicError) -> String {
    use subxt::rpcs::Error::User;
    match error {
        ExtrinsicError::ErrorSubmittingTransaction(BackendError::Rpc(RpcError::ClientError(User(user)))) => {
            format!("{} {}", user.code, user.data.as_ref().map_or("", |data| data.get()))
        }
        other => panic!("not an answer of the pool: {other:?}"),
    }
}

fn account(key: &Keypair) -> Value {
    Value::from_bytes(key.public_key().0)
}

fn numbers(values: &[u16]) -> Value {
    Value::unnamed_composite(values.iter().map(|value| Value::u128((*value).into())))
}

pub fn register(netuid: u16, hotkey: &Keypair) -> Call {
    dynamic::tx("SubtensorModule", "burned_register", vec![Value::u128(netuid.into()), account(hotkey)])
}

pub fn add_stake(netuid: u16, hotkey: &Keypair, amount: u64) -> Call {
    let fields = vec![account(hotkey), Value::u128(netuid.into()), Value::u128(amount.into())];
    dynamic::tx("SubtensorModule", "add_stake", fields)
}

pub fn set_weights(netuid: u16, uids: &[u16], weights: &[u16], version: u64) -> Call {
    let fields = vec![Value::u128(netuid.into()), numbers(uids), numbers(weights), Value::u128(version.into())];
    dynamic::tx("SubtensorModule", "set_weights", fields)
}

pub fn set_owner_hotkey(netuid: u16, hotkey: &Keypair) -> Call {
    dynamic::tx("AdminUtils", "sudo_set_sn_owner_hotkey", vec![Value::u128(netuid.into()), account(hotkey)])
}

pub fn transfer(to: &Keypair, amount: u64) -> Call {
    let to = Value::unnamed_variant("Id", [account(to)]);
    dynamic::tx("Balances", "transfer_keep_alive", vec![to, Value::u128(amount.into())])
}
