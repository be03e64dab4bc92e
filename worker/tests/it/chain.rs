//! The chain client against a real chain: many nodes at once, refusals by name, cut connections, restarts.

use std::{collections::BTreeSet, net::SocketAddr};

use bistro_api::{Role, settings};
use bistro_devnet::{Devnet, Options};
use bistro_worker::chain::{Chain, DevWallet, Error, Hotkey, Identity, bootstrap};

use crate::support::{Proxy, connect, connect_to, devnet, quick, soon, telemetry};

const NETUID: u16 = 1;

async fn start(url: String, role: Role, ordinal: u32) -> (Identity, Option<u16>, Chain) {
    let chain = connect(&url).await;
    let identity = Identity::Development(DevWallet::derive("default", role.as_str(), role.as_str(), ordinal));
    let uid = soon(bootstrap(&chain, &identity, role, NETUID, ordinal)).await.expect("it gets its place");
    (identity, uid, chain)
}

#[tokio::test]
async fn sixteen_nodes_get_their_places_at_once_and_keep_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let mut roles = vec![(Role::Averager, 0)];
    roles.extend((0..3).map(|ordinal| (Role::Validator, ordinal)));
    roles.extend((0..12).map(|ordinal| (Role::Miner, ordinal)));
    let tasks: Vec<_> = roles.iter().map(|(role, n)| tokio::spawn(start(devnet.rpc_url(), *role, *n))).collect();
    let mut uids = BTreeSet::new();
    let mut owner = None;
    for (task, (role, _)) in tasks.into_iter().zip(&roles) {
        let (identity, uid, _) = task.await.expect("no panic");
        match role {
            Role::Averager => owner = Some(identity.hotkey().public()),
            Role::Miner | Role::Validator => drop(uids.insert(uid.expect("miners and validators have a uid"))),
        }
    }
    assert_eq!(uids, (0..15).collect(), "each has a uid of its own");

    let chain = connect(&devnet.rpc_url()).await;
    let at = chain.head().hash;
    assert_eq!(chain.name(), bistro_devnet::CHAIN_NAME);
    assert_eq!(chain.genesis(), devnet.genesis());
    assert_eq!(Some(chain.owner_hotkey(NETUID, at).await.expect("readable")), owner);
    let neurons = chain.neurons(NETUID, at).await.expect("readable");
    assert_eq!(neurons.iter().map(|neuron| neuron.uid).collect::<BTreeSet<_>>(), uids);
    let registered = chain.blocks_at_registration(NETUID, at).await.expect("readable");
    assert_eq!(registered.len(), 15);
    assert_eq!(chain.block_at_registration(NETUID, 3, at).await.expect("readable"), registered[3].1);

    // A restart finds everything done: the same uid, and no further registration.
    let (_, again, _) = start(devnet.rpc_url(), Role::Validator, 1).await;
    assert!(uids.contains(&again.expect("a uid")));
    assert_eq!(chain.neurons(NETUID, chain.head().hash).await.expect("readable").len(), 15);
    devnet.shutdown().await;
}

#[tokio::test]
async fn weights_become_final_and_refusals_have_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let (miner, _) = tokio::join!(start(devnet.rpc_url(), Role::Miner, 0), start(devnet.rpc_url(), Role::Miner, 1));
    let (validator, uid, chain) = start(devnet.rpc_url(), Role::Validator, 0).await;
    let (uid, hotkey) = (uid.expect("a uid"), validator.hotkey());
    // The permit comes with an epoch, and the rate limit counts from the registration.
    chain.wait_for(chain.head().number + 21).await;
    let at = chain.head().hash;
    assert!(chain.validator_permit(NETUID, at).await.expect("readable")[usize::from(uid)], "it has stake");
    assert_eq!(chain.weights_rate_limit(NETUID, at).await.expect("readable"), 10);
    assert!(!chain.commit_reveal_enabled(NETUID, at).await.expect("readable"));

    let before = chain.head().number;
    let set = soon(chain.set_weights(hotkey, NETUID, &[(0, 65535), (1, 13107)], 0)).await.expect("accepted");
    assert!(set.block > before && set.block <= chain.head().number, "it is final when the call comes back");
    let at = chain.head().hash;
    let weights = chain.weights(NETUID, at).await.expect("readable");
    assert_eq!(weights, [(uid, vec![(0, 65535), (1, 13107)])]);
    assert_eq!(chain.last_update(NETUID, at).await.expect("readable")[usize::from(uid)], set.block);

    let refused = soon(chain.set_weights(hotkey, NETUID, &[(0, 1)], 0)).await.expect_err("too fast");
    match &refused {
        Error::Refused(refusal) => assert_eq!(refusal.name, "SettingWeightsTooFast"),
        other => panic!("{other}"),
    }
    assert!(refused.is_transient() && refused.to_string().contains("WeightsSetRateLimit"), "{refused}");

    let stranger = Hotkey::development("//stranger");
    let refused = soon(chain.set_weights(&stranger, NETUID, &[(0, 1)], 0)).await.expect_err("not registered");
    assert!(refused.to_string().contains("btcli subnet register"), "{refused}");

    // The next epoch pays the miners that got weights.
    let incentive = loop {
        let incentive = chain.incentive(NETUID, chain.head().hash).await.expect("readable");
        if incentive.iter().any(|share| *share > 0) {
            break incentive;
        }
        soon(chain.wait_for(chain.head().number + 1)).await;
    };
    let miner = usize::from(miner.1.expect("a uid"));
    assert!(incentive[0] > incentive[1] && incentive[miner] > 0, "in the order of the weights: {incentive:?}");
    let total: u32 = incentive.iter().map(|share| u32::from(*share)).sum();
    assert!((65_530..=65_535).contains(&total), "shares of one, each rounded down: {incentive:?}");
    devnet.shutdown().await;
}

#[tokio::test]
async fn weights_survive_cut_connections_and_are_set_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    start(devnet.rpc_url(), Role::Miner, 0).await;
    let (validator, uid, direct) = start(devnet.rpc_url(), Role::Validator, 0).await;
    let proxy = Proxy::to(address(&devnet)).await;
    let chain = connect(&format!("ws://{}", proxy.address)).await;
    let last_update = || async {
        let updates = direct.last_update(NETUID, direct.head().hash).await.expect("readable");
        updates[usize::from(uid.expect("a uid"))]
    };
    for cut_after in [30, 150, 350] {
        soon(chain.wait_for(chain.head().number + 21)).await;
        let before = chain.head().number;
        let cutting = async {
            tokio::time::sleep(std::time::Duration::from_millis(cut_after)).await;
            proxy.cut();
        };
        let setting = chain.set_weights(validator.hotkey(), NETUID, &[(0, 65535)], 0);
        let (set, ()) = soon(async { tokio::join!(setting, cutting) }).await;
        let set = set.expect("it comes through");
        direct.wait_for(set.block).await;
        let updated = last_update().await;
        assert!(updated > before && updated <= set.block, "{updated} is not in {before}..={}", set.block);
        // A second one that was on its way would come until the first one's last block.
        direct.wait_for(set.block + 80).await;
        assert_eq!(last_update().await, updated, "the weights were set twice");
    }
    devnet.shutdown().await;
}

fn address(devnet: &Devnet) -> SocketAddr {
    devnet.rpc_url().trim_start_matches("ws://").parse().expect("an address")
}

#[tokio::test]
async fn heads_have_no_gaps_over_cuts_and_a_restart_of_the_chain() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut net = devnet(folder.path()).await;
    let rpc = address(&net);
    let telemetry = telemetry();
    let proxy = Proxy::to(rpc).await;
    let chain = connect_to(&[format!("ws://{}", proxy.address)], telemetry.clone()).await;
    let mut heads = chain.heads();
    let mut last = *heads.borrow_and_update();
    let start = last.number;
    let mut cuts = 0;
    while last.number < start + 60 {
        soon(heads.changed()).await.expect("the clock goes on");
        let head = *heads.borrow_and_update();
        assert_eq!(head.number, last.number + 1, "no gap");
        assert!(head.timestamp_ms > last.timestamp_ms);
        last = head;
        match (head.number - start, cuts) {
            (15.., 0) | (45.., 2) => {
                proxy.cut();
                cuts += 1;
            }
            (30.., 1) => {
                net.shutdown().await;
                net = Devnet::start(Options { rpc, ..quick(folder.path()) }).await.expect("it starts again");
                cuts += 1;
            }
            _ => {}
        }
    }
    let early = chain.block(start + 2).await.expect("readable");
    assert_eq!(chain.block_hash(start + 2).await.expect("readable"), early.hash);
    assert_eq!(chain.timestamp_ms(early.hash).await.expect("readable"), early.timestamp_ms);
    let status = telemetry.status.read();
    assert!(status.chain.reachable && status.block >= Some(start + 60));
    net.shutdown().await;
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let endpoints = ["ws://127.0.0.1:1".to_owned(), devnet.rpc_url()];
    let chain = connect_to(&endpoints, telemetry()).await;
    assert_eq!(chain.genesis(), devnet.genesis());
    soon(chain.wait_for(chain.head().number + 2)).await;
    devnet.shutdown().await;
}

#[tokio::test]
async fn another_chain_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let net = devnet(folder.path()).await;
    let settings =
        settings::Chain { endpoints: vec![net.rpc_url()], genesis_hash: Some(format!("0x{}", "11".repeat(32))) };
    let refused = soon(Chain::connect(&settings, telemetry())).await.err().expect("another genesis hash");
    assert!(matches!(refused, Error::OtherChain { .. }) && refused.to_string().contains("genesisHash"), "{refused}");

    // The same address, another chain: whoever was connected must not go on as if nothing had happened.
    let chain = connect(&net.rpc_url()).await;
    let rpc = address(&net);
    let old = chain.head().hash;
    net.shutdown().await;
    let other = tempfile::tempdir().expect("a temporary folder");
    let net = Devnet::start(Options { rpc, ..quick(other.path()) }).await.expect("it starts");
    let refused = soon(chain.tempo(NETUID, old)).await.expect_err("another chain");
    assert!(matches!(refused, Error::OtherChain { .. }), "{refused}");
    net.shutdown().await;
}

#[tokio::test]
async fn development_keys_of_a_file_wait_for_their_registration() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let devnet = devnet(folder.path()).await;
    let telemetry = telemetry();
    let chain = connect_to(&[devnet.rpc_url()], telemetry.clone()).await;
    let wallet = DevWallet::derive("default", "miner", "miner", 0);
    let by_file = Identity::File(wallet.hotkey.clone());
    let waiting = tokio::spawn(async move { bootstrap(&chain, &by_file, Role::Miner, NETUID, 0).await });
    let told = async {
        while !telemetry.status.read().message.contains("is not registered on netuid 1") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon(told).await;
    let (_, uid, _) = start(devnet.rpc_url(), Role::Miner, 0).await;
    assert_eq!(soon(waiting).await.expect("no panic").expect("registered by somebody else"), uid);
    assert_eq!(telemetry.status.read().message, "");

    let chain = connect(&devnet.rpc_url()).await;
    let refused = soon(bootstrap(&chain, &Identity::File(wallet.hotkey), Role::Miner, 9, 0)).await;
    assert!(matches!(refused, Err(Error::NoSubnet { netuid: 9 })));
    devnet.shutdown().await;
}

#[tokio::test]
async fn state_that_the_chain_forgot_is_told_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = Options { block_time: std::time::Duration::from_millis(20), ..quick(folder.path()) };
    let devnet = Devnet::start(options).await.expect("a devnet starts");
    let chain = connect(&devnet.rpc_url()).await;
    let first = chain.block(chain.head().number).await.expect("readable");
    assert_eq!(chain.tempo(NETUID, first.hash).await.expect("still there"), 10);
    soon(chain.wait_for(first.number + 300)).await;
    let chain = connect(&devnet.rpc_url()).await;
    let refused = chain.tempo(NETUID, first.hash).await.expect_err("pruned");
    assert!(matches!(refused, Error::StatePruned { .. }), "{refused}");
    assert_eq!(chain.block_hash(first.number).await.expect("headers stay"), first.hash);
    devnet.shutdown().await;
}
