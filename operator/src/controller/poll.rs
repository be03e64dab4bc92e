//! Asks the pods for their `/status`, outside of all passes: a slow or hostile node delays nobody.
//!
//! Each pod is asked by itself, every 30 s with jitter; one that does not answer ever more seldom. What changed goes
//! into the cache, and its owner is queued.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};

use super::{
    context::Context,
    jitter,
    key::Key,
    pod::{Report, short},
};
use crate::{
    ask::{Asker, PollError},
    plan::contract,
};

/// A node answers from memory.
const PATIENCE: Duration = Duration::from_secs(1);
/// 64 windows and 256 scored miners fit.
const MOST_BYTES: usize = 64 << 10;
/// Nodes that are asked at a time.
const AT_A_TIME: usize = 64;
/// A node that does not answer is asked at least this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A node that just came up is asked soon: people wait for it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// One lost answer is no silence.
const SILENT_AFTER: u32 = 2;
/// What the nodes of a resource say comes one by one.
const BURST: Duration = Duration::from_secs(1);

/// A pod: its owner and its number.
pub type PodId = (Key, u32);

/// Asks until nobody is left that could name pods.
pub async fn poll(context: Context, interval: Duration, mut pods: mpsc::UnboundedReceiver<PodId>) {
    let (asker, room) = (Asker::new(PATIENCE, MOST_BYTES, false), Arc::new(Semaphore::new(AT_A_TIME)));
    let (answers, mut answered) = mpsc::unbounded_channel::<(PodId, bool)>();
    let mut due: BinaryHeap<Reverse<(Instant, PodId)>> = BinaryHeap::new();
    // Pods that stand in `due` or are being asked, with the number of failures in a row.
    let mut known: HashMap<PodId, u32> = HashMap::new();
    loop {
        let next = due.peek().map(|Reverse((time, _))| *time);
        let timer = async {
            match next {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            pod = pods.recv() => {
                let Some(pod) = pod else { return };
                if let Entry::Vacant(entry) = known.entry(pod.clone()) {
                    due.push(Reverse((Instant::now() + jitter::between(FIRST_PAUSE / 2, FIRST_PAUSE), pod)));
                    entry.insert(0);
                }
            }
            Some((pod, ok)) = answered.recv() => {
                let failures = if ok { 0 } else { known.get(&pod).copied().unwrap_or(0).saturating_add(1) };
                due.push(Reverse((Instant::now() + pause(interval, failures), pod.clone())));
                known.insert(pod, failures);
            }
            () = timer => {
                let Some(Reverse((_, pod))) = due.pop() else { continue };
                let failures = known.get(&pod).copied().unwrap_or(0);
                let Some(address) = address(&context, &pod) else {
                    // It comes back when its watch sees it again.
                    known.remove(&pod);
                    continue;
                };
                let Ok(permit) = room.clone().acquire_owned().await else { return };
                let (context, asker, answers) = (context.clone(), asker.clone(), answers.clone());
                tokio::spawn(async move {
                    let answer = asker.status(address).await;
                    drop(permit);
                    context.metrics.polled(if answer.is_ok() { "answered" } else { "failed" });
                    let ok = answer.is_ok();
                    take_in(&context, &pod, answer.map(|status| Report::of(&status)), failures + 1);
                    // Nobody listens once the operator stops.
                    let _ = answers.send((pod, ok));
                });
            }
        }
    }
}

fn pause(interval: Duration, failures: u32) -> Duration {
    let pause = match failures {
        0 => interval,
        // The first attempts follow quickly: a node that starts answers within seconds.
        failures => (FIRST_PAUSE * 2).saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE.max(interval)),
    };
    jitter::between(pause.mul_f64(0.8), pause.mul_f64(1.2))
}

fn address(context: &Context, (owner, ordinal): &PodId) -> Option<SocketAddr> {
    let state = context.cache.lock();
    let pod = state.pods.get(owner)?.get(ordinal)?;
    let address: IpAddr = pod.state.asked_at()?.parse().ok()?;
    Some(SocketAddr::new(address, u16::try_from(contract::PORT).ok()?))
}

fn take_in(context: &Context, (owner, ordinal): &PodId, answer: Result<Report, PollError>, attempts: u32) {
    let mut state = context.cache.lock();
    let Some(pod) = state.pods.get_mut(owner).and_then(|pods| pods.get_mut(ordinal)) else { return };
    let mut scored = false;
    let changed = match answer {
        Ok(report) => {
            let silence = pod.silence.take();
            scored = pod.report.as_ref().map_or(&[][..], |known| known.scores.as_slice()) != report.scores.as_slice();
            let changed = pod.report.as_deref() != Some(&report) || silence.is_some();
            pod.report = Some(Arc::new(report));
            changed
        }
        Err(_) if attempts < SILENT_AFTER => false,
        Err(error) => {
            let words = Some(Box::from(short(&format!("its /status is silent: {error}"))));
            std::mem::replace(&mut pod.silence, words.clone()) != words
        }
    };
    // Whom a validator scores shows it.
    let miners = if scored { state.miners_beside(owner) } else { Vec::new() };
    drop(state);
    let concerned = miners.into_iter().chain(changed.then(|| owner.clone()));
    concerned.for_each(|key| context.queue.add_after(key, BURST));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_asked_ever_more_seldom_and_never_given_up() {
        let interval = Duration::from_secs(30);
        let bounds =
            |seconds: u64| Duration::from_secs(seconds).mul_f64(0.79)..Duration::from_secs(seconds).mul_f64(1.21);
        for (failures, seconds) in [(0, 30), (1, 4), (2, 8), (5, 64), (20, 600), (u32::MAX, 600)] {
            assert!(bounds(seconds).contains(&pause(interval, failures)), "{failures}");
        }
    }
}
