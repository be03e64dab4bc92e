//! From a key to a place on the subnet.
//!
//! A node with a hotkey file waits until somebody with the coldkey registers it. A development node does everything itself,
//! and only on a devnet: Alice pays its coldkey, the coldkey registers the hotkey and, for a validator, stakes. Every step
//! first asks whether it is done, so a restart repeats nothing. Many nodes start at once and all of them sign with Alice's
//! account: who loses the race for a nonce tries again.

use std::{path::Path, time::Duration};

use bistro_api::{Role, Settings};

use super::{Chain, DEVNET, DevWallet, Error, Hotkey, WalletError, submit::Call};
use crate::retry::{Fault, Retry, Stopped};

/// One TAO in rao.
const TAO: u64 = 1_000_000_000;

/// What a development coldkey gets beyond the price of its registration and its stake: fees.
const POCKET: u64 = 10 * TAO;

/// What a development validator stakes. All the same, so that no validator outvotes the others.
const STAKE: u64 = 100 * TAO;

/// Pause between two looks at whether a hotkey was registered.
const LOOK: Duration = Duration::from_secs(5);

/// Who a node is.
#[derive(Clone, Debug)]
// There is one per process: a box would save nothing.
#[allow(clippy::large_enum_variant)]
pub enum Identity {
    /// A hotkey file; somebody else registers it.
    File(Hotkey),
    /// Derived keys; the node registers itself.
    Development(DevWallet),
}

impl Identity {
    /// The keys that the settings ask for: derived ones with `wallet: {dev: true}`, else the file
    /// `wallet/hotkey-ORDINAL` in the secrets folder (BISTRO_SECRETS).
    pub fn load(settings: &Settings, role: Role, secrets: &Path, ordinal: u32) -> Result<Self, WalletError> {
        if settings.dev_wallet {
            let wallet = DevWallet::derive(&settings.namespace, role.as_str(), &settings.name, ordinal);
            return Ok(Self::Development(wallet));
        }
        Hotkey::load(&secrets.join("wallet").join(format!("hotkey-{ordinal}"))).map(Self::File)
    }

    /// The key that signs for the node.
    pub fn hotkey(&self) -> &Hotkey {
        match self {
            Self::File(hotkey) => hotkey,
            Self::Development(wallet) => &wallet.hotkey,
        }
    }
}

/// Makes sure that the node has its place: a uid for miners and validators, which it gives back; nothing for averagers
/// (the first averager of development becomes the subnet's owner hotkey). Waits for ever where that can help, and says
/// what for in the status; an error means that somebody must change something.
pub async fn bootstrap(
    chain: &Chain,
    identity: &Identity,
    role: Role,
    netuid: u16,
    ordinal: u32,
) -> Result<Option<u16>, Error> {
    let show = |error: &Error| {
        chain.inner.telemetry.message(error.to_string());
        if error.is_transient() { Fault::Transient } else { Fault::Permanent }
    };
    let attempt = || async {
        if !chain.subnet_exists(netuid, chain.head().hash).await? {
            return Err(Error::NoSubnet { netuid });
        }
        match (identity, role) {
            (Identity::Development(_), _) if chain.name() != DEVNET => {
                Err(Error::NotDevnet { found: chain.name().chars().take(64).collect() })
            }
            (Identity::File(_), Role::Averager) => Ok(None),
            (Identity::File(hotkey), _) => registered(chain, hotkey, netuid).await.map(Some),
            (Identity::Development(wallet), Role::Averager) => {
                if ordinal == 0 {
                    own_subnet(chain, &wallet.hotkey, netuid).await?;
                }
                Ok(None)
            }
            (Identity::Development(wallet), Role::Miner | Role::Validator) => {
                place(chain, wallet, role == Role::Validator, netuid).await.map(Some)
            }
        }
    };
    match Retry::new().run(show, attempt).await {
        Ok(uid) => {
            chain.inner.telemetry.status.update(|status| status.uid = uid);
            chain.inner.telemetry.message("");
            Ok(uid)
        }
        Err(Stopped::Fault(error)) => Err(error),
        Err(Stopped::Cancelled) => Err(Error::NotRegistered { hotkey: identity.hotkey().ss58(), netuid }),
    }
}

/// Waits until the hotkey is registered.
async fn registered(chain: &Chain, hotkey: &Hotkey, netuid: u16) -> Result<u16, Error> {
    loop {
        if let Some(uid) = chain.uid(netuid, hotkey.public(), chain.head().hash).await? {
            return Ok(uid);
        }
        let waiting = Error::NotRegistered { hotkey: hotkey.ss58(), netuid };
        chain.inner.telemetry.message(waiting.to_string());
        tokio::time::sleep(LOOK).await;
    }
}

/// Funds, registers and, for a validator, stakes.
async fn place(chain: &Chain, wallet: &DevWallet, validator: bool, netuid: u16) -> Result<u16, Error> {
    let DevWallet { hotkey, coldkey } = wallet;
    let uid = || async { chain.uid(netuid, hotkey.public(), chain.head().hash).await };
    let staked = || async { Ok(chain.stake(netuid, hotkey.public(), chain.head().hash).await? >= STAKE) };
    let stakes = validator && !staked().await?;
    if uid().await?.is_none() || stakes {
        let price = chain.burn(netuid, chain.head().hash).await?;
        fund(chain, coldkey, price.saturating_add(POCKET).saturating_add(if stakes { STAKE } else { 0 })).await?;
    }
    if uid().await?.is_none() {
        tracing::info!("registering {} on netuid {netuid}", hotkey.ss58());
        let call = calls::burned_register(netuid, hotkey.public());
        let done = || async { Ok(uid().await?.is_some()) };
        match chain.submit(coldkey, &call, done).await {
            Err(Error::Refused(refusal)) if refusal.name == "HotKeyAlreadyRegisteredInSubNet" => {}
            other => drop(other?),
        }
    }
    if stakes {
        chain.submit(coldkey, &calls::add_stake(hotkey.public(), netuid, STAKE), staked).await?;
    }
    uid().await?.ok_or_else(|| Error::NotRegistered { hotkey: hotkey.ss58(), netuid })
}

/// One transfer from Alice, unless the account has enough.
async fn fund(chain: &Chain, coldkey: &Hotkey, enough: u64) -> Result<(), Error> {
    let funded = || async { Ok(chain.balance(coldkey.public(), chain.head().hash).await? >= enough) };
    if !funded().await? {
        chain.submit(&alice(), &calls::transfer(coldkey.public(), enough), funded).await?;
    }
    Ok(())
}

/// Names this hotkey as that of the subnet's owner, Alice.
async fn own_subnet(chain: &Chain, hotkey: &Hotkey, netuid: u16) -> Result<(), Error> {
    let owns = || async { Ok(chain.owner_hotkey(netuid, chain.head().hash).await? == hotkey.public()) };
    if !owns().await? {
        chain.submit(&alice(), &calls::set_owner_hotkey(netuid, hotkey.public()), owns).await?;
    }
    Ok(())
}

fn alice() -> Hotkey {
    Hotkey::development("//Alice")
}

/// The calls of this module.
pub(super) mod calls {
    use subxt::dynamic::Value;

    use super::{
        super::{state::PALLET, submit::call},
        Call,
    };

    pub fn transfer(to: [u8; 32], rao: u64) -> (&'static str, Call) {
        let to = Value::unnamed_variant("Id", [Value::from_bytes(to)]);
        call("Balances", "transfer_keep_alive", vec![to, Value::u128(rao.into())])
    }

    pub fn burned_register(netuid: u16, hotkey: [u8; 32]) -> (&'static str, Call) {
        call(PALLET, "burned_register", vec![Value::u128(netuid.into()), Value::from_bytes(hotkey)])
    }

    pub fn add_stake(hotkey: [u8; 32], netuid: u16, rao: u64) -> (&'static str, Call) {
        let arguments = vec![Value::from_bytes(hotkey), Value::u128(netuid.into()), Value::u128(rao.into())];
        call(PALLET, "add_stake", arguments)
    }

    pub fn set_owner_hotkey(netuid: u16, hotkey: [u8; 32]) -> (&'static str, Call) {
        let arguments = vec![Value::u128(netuid.into()), Value::from_bytes(hotkey)];
        call("AdminUtils", "sudo_set_sn_owner_hotkey", arguments)
    }
}
