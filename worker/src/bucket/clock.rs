//! The bucket's clock, as far as its answers tell.
//!
//! Deadlines are LastModified, so what counts is the bucket's clock and no other: a node whose own clock is wrong by a
//! minute must neither publish too early nor too late. Every answer carries a Date in whole seconds, cut off: at that
//! moment the bucket's clock shows at least that much. The best of these lower bounds is carried on by the monotonic
//! clock; answers at many different fractions of a second bring it close to the truth.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef},
    error::BoxError,
};
use aws_smithy_types::date_time::{DateTime, Format};

/// After so long the next answer counts alone: clocks drift, and servers are replaced by others.
const STALE: Duration = Duration::from_secs(600);

/// Clones share.
#[derive(Clone, Debug, Default)]
pub(super) struct BucketClock(Arc<Mutex<Option<Bound>>>);

/// At `seen` the bucket's clock showed at least `unix_ms`.
#[derive(Clone, Copy, Debug)]
struct Bound {
    seen: Instant,
    unix_ms: u64,
}

impl Bound {
    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.seen).as_millis();
        self.unix_ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

impl BucketClock {
    /// A lower bound of what the bucket's clock shows now, Unix time in milliseconds; `None` before its first answer.
    pub fn now_ms(&self) -> Option<u64> {
        self.lock().map(|bound| bound.at(Instant::now()))
    }

    fn observe(&self, seen: Instant, unix_ms: u64) {
        let mut bound = self.lock();
        let keep = bound.is_some_and(|b| seen.saturating_duration_since(b.seen) < STALE && b.at(seen) >= unix_ms);
        if !keep {
            *bound = Some(Bound { seen, unix_ms });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bound>> {
        // Two numbers that are written together: a panic elsewhere leaves them sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the Date of every answer, of errors too.
impl Intercept for BucketClock {
    fn name(&self) -> &'static str {
        "BucketClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let Some(seconds) = date.and_then(|date| u64::try_from(date.secs()).ok()) {
            self.observe(Instant::now(), seconds.saturating_mul(1000));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the fractions of a second, the bound is never ahead, and many answers bring it close.
    #[test]
    fn many_answers_come_close_and_never_run_ahead() {
        let clock = BucketClock::default();
        assert_eq!(clock.now_ms(), None);
        let start = Instant::now();
        for step in 0..100u64 {
            let passed = 370 * step;
            let truth = 1_000_450 + passed;
            clock.observe(start + Duration::from_millis(passed), truth / 1000 * 1000);
            let bound = clock.lock().expect("observed").at(start + Duration::from_millis(passed));
            assert!(bound <= truth, "step {step}");
            assert!(step < 50 || truth - bound < 50, "step {step}: {} ms behind", truth - bound);
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed_in_the_end() {
        let clock = BucketClock::default();
        let start = Instant::now();
        clock.observe(start, 90_000);
        clock.observe(start + Duration::from_secs(1), 61_000);
        assert_eq!(clock.lock().expect("observed").at(start + Duration::from_secs(1)), 91_000);
        clock.observe(start + STALE, 30_000);
        assert_eq!(clock.lock().expect("observed").at(start + STALE), 30_000);
    }
}
