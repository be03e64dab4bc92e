//! `spec.template`: a partial pod template, merged last, that may not break the pod contract.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use serde_json::{Map, Value, json};

use super::{Invalid, contract, metadata, pod, stored};

/// Paths that the contract mounts.
const OWNED_MOUNTS: [&str; 4] = [contract::SETTINGS_FOLDER, contract::SECRETS_FOLDER, contract::STATE_FOLDER, "/tmp"];
/// Volumes that the contract names.
const OWNED_VOLUMES: [&str; 5] =
    [pod::SETTINGS_VOLUME, pod::STATE_VOLUME, pod::TEMPORARY_VOLUME, contract::WALLET, contract::BUCKET];
/// Members of a pod that a template may not set, and what to do instead.
const OWNED_BY_POD: [(&str, &str); 9] = [
    ("restartPolicy", "leave it out, the pods of a StatefulSet always restart"),
    ("activeDeadlineSeconds", "leave it out, nodes run until they are deleted"),
    ("hostname", "leave it out, a StatefulSet names its pods"),
    ("subdomain", "leave it out, a StatefulSet names its pods"),
    ("automountServiceAccountToken", "leave it out, the worker never speaks to the API server"),
    ("enableServiceLinks", "leave it out, Services may not name variables of the worker"),
    ("serviceAccount", "set spec.pod.serviceAccountName"),
    ("serviceAccountName", "set spec.pod.serviceAccountName"),
    ("ephemeralContainers", "leave it out, they are added to running pods only"),
];
/// Members of the worker's container that a template may set; the others belong to the contract.
const OPEN_IN_WORKER: [&str; 13] = [
    "name",
    "env",
    "envFrom",
    "imagePullPolicy",
    "lifecycle",
    "ports",
    "resizePolicy",
    "securityContext",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeDevices",
    "volumeMounts",
];
/// Where to set the members that people look for in a container.
const ELSEWHERE: [(&str, &str); 3] = [
    ("image", "set spec.image"),
    ("resources", "set spec.resources, and spec.gpu for GPUs"),
    ("args", "leave it out, the role decides what the worker runs"),
];

/// The partial template as a typed one; what it leaves out stays as the operator sets it.
pub fn parse(mut template: Value) -> Result<PodTemplateSpec, Invalid> {
    stored::remove_empty(&mut template);
    members_keep_contract(&template)?;
    let asked = template.clone();
    // A PodSpec needs containers; here leaving them out means to leave them alone.
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("containers").or_insert(json!([]));
    }
    let mut template: PodTemplateSpec = serde_json::from_value(template)
        .map_err(|error| Invalid::new("spec.template", format!("is no pod template: {error}")))?;
    let understood = serde_json::to_value(&template).expect("a template is JSON");
    if let Some(field) = first_missing(&asked, &understood, "spec.template") {
        return Err(Invalid::new(field, "is no field of a pod that is known here: correct its name or remove it"));
    }
    if let Some(spec) = &mut template.spec {
        keeps_contract(spec)?;
        stored::pod(spec, "spec.template.spec")?;
    }
    Ok(template)
}

/// The rules that need no more than the names of members.
fn members_keep_contract(template: &Value) -> Result<(), Invalid> {
    let members = |pointer: &str| template.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    if let Some((name, _)) = members("/metadata").find(|(name, _)| *name != "labels" && *name != "annotations") {
        return Err(owned(&format!("metadata.{name}"), "set labels and annotations only"));
    }
    if let Some((key, _)) = members("/metadata/labels").find(|(key, _)| metadata::is_owned_label(key)) {
        return Err(owned(&format!("metadata.labels[{key}]"), metadata::OTHER_LABEL));
    }
    if let Some((key, _)) = members("/metadata/annotations").find(|(key, _)| metadata::is_owned_annotation(key)) {
        return Err(owned(&format!("metadata.annotations[{key}]"), metadata::OTHER_ANNOTATION));
    }
    for (name, _) in members("/spec") {
        if let Some((_, remedy)) = OWNED_BY_POD.iter().find(|(owned, _)| *owned == name) {
            return Err(owned(&format!("spec.{name}"), remedy));
        }
    }
    let containers = template.pointer("/spec/containers").and_then(Value::as_array);
    containers.into_iter().flatten().filter_map(Value::as_object).try_for_each(worker_is_open)
}

fn worker_is_open(container: &Map<String, Value>) -> Result<(), Invalid> {
    if container.get("name").and_then(Value::as_str) != Some(contract::CONTAINER) {
        return Ok(());
    }
    match container.keys().find(|member| !OPEN_IN_WORKER.contains(&member.as_str())) {
        Some(member) => {
            let known = ELSEWHERE.iter().find(|(name, _)| name == member);
            Err(owned(&in_worker(member), known.map_or("leave it out", |(_, remedy)| remedy)))
        }
        None => Ok(()),
    }
}

fn keeps_contract(spec: &PodSpec) -> Result<(), Invalid> {
    let grace = spec.termination_grace_period_seconds;
    if grace.is_some_and(|seconds| seconds < contract::GRACE_SECONDS) {
        let remedy = format!("a worker needs up to {} s to save its state, so allow more", contract::GRACE_SECONDS);
        return Err(owned("spec.terminationGracePeriodSeconds", &remedy));
    }
    if let Some(volume) = spec.volumes.iter().flatten().find(|v| OWNED_VOLUMES.contains(&v.name.as_str())) {
        return Err(owned(&format!("spec.volumes[{}]", volume.name), "give your volume another name"));
    }
    let first = spec.init_containers.iter().flatten();
    if first.map(|container| &container.name).any(|name| name == contract::CONTAINER) {
        return Err(owned(&format!("spec.initContainers[{}]", contract::CONTAINER), "give it another name"));
    }
    let workers = spec.containers.iter().filter(|container| container.name == contract::CONTAINER);
    workers.into_iter().try_for_each(worker_keeps_contract)
}

fn worker_keeps_contract(container: &Container) -> Result<(), Invalid> {
    if let Some(variable) = container.env.iter().flatten().find(|v| v.name.starts_with("BISTRO_")) {
        return Err(owned(&in_worker(&format!("env[{}]", variable.name)), "leave BISTRO_ variables out"));
    }
    if let Some(mount) = container.volume_mounts.iter().flatten().find(|m| hides_contract(&m.mount_path)) {
        return Err(owned(&in_worker(&format!("volumeMounts[{}]", mount.mount_path)), "mount your volume elsewhere"));
    }
    let is_ours = |port: i32, name: Option<&str>| port == contract::PORT || name == Some(contract::PORT_NAME);
    if let Some(port) = container.ports.iter().flatten().find(|port| is_ours(port.container_port, port.name.as_deref()))
    {
        let field = in_worker(&format!("ports[{}]", port.container_port));
        return Err(owned(&field, &format!("choose a port other than {} and another name", contract::PORT)));
    }
    if container.security_context.as_ref().and_then(|context| context.read_only_root_filesystem) == Some(false) {
        let field = in_worker("securityContext.readOnlyRootFilesystem");
        return Err(owned(&field, "leave it out and mount an emptyDir where the worker must write"));
    }
    Ok(())
}

/// Whether a mount here would hide one of the contract, or lie within one.
fn hides_contract(path: &str) -> bool {
    let folder = |path: &str| format!("{}/", path.trim_end_matches('/'));
    let path = folder(path);
    OWNED_MOUNTS.iter().map(|owned| folder(owned)).any(|owned| path.starts_with(&owned) || owned.starts_with(&path))
}

fn in_worker(member: &str) -> String {
    format!("spec.containers[{}].{member}", contract::CONTAINER)
}

fn owned(field: &str, remedy: &str) -> Invalid {
    Invalid::new(format!("spec.template.{field}"), format!("belongs to the pod contract: {remedy}"))
}

/// Path of the first member that was asked for and not understood: serde passes over what it does not know.
fn first_missing(asked: &Value, understood: &Value, path: &str) -> Option<String> {
    match (asked, understood) {
        (Value::Object(asked), Value::Object(understood)) => asked.iter().find_map(|(name, member)| {
            let path = format!("{path}.{name}");
            match understood.get(name) {
                Some(understood) => first_missing(member, understood, &path),
                None => Some(path),
            }
        }),
        (Value::Array(asked), Value::Array(understood)) => asked
            .iter()
            .zip(understood)
            .enumerate()
            .find_map(|(i, (asked, understood))| first_missing(asked, understood, &format!("{path}[{i}]"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_template_needs_no_containers() {
        let parsed = parse(json!({"spec": {"nodeName": "x"}})).expect("valid");
        assert_eq!(parsed.spec.expect("spec").node_name.as_deref(), Some("x"));
        parse(json!({"metadata": {"labels": {"team": "blue", "app.kubernetes.io/part-of": "x"}}})).expect("valid");
        let more = json!({"name": "worker", "env": [{"name": "RUST_LOG", "value": "debug"}],
            "volumeMounts": [{"name": "x", "mountPath": "/x"}, {"name": "x", "mountPath": "/etc/ssl/certs"}]});
        parse(json!({"spec": {"containers": [more, {"name": "sidecar", "args": ["x"], "image": "y"}]}}))
            .expect("valid");
        parse(json!({"spec": {"terminationGracePeriodSeconds": 120, "hostNetwork": false}})).expect("valid");
    }

    #[test]
    fn what_the_contract_owns_cannot_be_changed() {
        let worker = |member: Value| {
            let mut container = json!({"name": "worker"});
            container.as_object_mut().expect("object").extend(member.as_object().expect("object").clone());
            json!({"spec": {"containers": [container]}})
        };
        let mount = |path: &str| worker(json!({"volumeMounts": [{"name": "x", "mountPath": path}]}));
        for (template, field, remedy) in [
            (worker(json!({"args": ["miner"]})), "[worker].args", "the role decides"),
            (worker(json!({"command": ["sh"]})), "[worker].command", "leave it out"),
            (worker(json!({"image": "x"})), "[worker].image", "set spec.image"),
            (worker(json!({"resources": {"limits": {"cpu": 1}}})), "[worker].resources", "set spec.resources"),
            (worker(json!({"livenessProbe": {"periodSeconds": 1}})), "[worker].livenessProbe", "leave it out"),
            (worker(json!({"env": [{"name": "BISTRO_STATE", "value": "/x"}]})), "BISTRO_STATE", "leave BISTRO_"),
            (worker(json!({"ports": [{"containerPort": 8080}]})), "ports[8080]", "choose a port"),
            (worker(json!({"ports": [{"containerPort": 1, "name": "http"}]})), "ports[1]", "choose a port"),
            (worker(json!({"securityContext": {"readOnlyRootFilesystem": false}})), "readOnly", "mount an emptyDir"),
            (mount("/run/bistro/secrets/wallet"), "/run/bistro", "elsewhere"),
            (mount("/tmp/"), "/tmp", "elsewhere"),
            (mount("/var"), "/var", "elsewhere"),
            (json!({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}), "labels", "another label"),
            (json!({"metadata": {"labels": {"bistro.dev/subnet": "x"}}}), "labels", "another label"),
            (json!({"metadata": {"annotations": {"bistro.dev/settings-digest": "x"}}}), "annotations", "your own"),
            (json!({"metadata": {"name": "x"}}), "metadata.name", "labels and annotations only"),
            (json!({"spec": {"volumes": [{"name": "state", "emptyDir": {}}]}}), "volumes[state]", "another name"),
            (json!({"spec": {"initContainers": [{"name": "worker"}]}}), "initContainers[worker]", "another name"),
            (json!({"spec": {"automountServiceAccountToken": true}}), "automountServiceAccountToken", "leave it out"),
            (json!({"spec": {"serviceAccountName": "x"}}), "serviceAccountName", "set spec.pod.serviceAccountName"),
            (json!({"spec": {"restartPolicy": "Never"}}), "restartPolicy", "leave it out"),
            (json!({"spec": {"hostname": "x"}}), "hostname", "a StatefulSet names its pods"),
            (json!({"spec": {"terminationGracePeriodSeconds": 5}}), "terminationGracePeriodSeconds", "allow more"),
        ] {
            let error = parse(template.clone()).expect_err("refused").to_string();
            assert!(error.starts_with("spec.template."), "{template}: {error}");
            assert!(error.contains(field) && error.contains(remedy), "{template}: {error}");
        }
    }

    #[test]
    fn misspelled_members_are_named() {
        for (template, field) in [
            (json!({"spec": {"tolerationss": [{"key": "x"}]}}), "spec.template.spec.tolerationss:"),
            (
                json!({"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "vlaue": "x"}]}]}}),
                "spec.template.spec.containers[0].env[0].vlaue:",
            ),
            (json!({"metadatas": {"labels": {"a": "b"}}}), "spec.template.metadatas:"),
            (json!({"spec": 5}), "spec.template:"),
        ] {
            let error = parse(template.clone()).expect_err("refused").to_string();
            assert!(error.starts_with(field), "{template}: {error}");
        }
    }

    #[test]
    fn quantities_of_a_template_are_canonical() {
        let volumes = json!([{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Mi"}}]);
        let sidecar = json!({"name": "sidecar", "resources": {"requests": {"cpu": "0.5"}}});
        let parsed = parse(json!({"spec": {"volumes": volumes, "containers": [sidecar]}})).expect("valid");
        let text = serde_json::to_string(&parsed).expect("JSON");
        assert!(text.contains(r#""sizeLimit":"1Gi""#) && text.contains(r#""cpu":"500m""#), "{text}");
    }
}
