//! Pod Security "restricted", checked on the finished pod.
//!
//! What the operator builds is restricted by itself; only a template (or an annotation) can break it. A namespace that
//! enforces the standard would refuse such pods one by one, deep inside the StatefulSet controller. Here the resource says
//! so at once, in every namespace. The rules are those of Kubernetes 1.34.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, LifecycleHandler, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SELinuxOptions,
    SecurityContext, Volume,
};

use super::Invalid;

/// Kernel parameters that do not reach beyond the pod.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// Types of SELinux that confine a container.
const CONTAINER_TYPES: [&str; 4] = ["container_engine_t", "container_init_t", "container_kvm_t", "container_t"];
/// The one capability that may be added.
const BIND: &str = "NET_BIND_SERVICE";
/// Older way to name a profile of AppArmor, by container.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Refuses a pod template that Pod Security "restricted" would refuse.
pub fn check(template: &PodTemplateSpec) -> Result<(), Invalid> {
    let annotations = template.metadata.iter().flat_map(|m| m.annotations.iter().flatten());
    for (key, value) in annotations.filter(|(key, _)| key.starts_with(APP_ARMOR)) {
        let confined = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        require(confined, &format!("metadata.annotations[{key}]"), "name runtime/default or localhost/<profile>")?;
    }
    let Some(spec) = &template.spec else { return Ok(()) };
    host(spec)?;
    let pod = spec.security_context.clone().unwrap_or_default();
    pod_context(&pod)?;
    for volume in spec.volumes.iter().flatten() {
        let field = format!("spec.volumes[{}]", volume.name);
        require(has_allowed_source(volume), &field, "reach files by a claim, a ConfigMap, a Secret or an emptyDir")?;
    }
    for (list, containers) in
        [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())]
    {
        for container in containers.into_iter().flatten() {
            check_container(&format!("spec.{list}[{}]", container.name), container, &pod)?;
        }
    }
    Ok(())
}

fn require(holds: bool, field: &str, remedy: &str) -> Result<(), Invalid> {
    if holds {
        return Ok(());
    }
    let message = format!("breaks Pod Security \"restricted\", which every pod keeps: {remedy}");
    Err(Invalid::new(format!("spec.template.{field}"), message))
}

fn host(spec: &PodSpec) -> Result<(), Invalid> {
    for (value, name) in [(spec.host_network, "hostNetwork"), (spec.host_pid, "hostPID"), (spec.host_ipc, "hostIPC")] {
        require(value != Some(true), &format!("spec.{name}"), "leave it out")?;
    }
    Ok(())
}

fn pod_context(context: &PodSecurityContext) -> Result<(), Invalid> {
    let field = |name: &str| format!("spec.securityContext.{name}");
    require(context.run_as_non_root != Some(false), &field("runAsNonRoot"), "leave it out")?;
    require(context.run_as_user != Some(0), &field("runAsUser"), "choose a user other than 0")?;
    let profile = context.seccomp_profile.as_ref().map(|profile| profile.type_.as_str());
    require(confined(profile), &field("seccompProfile.type"), "choose RuntimeDefault or Localhost")?;
    let profile = context.app_armor_profile.as_ref().map(|profile| profile.type_.as_str());
    require(confined(profile), &field("appArmorProfile.type"), "choose RuntimeDefault or Localhost")?;
    require(se_linux(context.se_linux_options.as_ref()), &field("seLinuxOptions"), "choose a container's type alone")?;
    let host_process = context.windows_options.as_ref().and_then(|options| options.host_process);
    require(host_process != Some(true), &field("windowsOptions.hostProcess"), "leave it out")?;
    for sysctl in context.sysctls.iter().flatten() {
        let safe = SAFE_SYSCTLS.contains(&sysctl.name.as_str());
        require(safe, &field(&format!("sysctls[{}]", sysctl.name)), "leave it out, it reaches beyond the pod")?;
    }
    Ok(())
}

fn check_container(at: &str, container: &Container, pod: &PodSecurityContext) -> Result<(), Invalid> {
    for port in container.ports.iter().flatten() {
        require(
            port.host_port.unwrap_or(0) == 0,
            &format!("{at}.ports[{}].hostPort", port.container_port),
            "leave it out",
        )?;
    }
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let lifecycle = container.lifecycle.iter().flat_map(|l| [&l.post_start, &l.pre_stop]);
    let asks_elsewhere = probes.into_iter().flatten().any(probes_host) || lifecycle.flatten().any(calls_host);
    require(!asks_elsewhere, at, "let probes and hooks ask the pod itself, without a host")?;
    container_context(at, &container.security_context.clone().unwrap_or_default(), pod)
}

fn container_context(at: &str, context: &SecurityContext, pod: &PodSecurityContext) -> Result<(), Invalid> {
    let field = |name: &str| format!("{at}.securityContext.{name}");
    require(context.privileged != Some(true), &field("privileged"), "leave it out")?;
    require(context.allow_privilege_escalation == Some(false), &field("allowPrivilegeEscalation"), "leave it out")?;
    let Capabilities { add, drop } = context.capabilities.clone().unwrap_or_default();
    let drops_all = drop.iter().flatten().any(|capability| capability == "ALL");
    require(drops_all, &field("capabilities.drop"), "drop ALL, or leave it out")?;
    let adds_little = add.iter().flatten().all(|capability| capability == BIND);
    require(adds_little, &field("capabilities.add"), &format!("add {BIND} at most"))?;
    let non_root = context.run_as_non_root.or(pod.run_as_non_root);
    require(non_root == Some(true), &field("runAsNonRoot"), "leave it out")?;
    require(context.run_as_user != Some(0), &field("runAsUser"), "choose a user other than 0")?;
    let profile = context.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let profile = profile.map_or("", |profile| profile.type_.as_str());
    require(confined(Some(profile)), &field("seccompProfile.type"), "choose RuntimeDefault or Localhost")?;
    let profile = context.app_armor_profile.as_ref().map(|profile| profile.type_.as_str());
    require(confined(profile), &field("appArmorProfile.type"), "choose RuntimeDefault or Localhost")?;
    require(se_linux(context.se_linux_options.as_ref()), &field("seLinuxOptions"), "choose a container's type alone")?;
    let host_process = context.windows_options.as_ref().and_then(|options| options.host_process);
    require(host_process != Some(true), &field("windowsOptions.hostProcess"), "leave it out")?;
    let ordinary = context.proc_mount.as_deref().is_none_or(|mount| mount == "Default");
    require(ordinary, &field("procMount"), "leave it out")
}

/// Profiles of seccomp and AppArmor that confine; an absent one is the container runtime's.
fn confined(profile: Option<&str>) -> bool {
    profile.is_none_or(|profile| profile == "RuntimeDefault" || profile == "Localhost")
}

fn se_linux(options: Option<&SELinuxOptions>) -> bool {
    let is_set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    options.is_none_or(|SELinuxOptions { level: _, role, type_, user }| {
        let allowed = type_.as_deref().is_none_or(|type_| type_.is_empty() || CONTAINER_TYPES.contains(&type_));
        allowed && !is_set(role) && !is_set(user)
    })
}

fn is_named(host: Option<&String>) -> bool {
    host.is_some_and(|host| !host.is_empty())
}

fn probes_host(probe: &Probe) -> bool {
    is_named(probe.http_get.as_ref().and_then(|get| get.host.as_ref()))
        || is_named(probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()))
}

fn calls_host(handler: &LifecycleHandler) -> bool {
    is_named(handler.http_get.as_ref().and_then(|get| get.host.as_ref()))
        || is_named(handler.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()))
}

/// Volumes that hold nothing of the machine.
fn has_allowed_source(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some()
}
