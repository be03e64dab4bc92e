//! The pod template: labels, annotations and pod, with the resource's own partial template merged last.

use k8s_openapi::{
    DeepMerge,
    api::core::v1::{Container, PodSpec, PodTemplateSpec, Toleration},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Validated, config_map, contract, metadata, pod};

/// The template of every pod of a resource.
pub fn build(validated: &Validated) -> PodTemplateSpec {
    let mut labels = validated.pod.labels.clone();
    labels.extend(metadata::all_labels(validated));
    let mut annotations = validated.pod.annotations.clone();
    annotations.insert(metadata::SETTINGS_DIGEST.to_owned(), config_map::digest(validated));
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(pod::build(validated)),
    };
    if let Some(partial) = &validated.template {
        merge(&mut template, partial.clone());
    }
    if let Some(spec) = &mut template.spec {
        count_own_pods(spec, validated);
    }
    template
}

/// Members are set, lists grow by their keys (names, paths, ports).
fn merge(template: &mut PodTemplateSpec, mut partial: PodTemplateSpec) {
    if let (Some(spec), Some(more)) = (&mut template.spec, &mut partial.spec) {
        // These have no keys, so merging would replace them and with them the toleration of GPU machines.
        tolerate(spec, more.tolerations.take().unwrap_or_default());
        if let Some(selector) = more.node_selector.take() {
            spec.node_selector.get_or_insert_default().extend(selector);
        }
        for container in &more.containers {
            forget_variables(spec, container);
        }
        let others = more.containers.iter_mut().filter(|container| container.name != contract::CONTAINER);
        for container in others.chain(more.init_containers.iter_mut().flatten()) {
            container.security_context = Some(pod::restrict(container.security_context.take().unwrap_or_default()));
        }
    }
    template.merge_from(partial);
}

fn tolerate(spec: &mut PodSpec, more: Vec<Toleration>) {
    for toleration in more {
        let all = spec.tolerations.get_or_insert_default();
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
}

/// A variable that the template sets again is taken from there as a whole: `value` and `valueFrom` exclude each other.
fn forget_variables(spec: &mut PodSpec, template: &Container) {
    let again = |name: &str| template.env.iter().flatten().any(|variable| variable.name == name);
    for container in spec.containers.iter_mut().filter(|container| container.name == template.name) {
        if let Some(variables) = &mut container.env {
            variables.retain(|variable| !again(&variable.name));
        }
    }
}

/// A rule of spreading that names no pods means those of the resource; to Kubernetes it would mean none.
fn count_own_pods(spec: &mut PodSpec, validated: &Validated) {
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        constraint.label_selector.get_or_insert_with(|| metadata::selector(validated));
    }
}
