//! The node's own view of itself, shared between the loops that change it and the server that answers it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bistro_api::{
    NodeStatus, Role,
    status::{HISTORY, Phase, Reachable, WindowRecord},
};

/// Longest message and error in bytes: `/status` stays below the 64 KiB that its readers take.
const LONGEST_TEXT: usize = 1024;

/// The shared [`NodeStatus`]. Clones share.
#[derive(Clone)]
pub struct StatusHandle {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    status: NodeStatus,
    /// When the current phase began.
    entered: Instant,
}

impl StatusHandle {
    /// A node that knows nothing yet.
    pub fn new(role: Role) -> Self {
        let status = NodeStatus {
            role,
            hotkey: None,
            uid: None,
            block: None,
            window: None,
            phase: Phase::Starting,
            base_window: None,
            base_digest: None,
            held_out_loss: None,
            score: None,
            weight: None,
            incentive: None,
            windows: 0,
            uploaded_bytes: 0,
            downloaded_bytes: 0,
            verdicts: Default::default(),
            scores: Vec::new(),
            cross_checks: Vec::new(),
            first_weights_block: None,
            chain: Reachable::default(),
            bucket: Reachable::default(),
            message: String::new(),
            history: Vec::new(),
        };
        Self { inner: Arc::new(Mutex::new(Inner { status, entered: Instant::now() })) }
    }

    /// Changes the status. The closure must be short: it holds the lock that `/status` waits for.
    pub fn update<T>(&self, change: impl FnOnce(&mut NodeStatus) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner.status);
        shorten(&mut inner.status.message);
        let extra = inner.status.history.len().saturating_sub(HISTORY);
        inner.status.history.drain(..extra);
        result
    }

    /// A copy of the status.
    pub fn read(&self) -> NodeStatus {
        self.lock().status.clone()
    }

    /// Adds a window to the history, or replaces it there; the oldest beyond [`HISTORY`] goes.
    pub fn record(&self, record: WindowRecord) {
        self.update(|status| {
            let history = &mut status.history;
            match history.binary_search_by_key(&record.window, |r| r.window) {
                Ok(at) => history[at] = record,
                Err(at) => history.insert(at, record),
            }
        });
    }

    /// Enters a phase; gives back the phase that ended and its length, unless it is the same.
    pub(super) fn enter(&self, phase: Phase) -> Option<(Phase, Duration)> {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.status.phase, phase);
        if before == phase {
            return None;
        }
        let took = inner.entered.elapsed();
        inner.entered = Instant::now();
        Some((before, took))
    }

    /// Notes an answer or its absence; `since` moves only when that changes.
    pub(super) fn reached(&self, of: impl FnOnce(&mut NodeStatus) -> &mut Reachable, answered: Result<(), String>) {
        let mut inner = self.lock();
        let service = of(&mut inner.status);
        let reachable = answered.is_ok();
        if service.since.is_none() || service.reachable != reachable {
            service.reachable = reachable;
            service.since = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|now| now.as_secs());
        }
        service.error = answered.err().map(|mut error| {
            shorten(&mut error);
            error
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whatever a panicking closure left is still a status: better shown than a second panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT - 3));
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(window: u64, admitted: u32) -> WindowRecord {
        WindowRecord { window, base_digest: String::new(), held_out_loss: None, admitted }
    }

    #[test]
    fn history_is_ordered_bounded_and_holds_a_window_once() {
        let status = StatusHandle::new(Role::Miner);
        for window in (0..100).rev() {
            status.record(record(window, 0));
        }
        for window in 0..100 {
            status.record(record(window, 1));
        }
        status.record(record(99, 2));
        let history = status.read().history;
        assert_eq!(history.len(), HISTORY);
        assert!(history.iter().map(|r| r.window).eq(36..100));
        assert_eq!(history[63].admitted, 2);
    }

    #[test]
    fn since_moves_only_when_reachability_changes() {
        let status = StatusHandle::new(Role::Miner);
        status.reached(|s| &mut s.chain, Err("down".into()));
        let first = status.read().chain;
        assert!(!first.reachable && first.since.is_some());
        status.update(|s| s.chain.since = Some(1));
        status.reached(|s| &mut s.chain, Err("still down".into()));
        let second = status.read().chain;
        assert_eq!((second.since, second.error.as_deref()), (Some(1), Some("still down")));
        status.reached(|s| &mut s.chain, Ok(()));
        let third = status.read().chain;
        assert!(third.reachable && third.since != Some(1) && third.error.is_none());
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let status = StatusHandle::new(Role::Miner);
        status.update(|s| s.message = "ä".repeat(5000));
        let message = status.read().message;
        assert!(message.len() <= LONGEST_TEXT && message.ends_with("..."));
    }
}
