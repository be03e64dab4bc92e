//! What the operator tells Prometheus, under controller-runtime's names where it has one, so that stock dashboards and
//! alerts work.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector, process_collector::ProcessCollector,
};

use super::{
    cache::Cache,
    key::Kind,
    queue::{Outcome, Queue},
};

/// Passes take 0.1 ms (nothing to do) to a second (an API server under load).
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    errors: IntCounterVec,
    durations: HistogramVec,
    active: IntGaugeVec,
    depth: IntGaugeVec,
    adds: IntCounterVec,
    retries: IntCounterVec,
    waited: HistogramVec,
    worked: HistogramVec,
    leader: IntGaugeVec,
    requests: IntCounterVec,
    resources: IntGaugeVec,
    writes: IntCounterVec,
    watch_errors: IntCounterVec,
    polls: IntCounterVec,
}

/// Name of the one queue.
const QUEUE: &str = "bistro";

impl Metrics {
    /// Registers everything.
    pub fn new(workers: usize, lease: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name, help, labels: &[&str]| keep(&registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let gauge = |name, help, labels: &[&str]| keep(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let histogram = |name, help, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            keep(&registry, HistogramVec::new(options, labels)?)
        };
        let most =
            gauge("controller_runtime_max_concurrent_reconciles", "Passes that may run at a time", &["controller"])?;
        let metrics = Self {
            reconciles: counter("controller_runtime_reconcile_total", "Passes by result", &["controller", "result"])?,
            errors: counter("controller_runtime_reconcile_errors_total", "Passes that failed", &["controller"])?,
            durations: histogram("controller_runtime_reconcile_time_seconds", "Duration of passes", &["controller"])?,
            active: gauge("controller_runtime_active_workers", "Passes that run", &["controller"])?,
            depth: gauge("workqueue_depth", "Resources that wait for a worker", &["name"])?,
            adds: counter("workqueue_adds_total", "Resources queued", &["name"])?,
            retries: counter("workqueue_retries_total", "Resources queued again after a failure", &["name"])?,
            waited: histogram("workqueue_queue_duration_seconds", "Time that resources wait for a worker", &["name"])?,
            worked: histogram("workqueue_work_duration_seconds", "Time that workers take for a resource", &["name"])?,
            leader: gauge("leader_election_master_status", "1 while this replica leads", &["name"])?,
            requests: counter("rest_client_requests_total", "Requests to the API server", &["code", "method"])?,
            resources: gauge("bistro_operator_resources", "Resources by kind and readiness", &["kind", "ready"])?,
            writes: counter("bistro_operator_writes_total", "Objects written", &["kind", "verb"])?,
            watch_errors: counter(
                "bistro_operator_watch_errors_total",
                "Watches that broke off with an error",
                &["kind"],
            )?,
            polls: counter("bistro_operator_polls_total", "Questions to nodes by outcome", &["outcome"])?,
            registry: registry.clone(),
        };
        registry.register(Box::new(ProcessCollector::for_self()))?;
        for kind in Kind::ALL {
            most.with_label_values(&[kind.as_str()]).set(i64::try_from(workers).unwrap_or(i64::MAX));
            // Series that exist from the start are the ones that alerts can compare.
            metrics.errors.with_label_values(&[kind.as_str()]);
            for result in ["success", "error", "requeue_after"] {
                metrics.reconciles.with_label_values(&[kind.as_str(), result]);
            }
        }
        metrics.leader.with_label_values(&[lease]);
        Ok(metrics)
    }

    /// A pass begins.
    pub fn began(&self, kind: Kind, waited: Duration) {
        self.active.with_label_values(&[kind.as_str()]).inc();
        self.waited.with_label_values(&[QUEUE]).observe(waited.as_secs_f64());
    }

    /// A pass is over.
    pub fn ended(&self, kind: Kind, outcome: Outcome, took: Duration) {
        let controller = kind.as_str();
        let result = match outcome {
            Outcome::Settled => "success",
            Outcome::Again(_) => "requeue_after",
            Outcome::Failed => "error",
        };
        self.active.with_label_values(&[controller]).dec();
        self.reconciles.with_label_values(&[controller, result]).inc();
        if outcome == Outcome::Failed {
            self.errors.with_label_values(&[controller]).inc();
        }
        self.durations.with_label_values(&[controller]).observe(took.as_secs_f64());
        self.worked.with_label_values(&[QUEUE]).observe(took.as_secs_f64());
    }

    /// An object was written.
    pub fn wrote(&self, kind: &str, verb: &str) {
        self.writes.with_label_values(&[kind, verb]).inc();
    }

    /// A request to the API server was answered, or not (code `error`).
    pub fn requested(&self, method: &str, code: &str) {
        self.requests.with_label_values(&[code, method]).inc();
    }

    /// Counts errors of the watches of a kind.
    pub fn watch_errors(&self, kind: &str) -> IntCounter {
        self.watch_errors.with_label_values(&[kind])
    }

    /// A node was asked.
    pub fn polled(&self, outcome: &str) {
        self.polls.with_label_values(&[outcome]).inc();
    }

    /// This replica leads, or does not.
    pub fn lead(&self, lease: &str, leads: bool) {
        self.leader.with_label_values(&[lease]).set(i64::from(leads));
    }

    /// The text that Prometheus reads.
    pub fn text(&self, cache: &Cache, queue: &Queue) -> Result<String, prometheus::Error> {
        let counts = queue.counts();
        self.depth.with_label_values(&[QUEUE]).set(i64::try_from(counts.depth).unwrap_or(i64::MAX));
        let raise = |counter: IntCounter, to: u64| counter.inc_by(to.saturating_sub(counter.get()));
        raise(self.adds.with_label_values(&[QUEUE]), counts.adds);
        raise(self.retries.with_label_values(&[QUEUE]), counts.retries);
        let state = cache.lock();
        for kind in Kind::ALL {
            let (all, ready) = state.count(kind);
            for (is, count) in [("true", ready), ("false", all - ready)] {
                self.resources.with_label_values(&[kind.as_str(), is]).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        drop(state);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn keep<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
