//! `spec.template`: a partial pod template, merged last, that may not break the pod contract.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use serde_json::{Value, json};

use super::{Invalid, contract, pod};

/// Paths that the contract mounts.
const OWNED_MOUNTS: [&str; 4] = [contract::SETTINGS_FOLDER, contract::SECRETS_FOLDER, contract::STATE_FOLDER, "/tmp"];
/// Volumes that the contract names.
const OWNED_VOLUMES: [&str; 5] = [pod::SETTINGS_VOLUME, pod::STATE_VOLUME, "tmp", contract::WALLET, contract::BUCKET];

/// The partial template as a typed one; what it leaves out stays as the operator sets it.
pub fn parse(mut template: Value) -> Result<PodTemplateSpec, Invalid> {
    // A PodSpec needs containers; here leaving them out means to leave them alone.
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("containers").or_insert(json!([]));
    }
    let template: PodTemplateSpec = serde_json::from_value(template)
        .map_err(|error| Invalid::new("spec.template", format!("is no pod template: {error}")))?;
    keeps_labels(&template)?;
    let Some(spec) = &template.spec else { return Ok(template) };
    for container in &spec.containers {
        keeps_contract(container)?;
    }
    if let Some(volume) = spec.volumes.iter().flatten().find(|v| OWNED_VOLUMES.contains(&v.name.as_str())) {
        return Err(owned(format!("spec.volumes[{}]", volume.name), "give your volume another name"));
    }
    if spec.restart_policy.is_some() || spec.automount_service_account_token == Some(true) {
        return Err(owned("spec".to_owned(), "leave restartPolicy and automountServiceAccountToken out"));
    }
    Ok(template)
}

fn keeps_labels(template: &PodTemplateSpec) -> Result<(), Invalid> {
    let labels = template.metadata.iter().flat_map(|m| m.labels.iter().flatten());
    match labels.map(|(key, _)| key).find(|key| key.starts_with("app.kubernetes.io/")) {
        Some(key) => Err(owned(format!("metadata.labels[{key}]"), "the pods are found by it, so use another label")),
        None => Ok(()),
    }
}

fn keeps_contract(container: &Container) -> Result<(), Invalid> {
    if container.name != contract::CONTAINER {
        return Ok(());
    }
    let field = |name: &str| format!("spec.containers[{}].{name}", contract::CONTAINER);
    if container.args.is_some() || container.command.is_some() {
        return Err(owned(field("args"), "the role decides what the worker runs, so leave args and command out"));
    }
    if let Some(variable) = container.env.iter().flatten().find(|v| v.name.starts_with("BISTRO_")) {
        return Err(owned(field(&format!("env[{}]", variable.name)), "leave BISTRO_ variables out"));
    }
    let inside = |path: &str| OWNED_MOUNTS.iter().any(|owned| path == *owned || path.starts_with(&format!("{owned}/")));
    if let Some(mount) = container.volume_mounts.iter().flatten().find(|m| inside(&m.mount_path)) {
        return Err(owned(field(&format!("volumeMounts[{}]", mount.mount_path)), "mount your volume elsewhere"));
    }
    Ok(())
}

fn owned(field: String, remedy: &str) -> Invalid {
    Invalid::new(format!("spec.template.{field}"), format!("belongs to the pod contract: {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_template_needs_no_containers() {
        let parsed = parse(json!({"spec": {"hostname": "x"}})).expect("valid");
        assert_eq!(parsed.spec.expect("spec").hostname.as_deref(), Some("x"));
        parse(json!({"metadata": {"labels": {"team": "blue"}}})).expect("valid");
        let more = json!({"name": "worker", "env": [{"name": "RUST_LOG", "value": "debug"}], "volumeMounts": [{"name": "x", "mountPath": "/x"}]});
        parse(json!({"spec": {"containers": [more, {"name": "sidecar", "args": ["x"]}]}})).expect("valid");
    }

    #[test]
    fn what_the_contract_owns_cannot_be_changed() {
        let worker = |member: Value| {
            let mut container = json!({"name": "worker"});
            container.as_object_mut().expect("object").extend(member.as_object().expect("object").clone());
            json!({"spec": {"containers": [container]}})
        };
        for (template, field) in [
            (worker(json!({"args": ["miner"]})), "args"),
            (worker(json!({"command": ["sh"]})), "args"),
            (worker(json!({"env": [{"name": "BISTRO_STATE", "value": "/x"}]})), "BISTRO_STATE"),
            (
                worker(json!({"volumeMounts": [{"name": "x", "mountPath": "/run/bistro/secrets/wallet"}]})),
                "/run/bistro",
            ),
            (json!({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}), "labels"),
            (json!({"spec": {"volumes": [{"name": "state"}]}}), "volumes[state]"),
            (json!({"spec": {"automountServiceAccountToken": true}}), "spec.template.spec"),
            (json!({"spec": 5}), "spec.template"),
        ] {
            let error = parse(template.clone()).expect_err("refused").to_string();
            assert!(error.contains(field), "{template}: {error}");
        }
    }
}
