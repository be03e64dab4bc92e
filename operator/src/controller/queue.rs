//! What is to be reconciled: each resource at most once at a time, later ones in order, failed ones after a pause.
//!
//! The rules are client-go's: a key that is added while it is worked on is worked on again afterwards; a key that
//! waits for a time and is added is worked on now; each failure in a row doubles the pause of that key alone.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    future::pending,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::key::Key;

/// Pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// What became of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is left to do until something changes.
    Settled,
    /// To be looked at again after this time at the latest.
    Again(Duration),
    /// To be tried again after a pause that grows.
    Failed,
}

/// The queue. Shared by the watches, which add, and the workers, which take.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    ready: VecDeque<Key>,
    /// May hold times that no longer count: an entry's own `due` decides.
    timers: BinaryHeap<Reverse<(Instant, Key)>>,
    adds: u64,
    retries: u64,
}

#[derive(Debug, Default)]
struct Entry {
    state: State,
    due: Option<Instant>,
    failures: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Idle,
    Queued {
        since: Instant,
    },
    Running {
        again: bool,
    },
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys that wait for a worker.
    pub depth: usize,
    /// Keys that were queued since the start.
    pub adds: u64,
    /// Failures that were scheduled again.
    pub retries: u64,
}

impl Queue {
    /// Reconcile this now.
    pub fn add(&self, key: Key) {
        let mut inner = self.lock();
        inner.add(key, Instant::now());
        drop(inner);
        self.changed.notify_one();
    }

    /// Reconcile this after a while, unless it is due sooner anyway.
    pub fn add_after(&self, key: Key, pause: Duration) {
        self.lock().schedule(key, Instant::now() + pause);
        self.changed.notify_one();
    }

    /// The next key and how long it waited. It belongs to the caller until [`Queue::done`].
    pub async fn next(&self) -> (Key, Duration) {
        loop {
            let notified = self.changed.notified();
            let due = {
                let mut inner = self.lock();
                let now = Instant::now();
                inner.wake(now);
                if let Some(key) = inner.ready.pop_front() {
                    let waited = inner.run(&key, now);
                    let more = !inner.ready.is_empty();
                    drop(inner);
                    if more {
                        self.changed.notify_one();
                    }
                    return (key, waited);
                }
                inner.timers.peek().map(|Reverse((due, _))| *due)
            };
            let timer = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = notified => {}
                () = timer => {}
            }
        }
    }

    /// Gives a key back.
    pub fn done(&self, key: &Key, outcome: Outcome) {
        let mut inner = self.lock();
        let now = Instant::now();
        let Some(entry) = inner.entries.get_mut(key) else { return };
        let again = entry.state == State::Running { again: true };
        entry.state = State::Idle;
        let pause = match outcome {
            Outcome::Settled => None,
            Outcome::Again(pause) => Some(pause),
            Outcome::Failed => Some(pause_after(entry.failures)),
        };
        entry.failures = match outcome {
            Outcome::Failed => entry.failures.saturating_add(1),
            Outcome::Settled | Outcome::Again(_) => 0,
        };
        if outcome == Outcome::Failed {
            inner.retries += 1;
        }
        if let Some(pause) = pause {
            inner.schedule(key.clone(), now + pause);
        }
        // A change during a failed pass waits out the pause too: else an object that changes often is tried often.
        if again && outcome != Outcome::Failed {
            inner.add(key.clone(), now);
        }
        inner.forget_if_idle(key);
        drop(inner);
        self.changed.notify_one();
    }

    /// Numbers for metrics.
    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        Counts { depth: inner.ready.len(), adds: inner.adds, retries: inner.retries }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, key: Key, now: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.state {
            State::Idle => {
                entry.state = State::Queued { since: now };
                entry.due = None;
                self.adds += 1;
                self.ready.push_back(key);
            }
            State::Queued { .. } => {}
            State::Running { .. } => entry.state = State::Running { again: true },
        }
    }

    fn schedule(&mut self, key: Key, due: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        let sooner = entry.due.is_none_or(|known| due < known);
        if sooner && !matches!(entry.state, State::Queued { .. }) {
            entry.due = Some(due);
            self.timers.push(Reverse((due, key)));
        }
    }

    /// Queues what is due.
    fn wake(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((due, key))) = self.timers.pop() else { return };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.due == Some(due) {
                entry.due = None;
                self.add(key, now);
            }
        }
    }

    fn run(&mut self, key: &Key, now: Instant) -> Duration {
        let Some(entry) = self.entries.get_mut(key) else { return Duration::ZERO };
        let waited = match entry.state {
            State::Queued { since } => now - since,
            State::Idle | State::Running { .. } => Duration::ZERO,
        };
        entry.state = State::Running { again: false };
        entry.due = None;
        waited
    }

    fn forget_if_idle(&mut self, key: &Key) {
        let idle = self.entries.get(key).is_some_and(|e| e.state == State::Idle && e.due.is_none() && e.failures == 0);
        if idle {
            self.entries.remove(key);
        }
    }
}

/// 0.25 s doubled for each failure before, up to two minutes, between half and all of it at random.
fn pause_after(failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    super::jitter::between(pause / 2, pause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::key::Kind;

    fn key(name: &str) -> Key {
        Key::new(Kind::Miner, "ns", name)
    }

    async fn next_within(queue: &Queue, milliseconds: u64) -> Option<String> {
        let next = tokio::time::timeout(Duration::from_millis(milliseconds), queue.next()).await;
        next.ok().map(|(key, _)| key.name.into_string())
    }

    #[tokio::test]
    async fn a_key_is_worked_on_once_at_a_time_and_again_if_it_changed_meanwhile() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(next_within(&queue, 1000).await.as_deref(), Some("a"));
        queue.add(key("a"));
        assert_eq!(next_within(&queue, 20).await, None);
        queue.done(&key("a"), Outcome::Settled);
        assert_eq!(next_within(&queue, 1000).await.as_deref(), Some("a"));
        queue.done(&key("a"), Outcome::Settled);
        assert_eq!(next_within(&queue, 20).await, None);
        assert!(queue.lock().entries.is_empty(), "nothing is kept of a key at rest");
    }

    #[tokio::test]
    async fn the_earlier_of_two_times_counts_and_a_change_comes_before_any() {
        let queue = Queue::default();
        queue.add_after(key("a"), Duration::from_secs(600));
        queue.add_after(key("a"), Duration::from_millis(50));
        queue.add_after(key("a"), Duration::from_secs(300));
        assert_eq!(next_within(&queue, 10).await, None);
        assert_eq!(next_within(&queue, 10_000).await.as_deref(), Some("a"));
        queue.done(&key("a"), Outcome::Again(Duration::from_millis(50)));
        queue.add(key("a"));
        assert_eq!(next_within(&queue, 10).await.as_deref(), Some("a"));
        queue.done(&key("a"), Outcome::Settled);
        assert_eq!(next_within(&queue, 200).await, None, "the later time was dropped");
    }

    #[tokio::test]
    async fn a_failed_key_pauses_for_itself_and_changes_do_not_shorten_that() {
        let queue = Queue::default();
        queue.add(key("bad"));
        let (bad, _) = queue.next().await;
        queue.add(key("good"));
        queue.add(key("bad"));
        queue.done(&bad, Outcome::Failed);
        assert_eq!(next_within(&queue, 50).await.as_deref(), Some("good"));
        queue.done(&key("good"), Outcome::Settled);
        assert_eq!(next_within(&queue, 50).await, None);
        assert_eq!(next_within(&queue, 10_000).await.as_deref(), Some("bad"));
        queue.done(&bad, Outcome::Settled);
        assert!(queue.lock().entries.is_empty());
        assert_eq!(queue.counts().retries, 1);
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_pause_up_to_two_minutes() {
        for failures in 0..40 {
            let longest =
                Duration::from_millis(250).saturating_mul(1 << failures.min(20)).min(Duration::from_secs(120));
            let pause = pause_after(failures);
            assert!(pause >= longest / 2 && pause <= longest, "{failures}: {pause:?}");
        }
    }

    #[tokio::test]
    async fn many_workers_take_every_key_once() {
        let queue = std::sync::Arc::new(Queue::default());
        for i in 0..100 {
            queue.add(key(&i.to_string()));
        }
        let workers = (0..8).map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut taken = 0;
                while let Some(name) = next_within(&queue, 200).await {
                    tokio::task::yield_now().await;
                    queue.done(&key(&name), Outcome::Settled);
                    taken += 1;
                }
                taken
            })
        });
        let taken: u32 = futures::future::join_all(workers).await.into_iter().map(|t| t.expect("ran")).sum();
        assert_eq!(taken, 100);
        assert_eq!(queue.counts(), Counts { depth: 0, adds: 100, retries: 0 });
    }
}
