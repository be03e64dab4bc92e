//! What a manifest asks for and a process of this machine does not get: said once, so that nobody relies on it.

use bistro_api::workload;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Volume, VolumeMount};

use super::pod::{is_known_field, secrets_folder};
use crate::plan::contract;

/// Fields of a Miner, Validator or Averager.
pub fn workload(workload: &workload::Workload) -> Vec<String> {
    let pod = bistro_api::pod::Pod { env: Vec::new(), ..workload.pod.clone() };
    let wants_gpu = workload.gpu.as_ref().is_some_and(|gpu| gpu.count > 0);
    let fields = [
        (workload.image.is_some(), "image"),
        (wants_gpu, "gpu (every process sees all GPUs of this machine)"),
        (workload.resources != Default::default(), "resources"),
        (workload.storage.is_some(), "storage (the state is kept in a folder)"),
        (pod != Default::default(), "pod, except pod.env"),
        (workload.template.is_some(), "template"),
    ];
    let mut all: Vec<String> =
        fields.into_iter().filter(|(wanted, _)| *wanted).map(|(_, field)| field.to_owned()).collect();
    all.extend(variables("pod.env", &workload.pod.env));
    all
}

/// Fields of a Job. What only shields it from others, such as a securityContext, is not missed here.
pub fn job(pod: &PodSpec, container: &Container) -> Vec<String> {
    let mut all = Vec::new();
    for argument in container.args.iter().flatten().filter(|text| has_reference(text)) {
        all.push(format!("the reference in the argument {argument:?} (it stays as it is)"));
    }
    all.extend(variables("env", container.env.as_deref().unwrap_or_default()));
    if container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) {
        all.push("envFrom (name each variable in env)".to_owned());
    }
    if container.working_dir.is_some() {
        all.push("workingDir".to_owned());
    }
    let mounts = container.volume_mounts.iter().flatten().filter(|mount| !is_honoured(mount, pod));
    all.extend(mounts.map(|mount| format!("the mount of volume {} at {}", mount.name, mount.mount_path)));
    all
}

fn variables(field: &str, variables: &[EnvVar]) -> Vec<String> {
    let mut all = Vec::new();
    for EnvVar { name, value, value_from } in variables {
        if value.as_deref().is_some_and(has_reference) {
            all.push(format!("the reference in {field}[{name}] (it stays as it is)"));
        }
        let Some(source) = value_from else { continue };
        let is_known = match &source.field_ref {
            Some(field) => is_known_field(&field.field_path),
            None => source.secret_key_ref.is_some() || source.config_map_key_ref.is_some(),
        };
        if !is_known {
            all.push(format!("{field}[{name}].valueFrom (the variable stays unset)"));
        }
    }
    all
}

/// Whether a text holds what the kubelet replaces: `$(NAME)`.
fn has_reference(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    let after = text.match_indices("$(").map(|(at, _)| &text[at + 2..]);
    after.filter_map(|rest| rest.split_once(')')).any(|(name, _)| is_name(name))
}

/// Whether a process finds in its place what a container would: Secrets and ConfigMaps in the folder of the contract,
/// an own state folder, and the machine's `/tmp`.
fn is_honoured(mount: &VolumeMount, pod: &PodSpec) -> bool {
    if mount.sub_path.is_some() || mount.sub_path_expr.is_some() {
        return false;
    }
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
    let Some(Volume { secret, config_map, empty_dir, persistent_volume_claim, .. }) = volume else { return false };
    if secrets_folder(&mount.mount_path).is_some() {
        let whole_secret = secret.as_ref().is_some_and(|s| s.secret_name.is_some() && s.items.is_none());
        return whole_secret || config_map.as_ref().is_some_and(|map| map.items.is_none());
    }
    match mount.mount_path.as_str() {
        "/tmp" => empty_dir.is_some(),
        contract::STATE_FOLDER => empty_dir.is_some() || persistent_volume_claim.is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kubelet_replaces_is_a_reference() {
        for text in ["$(HOME)", "--to=$(A_1)/x", "$$(ESCAPED)", "$(x) $(y)", "$(a b) $(c)"] {
            assert!(has_reference(text), "{text}");
        }
        for text in ["$HOME", "${HOME}", "$()", "$(a b)", "$(open", "(x)"] {
            assert!(!has_reference(text), "{text}");
        }
    }
}
