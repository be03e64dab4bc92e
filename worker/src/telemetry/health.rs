//! Whether the node is alive (`/healthz`) and whether it ever became ready (`/readyz`).
//!
//! Alive is a matter of loops: each loop has a [`Heart`] with the longest time that one round may take, and a loop that
//! stays silent for longer is stuck. A stuck loop fails the probe, so that Kubernetes restarts the pod. Ready is latched:
//! an outage of the chain or of the bucket never makes a pod unready that was ready before.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Shared by loops, clients and the HTTP server.
#[derive(Clone, Default)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By number, so that two loops of one name do not answer for each other.
    hearts: Mutex<(u64, BTreeMap<u64, Beats>)>,
    loaded: AtomicBool,
    chain: AtomicBool,
    bucket: AtomicBool,
}

struct Beats {
    name: &'static str,
    last: Instant,
    limit: Duration,
}

impl Health {
    /// Nothing is watched and nothing is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a loop from now on, until the [`Heart`] is dropped.
    ///
    /// `limit` is the longest time between two beats of a loop that works, with room: a training step, not a window.
    pub fn watch(&self, name: &'static str, limit: Duration) -> Heart {
        let mut hearts = self.hearts();
        let number = hearts.0;
        hearts.0 += 1;
        hearts.1.insert(number, Beats { name, last: Instant::now(), limit });
        Heart { health: self.clone(), number }
    }

    /// `Err` names every loop that is stuck, and for how long.
    pub fn alive(&self) -> Result<(), String> {
        let now = Instant::now();
        let stuck: Vec<String> = self
            .hearts()
            .1
            .values()
            .filter(|beats| now.saturating_duration_since(beats.last) > beats.limit)
            .map(|beats| {
                let silent = now.saturating_duration_since(beats.last).as_secs();
                format!("{} is stuck: silent for {silent} s, allowed are {} s", beats.name, beats.limit.as_secs())
            })
            .collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck.join("; ")) }
    }

    /// `Err` names everything that was not seen yet.
    pub fn ready(&self) -> Result<(), String> {
        let parts = [
            (&self.inner.loaded, "settings and key are not loaded"),
            (&self.inner.chain, "the chain was not reached"),
            (&self.inner.bucket, "the bucket was not reached"),
        ];
        let missing: Vec<&str> =
            parts.iter().filter(|(seen, _)| !seen.load(Ordering::Relaxed)).map(|(_, text)| *text).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    }

    pub(super) fn loaded(&self) {
        self.inner.loaded.store(true, Ordering::Relaxed);
    }

    pub(super) fn saw_chain(&self) {
        self.inner.chain.store(true, Ordering::Relaxed);
    }

    pub(super) fn saw_bucket(&self) {
        self.inner.bucket.store(true, Ordering::Relaxed);
    }

    fn hearts(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Beats>)> {
        // A panic elsewhere cannot leave the map half-changed: every change is one insert or one assignment.
        self.inner.hearts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pulse of one loop.
pub struct Heart {
    health: Health,
    number: u64,
}

impl Heart {
    /// The loop is alive.
    pub fn beat(&self) {
        if let Some(beats) = self.health.hearts().1.get_mut(&self.number) {
            beats.last = Instant::now();
        }
    }

    /// From now on one round may take this long; also a beat. For a stretch of work that is known to take longer.
    pub fn allow(&self, limit: Duration) {
        if let Some(beats) = self.health.hearts().1.get_mut(&self.number) {
            beats.limit = limit;
            beats.last = Instant::now();
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.health.hearts().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_loop_is_named_until_it_beats_or_ends() {
        let health = Health::new();
        let fine = health.watch("clock", Duration::from_secs(3600));
        let stuck = health.watch("trainer", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        let message = health.alive().expect_err("the trainer is silent");
        assert!(message.contains("trainer is stuck") && !message.contains("clock"), "{message}");
        stuck.allow(Duration::from_secs(3600));
        health.alive().expect("it has beaten");
        stuck.allow(Duration::ZERO);
        drop(stuck);
        health.alive().expect("an ended loop is not watched");
        fine.beat();
    }

    #[test]
    fn readiness_needs_all_three_and_stays() {
        let health = Health::new();
        assert_eq!(health.ready().expect_err("nothing was seen").matches("; ").count(), 2);
        health.loaded();
        health.saw_chain();
        assert_eq!(health.ready(), Err("the bucket was not reached".to_owned()));
        health.saw_bucket();
        health.ready().expect("all three were seen");
    }
}
