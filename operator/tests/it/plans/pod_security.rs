//! Pod Security "restricted" of every pod that is built, by a second reading of the standard: on JSON, and not by the
//! code that refuses templates.

use serde_json::{Value, json};

use super::{cases, validate};
use crate::support::{node, subnet, with};
use bistro_api::Miner;

/// Every way in which a pod template breaks the standard, as Kubernetes 1.34 checks it.
pub fn violations(template: &Value) -> Vec<String> {
    let pod = &template["spec"];
    let mut found = Vec::new();
    let mut deny = |holds: bool, what: String| {
        if holds {
            found.push(what);
        }
    };
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        deny(pod[name] == true, name.to_owned());
    }
    for volume in items(&pod["volumes"]) {
        let allowed = [
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "image",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        let mut sources = volume.as_object().expect("a volume").keys().filter(|key| *key != "name");
        deny(sources.any(|source| !allowed.contains(&source.as_str())), format!("volume {volume}"));
    }
    let sysctls = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    ];
    for sysctl in items(&pod["securityContext"]["sysctls"]) {
        deny(!sysctls.contains(&sysctl["name"].as_str().expect("a name")), format!("{sysctl}"));
    }
    for (key, value) in template["metadata"]["annotations"].as_object().into_iter().flatten() {
        let value = value.as_str().expect("a text");
        let confined = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        deny(key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !confined, format!("{key}={value}"));
    }
    let containers: Vec<&Value> = items(&pod["initContainers"]).chain(items(&pod["containers"])).collect();
    let contexts = containers.iter().map(|container| (&container["name"], &container["securityContext"]));
    for (name, context) in contexts.chain([(&Value::Null, &pod["securityContext"])]) {
        let (app_armor, se_linux) = (&context["appArmorProfile"]["type"], &context["seLinuxOptions"]);
        deny(
            !app_armor.is_null() && app_armor != "RuntimeDefault" && app_armor != "Localhost",
            format!("{name} AppArmor"),
        );
        let types = [
            json!(null),
            json!(""),
            json!("container_t"),
            json!("container_init_t"),
            json!("container_kvm_t"),
            json!("container_engine_t"),
        ];
        deny(!types.contains(&se_linux["type"]), format!("{name} SELinux type"));
        let unset = [json!(null), json!("")];
        deny(!unset.contains(&se_linux["user"]) || !unset.contains(&se_linux["role"]), format!("{name} SELinux"));
        deny(context["windowsOptions"]["hostProcess"] == true, format!("{name} hostProcess"));
        deny(context["runAsUser"] == 0, format!("{name} runAsUser"));
        deny(context["runAsNonRoot"] == false, format!("{name} runAsNonRoot"));
        let seccomp = &context["seccompProfile"]["type"];
        deny(!seccomp.is_null() && seccomp != "RuntimeDefault" && seccomp != "Localhost", format!("{name} seccomp"));
    }
    for container in containers {
        let (name, context) = (&container["name"], &container["securityContext"]);
        let effective =
            |member: &str| if context[member].is_null() { &pod["securityContext"][member] } else { &context[member] };
        deny(effective("runAsNonRoot") != true, format!("{name} may be root"));
        deny(effective("seccompProfile").is_null(), format!("{name} has no seccomp profile"));
        deny(context["privileged"] == true, format!("{name} privileged"));
        deny(context["allowPrivilegeEscalation"] != false, format!("{name} allowPrivilegeEscalation"));
        deny(!items(&context["capabilities"]["drop"]).any(|c| c == "ALL"), format!("{name} does not drop ALL"));
        deny(
            items(&context["capabilities"]["add"]).any(|c| c != "NET_BIND_SERVICE"),
            format!("{name} adds capabilities"),
        );
        deny(!context["procMount"].is_null() && context["procMount"] != "Default", format!("{name} procMount"));
        deny(
            items(&container["ports"]).any(|port| port["hostPort"].as_u64().unwrap_or(0) != 0),
            format!("{name} hostPort"),
        );
        let handlers = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
        let asks = |handler: &Value, how: &str| handler[how]["host"].as_str().is_some_and(|host| !host.is_empty());
        let elsewhere = handlers.into_iter().chain(hooks).any(|h| asks(h, "httpGet") || asks(h, "tcpSocket"));
        deny(elsewhere, format!("{name} asks another host"));
    }
    found
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[test]
fn every_pod_is_restricted() {
    let mut pods = 0;
    for (name, documents) in cases::all() {
        for document in documents.iter().filter(|document| document["kind"] == "StatefulSet") {
            assert_eq!(violations(&document["spec"]["template"]), [""; 0], "{name}");
            pods += 1;
        }
    }
    assert!(pods > 5, "{pods}");
}

/// Each fragment, alone, breaks the standard; the same without it does not.
#[test]
fn a_template_that_is_not_restricted_is_refused() {
    let pod = |member: Value| json!({"spec": {"securityContext": member}});
    let worker = |member: Value| json!({"spec": {"containers": [{"name": "worker", "securityContext": member}]}});
    let sidecar = |member: Value| {
        let mut container = json!({"name": "sidecar", "image": "x"});
        container.as_object_mut().expect("an object").extend(member.as_object().expect("an object").clone());
        json!({"spec": {"containers": [container]}})
    };
    for (template, field) in [
        (json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork"),
        (json!({"spec": {"hostPID": true}}), "spec.hostPID"),
        (json!({"spec": {"hostIPC": true}}), "spec.hostIPC"),
        (json!({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}}), "spec.volumes[x]"),
        (json!({"spec": {"volumes": [{"name": "x", "nfs": {"server": "s", "path": "/"}}]}}), "spec.volumes[x]"),
        (pod(json!({"runAsNonRoot": false})), "runAsNonRoot"),
        (pod(json!({"runAsUser": 0})), "runAsUser"),
        (pod(json!({"seccompProfile": {"type": "Unconfined"}})), "seccompProfile"),
        (pod(json!({"appArmorProfile": {"type": "Unconfined"}})), "appArmorProfile"),
        (pod(json!({"seLinuxOptions": {"type": "spc_t"}})), "seLinuxOptions"),
        (pod(json!({"seLinuxOptions": {"user": "root"}})), "seLinuxOptions"),
        (pod(json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})), "sysctls[kernel.msgmax]"),
        (pod(json!({"windowsOptions": {"hostProcess": true}})), "hostProcess"),
        (worker(json!({"privileged": true})), "[worker].securityContext.privileged"),
        (worker(json!({"allowPrivilegeEscalation": true})), "allowPrivilegeEscalation"),
        (worker(json!({"capabilities": {"drop": ["NET_RAW"]}})), "capabilities.drop"),
        (worker(json!({"capabilities": {"add": ["SYS_ADMIN"]}})), "capabilities.add"),
        (worker(json!({"runAsUser": 0})), "runAsUser"),
        (worker(json!({"runAsNonRoot": false})), "runAsNonRoot"),
        (worker(json!({"procMount": "Unmasked"})), "procMount"),
        (worker(json!({"seccompProfile": {"type": "Unconfined"}})), "seccompProfile"),
        (sidecar(json!({"securityContext": {"privileged": true}})), "[sidecar].securityContext.privileged"),
        (sidecar(json!({"ports": [{"containerPort": 1, "hostPort": 1}]})), "hostPort"),
        (sidecar(json!({"livenessProbe": {"tcpSocket": {"port": 1, "host": "x"}}})), "[sidecar]"),
        (sidecar(json!({"lifecycle": {"preStop": {"httpGet": {"port": 1, "host": "x"}}}})), "[sidecar]"),
        (
            json!({"spec": {"initContainers": [{"name": "first", "securityContext": {"runAsUser": 0}}]}}),
            "spec.initContainers[first].securityContext.runAsUser",
        ),
    ] {
        let miner = with(node("Miner", "ibex"), "/spec/template", template.clone());
        let error = validate::<Miner>(&miner, &subnet(), &super::environment()).expect_err("refused").to_string();
        assert!(error.starts_with("spec.template.") && error.contains(field), "{template}: {error}");
        assert!(error.contains("breaks Pod Security \"restricted\""), "{template}: {error}");
    }
    let annotation = json!({"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"});
    let miner = with(node("Miner", "ibex"), "/spec/pod/annotations", annotation);
    validate::<Miner>(&miner, &subnet(), &super::environment()).expect_err("an annotation can break it too");
}

/// The checker of these tests finds what it should find.
#[test]
fn the_checker_itself_sees_a_bare_pod() {
    let bare = json!({"spec": {"containers": [{"name": "x"}]}});
    assert_eq!(violations(&bare).len(), 4, "{:?}", violations(&bare));
}
