//! The calls that go on answering.

use super::{error, methods, view};
use crate::chain::{Chain, Heads};
use jsonrpsee::{
    PendingSubscriptionSink, RpcModule, SubscriptionSink,
    core::{RegisterMethodError, SubscriptionError},
    types::Params,
};
use serde::Serialize;
use serde_json::{Value, json};
use sp_core::storage::StorageKey;
use std::sync::Arc;

type Ended = Result<(), SubscriptionError>;

/// Which heads a client wants: without forks all others are the best ones.
#[derive(Clone, Copy)]
enum Which {
    Best,
    Finalized,
}

impl Which {
    fn of(self, heads: Heads) -> u32 {
        match self {
            Which::Best => heads.best,
            Which::Finalized => heads.finalized,
        }
    }
}

/// Subscribe name, name of the notifications, unsubscribe name.
const HEADS: &[(&str, &str, &str, Which)] = &[
    ("chain_subscribeNewHeads", "chain_newHead", "chain_unsubscribeNewHeads", Which::Best),
    ("chain_subscribeNewHead", "chain_newHead", "chain_unsubscribeNewHead", Which::Best),
    ("chain_subscribeAllHeads", "chain_allHead", "chain_unsubscribeAllHeads", Which::Best),
    ("chain_subscribeFinalizedHeads", "chain_finalizedHead", "chain_unsubscribeFinalizedHeads", Which::Finalized),
];

pub fn register(module: &mut RpcModule<Chain>) -> Result<(), RegisterMethodError> {
    for (subscribe, notify, unsubscribe, which) in HEADS {
        module.register_subscription(subscribe, notify, unsubscribe, |_, pending, chain, _| {
            heads(pending, chain, *which)
        })?;
    }
    module.register_subscription(
        "author_submitAndWatchExtrinsic",
        "author_extrinsicUpdate",
        "author_unwatchExtrinsic",
        |params, pending, chain, _| submit_and_watch(params, pending, chain),
    )?;
    for (subscribe, unsubscribe) in [
        ("state_subscribeRuntimeVersion", "state_unsubscribeRuntimeVersion"),
        ("chain_subscribeRuntimeVersion", "chain_unsubscribeRuntimeVersion"),
    ] {
        module.register_subscription(subscribe, "state_runtimeVersion", unsubscribe, |_, pending, _, _| {
            runtime_version(pending)
        })?;
    }
    module.register_subscription(
        "state_subscribeStorage",
        "state_storage",
        "state_unsubscribeStorage",
        |params, pending, chain, _| storage(params, pending, chain),
    )?;
    Ok(())
}

async fn send(sink: &SubscriptionSink, item: &impl Serialize) -> Ended {
    sink.send(serde_json::value::to_raw_value(item)?).await?;
    Ok(())
}

/// Sends the current head at once, as Substrate does, and then every later one, without gaps.
async fn heads(pending: PendingSubscriptionSink, chain: Arc<Chain>, which: Which) -> Ended {
    let sink = pending.accept().await?;
    let mut heads = chain.heads();
    let mut next = which.of(*heads.borrow_and_update());
    loop {
        let newest = which.of(*heads.borrow_and_update());
        while next <= newest {
            if let Some(header) = chain.header(next)? {
                send(&sink, &view::header(&header)).await?;
            }
            next += 1;
        }
        tokio::select! {
            () = sink.closed() => return Ok(()),
            changed = heads.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

async fn submit_and_watch(params: Params<'static>, pending: PendingSubscriptionSink, chain: Arc<Chain>) -> Ended {
    let (watcher, mut statuses) = tokio::sync::mpsc::unbounded_channel();
    let submit = move || {
        let raw = methods::extrinsic_param(&params)?;
        chain.submit(raw, Some(watcher)).map_err(|source| error::submit(&source))
    };
    // A refusal is the answer to the call itself, not an item of the subscription.
    if let Err(refusal) = tokio::task::spawn_blocking(submit).await? {
        pending.reject(refusal).await;
        return Ok(());
    }
    let sink = pending.accept().await?;
    loop {
        tokio::select! {
            () = sink.closed() => return Ok(()),
            status = statuses.recv() => match status {
                Some(status) => send(&sink, &status).await?,
                // The chain drops its end after the last status.
                None => return Ok(()),
            },
        }
    }
}

/// The version never changes: one item, then silence.
async fn runtime_version(pending: PendingSubscriptionSink) -> Ended {
    let sink = pending.accept().await?;
    send(&sink, &view::runtime_version()).await?;
    sink.closed().await;
    Ok(())
}

/// Sends the values of the keys, and again those that changed, at every new head.
async fn storage(params: Params<'static>, pending: PendingSubscriptionSink, chain: Arc<Chain>) -> Ended {
    let keys = params.sequence().optional_next::<Vec<String>>().and_then(|keys| {
        let keys = keys.ok_or_else(|| error::invalid_params("name the keys: a subscription to everything is refused"));
        methods::keys_param(keys?)
    });
    let keys = match keys {
        Ok(keys) => keys,
        Err(refusal) => {
            pending.reject(refusal).await;
            return Ok(());
        }
    };
    let sink = pending.accept().await?;
    let mut heads = chain.heads();
    let mut seen: Option<Vec<Option<Vec<u8>>>> = None;
    loop {
        heads.borrow_and_update();
        if let Some(changes) = changed_values(&chain, &keys, &mut seen) {
            send(&sink, &changes).await?;
        }
        tokio::select! {
            () = sink.closed() => return Ok(()),
            changed = heads.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn changed_values(chain: &Chain, keys: &[StorageKey], seen: &mut Option<Vec<Option<Vec<u8>>>>) -> Option<Value> {
    let (hash, state) = chain.state(None).ok()?;
    let values: Vec<Option<Vec<u8>>> = keys.iter().map(|key| state.top.get(&key.0).cloned()).collect();
    let is_new = |index: usize| seen.as_ref().is_none_or(|old| old.get(index) != values.get(index));
    let changed: Vec<StorageKey> =
        keys.iter().enumerate().filter(|(index, _)| is_new(*index)).map(|(_, key)| key.clone()).collect();
    let first = seen.is_none();
    *seen = Some(values);
    (first || !changed.is_empty()).then(|| json!(methods::change_set(hash, &state, &changed)))
}
