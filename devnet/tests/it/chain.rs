//! The chain through subxt's legacy backend, the way workers use it.

use crate::support::{
    Net, add_stake, address, key, pool_error, register, set_owner_hotkey, set_weights, transfer,
};
use bistro_devnet::Options;
use subxt::{
    config::DefaultExtrinsicParamsBuilder,
    rpcs::{Error as RpcError, rpc_params},
};
use subxt_signer::sr25519::dev;

#[tokio::test(flavor = "multi_thread")]
async fn finalised_blocks_come_without_gaps_and_hash_as_clients_compute() {
    let net = Net::start(Options::default()).await;
    assert_eq!(
        net.client.legacy.system_chain().await.expect("a name"),
        "Bistro devnet"
    );
    assert_eq!(net.client.api.genesis_hash().0, net.devnet.genesis());
    let mut stream = net.client.api.stream_blocks().await.expect("a stream");
    let mut last = None;
    for _ in 0..5 {
        let block = stream.next().await.expect("a block").expect("no error");
        assert!(last.is_none_or(|last| last + 1 == block.number()));
        last = Some(block.number());
        let hash = net
            .client
            .legacy
            .chain_get_block_hash(Some(block.number().into()))
            .await
            .expect("an answer");
        assert_eq!(hash, Some(block.hash()));
    }
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_registers_stakes_sets_weights_and_miners_are_paid() {
    let options = Options {
        weights_rate_limit: Some(2),
        tempo: Some(5),
        ..Options::default()
    };
    let net = Net::start(options).await;
    let client = &net.client;
    let (alice, validator, miner) = (dev::alice(), dev::bob(), dev::charlie());
    let events = client
        .send(&alice, &register(1, &validator))
        .await
        .expect("registered");
    assert!(
        events.contains(&"SubtensorModule.NeuronRegistered".to_string()),
        "{events:?}"
    );
    client
        .send(&alice, &register(1, &miner))
        .await
        .expect("registered");
    let uid: u16 = client.read("Uids", (1u16, validator.public_key().0)).await;
    assert_eq!(uid, 0);
    assert_eq!(client.read::<_, u16>("SubnetworkN", (1u16,)).await, 2);
    assert!(
        client
            .read::<_, bool>("IsNetworkMember", (miner.public_key().0, 1u16))
            .await
    );

    let refused = client
        .send(&validator, &set_weights(1, &[1], &[9], 0))
        .await;
    assert_eq!(
        refused,
        Err("SubtensorModule::NeuronNoValidatorPermit".into())
    );
    client
        .send(&alice, &add_stake(1, &validator, 5_000_000_000))
        .await
        .expect("staked");
    assert_eq!(
        client
            .read::<_, u64>("TotalHotkeyAlpha", (validator.public_key().0, 1u16))
            .await,
        5_000_000_000
    );
    assert_eq!(
        client
            .read::<_, Vec<bool>>("ValidatorPermit", (1u16,))
            .await,
        [true, false]
    );

    client
        .send(&validator, &set_weights(1, &[1], &[9], 0))
        .await
        .expect("weights set");
    assert_eq!(
        client
            .read::<_, Vec<(u16, u16)>>("Weights", (1u16, 0u16))
            .await,
        [(1, 65_535)]
    );
    client.blocks(6).await;
    assert_eq!(
        client.read::<_, Vec<u16>>("Incentive", (1u16,)).await,
        [0, 65_535]
    );
    assert_eq!(
        client.read::<_, Vec<u16>>("Dividends", (1u16,)).await,
        [65_535, 0]
    );
    assert_eq!(
        client.read::<_, Vec<u16>>("Consensus", (1u16,)).await,
        [0, 65_535]
    );
    let last_epoch: u64 = client.read("LastEpochBlock", (1u16,)).await;
    assert!(last_epoch.is_multiple_of(5), "{last_epoch}");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_weights_checks_in_mainnets_order() {
    let options = Options {
        weights_rate_limit: Some(1000),
        ..Options::default()
    };
    let net = Net::start(options).await;
    let client = &net.client;
    let (alice, bob) = (dev::alice(), dev::bob());
    let outcome = async |uids: &[u16], weights: &[u16], netuid: u16| {
        client
            .send(&bob, &set_weights(netuid, uids, weights, 0))
            .await
            .expect_err("refused")
    };
    // Subnets that do not exist have commit-reveal on by default, here as on mainnet.
    assert_eq!(
        outcome(&[0], &[1], 9).await,
        "SubtensorModule::CommitRevealEnabled"
    );
    assert_eq!(
        outcome(&[0], &[1, 2], 1).await,
        "SubtensorModule::WeightVecNotEqualSize"
    );
    assert_eq!(
        outcome(&[0], &[1], 1).await,
        "SubtensorModule::UidsLengthExceedUidsInSubNet"
    );
    client
        .send(&alice, &register(1, &alice))
        .await
        .expect("registered");
    assert_eq!(
        outcome(&[0], &[1], 1).await,
        "SubtensorModule::HotKeyNotRegisteredInSubNet"
    );
    client
        .send(&alice, &register(1, &bob))
        .await
        .expect("registered");
    // A registration counts as an update.
    assert_eq!(
        outcome(&[0], &[1], 1).await,
        "SubtensorModule::SettingWeightsTooFast"
    );
    let again = client.send(&alice, &register(1, &bob)).await;
    assert_eq!(
        again,
        Err("SubtensorModule::HotKeyAlreadyRegisteredInSubNet".into())
    );
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_must_name_each_uid_once_and_uids_that_exist() {
    let net = Net::start(Options {
        weights_rate_limit: Some(0),
        ..Options::default()
    })
    .await;
    let client = &net.client;
    let (alice, bob) = (dev::alice(), dev::bob());
    for hotkey in [&alice, &bob] {
        client
            .send(&alice, &register(1, hotkey))
            .await
            .expect("registered");
    }
    let lone = client.send(&bob, &set_weights(1, &[1], &[1], 0)).await;
    assert!(
        lone.is_ok(),
        "a single weight on itself needs no permit: {lone:?}"
    );
    let none = client
        .send(&bob, &set_weights(1, &[0, 1], &[1, 1], 0))
        .await;
    assert_eq!(none, Err("SubtensorModule::NeuronNoValidatorPermit".into()));
    client
        .send(&alice, &add_stake(1, &bob, 2_000_000))
        .await
        .expect("staked");
    let twice = client
        .send(&bob, &set_weights(1, &[0, 0], &[1, 1], 0))
        .await;
    assert_eq!(twice, Err("SubtensorModule::DuplicateUids".into()));
    let unknown = client
        .send(&bob, &set_weights(1, &[0, 2], &[1, 1], 0))
        .await;
    assert_eq!(
        unknown,
        Err("SubtensorModule::UidVecContainInvalidOne".into())
    );
    let empty = client.send(&bob, &set_weights(1, &[], &[], 0)).await;
    assert_eq!(empty, Err("SubtensorModule::WeightVecLengthIsLow".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_with_commit_reveal_refuses_plain_weights() {
    let net = Net::start(Options {
        commit_reveal: true,
        ..Options::default()
    })
    .await;
    let refused = net
        .client
        .send(&dev::bob(), &set_weights(1, &[0], &[1], 0))
        .await;
    assert_eq!(refused, Err("SubtensorModule::CommitRevealEnabled".into()));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_refuses_what_can_only_fail() {
    let net = Net::start(Options {
        stake_threshold: 1_000_000_000,
        ..Options::default()
    })
    .await;
    let client = &net.client;
    let (alice, bob) = (dev::alice(), dev::bob());
    let too_poor = client.send(&bob, &set_weights(1, &[0], &[1], 0)).await;
    assert_eq!(too_poor, Err("1010 \"Custom error: 1\"".into()));
    let penniless = client.send(&key("//Nobody"), &register(1, &bob)).await;
    let fees = "1010 \"Inability to pay some fees (e.g. account balance too low)\"";
    assert_eq!(penniless, Err(fees.into()));
    client
        .send(&alice, &register(1, &bob))
        .await
        .expect("registered");
    let at = client.api.at_current_block().await.expect("a block");
    let stale = DefaultExtrinsicParamsBuilder::new().nonce(0).build();
    let stale = at
        .tx()
        .sign_and_submit_then_watch(&register(1, &alice), &alice, stale)
        .await;
    assert_eq!(
        pool_error(&stale.err().expect("refused")),
        "1010 \"Transaction is outdated\""
    );
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_subnet_replaces_the_least_paid_outside_immunity() {
    let options = Options {
        max_uids: 2,
        immunity_blocks: 20,
        tempo: Some(3),
        ..Options::default()
    };
    let net = Net::start(Options {
        weights_rate_limit: Some(0),
        ..options
    })
    .await;
    let client = &net.client;
    let alice = dev::alice();
    let keys: Vec<_> = (0..4)
        .map(|index| key(&format!("//worker/{index}")))
        .collect();
    client
        .send(&alice, &register(1, &keys[0]))
        .await
        .expect("uid 0");
    client
        .send(&alice, &register(1, &keys[1]))
        .await
        .expect("uid 1");
    let full = client.send(&alice, &register(1, &keys[2])).await;
    assert_eq!(
        full,
        Err("SubtensorModule::NoNeuronIdAvailable".into()),
        "both are immune"
    );

    client
        .send(&alice, &add_stake(1, &keys[0], 1_000_000_000))
        .await
        .expect("staked");
    client
        .send(&alice, &transfer(&keys[0], 1_000_000_000))
        .await
        .expect("existence");
    client
        .send(&keys[0], &set_weights(1, &[1], &[1], 0))
        .await
        .expect("weights set");
    client.blocks(20).await;
    // Both earn the same: miner and validator share alike. The older one goes.
    client
        .send(&alice, &register(1, &keys[2]))
        .await
        .expect("replaced one");
    assert_eq!(
        client.read::<_, [u8; 32]>("Keys", (1u16, 0u16)).await,
        keys[2].public_key().0
    );
    assert_eq!(client.read::<_, u16>("SubnetworkN", (1u16,)).await, 2);
    assert!(
        !client
            .read::<_, bool>("IsNetworkMember", (keys[0].public_key().0, 1u16))
            .await
    );
    assert!(
        client
            .read::<_, Vec<(u16, u16)>>("Weights", (1u16, 0u16))
            .await
            .is_empty()
    );
    let at = client.api.at_current_block().await.expect("a block");
    let uids = subxt::dynamic::storage::<(u16, [u8; 32]), u16>("SubtensorModule", "Uids");
    let gone = at
        .storage()
        .try_fetch(uids, (1u16, keys[0].public_key().0))
        .await
        .expect("an answer");
    assert!(gone.is_none());
    for entry in ["Incentive", "Dividends", "Consensus", "ValidatorTrust"] {
        assert_eq!(
            client.read::<_, Vec<u16>>(entry, (1u16,)).await.len(),
            2,
            "{entry}"
        );
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
    client
        .send(&alice, &set_owner_hotkey(1, &bob))
        .await
        .expect("set");
    assert_eq!(
        client
            .read::<_, [u8; 32]>("SubnetOwnerHotkey", (1u16,))
            .await,
        bob.public_key().0
    );
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_transfers_of_one_account_are_finalised() {
    let net = Net::start(Options::default()).await;
    let client = &net.client;
    let (alice, to) = (dev::alice(), key("//somebody"));
    let first = client.next_nonce(&alice).await;
    let at = client.api.at_current_block().await.expect("a block");
    for nonce in first..first + 200 {
        let params = DefaultExtrinsicParamsBuilder::new()
            .nonce(nonce)
            .immortal()
            .build();
        let signed = at
            .tx()
            .create_signed(&mut transfer(&to, 1_000), &alice, params)
            .await
            .expect("signed");
        signed.submit().await.expect("taken");
    }
    client.blocks(12).await;
    let account = client.api.at_current_block().await.expect("a block");
    let nonce = account
        .tx()
        .account_nonce(&alice.public_key().to_account_id())
        .await
        .expect("a nonce");
    assert_eq!(nonce, first + 200);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_are_refused_and_change_nothing() {
    let net = Net::start(Options::default()).await;
    let rpc = &net.client.rpc;
    let refused = async |method: &str, params| {
        let answer: Result<serde_json::Value, RpcError> = rpc.request(method, params).await;
        answer.expect_err(method).to_string()
    };
    refused("author_submitExtrinsic", rpc_params!["0x0badc0de"]).await;
    refused("author_submitExtrinsic", rpc_params!["not hex"]).await;
    refused(
        "author_submitExtrinsic",
        rpc_params![format!("0x{}", "ff".repeat(1 << 20))],
    )
    .await;
    refused(
        "state_call",
        rpc_params!["AccountNonceApi_account_nonce", "0x00"],
    )
    .await;
    refused(
        "state_call",
        rpc_params!["TransactionPaymentApi_query_info", "0xffffffff"],
    )
    .await;
    refused(
        "state_call",
        rpc_params!["TaggedTransactionQueue_validate_transaction", "0x02ff"],
    )
    .await;
    refused("state_call", rpc_params!["Core_execute_block", "0x"]).await;
    refused("state_call", rpc_params!["No_such_method", "0x"]).await;
    refused("state_getKeysPaged", rpc_params!["0x", 1001]).await;
    refused("chain_getBlockHash", rpc_params!["0xffffffffffffffffffff"]).await;
    refused("system_accountNextIndex", rpc_params!["5nonsense"]).await;
    let unknown = refused(
        "state_getStorage",
        rpc_params!["0x00", format!("0x{}", "11".repeat(32))],
    )
    .await;
    assert!(
        unknown.contains("Header was not found in the database"),
        "{unknown}"
    );
    net.client.blocks(2).await;
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_of_other_clients_answer_the_same() {
    let net = Net::start(Options::default()).await;
    let rpc = &net.client.rpc;
    let alice = address(&dev::alice());
    let ask = async |method: &str, params| {
        rpc.request::<serde_json::Value>(method, params)
            .await
            .expect("an answer")
    };
    let nonce = ask("system_accountNextIndex", rpc_params![&alice]).await;
    assert_eq!(ask("account_nextIndex", rpc_params![&alice]).await, nonce);
    let version = ask("state_getRuntimeVersion", rpc_params![]).await;
    assert_eq!(version["specName"], "node-subtensor");
    assert_eq!(version["specVersion"], 424);
    assert_eq!(ask("chain_getRuntimeVersion", rpc_params![]).await, version);
    let listed = ask("rpc_methods", rpc_params![]).await.to_string();
    assert!(
        !listed.contains("chainHead_v1") && !listed.contains("archive_v1"),
        "clients would use nothing else"
    );
    net.stop().await;
}
