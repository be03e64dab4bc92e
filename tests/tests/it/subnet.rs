//! A whole subnet: the loop turns, an attacker changes nothing, a killed node goes on.

use std::collections::BTreeMap;

use bistro_api::Role;
use bistro_protocol::{
    artifact,
    check::{Commit, Verdict},
    hotkey::Hotkey,
    object::{self, Kind},
    tensors::{Tensor, Tensors},
};
use bistro_worker::chain::{DevWallet, Hotkey as Wallet, Identity, bootstrap};
use bytes::Bytes;

use crate::support::{Subnet, digests, wait};

/// Publishes, in time and under its own hotkey, work that another key signed.
async fn publish_forged_work(subnet: &Subnet, wallet: &DevWallet, window: u64) {
    let (agreement, clock, bucket) = (subnet.agreement(), subnet.clock(), subnet.bucket(wallet).await);
    let stranger = Wallet::development("//Stranger");
    let work = Tensors::new(vec![Tensor { name: "w".into(), shape: vec![1], data: vec![1.0] }]).expect("valid");
    let file = artifact::encode(&agreement, window, Kind::Delta, stranger.keypair(), [0; 32], &work);
    let commit = object::seal(&agreement, window, Kind::Commit, wallet.hotkey.keypair(), &Commit::of(&file));
    let hotkey = Hotkey(wallet.hotkey.public());
    let put = async |kind, bytes: Vec<u8>| {
        bucket.put_new(&agreement.key(&hotkey, window, kind), Bytes::from(bytes)).await.expect("it may write there")
    };
    subnet.chain.wait_for(clock.reveal(window)).await;
    put(Kind::Commit, commit).await;
    subnet.chain.wait_for(clock.commits_close(window)).await;
    put(Kind::Delta, file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_trains_pays_and_survives_a_forger_and_a_kill() {
    let subnet = Subnet::start().await;
    let averager = subnet.node(Role::Averager, "averager");
    let validator = subnet.node(Role::Validator, "validator");
    let first = subnet.node(Role::Miner, "first");
    let second = subnet.node(Role::Miner, "second");
    let forger = subnet.wallet(Role::Miner, "forger");
    let identity = Identity::Development(forger.clone());
    bootstrap(&subnet.chain, &identity, Role::Miner, subnet.settings.netuid, 0).await.expect("the devnet registers it");

    // The forger attacks in the first window that everybody is registered for; nobody else notices.
    let window = wait(async || first.status().await.filter(|s| s.uid.is_some() && s.base_window.is_some())).await;
    let window = subnet.clock().window_of(subnet.chain.head().number).max(window.base_window.unwrap_or(0)) + 1;
    publish_forged_work(&subnet, &forger, window).await;
    assert_eq!(subnet.verdict(window, &forger).await, Some(Verdict::Forged));
    for miner in ["first", "second"] {
        let wallet = subnet.wallet(Role::Miner, miner);
        assert_eq!(subnet.verdict(window, &wallet).await, Some(Verdict::Accepted), "{miner} in window {window}");
    }

    // A miner is killed between its commit and its upload, and started again on what it left: it uploads the
    // very file that it committed to.
    let wallet = subnet.wallet(Role::Miner, "first");
    let key = subnet.agreement().key(&Hotkey(wallet.hotkey.public()), window + 1, Kind::Commit);
    let bucket = subnet.bucket(&wallet).await;
    wait(async || bucket.head(&key).await.expect("the bucket answers")).await;
    first.kill().await;
    let first = subnet.node(Role::Miner, "first");
    assert_eq!(subnet.verdict(window + 1, &wallet).await, Some(Verdict::Accepted), "the killed miner's work counts");
    assert_eq!(subnet.verdict(window + 2, &wallet).await, Some(Verdict::Accepted), "and it works again");

    // Everybody holds the same base before every window.
    let last = window + 3;
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    for node in [&averager, &validator, &first, &second] {
        let status = node.until(|s| s.base_window >= Some(last)).await;
        for (window, digest) in digests(&status) {
            assert_eq!(*seen.entry(window).or_insert_with(|| digest.clone()), digest, "{} in {window}", status.role);
        }
    }
    assert!(seen[&last] != seen[&window], "the base has moved");

    // The validator saw the forgery, pays it nothing, and its weights reach the chain.
    let status = validator.until(|s| s.first_weights_block.is_some()).await;
    let of = |wallet: &DevWallet| status.scores.iter().find(|s| s.hotkey == wallet.hotkey.ss58());
    let forged = of(&forger).expect("it committed, so it was judged");
    assert_eq!((forged.average, forged.weight), (0.0, 0.0));
    let honest = ["first", "second"].map(|m| of(&subnet.wallet(Role::Miner, m)).map_or(0.0, |s| s.weight));
    assert!(honest.iter().sum::<f64>() > 0.99, "{honest:?}");
    for node in [averager, validator, first, second] {
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}
