//! A subnet's life: registration, stake, weights, epochs.

use crate::support::{Net, add_stake, key, register, set_owner_hotkey, set_weights, transfer};
use bistro_devnet::Options;
use subxt_signer::sr25519::dev;

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_registers_stakes_sets_weights_and_miners_are_paid() {
    let options = Options { weights_rate_limit: Some(2), tempo: Some(5), ..Options::default() };
    let net = Net::start(options).await;
    let client = &net.client;
    let (alice, validator, miner) = (dev::alice(), dev::bob(), dev::charlie());
    let events = client.send(&alice, &register(1, &validator)).await.expect("registered");
    assert!(events.contains(&"SubtensorModule.NeuronRegistered".to_string()), "{events:?}");
    client.send(&alice, &register(1, &miner)).await.expect("registered");
    let uid: u16 = client.read("Uids", (1u16, validator.public_key().0)).await;
    assert_eq!(uid, 0);
    assert_eq!(client.read::<_, u16>("SubnetworkN", (1u16,)).await, 2);
    assert!(client.read::<_, bool>("IsNetworkMember", (miner.public_key().0, 1u16)).await);

    let refused = client.send(&validator, &set_weights(1, &[1], &[9], 0)).await;
    assert_eq!(refused, Err("SubtensorModule::NeuronNoValidatorPermit".into()));
    client.send(&alice, &add_stake(1, &validator, 5_000_000_000)).await.expect("staked");
    assert_eq!(client.read::<_, u64>("TotalHotkeyAlpha", (validator.public_key().0, 1u16)).await, 5_000_000_000);
    assert_eq!(client.read::<_, Vec<bool>>("ValidatorPermit", (1u16,)).await, [true, false]);

    client.send(&validator, &set_weights(1, &[1], &[9], 0)).await.expect("weights set");
    assert_eq!(client.read::<_, Vec<(u16, u16)>>("Weights", (1u16, 0u16)).await, [(1, 65_535)]);
    client.blocks(6).await;
    assert_eq!(client.read::<_, Vec<u16>>("Incentive", (1u16,)).await, [0, 65_535]);
    assert_eq!(client.read::<_, Vec<u16>>("Dividends", (1u16,)).await, [65_535, 0]);
    assert_eq!(client.read::<_, Vec<u16>>("Consensus", (1u16,)).await, [0, 65_535]);
    let last_epoch: u64 = client.read("LastEpochBlock", (1u16,)).await;
    assert!(last_epoch.is_multiple_of(5), "{last_epoch}");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_weights_checks_in_mainnets_order() {
    let options = Options { weights_rate_limit: Some(1000), ..Options::default() };
    let net = Net::start(options).await;
    let client = &net.client;
    let (alice, bob) = (dev::alice(), dev::bob());
    let outcome = async |uids: &[u16], weights: &[u16], netuid: u16| {
        client.send(&bob, &set_weights(netuid, uids, weights, 0)).await.expect_err("refused")
    };
    // Subnets that do not exist have commit-reveal on by default, here as on mainnet.
    assert_eq!(outcome(&[0], &[1], 9).await, "SubtensorModule::CommitRevealEnabled");
    assert_eq!(outcome(&[0], &[1, 2], 1).await, "SubtensorModule::WeightVecNotEqualSize");
    assert_eq!(outcome(&[0], &[1], 1).await, "SubtensorModule::UidsLengthExceedUidsInSubNet");
    client.send(&alice, &register(1, &alice)).await.expect("registered");
    assert_eq!(outcome(&[0], &[1], 1).await, "SubtensorModule::HotKeyNotRegisteredInSubNet");
    client.send(&alice, &register(1, &bob)).await.expect("registered");
    // A registration counts as an update.
    assert_eq!(outcome(&[0], &[1], 1).await, "SubtensorModule::SettingWeightsTooFast");
    let again = client.send(&alice, &register(1, &bob)).await;
    assert_eq!(again, Err("SubtensorModule::HotKeyAlreadyRegisteredInSubNet".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_must_name_each_uid_once_and_uids_that_exist() {
    let net = Net::start(Options { weights_rate_limit: Some(0), ..Options::default() }).await;
    let client = &net.client;
    let (alice, bob) = (dev::alice(), dev::bob());
    for hotkey in [&alice, &bob] {
        client.send(&alice, &register(1, hotkey)).await.expect("registered");
    }
    let lone = client.send(&bob, &set_weights(1, &[1], &[1], 0)).await;
    assert!(lone.is_ok(), "a single weight on itself needs no permit: {lone:?}");
    let none = client.send(&bob, &set_weights(1, &[0, 1], &[1, 1], 0)).await;
    assert_eq!(none, Err("SubtensorModule::NeuronNoValidatorPermit".into()));
    client.send(&alice, &add_stake(1, &bob, 2_000_000)).await.expect("staked");
    let twice = client.send(&bob, &set_weights(1, &[0, 0], &[1, 1], 0)).await;
    assert_eq!(twice, Err("SubtensorModule::DuplicateUids".into()));
    let unknown = client.send(&bob, &set_weights(1, &[0, 2], &[1, 1], 0)).await;
    assert_eq!(unknown, Err("SubtensorModule::UidVecContainInvalidOne".into()));
    let empty = client.send(&bob, &set_weights(1, &[], &[], 0)).await;
    assert_eq!(empty, Err("SubtensorModule::WeightVecLengthIsLow".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_with_commit_reveal_refuses_plain_weights() {
    let net = Net::start(Options { commit_reveal: true, ..Options::default() }).await;
    let refused = net.client.send(&dev::bob(), &set_weights(1, &[0], &[1], 0)).await;
    assert_eq!(refused, Err("SubtensorModule::CommitRevealEnabled".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_subnet_replaces_the_least_paid_outside_immunity() {
    let options = Options { max_uids: 2, immunity_blocks: 20, tempo: Some(3), ..Options::default() };
    let net = Net::start(Options { weights_rate_limit: Some(0), ..options }).await;
    let client = &net.client;
    let alice = dev::alice();
    let keys: Vec<_> = (0..4).map(|index| key(&format!("//worker/{index}"))).collect();
    client.send(&alice, &register(1, &keys[0])).await.expect("uid 0");
    client.send(&alice, &register(1, &keys[1])).await.expect("uid 1");
    let full = client.send(&alice, &register(1, &keys[2])).await;
    assert_eq!(full, Err("SubtensorModule::NoNeuronIdAvailable".into()), "both are immune");

    client.send(&alice, &add_stake(1, &keys[0], 1_000_000_000)).await.expect("staked");
    client.send(&alice, &transfer(&keys[0], 1_000_000_000)).await.expect("existence");
    client.send(&keys[0], &set_weights(1, &[1], &[1], 0)).await.expect("weights set");
    client.blocks(20).await;
    // Both earn the same: miner and validator share alike. The older one goes.
    client.send(&alice, &register(1, &keys[2])).await.expect("replaced one");
    assert_eq!(client.read::<_, [u8; 32]>("Keys", (1u16, 0u16)).await, keys[2].public_key().0);
    assert_eq!(client.read::<_, u16>("SubnetworkN", (1u16,)).await, 2);
    assert!(!client.read::<_, bool>("IsNetworkMember", (keys[0].public_key().0, 1u16)).await);
    assert!(client.read::<_, Vec<(u16, u16)>>("Weights", (1u16, 0u16)).await.is_empty());
    let at = client.api.at_current_block().await.expect("a block");
    let uids = subxt::dynamic::storage::<(u16, [u8; 32]), u16>("SubtensorModule", "Uids");
    let gone = at.storage().try_fetch(uids, (1u16, keys[0].public_key().0)).await.expect("an answer");
    assert!(gone.is_none());
    for entry in ["Incentive", "Dividends", "Consensus", "ValidatorTrust"] {
        assert_eq!(client.read::<_, Vec<u16>>(entry, (1u16,)).await.len(), 2, "{entry}");
    }
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_names_the_owners_hotkey() {
    let net = Net::start(Options::default()).await;
    let client = &net.client;
    let (alice, bob) = (dev::alice(), dev::bob());
    let refused = client.send(&bob, &set_owner_hotkey(1, &bob)).await;
    assert!(refused.is_err_and(|error| error.to_lowercase().contains("bad origin")));
    client.send(&alice, &set_owner_hotkey(1, &bob)).await.expect("set");
    assert_eq!(client.read::<_, [u8; 32]>("SubnetOwnerHotkey", (1u16,)).await, bob.public_key().0);
    net.stop().await;
}
