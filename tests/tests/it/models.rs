//! Whole models over a real bucket and chain: who leads is paid, who copies is not.

use bistro_api::{Role, settings::StartFrom};
use bistro_protocol::{
    artifact::{self, Content},
    check::{Commit, Verdict},
    hotkey::Hotkey,
    mechanism::loss_wins::Commitment,
    object::{self, Kind},
    record::Scores,
};
use bistro_worker::{bucket::Bucket, chain::DevWallet};
use bytes::Bytes;
use serde_json::json;

use crate::support::{Node, Subnet, digests, wait};

async fn subnet() -> Subnet {
    Subnet::start_with(|settings| {
        let mechanism = json!({ "lossWins": { "testPages": 4, "decayBlocks": 400 } });
        settings.run.mechanism = serde_json::from_value(mechanism).expect("sound settings");
        settings.run.schedule.snapshot_windows = 2;
    })
    .await
}

/// What a hotkey is committed to now, and its file, once that is in the bucket.
async fn model_of(subnet: &Subnet, bucket: &Bucket, hotkey: &Hotkey) -> (Commitment, Vec<u8>) {
    let (netuid, agreement) = (subnet.settings.netuid, subnet.agreement());
    wait(async || {
        let at = subnet.chain.head().hash;
        let found = subnet.chain.commitment(netuid, hotkey.0, at).await.expect("the chain answers")?;
        let commitment = Commitment::from_bytes(&found.bytes)?;
        let key = agreement.key(hotkey, commitment.window, Kind::Model);
        let found = bucket.get(&key, 64 << 20).await.expect("the bucket answers")?;
        Some((commitment, found.bytes.to_vec()))
    })
    .await
}

/// Signs somebody's model with its own key, commits to it, publishes it, and says so in every window that comes.
async fn copy(subnet: &Subnet, copier: &DevWallet, original: &[u8], windows: u64) {
    let (clock, agreement) = (subnet.clock(), subnet.agreement());
    let (bucket, hotkey) = (subnet.bucket(copier).await, Hotkey(copier.hotkey.public()));
    let window = clock.window_of(subnet.chain.head().number) + 1;
    let stolen = artifact::decode(original).expect("a sound file");
    let Content::Tensors(model) = &stolen.content else { panic!("a model is tensors") };
    let file = artifact::encode(&agreement, window, Kind::Model, copier.hotkey.keypair(), stolen.base, model);
    let commit = Commit::of(&file);
    let commitment = Commitment::of(&agreement, &hotkey, window, &commit.digest.0).to_bytes();
    subnet.chain.commit(&copier.hotkey, subnet.settings.netuid, &commitment).await.expect("it may commit");
    let put = async |window, kind, bytes: Vec<u8>| {
        bucket.put_new(&agreement.key(&hotkey, window, kind), Bytes::from(bytes)).await.expect("it may write there");
    };
    put(window, Kind::Model, file).await;
    for window in window..window + windows {
        subnet.chain.wait_for(clock.reveal(window)).await;
        let sealed = object::seal(&agreement, window, Kind::Commit, copier.hotkey.keypair(), &commit);
        put(window, Kind::Commit, sealed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_is_paid_and_a_copy_never() {
    let subnet = subnet().await;
    let averager = subnet.node(Role::Averager, "averager");
    let validators = ["one", "two"].map(|name| subnet.node(Role::Validator, name));
    let first = subnet.node(Role::Miner, "first");
    let copier = subnet.register(Role::Miner, "copier").await;
    let leader = Hotkey(subnet.wallet(Role::Miner, "first").hotkey.public());
    let bucket = subnet.bucket(&copier).await;
    let (_, original) = model_of(&subnet, &bucket, &leader).await;
    let copying = copy(&subnet, &copier, &original, 6);
    let two = subnet.wallet(Role::Validator, "two").hotkey.ss58();
    let (copied, leads) = (copier.hotkey.ss58(), leader.ss58());
    let seen = validators[0].until(|s| {
        let of = |hotkey: &str| s.scores.iter().find(|scored| scored.hotkey == hotkey);
        let both = of(&copied).is_some_and(|c| c.raw.is_some()) && of(&leads).is_some_and(|l| l.weight > 0.0);
        both && s.cross_checks.iter().any(|c| c.validator == two && c.difference.is_some())
    });
    let (status, ()) = tokio::join!(seen, copying);
    let scored = |hotkey: &str| status.scores.iter().find(|s| s.hotkey == hotkey).expect("scored");
    let copy = scored(&copied);
    assert_eq!((copy.verdict.as_str(), copy.raw, copy.average, copy.weight), ("accepted", Some(0.0), 0.0, 0.0));
    assert!(scored(&leads).raw > Some(0.0), "{:?}", status.scores);
    let check = status.cross_checks.iter().find(|c| c.validator == two).expect("compared");
    assert_eq!((check.difference, &check.fault), (Some(0.0), &None), "the same machine computes the same bits");

    // A late miner takes the best model, and a restart goes on with its own.
    let best = StartFrom { base: None, best: Some(Default::default()), ..StartFrom::default() };
    let late = subnet.node_with(Role::Miner, "late", |settings| settings.start_from = best);
    let start = late.until(|s| s.held_out_loss.is_some()).await.held_out_loss.expect("it shows its loss");
    let fresh = first
        .status()
        .await
        .expect("it answers")
        .history
        .first()
        .and_then(|r| r.held_out_loss)
        .expect("the first window's");
    assert!(start < fresh - 0.05, "{start} against {fresh} of the base");
    model_of(&subnet, &bucket, &Hotkey(subnet.wallet(Role::Miner, "late").hotkey.public())).await;
    late.stop().await;
    // Now its settings say that it starts from the base, which only counts for who has no model.
    let late = subnet.node(Role::Miner, "late");
    let again = late.until(|s| s.windows > 0).await;
    let resumed = again.history.iter().find_map(|r| r.held_out_loss).expect("it shows its loss");
    assert!(resumed < fresh - 0.05, "{resumed} against {fresh} of the base: it goes on with its own model");

    // There is one base, and it stays what it was.
    let nodes: Vec<Node> = [averager, first, late].into_iter().chain(validators).collect();
    let last = nodes[0].status().await.expect("it answers").base_window.expect("it works");
    let mut all = Vec::new();
    for node in &nodes {
        all.extend(digests(&node.until(|s| s.base_window >= Some(last)).await).into_values());
    }
    all.dedup();
    assert_eq!(all.len(), 1, "{all:?}");
    // Everything that scores depend on stands in the record.
    let one = subnet.wallet(Role::Validator, "one");
    let record = async |window| -> Scores { subnet.object(&one, window, Kind::Scores).await };
    let scores = record(last.saturating_sub(3)).await;
    let drawn = || scores.miners.iter().filter_map(|m| m.drawn.as_ref());
    assert!(
        scores.leaders && drawn().all(|e| e.verdict != Verdict::Accepted || (e.losses.len() == 4 && e.since.is_some()))
    );
    for node in nodes {
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}

/// A model is there as long as it is judged, however many windows ago it was published.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_kept_while_it_is_somebodys_best() {
    let subnet = Subnet::start_with(|settings| {
        // Nothing is ever better by so much after the first time.
        let mechanism = json!({ "lossWins": { "testPages": 2, "epsilon": "0.5", "floor": "0.2", "decayBlocks": 40 } });
        settings.run.mechanism = serde_json::from_value(mechanism).expect("sound settings");
        settings.run.schedule.snapshot_windows = 1;
    })
    .await;
    let nodes = [(Role::Averager, "averager"), (Role::Validator, "validator"), (Role::Miner, "miner")];
    let nodes = nodes.map(|(role, name)| subnet.node(role, name));
    let wallet = subnet.wallet(Role::Miner, "miner");
    let (bucket, hotkey) = (subnet.bucket(&wallet).await, Hotkey(wallet.hotkey.public()));
    nodes[2].until(|s| s.windows >= 8).await;
    let (commitment, _) = model_of(&subnet, &bucket, &hotkey).await;
    let listed = bucket.list(&subnet.agreement().folder(&hotkey), 1000).await.expect("listed");
    let windows = listed.iter().filter(|(key, _)| key.ends_with("commit.json")).count();
    assert!(windows < 8, "what nobody needs is deleted: {listed:?}");
    assert!(listed.iter().any(|(key, _)| *key == subnet.agreement().key(&hotkey, commitment.window, Kind::Model)));
    for node in nodes {
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}
