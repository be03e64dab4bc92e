//! Setting weights: the one call that pays miners.

use subxt::dynamic::Value;

use super::{
    Chain, Error, FinalisedAt, Hotkey,
    state::PALLET,
    submit::{Call, call},
};

impl Chain {
    /// Sets this validator's weights and waits until they are final. The largest weight should be 65535; the chain scales
    /// to that. A refusal has the pallet's name for it, such as `SettingWeightsTooFast`.
    pub async fn set_weights(
        &self,
        hotkey: &Hotkey,
        netuid: u16,
        weights: &[(u16, u16)],
        version_key: u64,
    ) -> Result<FinalisedAt, Error> {
        let own = self.own_last_update(hotkey, netuid).await?;
        let Some(before) = own else { return Err(Error::NotRegistered { hotkey: hotkey.ss58(), netuid }) };
        let call = set_weights_call(netuid, weights, version_key);
        // Nobody else signs with this hotkey, so a newer update can only be this one.
        let applied = || async { Ok(self.own_last_update(hotkey, netuid).await?.is_some_and(|block| block > before)) };
        self.submit(hotkey, &call, applied).await
    }

    /// The block of this validator's last weights, if it is registered.
    async fn own_last_update(&self, hotkey: &Hotkey, netuid: u16) -> Result<Option<u64>, Error> {
        let at = self.head().hash;
        let Some(uid) = self.uid(netuid, hotkey.public(), at).await? else { return Ok(None) };
        let updates = self.last_update(netuid, at).await?;
        Ok(Some(updates.get(usize::from(uid)).copied().unwrap_or(0)))
    }
}

fn set_weights_call(netuid: u16, weights: &[(u16, u16)], version_key: u64) -> (&'static str, Call) {
    let list = |values: &mut dyn Iterator<Item = u16>| Value::unnamed_composite(values.map(|v| Value::u128(v.into())));
    let uids = list(&mut weights.iter().map(|(uid, _)| *uid));
    let values = list(&mut weights.iter().map(|(_, weight)| *weight));
    call(PALLET, "set_weights", vec![Value::u128(netuid.into()), uids, values, Value::u128(version_key.into())])
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use subxt::{
        Metadata, OfflineClient, SubstrateConfig,
        config::substrate::{SpecVersionForRange, SubstrateConfigBuilder},
        ext::codec::Decode,
    };

    use super::*;
    use crate::chain::{bootstrap::calls, commitments::commit_call};

    /// Main net's metadata, if the folder of data that no repository should hold is beside this one.
    fn main_net() -> Option<Metadata> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let places = ["../shared/subtensor", "../../shared/subtensor"];
        let path = places.iter().map(|place| root.join(place).join("finney-424-v16.scale")).find(|path| path.exists());
        let Some(path) = path else {
            eprintln!("SKIPPED: there is no shared/subtensor/finney-424-v16.scale to encode calls against");
            return None;
        };
        let raw = std::fs::read(path).expect("readable metadata");
        Some(Metadata::decode(&mut &raw[..]).expect("metadata"))
    }

    #[test]
    fn calls_have_the_bytes_that_main_net_decodes() {
        let Some(metadata) = main_net() else { return };
        let versions = SpecVersionForRange { block_range: 0..u64::MAX, spec_version: 424, transaction_version: 1 };
        let config = SubstrateConfigBuilder::new()
            .set_metadata_for_spec_versions([(424, Arc::new(metadata))])
            .set_spec_version_for_block_ranges([versions])
            .build();
        let client = OfflineClient::<SubstrateConfig>::new_with_config(config).at_block(1u64).expect("a block");
        let bytes = |(_, call): (_, Call)| hex::encode(client.transactions().call_data(&call).expect("it encodes"));
        assert_eq!(
            bytes(set_weights_call(1, &[(0, 65535), (1, 9)], 0)),
            "07000100080000010008ffff09000000000000000000"
        );
        assert_eq!(bytes(commit_call(1, b"hello")), "120001000406".to_owned() + &hex::encode(b"hello"));
        let bob = subxt_signer::sr25519::dev::bob().public_key().0;
        assert_eq!(
            bytes(calls::burned_register(1, bob)),
            "070701008eaf04151687736326c9fea17e25fc5287613693c912909cb226aa4794f26a48"
        );
        // Balances 5.3 to MultiAddress::Id, compact amount; SubtensorModule 7.2; AdminUtils by its own index.
        assert_eq!(bytes(calls::transfer(bob, 1)), format!("050300{}04", hex::encode(bob)));
        assert_eq!(bytes(calls::add_stake(bob, 1, 2)), format!("0702{}01000200000000000000", hex::encode(bob)));
        assert!(bytes(calls::set_owner_hotkey(1, bob)).ends_with(&format!("0100{}", hex::encode(bob))));
    }
}
