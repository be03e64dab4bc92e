//! The pod: one container that keeps the pod contract, with as few rights as Kubernetes can give.

use k8s_openapi::{
    api::core::v1::{
        ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
        ObjectFieldSelector, PodSecurityContext, PodSpec, Probe, ResourceFieldSelector, ResourceRequirements,
        SeccompProfile, SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::{Validated, contract};
use crate::role;

/// Volume of settings.yaml.
pub const SETTINGS_VOLUME: &str = "settings";
/// Volume of the state: a claim where the resource asks for storage, else part of the pod.
pub const STATE_VOLUME: &str = "state";
/// Volume of temporary files.
pub const TEMPORARY_VOLUME: &str = "tmp";
/// The user "nonroot" of distroless images; any number but 0 would do.
const USER: i64 = 65_532;

/// The spec of every pod of a resource.
pub fn build(validated: &Validated) -> PodSpec {
    let pod = validated.pod.clone();
    let list = |items: Vec<_>| if items.is_empty() { None } else { Some(items) };
    PodSpec {
        containers: vec![container(validated)],
        volumes: Some(volumes(validated)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(contract::GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        tolerations: list(tolerations(validated)),
        node_selector: (!pod.node_selector.is_empty()).then_some(pod.node_selector),
        affinity: pod.affinity,
        topology_spread_constraints: (!pod.topology_spread_constraints.is_empty())
            .then_some(pod.topology_spread_constraints),
        runtime_class_name: pod.runtime_class_name,
        priority_class_name: pod.priority_class_name,
        scheduler_name: pod.scheduler_name,
        image_pull_secrets: (!pod.image_pull_secrets.is_empty()).then_some(pod.image_pull_secrets),
        service_account_name: pod.service_account_name,
        ..PodSpec::default()
    }
}

fn container(validated: &Validated) -> Container {
    Container {
        name: contract::CONTAINER.to_owned(),
        image: Some(validated.image.clone()),
        args: Some(vec![role::spec(validated.role).command.to_owned()]),
        env: Some(environment(validated)),
        ports: Some(vec![ContainerPort {
            name: Some(contract::PORT_NAME.to_owned()),
            container_port: contract::PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        volume_mounts: Some(mounts(validated)),
        resources: resources(validated),
        security_context: Some(restrict(SecurityContext {
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        })),
        readiness_probe: Some(Probe { period_seconds: Some(5), ..probe("/readyz") }),
        // A step on a loaded machine takes seconds; three minutes without any is a stuck loop.
        liveness_probe: Some(Probe { period_seconds: Some(30), failure_threshold: Some(6), ..probe("/healthz") }),
        // Where the worker gives up, its last line is what people need to read.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// What Pod Security "restricted" asks of every container, unless it says otherwise; the rest stands in the pod.
pub fn restrict(mut context: SecurityContext) -> SecurityContext {
    context.allow_privilege_escalation.get_or_insert(false);
    context.capabilities.get_or_insert_default().drop.get_or_insert_with(|| vec!["ALL".to_owned()]);
    context
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(contract::PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// The six variables of the contract, the proxies, then those of the resource (which cannot be named `BISTRO_`).
fn environment(validated: &Validated) -> Vec<EnvVar> {
    let literal = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let from = |name: &str, source| EnvVar { name: name.to_owned(), value: None, value_from: Some(source) };
    let ordinal = EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: format!("metadata.labels['{}']", contract::POD_INDEX_LABEL),
        }),
        ..EnvVarSource::default()
    };
    // Without a limit this is the number of the machine's cores.
    let threads = EnvVarSource {
        resource_field_ref: Some(ResourceFieldSelector {
            container_name: Some(contract::CONTAINER.to_owned()),
            resource: "limits.cpu".to_owned(),
            divisor: Some(Quantity("1".to_owned())),
        }),
        ..EnvVarSource::default()
    };
    let mut all = vec![
        literal(contract::SETTINGS, format!("{}/{}", contract::SETTINGS_FOLDER, contract::SETTINGS_FILE)),
        literal(contract::SECRETS, contract::SECRETS_FOLDER.to_owned()),
        literal(contract::STATE, contract::STATE_FOLDER.to_owned()),
        literal(contract::HTTP, format!("0.0.0.0:{}", contract::PORT)),
        from(contract::THREADS, threads),
        from(contract::ORDINAL, ordinal),
    ];
    all.extend(proxies(validated));
    all.extend(validated.pod.env.iter().cloned());
    all
}

/// The operator's proxies, except those that the resource sets, in whatever spelling.
fn proxies(validated: &Validated) -> impl Iterator<Item = EnvVar> {
    let is_set = |name: &str| validated.pod.env.iter().any(|variable| variable.name.eq_ignore_ascii_case(name));
    let kept = validated.proxy.iter().filter(move |(name, _)| !is_set(name));
    kept.map(|(name, value)| EnvVar { name: name.clone(), value: Some(value.clone()), value_from: None })
}

/// Name of the Secret and folder below [`contract::SECRETS_FOLDER`], which is also the volume's name.
fn secrets(validated: &Validated) -> impl Iterator<Item = (&str, &'static str)> {
    [(&validated.wallet_secret, contract::WALLET), (&validated.bucket_secret, contract::BUCKET)]
        .into_iter()
        .filter_map(|(secret, folder)| secret.as_deref().map(|secret| (secret, folder)))
}

fn mounts(validated: &Validated) -> Vec<VolumeMount> {
    let mount = |volume: &str, path: &str, read_only: bool| VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut all = vec![mount(SETTINGS_VOLUME, contract::SETTINGS_FOLDER, true)];
    all.extend(
        secrets(validated).map(|(_, folder)| mount(folder, &format!("{}/{folder}", contract::SECRETS_FOLDER), true)),
    );
    all.push(mount(STATE_VOLUME, contract::STATE_FOLDER, false));
    all.push(mount(TEMPORARY_VOLUME, "/tmp", false));
    all
}

fn volumes(validated: &Validated) -> Vec<Volume> {
    let empty = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let mut all = vec![Volume {
        name: SETTINGS_VOLUME.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: validated.child_name(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }];
    all.extend(secrets(validated).map(|(secret, folder)| Volume {
        name: folder.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            // Readable by the worker's group, by nobody else.
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }));
    if validated.storage.is_none() {
        all.push(empty(STATE_VOLUME));
    }
    all.push(empty(TEMPORARY_VOLUME));
    all
}

/// GPUs are extended resources: they stand in the limits, and an API server repeats them in the requests.
fn resources(validated: &Validated) -> Option<ResourceRequirements> {
    let mut resources = validated.resources.clone();
    if validated.gpu.count > 0 {
        let count = Quantity(validated.gpu.count.to_string());
        resources.limits.get_or_insert_default().insert(validated.gpu.resource_name.clone(), count);
    }
    (resources != ResourceRequirements::default()).then_some(resources)
}

fn tolerations(validated: &Validated) -> Vec<Toleration> {
    let mut all = validated.pod.tolerations.clone();
    let machines_with_gpus = Toleration {
        key: Some(validated.gpu.resource_name.clone()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    };
    if validated.gpu.count > 0 && !all.contains(&machines_with_gpus) {
        all.push(machines_with_gpus);
    }
    all
}
