//! Who is on the subnet with valid, signed, recent objects.

use std::collections::BTreeMap;

use bistro_protocol::{
    check::{Commit, MAX_COMMIT, Verdict},
    hotkey::Hotkey,
    object::{self, Kind},
    record::{Evaluation, Scores},
};
use serde_json::{Value, json};

use super::{
    manifests, record, share, span,
    table::{Table, rounded},
    validators as permitted, weight_of,
};
use crate::{bucket::Object, failure::Failure, node::Node};

/// The newest work of every miner that published any.
pub(super) async fn miners(node: &Node, windows: u64) -> Result<Table, Failure> {
    let columns = ["uid", "hotkey", "incentive", "window", "verdict", "bytes", "loss", "score", "time"];
    let mut table = Table::new(&columns);
    let (now, first) = span(node, windows);
    let mut newest: BTreeMap<u16, (u64, Hotkey, Verdict)> = BTreeMap::new();
    for (window, manifest) in manifests(node, first..=now).await? {
        for entry in manifest.neurons.iter().filter(|e| e.verdict != Verdict::NoCommit) {
            newest.entry(entry.uid).or_insert((window, entry.hotkey, entry.verdict));
        }
    }
    let found = newest_evaluations(node, first, now).await?;
    let incentive = node.chain.incentive(node.settings.netuid, node.head().hash).await?;
    for (uid, (window, hotkey, verdict)) in newest {
        let committed = commit(node, &hotkey, window).await?;
        let (size, time) = committed.map(|(commit, time)| (commit.size, time)).unzip();
        let evaluation = found.get(&hotkey);
        table.push(vec![
            uid.into(),
            hotkey.ss58().into(),
            share(incentive.get(usize::from(uid)).copied().unwrap_or(0)),
            window.into(),
            verdict.as_str().into(),
            json!(size),
            evaluation.and_then(|e| e.loss).map_or(Value::Null, |loss| rounded(loss.0, 4)),
            evaluation.and_then(|e| e.raw).map_or(Value::Null, |raw| rounded(raw.0, 4)),
            time.and_then(|time| jiff::Timestamp::from_second(time).ok())
                .map_or(Value::Null, |time| time.to_string().into()),
        ]);
    }
    Ok(table)
}

/// The newest record of every validator.
pub(super) async fn validators(node: &Node, windows: u64) -> Result<Table, Failure> {
    let columns = ["uid", "hotkey", "incentive", "window", "drawn", "accepted", "paid", "weights_block", "updated"];
    let mut table = Table::new(&columns);
    let (now, first) = span(node, windows);
    let (netuid, at) = (node.settings.netuid, node.head().hash);
    let incentive = node.chain.incentive(netuid, at).await?;
    let updated = node.chain.last_update(netuid, at).await?;
    for (uid, hotkey) in permitted(node).await? {
        let newest = newest_record(node, &hotkey, first, now).await?;
        let (window, scores) = newest.unzip();
        let drawn = |s: &Scores| s.miners.iter().filter(|m| m.drawn.is_some()).count();
        let accepted =
            |s: &Scores| s.miners.iter().filter(|m| m.drawn.as_ref().is_some_and(|e| e.raw.is_some())).count();
        let paid = |s: &Scores| s.miners.iter().filter(|m| m.weight > 0).count();
        let at = usize::from(uid);
        table.push(vec![
            uid.into(),
            hotkey.ss58().into(),
            share(incentive.get(at).copied().unwrap_or(0)),
            json!(window),
            json!(scores.as_ref().map(drawn)),
            json!(scores.as_ref().map(accepted)),
            json!(scores.as_ref().map(paid)),
            json!(scores.as_ref().and_then(|s| s.weights_block)),
            json!(updated.get(at)),
        ]);
    }
    Ok(table)
}

/// Everything that was measured in one window.
pub(super) async fn scores(node: &Node, window: Option<u64>) -> Result<Table, Failure> {
    let columns = ["validator", "uid", "hotkey", "verdict", "loss", "score", "average", "weight", "losses"];
    let mut table = Table::new(&columns);
    let (now, first) = span(node, 10);
    for (validator, hotkey) in permitted(node).await? {
        let found = match window {
            Some(window) => record(node, &hotkey, window).await?,
            None => newest_record(node, &hotkey, first, now).await?.map(|(_, scores)| scores),
        };
        let Some(scores) = found else { continue };
        for miner in &scores.miners {
            let Some(evaluation) = &miner.drawn else { continue };
            let losses: Vec<Value> = evaluation.losses.iter().map(|loss| rounded(loss.0, 4)).collect();
            table.push(vec![
                validator.into(),
                miner.uid.into(),
                miner.hotkey.ss58().into(),
                evaluation.verdict.as_str().into(),
                evaluation.loss.map_or(Value::Null, |loss| rounded(loss.0, 4)),
                evaluation.raw.map_or(Value::Null, |raw| rounded(raw.0, 6)),
                rounded(miner.average.0, 4),
                rounded(weight_of(&scores, miner), 4),
                if losses.is_empty() { Value::Null } else { losses.into() },
            ]);
        }
    }
    Ok(table)
}

async fn newest_record(
    node: &Node,
    validator: &Hotkey,
    first: u64,
    now: u64,
) -> Result<Option<(u64, Scores)>, Failure> {
    for window in (first..=now).rev() {
        if let Some(scores) = record(node, validator, window).await? {
            return Ok(Some((window, scores)));
        }
    }
    Ok(None)
}

/// What was found of each miner when it was last drawn by anybody.
async fn newest_evaluations(node: &Node, first: u64, now: u64) -> Result<BTreeMap<Hotkey, Evaluation>, Failure> {
    let mut found = BTreeMap::new();
    let validators = permitted(node).await?;
    for window in (first..=now).rev() {
        for (_, validator) in &validators {
            for miner in record(node, validator, window).await?.into_iter().flat_map(|scores| scores.miners) {
                if let Some(evaluation) = miner.drawn {
                    found.entry(miner.hotkey).or_insert(evaluation);
                }
            }
        }
    }
    Ok(found)
}

/// A miner's signed commit of a window and when the bucket took it, in seconds since 1970.
async fn commit(node: &Node, hotkey: &Hotkey, window: u64) -> Result<Option<(Commit, i64)>, Failure> {
    let key = node.key(hotkey, window, Kind::Commit);
    let check = |found: &Object| {
        let opened = object::open::<Commit>(&node.agreement, hotkey, window, Kind::Commit, &found.bytes);
        opened.map(|opened| (opened.body, found.last_modified)).map_err(|_| ())
    };
    match node.read(&key, MAX_COMMIT, check).await {
        Ok(found) => Ok(found.and_then(Result::ok)),
        Err(error) if error.is_the_authors() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
