//! The one way to try again: growing pauses with jitter, until a deadline or until told to stop.
//!
//! Pauses are drawn between half of the current length and the whole of it, so that nodes that lost the same service at
//! the same moment do not come back at the same moment. A deadline ends the pauses, never a running attempt: attempts
//! have timeouts of their own, and an attempt cut short would leave no error to show.

use std::{
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It may pass: try again.
    Transient,
    /// It will not: give the error back at once.
    Permanent,
}

/// Why [`Retry::run`] ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Stopped<E: std::error::Error + 'static> {
    /// The fault is permanent, or it was still there at the deadline.
    #[error(transparent)]
    Fault(E),
    /// The cancellation token was cancelled.
    #[error("stopped")]
    Cancelled,
}

/// How long to try and how long to pause. Without [`until`](Self::until) and [`unless`](Self::unless) it tries for ever.
#[derive(Clone, Debug)]
pub struct Retry {
    first: Duration,
    longest: Duration,
    deadline: Option<Instant>,
    stop: Option<CancellationToken>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(10), deadline: None, stop: None }
    }
}

impl Retry {
    /// Pauses of 100 ms that double up to 10 s.
    pub fn new() -> Self {
        Self::default()
    }

    /// Other pauses: the first one and the longest one.
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    /// No attempt starts after this moment, except the first.
    pub fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// No attempt starts later than this from now, except the first.
    pub fn within(self, patience: Duration) -> Self {
        self.until(Instant::now() + patience)
    }

    /// Ends pauses and attempts at once when the token is cancelled.
    pub fn unless(mut self, stop: &CancellationToken) -> Self {
        self.stop = Some(stop.clone());
        self
    }

    /// Runs `attempt` until it succeeds. `judge` sees every error: it decides, and it is the place to log or show it.
    pub async fn run<T, E, F>(
        &self,
        mut judge: impl FnMut(&E) -> Fault,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Stopped<E>>
    where
        E: std::error::Error + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let mut pause = self.first;
        loop {
            let error = match self.cancellable(attempt()).await? {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let wait = jittered(pause);
            let late = self.deadline.is_some_and(|deadline| Instant::now() + wait > deadline);
            if judge(&error) == Fault::Permanent || late {
                return Err(Stopped::Fault(error));
            }
            self.cancellable(tokio::time::sleep(wait)).await?;
            pause = (pause * 2).min(self.longest);
        }
    }

    /// The output of `work`, unless the token is cancelled first.
    async fn cancellable<T, E: std::error::Error + 'static>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Stopped<E>> {
        match &self.stop {
            None => Ok(work.await),
            Some(stop) => tokio::select! {
                biased;
                () = stop.cancelled() => Err(Stopped::Cancelled),
                output = work => Ok(output),
            },
        }
    }
}

/// A length between half of `pause` and all of it.
pub fn jittered(pause: Duration) -> Duration {
    // Every RandomState has other keys, so the hash of nothing is a fresh random number.
    let random = RandomState::new().build_hasher().finish();
    let share = (random >> 40) as f64 / (1u64 << 24) as f64;
    pause.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("fault {0}")]
    struct Numbered(u32);

    fn quick() -> Retry {
        Retry::new().pauses(Duration::from_millis(1), Duration::from_millis(2))
    }

    #[tokio::test]
    async fn transient_faults_are_tried_again() {
        let tries = Cell::new(0);
        let result = quick()
            .run(
                |_| Fault::Transient,
                || async {
                    tries.set(tries.get() + 1);
                    if tries.get() < 4 { Err(Numbered(tries.get())) } else { Ok("done") }
                },
            )
            .await;
        assert_eq!(result.expect("the fourth attempt succeeds"), "done");
        assert_eq!(tries.get(), 4);
    }

    #[tokio::test]
    async fn a_permanent_fault_comes_back_at_once() {
        let tries = Cell::new(0);
        let result: Result<(), _> = quick()
            .run(
                |e: &Numbered| if e.0 == 2 { Fault::Permanent } else { Fault::Transient },
                || async {
                    tries.set(tries.get() + 1);
                    Err(Numbered(tries.get()))
                },
            )
            .await;
        assert!(matches!(result, Err(Stopped::Fault(Numbered(2)))));
    }

    #[tokio::test]
    async fn one_attempt_is_made_even_after_the_deadline() {
        let retry = quick().until(Instant::now());
        let result: Result<(), _> = retry.run(|_| Fault::Transient, || async { Err(Numbered(1)) }).await;
        assert!(matches!(result, Err(Stopped::Fault(Numbered(1)))));
        let result = retry.run(|_: &Numbered| Fault::Transient, || async { Ok(7) }).await;
        assert_eq!(result.expect("the first attempt counts"), 7);
    }

    #[tokio::test]
    async fn cancelling_ends_a_pause_and_an_attempt() {
        let stop = CancellationToken::new();
        let retry = Retry::new().pauses(Duration::from_secs(3600), Duration::from_secs(3600)).unless(&stop);
        let pausing = retry.run(|_| Fault::Transient, || async { Err::<(), _>(Numbered(1)) });
        let hanging = retry.run(|_: &Numbered| Fault::Transient, std::future::pending::<Result<(), Numbered>>);
        let (pausing, hanging, ()) = tokio::join!(pausing, hanging, async { stop.cancel() });
        assert!(matches!(pausing, Err(Stopped::Cancelled)));
        assert!(matches!(hanging, Err(Stopped::Cancelled)));
    }

    #[test]
    fn jitter_stays_between_half_and_whole_and_varies() {
        let whole = Duration::from_secs(1);
        let draws: Vec<Duration> = (0..32).map(|_| jittered(whole)).collect();
        assert!(draws.iter().all(|d| *d >= whole / 2 && *d <= whole));
        assert!(draws.iter().any(|d| d != &draws[0]));
    }
}
