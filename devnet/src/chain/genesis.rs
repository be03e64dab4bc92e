//! Block 0: what exists before anybody has signed anything.

use super::{Error, execute};
use crate::{
    Options,
    runtime::{AccountId, Header, RuntimeGenesisConfig, VERSION, subtensor},
};
use codec::Decode;
use sp_core::{
    H256, Pair, sr25519,
    storage::{StateVersion, Storage},
};
use sp_runtime::{
    BuildStorage,
    traits::{BlakeTwo256, Hash},
};
use std::io::Read;

/// The one subnet of the devnet.
pub const NETUID: u16 = 1;

/// Each development account starts with a million TAO.
const ENDOWMENT: u64 = 1_000_000_000_000_000;
const ENDOWED: [&str; 6] = ["//Alice", "//Bob", "//Charlie", "//Dave", "//Eve", "//Ferdie"];

/// The number of validators that hold a permit.
const MAX_VALIDATORS: u16 = 64;

/// Random bytes that tell this chain from every other devnet. No pallet owns the key.
const SALT_KEY: &[u8] = b":bistro-devnet:salt";

/// The state before block 1, for a chain that never existed before.
pub fn state(options: &Options) -> Result<Storage, Error> {
    let accounts = ENDOWED.iter().map(|uri| account(uri)).collect::<Result<Vec<_>, _>>()?;
    let owner = account("//Alice")?;
    let subnet = subtensor::SubnetGenesis {
        netuid: NETUID,
        owner,
        tempo: options.tempo(),
        weights_rate_limit: options.weights_rate_limit(),
        commit_reveal: options.commit_reveal,
        max_uids: options.max_uids,
        max_validators: MAX_VALIDATORS,
        immunity_blocks: options.immunity_blocks,
        burn: options.burn,
    };
    let config = RuntimeGenesisConfig {
        balances: pallet_balances::GenesisConfig {
            balances: accounts.into_iter().map(|account| (account, ENDOWMENT)).collect(),
            ..Default::default()
        },
        subtensor_module: subtensor::GenesisConfig { subnets: vec![subnet], stake_threshold: options.stake_threshold },
        ..Default::default()
    };
    let mut storage = config.build_storage().map_err(Error::Genesis)?;
    storage.top.insert(SALT_KEY.to_vec(), salt()?.to_vec());
    Ok(storage)
}

/// The header whose hash is the genesis hash: the root of the state and of an empty list of extrinsics.
pub fn header(state: &Storage) -> Result<Header, Error> {
    let root = execute::on_copy(state, || sp_io::storage::root(VERSION.state_version()));
    let state_root = H256::decode(&mut &root[..]).map_err(|source| Error::Genesis(source.to_string()))?;
    let extrinsics_root = BlakeTwo256::ordered_trie_root(vec![], StateVersion::V0);
    Ok(Header { parent_hash: H256::zero(), number: 0, state_root, extrinsics_root, digest: Default::default() })
}

fn account(uri: &str) -> Result<AccountId, Error> {
    let pair = sr25519::Pair::from_string(uri, None).map_err(|source| Error::Genesis(format!("{uri}: {source}")))?;
    Ok(AccountId::from(pair.public()))
}

fn salt() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    let mut source = std::fs::File::open("/dev/urandom").map_err(Error::Salt)?;
    source.read_exact(&mut bytes).map_err(Error::Salt)?;
    Ok(bytes)
}
