//! What a node shows of itself: metrics, status, health and logs.
//!
//! One [`Telemetry`] per process, cheap to clone, handed to everything that has something to show. Nothing here can fail
//! or block, so showing a fact never disturbs the work that it is about.

mod health;
mod logging;
mod metrics;
mod server;
mod status;

use bistro_api::{NodeStatus, Role, status::Phase};

pub use health::{Health, Heart};
pub use logging::init_logging;
pub use metrics::{MetricMiner, Metrics};
pub use server::{Server, serve};
pub use status::StatusHandle;

/// Everything that a node shows. Clones show the same.
#[derive(Clone)]
pub struct Telemetry {
    /// Answered on `/metrics`.
    pub metrics: Metrics,
    /// Answered on `/status`.
    pub status: StatusHandle,
    /// Answered on `/healthz` and `/readyz`.
    pub health: Health,
}

impl Telemetry {
    /// Everything at its start: phase starting, not ready, nothing reached yet.
    pub fn new(role: Role) -> Self {
        Self { metrics: Metrics::new(), status: StatusHandle::new(role), health: Health::new() }
    }

    /// The node enters a phase: shown in the status at once, and the time that the phase before took in the metrics.
    pub fn phase(&self, phase: Phase) {
        if let Some((before, took)) = self.status.enter(phase) {
            self.metrics.phase_seconds.with_label_values(&[before.as_str()]).set(took.as_secs_f64());
        }
    }

    /// Settings and key are loaded: the node's own part of being ready.
    pub fn loaded(&self) {
        self.health.loaded();
    }

    /// A chain endpoint answered (even with a refusal), or failed to, and why.
    pub fn chain(&self, answered: Result<(), String>) {
        if answered.is_ok() {
            self.health.saw_chain();
        }
        self.status.reached(|s| &mut s.chain, answered);
    }

    /// The bucket answered (even with a refusal), or failed to, and why.
    pub fn bucket(&self, answered: Result<(), String>) {
        if answered.is_ok() {
            self.health.saw_bucket();
        }
        self.status.reached(|s| &mut s.bucket, answered);
    }

    /// The one line for people: what the node waits for or what went wrong, and the remedy. Empty: nothing to say.
    pub fn message(&self, message: impl Into<String>) {
        let message = message.into();
        self.status.update(|s: &mut NodeStatus| s.message = message);
    }

    /// The status as it is answered: with what only the metrics count.
    fn answer(&self) -> NodeStatus {
        NodeStatus {
            uploaded_bytes: self.metrics.upload_bytes.get(),
            downloaded_bytes: self.metrics.download_bytes.get(),
            ..self.status.read()
        }
    }
}
