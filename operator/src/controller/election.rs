//! Who leads: one replica at a time, by a Lease and client-go's protocol.
//!
//! A lease counts as expired when it did not change for its duration by the observer's own clock, so clocks need not
//! agree. Followers watch it: a lease that is given back is taken within milliseconds. Each renewal moves the fence
//! (`gate.rs`), counted from before the renewal was sent; a leader that cannot renew in time stops writing before anybody
//! else may start.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Client,
    api::{Api, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::{Instant, sleep_until, timeout};

use super::gate::Fence;

/// How the election is held.
#[derive(Clone, Debug)]
pub struct Election {
    api: Api<Lease>,
    timing: Timing,
    name: String,
    identity: String,
}

/// The three times of client-go.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a lease counts that nobody renews.
    pub duration: Duration,
    /// How long a leader tries to renew before it gives up.
    pub deadline: Duration,
    /// Time between renewals.
    pub period: Duration,
}

/// A lease that is ours, as we last wrote it.
#[derive(Debug)]
pub struct Held {
    lease: Lease,
    /// Just before the request that wrote it.
    since: Instant,
}

/// Times that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease needs --retry-period < --renew-deadline < --lease-duration")]
pub struct Unfit;

impl Timing {
    /// Checks that a leader gives up before another may take over.
    pub fn check(self) -> Result<Self, Unfit> {
        (self.period < self.deadline && self.deadline < self.duration).then_some(self).ok_or(Unfit)
    }
}

impl Election {
    /// An election over one lease.
    pub fn new(client: &Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self { api, timing, name: name.to_owned(), identity: identity.to_owned() }
    }

    /// Waits until the lease is ours, and opens the fence.
    pub async fn acquire(&self, fence: &Fence) -> Held {
        let mut stream = std::pin::pin!(watcher::watch_object(self.api.clone(), &self.name).default_backoff());
        let mut observed: Option<(Option<Lease>, Instant)> = None;
        let mut not_before = Instant::now();
        loop {
            // When to try: at once if it is free, else when it runs out; and not again and again.
            let due = observed.as_ref().map(|(lease, since)| match lease {
                Some(lease) if !self.is_free(lease) => (*since + self.timing.duration).max(not_before),
                _ => not_before,
            });
            if let Some((lease, _)) = observed.as_ref().filter(|_| due.is_some_and(|due| due <= Instant::now())) {
                match self.take(lease.clone()).await {
                    Ok(held) => {
                        fence.open_until(held.since + self.timing.deadline);
                        return held;
                    }
                    // Somebody was faster: the watch will show whom.
                    Err(error) => self.say("failed to take the lease", &error),
                }
                not_before = Instant::now() + super::jitter::between(self.timing.period / 2, self.timing.period);
                continue;
            }
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(lease)) => observed = Some(observe(observed, lease)),
                    Some(Err(error)) => tracing::warn!(error = crate::cli::one_line(&error), "failed to watch the lease"),
                    None => return std::future::pending().await,
                },
                () = sleep_until(due.unwrap_or_else(|| Instant::now() + self.timing.duration)) => {}
            }
        }
    }

    /// Renews until the lease is lost.
    pub async fn hold(&self, held: &mut Held, fence: &Fence) {
        loop {
            let next = held.since + self.timing.period;
            sleep_until(next).await;
            while !self.renew(held, fence).await {
                if Instant::now() >= held.since + self.timing.deadline {
                    tracing::error!(lease = self.name, "failed to renew the lease in time: no longer the leader");
                    return fence.close();
                }
                if !fence_is_open(fence) {
                    return;
                }
                tokio::time::sleep(self.timing.period / 4).await;
            }
        }
    }

    /// Gives the lease back, so that the next leader need not wait. Best effort: it runs out anyway.
    pub async fn release(&self, held: Held, fence: &Fence) {
        fence.close();
        let mut lease = held.lease;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let params = PostParams::default();
        match timeout(self.timing.period, self.api.replace(&self.name, &params, &lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "gave the lease back"),
            Ok(Err(error)) => self.say("failed to give the lease back", &error),
            Err(_) => tracing::warn!(lease = self.name, "failed to give the lease back in time"),
        }
    }

    /// One attempt. Closes the fence when somebody else has the lease.
    async fn renew(&self, held: &mut Held, fence: &Fence) -> bool {
        let started = Instant::now();
        let patience =
            (held.since + self.timing.deadline).saturating_duration_since(started).min(self.timing.deadline / 2);
        let mut lease = held.lease.clone();
        lease.spec = Some(self.spec(held.lease.spec.as_ref()));
        let params = PostParams::default();
        match timeout(patience, self.api.replace(&self.name, &params, &lease)).await {
            Ok(Ok(lease)) => {
                *held = Held { lease, since: started };
                fence.open_until(started + self.timing.deadline);
                true
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
                self.look_again(held, fence).await;
                false
            }
            Ok(Err(error)) => {
                self.say("failed to renew the lease", &error);
                false
            }
            Err(_) => {
                tracing::warn!(lease = self.name, "the renewal of the lease was not answered in time");
                false
            }
        }
    }

    /// After a conflict: our own renewal may have come through without an answer; else somebody took the lease.
    async fn look_again(&self, held: &mut Held, fence: &Fence) {
        match timeout(self.timing.period, self.api.get_opt(&self.name)).await {
            Ok(Ok(Some(lease))) if self.holder(&lease) == Some(&self.identity) => held.lease = lease,
            Ok(Ok(_)) => {
                tracing::error!(lease = self.name, "another replica took the lease: no longer the leader");
                fence.close();
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }

    async fn take(&self, lease: Option<Lease>) -> Result<Held, kube::Error> {
        let since = Instant::now();
        let lease = match lease {
            Some(mut lease) => {
                lease.spec = Some(self.spec(lease.spec.as_ref()));
                // With its version: whoever writes second fails.
                self.api.replace(&self.name, &PostParams::default(), &lease).await?
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.spec(None)) };
                self.api.create(&PostParams::default(), &lease).await?
            }
        };
        tracing::info!(lease = self.name, identity = self.identity, "leads");
        Ok(Held { lease, since })
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = before.is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs().max(1)).ok(),
            acquire_time: before.filter(|_| same).and_then(|spec| spec.acquire_time.clone()).or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    /// Given back, or ours from an earlier life of this very pod.
    fn is_free(&self, lease: &Lease) -> bool {
        self.holder(lease).is_none_or(|holder| *holder == self.identity)
    }

    fn holder<'a>(&self, lease: &'a Lease) -> Option<&'a String> {
        lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
    }

    fn say(&self, what: &str, error: &kube::Error) {
        let error = crate::cli::one_line(error);
        tracing::warn!(lease = self.name, namespace = self.api.resource_url(), error, "{what}");
    }
}

/// The time of a lease that did not change stays: watches show it again when they start anew.
fn observe(before: Option<(Option<Lease>, Instant)>, lease: Option<Lease>) -> (Option<Lease>, Instant) {
    let version = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
    match before {
        Some((known, since)) if version(&known) == version(&lease) => (lease, since),
        _ => (lease, Instant::now()),
    }
}

fn fence_is_open(fence: &Fence) -> bool {
    fence.deadline().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_must_give_up_before_another_may_take_over() {
        let timing = |duration, deadline, period| Timing {
            duration: Duration::from_secs(duration),
            deadline: Duration::from_secs(deadline),
            period: Duration::from_secs(period),
        };
        assert!(timing(15, 10, 2).check().is_ok());
        for unfit in [timing(10, 10, 2), timing(15, 20, 2), timing(15, 10, 10)] {
            assert_eq!(unfit.check().expect_err("unfit"), Unfit);
        }
    }
}
