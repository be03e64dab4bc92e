//! Asks nodes for their status.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bistro_api::NodeStatus;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::ask::{Asker, PollError};

/// How often a node is asked. Windows take ten seconds at least, so nothing is missed.
const POLL: Duration = Duration::from_millis(500);
/// 64 windows and 256 scored miners fit several times.
const MAX_BYTES: usize = 512 << 10;
/// A node answers from memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where each running node serves, by the id of its pod.
pub type Addresses = Arc<Mutex<BTreeMap<String, SocketAddr>>>;
/// The id of a pod and what it answered.
pub type Answer = (String, Result<NodeStatus, PollError>);

/// Asks a node again and again; each has its own loop, so that a slow one delays nobody.
pub async fn keep_asking(id: String, addresses: Addresses, answers: mpsc::Sender<Answer>) {
    let asker = Asker::new(PATIENCE, MAX_BYTES, true);
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let known = addresses.lock().ok().and_then(|addresses| addresses.get(&id).copied());
        let Some(address) = known else { continue };
        if answers.send((id.clone(), asker.status(address).await)).await.is_err() {
            return;
        }
    }
}
