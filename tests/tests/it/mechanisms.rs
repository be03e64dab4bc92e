//! Every mechanism over a real bucket and chain.

use std::collections::BTreeMap;

use bistro_api::{
    NodeStatus, Role,
    run::{InnerOptimizer, Training},
};
use bistro_protocol::{
    artifact::{self, Content, Form},
    check::Commit,
    hotkey::Hotkey,
    merge::{merged, mix},
    object::Kind,
    tensors::Tensors,
};
use serde_json::{Value, json};

use crate::support::{Node, Subnet, digests};

/// Two miners and two validators until a late miner has caught up from a snapshot: everybody holds the same bases, both
/// validators come to the same scores, and both miners are paid.
async fn turns(mechanism: Value, change: impl FnOnce(&mut Training)) -> (Subnet, Vec<Node>, u64) {
    let subnet = Subnet::start_with(|settings| {
        settings.run.mechanism = serde_json::from_value(mechanism).expect("sound settings");
        settings.run.schedule.snapshot_windows = 2;
        change(&mut settings.run.training);
    })
    .await;
    let averager = subnet.node(Role::Averager, "averager");
    let validators = ["one", "two"].map(|name| subnet.node(Role::Validator, name));
    let miners = ["first", "second"].map(|name| subnet.node(Role::Miner, name));
    let two = subnet.wallet(Role::Validator, "two").hotkey.ss58();
    let compared = |s: &NodeStatus| s.cross_checks.iter().any(|c| c.validator == two && c.difference.is_some());
    let hotkeys = ["first", "second"].map(|name| subnet.wallet(Role::Miner, name).hotkey.ss58());
    // Which pages are whose is chance: where a mechanism asks who learned from its own, a few windows may say nobody.
    let paid = |s: &NodeStatus| {
        let scored = |hotkey: &String| s.scores.iter().find(|scored| scored.hotkey == *hotkey);
        hotkeys.iter().all(|hotkey| scored(hotkey).is_some_and(|s| s.verdict == "accepted" && s.average > 0.0))
    };
    let status = validators[0].until(|s| s.first_weights_block.is_some() && compared(s) && paid(s)).await;
    let check = status.cross_checks.iter().find(|c| c.validator == two).expect("compared");
    assert_eq!(check.difference, Some(0.0), "the same machine computes the same bits");
    let late = subnet.node(Role::Miner, "late");
    let last = late.until(|s| s.windows > 0).await.base_window.expect("it works");
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    let nodes: Vec<Node> = [averager, late].into_iter().chain(validators).chain(miners).collect();
    for node in &nodes {
        let status = node.until(|s| s.base_window >= Some(last)).await;
        for (window, digest) in digests(&status) {
            assert_eq!(*seen.entry(window).or_insert_with(|| digest.clone()), digest, "{} in {window}", status.role);
        }
    }
    assert_ne!(seen[&last], seen[&0], "the base has moved");
    (subnet, nodes, last)
}

async fn end(subnet: Subnet, nodes: Vec<Node>) {
    for node in nodes {
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}

/// Its base has a state of its own, which a late miner takes from a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn gradients_move_a_base_with_moments() {
    let one_step = |training: &mut Training| (training.inner_steps, training.batch_sequences) = (1, 8);
    let (subnet, nodes, _) = turns(json!({ "gradientDifference": { "sliceRatio": 4 } }), one_step).await;
    end(subnet, nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_paid_by_what_their_absence_costs() {
    let (subnet, nodes, _) = turns(json!({ "taylor": { "sliceRatio": 4, "order": 2 } }), |_| ()).await;
    end(subnet, nodes).await;
}

/// Whoever has the artifacts and the manifest mixes the same aggregate again, to the last bit.
#[tokio::test(flavor = "multi_thread")]
async fn anybody_can_mix_what_an_averager_mixed() {
    let (subnet, nodes, last) = turns(json!({ "lossReduction": { "sliceRatio": 2, "testPages": 2 } }), |_| ()).await;
    let (agreement, averager) = (subnet.agreement(), subnet.wallet(Role::Averager, "averager"));
    let bucket = subnet.bucket(&averager).await;
    let read = async |hotkey: &Hotkey, window: u64, kind: Kind| -> Vec<u8> {
        let key = agreement.key(hotkey, window, kind);
        bucket.get(&key, 1 << 26).await.expect("the bucket answers").expect("it is kept for two snapshots").bytes.into()
    };
    let window = last - 1;
    let manifest = subnet.manifest(window).await;
    let mut works: Vec<Tensors> = Vec::new();
    for entry in manifest.neurons.iter().filter(|e| manifest.admitted.contains(&e.uid)) {
        let file = read(&entry.hotkey, window, Kind::Delta).await;
        works.push(tensors(&file));
    }
    let weights: Vec<f32> = manifest.mixing.iter().map(|w| w.0).collect();
    let works: Vec<&Tensors> = works.iter().collect();
    assert!(!works.is_empty() && weights.len() == works.len() * works[0].len(), "a weight for each work and tensor");
    let aggregate = read(&Hotkey(averager.hotkey.public()), window, Kind::Aggregate).await;
    assert_eq!(manifest.aggregate, Some(Commit::of(&aggregate).digest));
    assert_eq!(mix(&works, &weights), Some(tensors(&aggregate)));
    end(subnet, nodes).await;
}

fn tensors(file: &[u8]) -> Tensors {
    match artifact::decode(file).expect("a sound file").content {
        Content::Tensors(tensors) => tensors,
        Content::TopK(_) => panic!("compressed work"),
    }
}

/// The work of a run with compressed deltas: within its bound, a small part of what it would be, and merged as it is read.
async fn is_compressed(subnet: &Subnet, window: u64) {
    let (agreement, averager) = (subnet.agreement(), subnet.wallet(Role::Averager, "averager"));
    let (bucket, manifest) = (subnet.bucket(&averager).await, subnet.manifest(window).await);
    let read = async |hotkey: &Hotkey, kind: Kind| -> Vec<u8> {
        let key = agreement.key(hotkey, window, kind);
        bucket.get(&key, 1 << 26).await.expect("the bucket answers").expect("it is kept for two snapshots").bytes.into()
    };
    let aggregate = tensors(&read(&Hotkey(averager.hotkey.public()), Kind::Aggregate).await);
    let (shape, run) = (aggregate.shape(), &subnet.settings.run);
    let form = bistro_protocol::mechanism::of(run).form();
    let mut works = Vec::new();
    for entry in manifest.neurons.iter().filter(|e| manifest.admitted.contains(&e.uid)) {
        let file = read(&entry.hotkey, Kind::Delta).await;
        let size = file.len() as u64;
        assert!(size <= form.max_bytes(&shape) && size < 4 * aggregate.elements() as u64 / 10, "{size} bytes");
        let content = artifact::decode(&file).expect("canonical").content;
        assert_eq!(Form::Dense.read(content.clone(), &shape), None);
        works.push(form.read(content, &shape).expect("as the run says"));
    }
    let mixing: Vec<f32> = manifest.mixing.iter().map(|w| w.0).collect();
    let works: Vec<&Tensors> = works.iter().collect();
    assert!(!works.is_empty());
    assert_eq!(merged(&run.merge.rule, &works, &mixing), Some(aggregate));
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_deltas_are_merged_and_paid() {
    let compression = json!({ "topK": { "k": 64 } });
    let mechanism = json!({ "cosine": { "sliceRatio": 1, "compression": compression } });
    let (subnet, nodes, last) = turns(mechanism, |_| ()).await;
    is_compressed(&subnet, last - 1).await;
    end(subnet, nodes).await;
}

/// With fresh moments, so that each work is audited; honest work passes to the last bit.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_deltas_are_weighed_audited_and_paid() {
    let compression = json!({ "topK": { "k": 256, "values": "bf16", "decay": "0" } });
    let mechanism = json!({ "lossReduction": { "testPages": 2, "compression": compression } });
    let fresh = |training: &mut Training| training.inner_optimizer = InnerOptimizer::Fresh;
    let (subnet, nodes, last) = turns(mechanism, fresh).await;
    is_compressed(&subnet, last - 1).await;
    for validator in nodes.iter().skip(2).take(2) {
        let status = validator.status().await.expect("it answers");
        assert_eq!(status.verdicts.get("recompute"), None, "{:?}", status.verdicts);
        assert!(status.scores.iter().all(|s| s.verdict != "recompute"), "{:?}", status.scores);
    }
    end(subnet, nodes).await;
}
