//! The StatefulSet: an identity never runs twice, which signing keys require.

use std::collections::BTreeMap;

use k8s_openapi::{
    DeepMerge,
    api::{
        apps::v1::{StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec},
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Validated, config_map, metadata, pod};

/// The pods start and stop together (they are independent), and each keeps its volume when scaled down.
pub fn build(validated: &Validated) -> StatefulSet {
    StatefulSet {
        metadata: metadata::child(validated),
        spec: Some(StatefulSetSpec {
            replicas: Some(validated.replicas),
            service_name: Some(validated.child_name()),
            selector: metadata::selector(validated),
            pod_management_policy: Some("Parallel".to_owned()),
            revision_history_limit: Some(2),
            template: pod_template(validated),
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

fn pod_template(validated: &Validated) -> PodTemplateSpec {
    let mut labels = validated.pod.labels.clone();
    labels.extend(metadata::all_labels(validated));
    let mut annotations: BTreeMap<String, String> = validated.pod.annotations.clone();
    annotations.insert(metadata::SETTINGS_DIGEST.to_owned(), config_map::digest(validated));
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(pod::build(validated)),
    };
    if let Some(partial) = &validated.template {
        template.merge_from(partial.clone());
    }
    template
}

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
