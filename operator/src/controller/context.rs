//! What every pass needs.

use std::{sync::Arc, time::Duration};

use k8s_controller::events::EventRecorder;
use kube::Client;

use super::{cache::Cache, gate::Fence, metrics::Metrics, queue::Queue};
use crate::plan::Environment;

/// Name under which all fields are owned that the operator writes.
pub const FIELD_MANAGER: &str = "bistro.dev/operator";
/// A status that changes all the time is written this often at most, unless a condition changes.
pub const STATUS_PERIOD: Duration = Duration::from_secs(30);
/// Everything is looked at again after this time, in case a watch lost something.
pub const RESYNC: Duration = Duration::from_secs(3600);

/// Shared by all workers and watches.
#[derive(Clone)]
pub struct Context {
    /// The API server, behind the gate.
    pub client: Client,
    /// What the watches found.
    pub cache: Arc<Cache>,
    /// What is to be done.
    pub queue: Arc<Queue>,
    /// Whether this replica may write.
    pub fence: Fence,
    /// Counts and times.
    pub metrics: Metrics,
    /// Tells people about trouble.
    pub events: Arc<EventRecorder>,
    /// What the operator was installed with.
    pub environment: Arc<Environment>,
}

impl Context {
    /// This replica may write.
    pub fn leads(&self) -> bool {
        self.fence.deadline().is_some()
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("environment", &self.environment).finish_non_exhaustive()
    }
}
