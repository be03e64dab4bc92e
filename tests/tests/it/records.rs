//! Two validators: what they publish, what follows from it, and a third one that copies.

use bistro_api::{NodeStatus, Role};
use bistro_protocol::{
    check::Verdict,
    object::{self, Hex32, Kind},
    record::{Scores, Verdicts},
};
use bistro_worker::chain::DevWallet;
use bytes::Bytes;

use crate::support::{Node, Subnet, wait};

/// The newest record of `wallet` whose weights were seen on the chain, at or after `window`.
async fn record_with_weights(subnet: &Subnet, wallet: &DevWallet, mut window: u64) -> (u64, Scores) {
    loop {
        let scores: Scores = subnet.object(wallet, window, Kind::Scores).await;
        if scores.weights_block.is_some() {
            return (window, scores);
        }
        window += 1;
    }
}

/// Signs what another validator published with a key of its own, in every window, until somebody notices.
async fn copy_records(subnet: &Subnet, from: &DevWallet, copier: &DevWallet, mut window: u64) {
    let (bucket, hotkey) = (subnet.bucket(copier).await, bistro_protocol::hotkey::Hotkey(copier.hotkey.public()));
    loop {
        let scores: Scores = subnet.object(from, window, Kind::Scores).await;
        let copy = object::seal(&subnet.agreement(), window, Kind::Scores, copier.hotkey.keypair(), &scores);
        let key = subnet.agreement().key(&hotkey, window, Kind::Scores);
        bucket.put_new(&key, Bytes::from(copy)).await.expect("it may write there");
        window += 1;
    }
}

async fn weights_on_chain(subnet: &Subnet, wallet: &DevWallet, block: u64) -> Vec<(u16, u16)> {
    let at = subnet.chain.block_hash(block).await.expect("a recent block");
    let netuid = subnet.settings.netuid;
    let uid = subnet.chain.uid(netuid, wallet.hotkey.public(), at).await.expect("answered").expect("registered");
    let rows = subnet.chain.weights(netuid, at).await.expect("answered");
    rows.into_iter().find(|(u, _)| *u == uid).map(|(_, row)| row).expect("it has set weights")
}

fn checked<'a>(status: &'a NodeStatus, of: &DevWallet) -> Option<&'a bistro_api::status::CrossCheck> {
    status.cross_checks.iter().find(|c| c.validator == of.hotkey.ss58())
}

/// Every weight on the chain follows from published records; two validators come to the same scores; one that signs
/// another's record is named.
#[tokio::test(flavor = "multi_thread")]
async fn weights_follow_from_records_and_a_copied_record_is_found() {
    let subnet = Subnet::start_with(|s| s.scoring.evaluations_per_window = 2).await;
    let averager = subnet.node(Role::Averager, "averager");
    let validators = ["one", "two"].map(|name| subnet.node(Role::Validator, name));
    let miners = ["a", "b", "c"].map(|name| subnet.node(Role::Miner, name));
    let [one, two] = ["one", "two"].map(|name| subnet.wallet(Role::Validator, name));
    let copier = subnet.register(Role::Validator, "copier").await;
    let first = wait(async || validators[0].status().await?.first_weights_block).await;
    let scored = subnet.clock().window_of(first).saturating_sub(1);

    let (window, scores) = record_with_weights(&subnet, &one, scored).await;
    assert_eq!(scores.check(&bistro_protocol::hotkey::Hotkey(one.hotkey.public())), Ok(()));
    let mut visible = weights_on_chain(&subnet, &one, scores.weights_block.expect("seen")).await;
    let mut recomputed = scores.weights();
    visible.sort_unstable();
    recomputed.sort_unstable();
    assert_eq!(visible, recomputed, "the weights on the chain follow from the record of window {window}");
    assert!(scores.miners.iter().filter(|m| m.drawn.is_some()).count() <= 2);
    let end = subnet.chain.block_hash(subnet.clock().end(window)).await.expect("a recent block");
    assert_eq!(scores.end, Hex32(end));
    let verdicts: Verdicts = subnet.object(&one, window, Kind::Verdicts).await;
    assert_eq!(verdicts.verdicts.len(), 3, "everybody who committed, drawn or not");
    assert!(verdicts.verdicts.iter().all(|j| j.verdict == Verdict::Accepted && j.disputed.is_none()));

    let honest = validators[0].until(|s| checked(s, &two).is_some_and(|c| c.difference.is_some())).await;
    let difference = checked(&honest, &two).and_then(|c| c.difference).expect("compared");
    assert_eq!(difference, 0.0, "the same machine computes the same bits");
    tokio::select! {
        () = copy_records(&subnet, &one, &copier, window + 1) => {}
        found = validators[1].until(|s| checked(s, &copier).is_some_and(|c| c.fault.is_some())) => {
            let fault = checked(&found, &copier).and_then(|c| c.fault.clone()).expect("found");
            assert!(fault.contains("draws other miners"), "{fault}");
        }
    }
    stop([vec![averager], validators.into(), miners.into()].into_iter().flatten()).await;
    subnet.devnet.shutdown().await;
}

async fn stop(nodes: impl Iterator<Item = Node>) {
    for node in nodes {
        node.stop().await;
    }
}
