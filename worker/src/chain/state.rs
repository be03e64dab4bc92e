//! What the chain knows about a subnet, read at a block that the caller names.
//!
//! Every number that sizes something is bounded by the subnet's own size, which is a u16.

use std::fmt::Debug;

use subxt::{
    dynamic,
    ext::{
        frame_decode::helpers::{IntoDecodableValues, IntoEncodableValues},
        scale_decode::DecodeAsType,
    },
    storage::PrefixOf,
};

use super::{Chain, Error, client::patiently};

/// The pallet that all of this is in.
pub(super) const PALLET: &str = "SubtensorModule";

/// Weights of one validator: pairs of a miner's uid and its weight.
pub type WeightRow = Vec<(u16, u16)>;

/// A registered hotkey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neuron {
    /// Its number on the subnet.
    pub uid: u16,
    /// Its public key.
    pub hotkey: [u8; 32],
}

impl Chain {
    /// Whether the subnet exists.
    pub async fn subnet_exists(&self, netuid: u16, at: [u8; 32]) -> Result<bool, Error> {
        self.value("NetworksAdded", (netuid,), at).await
    }

    /// Every registered hotkey, by uid.
    pub async fn neurons(&self, netuid: u16, at: [u8; 32]) -> Result<Vec<Neuron>, Error> {
        let size: u16 = self.value("SubnetworkN", (netuid,), at).await?;
        let rows: Vec<((u16, u16), [u8; 32])> = self.entries("Keys", (netuid,), at, usize::from(size)).await?;
        let rows = rows.into_iter().filter(|((_, uid), _)| *uid < size);
        let mut neurons: Vec<Neuron> = rows.map(|((_, uid), hotkey)| Neuron { uid, hotkey }).collect();
        neurons.sort_by_key(|neuron| neuron.uid);
        Ok(neurons)
    }

    /// The number of a hotkey on the subnet, if it is registered.
    pub async fn uid(&self, netuid: u16, hotkey: [u8; 32], at: [u8; 32]) -> Result<Option<u16>, Error> {
        self.optional("Uids", (netuid, hotkey), at).await
    }

    /// Incentive by uid: shares of 65535, which is all of it.
    pub async fn incentive(&self, netuid: u16, at: [u8; 32]) -> Result<Vec<u16>, Error> {
        self.value("Incentive", (netuid,), at).await
    }

    /// Weights as the chain holds them: the validator's uid, and pairs of a miner's uid and its weight; the largest
    /// weight of a row is 65535. By validator.
    pub async fn weights(&self, netuid: u16, at: [u8; 32]) -> Result<Vec<(u16, WeightRow)>, Error> {
        let size: u16 = self.value("SubnetworkN", (netuid,), at).await?;
        let rows: Vec<((u16, u16), WeightRow)> = self.entries("Weights", (netuid,), at, usize::from(size)).await?;
        let mut weights: Vec<_> = rows.into_iter().map(|((_, uid), row)| (uid, row)).collect();
        weights.sort_by_key(|(uid, _)| *uid);
        Ok(weights)
    }

    /// The hotkey that the subnet's owner named as its own.
    pub async fn owner_hotkey(&self, netuid: u16, at: [u8; 32]) -> Result<[u8; 32], Error> {
        self.value("SubnetOwnerHotkey", (netuid,), at).await
    }

    /// Blocks from one epoch to the next.
    pub async fn tempo(&self, netuid: u16, at: [u8; 32]) -> Result<u16, Error> {
        self.value("Tempo", (netuid,), at).await
    }

    /// Blocks that must pass between two `set_weights` of one validator.
    pub async fn weights_rate_limit(&self, netuid: u16, at: [u8; 32]) -> Result<u64, Error> {
        self.value("WeightsSetRateLimit", (netuid,), at).await
    }

    /// By uid: the block of its last weights, or of its registration.
    pub async fn last_update(&self, netuid: u16, at: [u8; 32]) -> Result<Vec<u64>, Error> {
        self.value("LastUpdate", (netuid,), at).await
    }

    /// Weights that a validator must set at least.
    pub async fn min_allowed_weights(&self, netuid: u16, at: [u8; 32]) -> Result<u16, Error> {
        self.value("MinAllowedWeights", (netuid,), at).await
    }

    /// Largest share of one weight, of 65535.
    pub async fn max_weights_limit(&self, netuid: u16, at: [u8; 32]) -> Result<u16, Error> {
        self.value("MaxWeightsLimit", (netuid,), at).await
    }

    /// Version key that `set_weights` must name at least.
    pub async fn weights_version_key(&self, netuid: u16, at: [u8; 32]) -> Result<u64, Error> {
        self.value("WeightsVersionKey", (netuid,), at).await
    }

    /// Whether weights must be committed first; `set_weights` is refused then.
    pub async fn commit_reveal_enabled(&self, netuid: u16, at: [u8; 32]) -> Result<bool, Error> {
        self.value("CommitRevealWeightsEnabled", (netuid,), at).await
    }

    /// The block in which this uid was registered.
    pub async fn block_at_registration(&self, netuid: u16, uid: u16, at: [u8; 32]) -> Result<u64, Error> {
        self.value("BlockAtRegistration", (netuid, uid), at).await
    }

    /// Uid and block of registration of every neuron, by uid.
    pub async fn blocks_at_registration(&self, netuid: u16, at: [u8; 32]) -> Result<Vec<(u16, u64)>, Error> {
        let size: u16 = self.value("SubnetworkN", (netuid,), at).await?;
        let rows: Vec<((u16, u16), u64)> =
            self.entries("BlockAtRegistration", (netuid,), at, usize::from(size)).await?;
        let mut blocks: Vec<(u16, u64)> = rows.into_iter().map(|((_, uid), block)| (uid, block)).collect();
        blocks.sort_by_key(|(uid, _)| *uid);
        Ok(blocks)
    }

    /// By uid: whether it may set weights for others.
    pub async fn validator_permit(&self, netuid: u16, at: [u8; 32]) -> Result<Vec<bool>, Error> {
        self.value("ValidatorPermit", (netuid,), at).await
    }

    /// Price of a registration in rao.
    pub(super) async fn burn(&self, netuid: u16, at: [u8; 32]) -> Result<u64, Error> {
        self.value("Burn", (netuid,), at).await
    }

    /// Stake of a hotkey on the subnet, in the subnet's own token.
    pub(super) async fn stake(&self, netuid: u16, hotkey: [u8; 32], at: [u8; 32]) -> Result<u64, Error> {
        self.value("TotalHotkeyAlpha", (hotkey, netuid), at).await
    }

    /// Free balance of an account in rao.
    pub(super) async fn balance(&self, account: [u8; 32], at: [u8; 32]) -> Result<u64, Error> {
        let account: Option<Account> = self.fetch("System", "Account", (account,), at).await?;
        Ok(account.map_or(0, |account| account.data.free))
    }

    /// A value that has a default.
    async fn value<K, V>(&self, entry: &'static str, keys: K, at: [u8; 32]) -> Result<V, Error>
    where
        K: IntoEncodableValues + IntoDecodableValues + Clone + Debug,
        V: DecodeAsType,
    {
        let found = self.optional(entry, keys, at).await?;
        found.ok_or_else(|| Error::Incompatible {
            what: format!("read {PALLET}.{entry}"),
            reason: "it has neither a value nor a default".to_owned(),
        })
    }

    async fn optional<K, V>(&self, entry: &'static str, keys: K, at: [u8; 32]) -> Result<Option<V>, Error>
    where
        K: IntoEncodableValues + IntoDecodableValues + Clone + Debug,
        V: DecodeAsType,
    {
        self.fetch(PALLET, entry, keys, at).await
    }

    /// One value of any pallet; `None` where there is neither a value nor a default.
    pub(super) async fn fetch<K, V>(
        &self,
        pallet: &'static str,
        entry: &str,
        keys: K,
        at: [u8; 32],
    ) -> Result<Option<V>, Error>
    where
        K: IntoEncodableValues + IntoDecodableValues + Clone + Debug,
        V: DecodeAsType,
    {
        let sorted = |e: subxt::Error| {
            Error::sorted(&format!("read {pallet}.{entry}{keys:?}"), &format!("0x{}", hex::encode(at)), &e)
        };
        patiently(|| async {
            let client = self.at(at).await?;
            let address = dynamic::storage::<K, V>(pallet, entry);
            let found = client.storage().try_fetch(address, keys.clone()).await.map_err(|e| sorted(e.into()))?;
            found.map(|value| value.decode()).transpose().map_err(|e| sorted(e.into()))
        })
        .await
    }

    /// All rows of one subnet, in the order of their keys on the chain; more than twice `most` is an odd answer, since a uid
    /// that was given up may leave a row behind.
    async fn entries<V: DecodeAsType>(
        &self,
        entry: &'static str,
        prefix: (u16,),
        at: [u8; 32],
        most: usize,
    ) -> Result<Vec<((u16, u16), V)>, Error> {
        self.rows(PALLET, entry, prefix, at, 2 * most).await
    }

    /// All rows below a prefix, at most `most`.
    pub(super) async fn rows<K, V>(
        &self,
        pallet: &'static str,
        entry: &'static str,
        prefix: (u16,),
        at: [u8; 32],
        most: usize,
    ) -> Result<Vec<(K, V)>, Error>
    where
        K: IntoEncodableValues + IntoDecodableValues + DecodeAsType,
        (u16,): PrefixOf<K>,
        V: DecodeAsType,
    {
        let what = format!("read {pallet}.{entry}{prefix:?}");
        let sorted = |e: subxt::Error| Error::sorted(&what, &format!("0x{}", hex::encode(at)), &e);
        patiently(|| async {
            let client = self.at(at).await?;
            let address = dynamic::storage::<K, V>(pallet, entry);
            let mut stream = client.storage().iter(address, prefix).await.map_err(|e| sorted(e.into()))?;
            let mut found = Vec::new();
            while let Some(row) = stream.next().await {
                if found.len() > most {
                    let reason = format!("more than {most} rows");
                    return Err(Error::Incompatible { what: what.clone(), reason });
                }
                let row = row.map_err(|e| sorted(e.into()))?;
                let key = row.key().map_err(|e| sorted(e.into()))?.decode().map_err(|e| sorted(e.into()))?;
                found.push((key, row.value().decode().map_err(|e| sorted(e.into()))?));
            }
            Ok(found)
        })
        .await
    }
}

/// `System.Account`; fields that are not named here are skipped.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Account {
    data: Balances,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Balances {
    free: u64,
}
