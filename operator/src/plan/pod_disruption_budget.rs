//! The PodDisruptionBudget: a drain takes one node at a time.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Validated, metadata};

/// Absent below two pods, where a budget either allows everything or blocks every drain for ever.
pub fn build(validated: &Validated) -> Option<PodDisruptionBudget> {
    (validated.replicas > 1).then(|| PodDisruptionBudget {
        metadata: metadata::child(validated),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            // A pod that waits for its hotkey must not keep a machine from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            selector: Some(metadata::selector(validated)),
            min_available: None,
        }),
        ..PodDisruptionBudget::default()
    })
}
