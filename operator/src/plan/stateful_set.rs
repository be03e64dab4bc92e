//! The StatefulSet: an identity never runs twice, which signing keys require.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy,
            StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Validated, metadata, pod, pod_template};

/// Kueue's labels choose a queue for the StatefulSet, and for each of its pods.
const KUEUE: &str = "kueue.x-k8s.io/";

/// The pods start and stop together (they are independent), and each keeps its volume when scaled down.
///
/// Two pods never sign with one hotkey. A StatefulSet makes pod i only after the earlier pod i is gone for sure; the pod
/// of a machine that does not answer is not replaced until somebody deletes it by force. So there is one StatefulSet per
/// resource under a name that cannot change, and nothing here ever deletes a pod by force.
///
/// Left to the API server: what it adds to pods (see `stored`), `volumeMode` and `status` of claims, and the retention
/// policy of claims where there are none. `minReadySeconds` stays 0, which it would leave out.
pub fn build(validated: &Validated) -> StatefulSet {
    let template = pod_template::build(validated);
    StatefulSet {
        metadata: with_queue(metadata::child(validated), &template),
        spec: Some(StatefulSetSpec {
            replicas: Some(validated.replicas),
            service_name: Some(validated.child_name()),
            selector: metadata::selector(validated),
            pod_management_policy: Some("Parallel".to_owned()),
            revision_history_limit: Some(2),
            // One pod after the other, from the last to the first, each once the one before is ready.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateStatefulSetStrategy {
                    partition: Some(0),
                    ..RollingUpdateStatefulSetStrategy::default()
                }),
            }),
            template,
            volume_claim_templates: claim(validated).map(|claim| vec![claim]),
            persistent_volume_claim_retention_policy: validated.storage.is_some().then(|| {
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some("Delete".to_owned()),
                    when_scaled: Some("Retain".to_owned()),
                }
            }),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn with_queue(mut metadata: ObjectMeta, template: &PodTemplateSpec) -> ObjectMeta {
    let labels = template.metadata.iter().flat_map(|m| m.labels.iter().flatten());
    let queue = labels.filter(|(key, _)| key.starts_with(KUEUE)).map(|(key, value)| (key.clone(), value.clone()));
    metadata.labels.get_or_insert_default().extend(queue);
    metadata
}

/// Without labels of its own: claims cannot change, and the StatefulSet puts those of its selector on them.
fn claim(validated: &Validated) -> Option<PersistentVolumeClaim> {
    let storage = validated.storage.as_ref()?;
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(pod::STATE_VOLUME.to_owned()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), storage.size.clone())])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}
