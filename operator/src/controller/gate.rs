//! What every request to the API server passes: a fence, a limit of time, and a count.
//!
//! The fence keeps a replica from writing that no longer leads. Its lease may be renewed late, and a write may wait for
//! a connection; so a write neither starts nor stays open after the time until which the last renewal lets it write.
//! The client keeps no other requests waiting: retries are the queue's matter.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::http::{Method, Request, Response};
use kube::client::Body;
use tokio::time::{Instant, timeout_at};
use tower::{BoxError, Layer, Service};

use super::metrics::Metrics;

/// An API server that has not answered by then is away.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Until when this replica may write.
#[derive(Clone, Debug)]
pub struct Fence {
    /// Milliseconds since `began`; 0: it may not.
    until: Arc<AtomicU64>,
    began: Instant,
}

/// A write came too late or before this replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead: it may not write")]
pub struct Fenced;

/// The API server took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server has not answered for {} s", PATIENCE.as_secs())]
pub struct Slow;

impl Default for Fence {
    fn default() -> Self {
        Self { until: Arc::default(), began: Instant::now() }
    }
}

impl Fence {
    /// Open for ever: there is no election.
    pub fn open() -> Self {
        let fence = Self::default();
        fence.until.store(u64::MAX, Ordering::Release);
        fence
    }

    /// Writes may start before this time.
    pub fn open_until(&self, time: Instant) {
        let until = time.saturating_duration_since(self.began).as_millis();
        self.until.store(u64::try_from(until).unwrap_or(u64::MAX).max(1), Ordering::Release);
    }

    /// No write may start.
    pub fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// When writes must have ended; absent: they may not start.
    pub fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        match self.until.load(Ordering::Acquire) {
            u64::MAX => Some(now + Duration::from_secs(3600)),
            until => Some(self.began + Duration::from_millis(until)).filter(|deadline| *deadline > now),
        }
    }
}

/// When requests for each kind last succeeded.
#[derive(Clone, Debug, Default)]
pub struct Beats {
    last: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Beats {
    fn beat(&self, path: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(path) {
            Some(time) => *time = Instant::now(),
            None => {
                last.insert(path.to_owned(), Instant::now());
            }
        }
    }

    /// The path of a watch that has not succeeded for so long, if there is one.
    pub fn silent_for(&self, patience: Duration) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().find(|(_, time)| time.elapsed() > patience).map(|(path, _)| path.clone())
    }
}

/// Puts the gate in front of a client.
#[derive(Clone, Debug)]
pub struct GateLayer {
    /// Until when this replica may write.
    pub fence: Fence,
    /// When each watch last succeeded.
    pub beats: Beats,
    /// Where requests are counted.
    pub metrics: Metrics,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, layer: self.clone() }
    }
}

/// A client behind the gate.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    inner: S,
    layer: GateLayer,
}

impl<S, B> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reads = request.method() == Method::GET;
        // The lease itself is what the fence hangs on.
        let fenced = !reads && !request.uri().path().contains("/leases");
        let mut deadline = Instant::now() + PATIENCE;
        if fenced {
            match self.layer.fence.deadline() {
                Some(until) => deadline = deadline.min(until),
                None => return Box::pin(async { Err(Fenced.into()) }),
            }
        }
        let watched = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let path = watched.then(|| request.uri().path().to_owned());
        let method = request.method().to_string();
        let layer = self.layer.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match timeout_at(deadline, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(Slow.into()),
            };
            match &answer {
                Ok(response) => {
                    layer.metrics.requested(&method, response.status().as_str());
                    if let Some(path) = path.filter(|_| response.status().is_success()) {
                        layer.beats.beat(&path);
                    }
                }
                Err(_) => layer.metrics.requested(&method, "error"),
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tower::{ServiceExt, service_fn};

    use super::*;

    /// Sends a request through a gate to a server that takes `delay`; says whether it answered and whether it was asked.
    async fn send(fence: &Fence, method: Method, path: &str, delay: Duration) -> (bool, usize) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let server = service_fn(move |_: Request<Body>| {
            let count = count.clone();
            async move {
                tokio::time::sleep(delay).await;
                count.fetch_add(1, Ordering::SeqCst);
                Ok::<_, BoxError>(Response::new(()))
            }
        });
        let metrics = Metrics::new(1, "lease").expect("metrics");
        let gate = GateLayer { fence: fence.clone(), beats: Beats::default(), metrics }.layer(server);
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        let answered = gate.oneshot(request).await.is_ok();
        (answered, asked.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn a_replica_that_does_not_lead_reads_and_writes_nothing_but_its_lease() {
        let (fence, now) = (Fence::default(), Duration::ZERO);
        assert_eq!(send(&fence, Method::GET, "/api/v1/pods", now).await, (true, 1));
        assert_eq!(
            send(&fence, Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/x/leases/y", now).await,
            (true, 1)
        );
        for method in [Method::PATCH, Method::POST, Method::DELETE, Method::PUT] {
            assert_eq!(send(&fence, method, "/api/v1/namespaces/x/configmaps/y", now).await, (false, 0));
        }
    }

    #[tokio::test]
    async fn no_write_starts_or_waits_for_a_connection_beyond_the_last_renewal() {
        let (fence, now) = (Fence::default(), Duration::ZERO);
        let path = "/api/v1/namespaces/x/configmaps/y";
        fence.open_until(Instant::now() + Duration::from_secs(600));
        assert_eq!(send(&fence, Method::PATCH, path, Duration::from_millis(20)).await, (true, 1));
        fence.open_until(Instant::now() + Duration::from_millis(200));
        assert_eq!(send(&fence, Method::PATCH, path, Duration::from_secs(60)).await, (false, 0), "cut at the deadline");
        assert_eq!(send(&fence, Method::PATCH, path, now).await, (false, 0), "after the deadline");
        fence.open_until(Instant::now() + Duration::from_secs(600));
        assert_eq!(send(&fence, Method::PATCH, path, now).await, (true, 1), "renewed");
        fence.close();
        assert_eq!(send(&fence, Method::PATCH, path, now).await, (false, 0), "given up");
    }
}
