//! Bad input: one line with file, resource, field and remedy, and exit code 2.

use std::fs;

use serde_json::{Value, json};

use crate::support::{bistro, node, subnet, text, with, write};

/// What `bistro check` says of these objects, without the folder.
fn complaint(objects: &[Value]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "net.yaml", objects);
    complaint_about(&file, folder.path())
}

fn complaint_about(file: &std::path::Path, folder: &std::path::Path) -> String {
    let path = file.display().to_string();
    let output = bistro(&["check", "-f", &path]);
    assert_eq!(output.status.code(), Some(2), "{}{}", text(&output.stdout), text(&output.stderr));
    let up = bistro(&["up", "-f", &path]);
    assert_eq!(up.status.code(), Some(2));
    assert_eq!(text(&up.stderr), text(&output.stderr), "up refuses what check refuses");
    text(&output.stderr).replace(&format!("{}/", folder.display()), "").trim_end().to_owned()
}

fn miner() -> Value {
    node("Miner", "ibex")
}

#[test]
fn good_input_passes() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "a.yaml", &[subnet(), miner()]);
    write(folder.path(), "b.yml", &[node("Validator", "ibex")]);
    fs::write(folder.path().join("notes.txt"), "not a manifest").expect("written");
    let output = bistro(&["check", "-f", &folder.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = "subnet alps: 0 averager(s), 1 validator(s), 1 miner(s), 0 job(s): everything in order\n";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn the_examples_pass() {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");
    let output = bistro(&["check", "-f", &format!("{manifests}/quickstart.yaml")]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "no error and no warning");
    // The others name a Subnet and Secrets that only their users have.
    for example in ["miner", "validator", "averager"] {
        let output = bistro(&["check", "-f", &format!("{manifests}/{example}.yaml")]);
        for line in text(&output.stderr).lines() {
            assert!(line.contains("among the files") || line.contains("hold no Subnet"), "{line}");
        }
    }
}

#[test]
fn unreadable_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let absent = complaint_about(&folder.path().join("absent.yaml"), folder.path());
    assert!(absent.starts_with("absent.yaml: failed to read: No such file"), "{absent}");
    let broken = folder.path().join("broken.yaml");
    fs::write(&broken, "a: [1\nb: }").expect("written");
    let complaint = complaint_about(&broken, folder.path());
    assert!(complaint.starts_with("broken.yaml: line 2"), "{complaint}");
    assert!(complaint.contains("is no YAML") && complaint.lines().count() == 1, "{complaint}");
    fs::write(&broken, "just: text").expect("written");
    let complaint = complaint_about(&broken, folder.path());
    assert_eq!(complaint, "broken.yaml: is no resource: it needs apiVersion and kind, and metadata.name");
}

#[test]
fn wrong_fields() {
    assert_eq!(
        complaint(&[subnet(), with(miner(), "/spec/replica", json!(3))]),
        "net.yaml: Miner ibex: spec.replica: is no field that exists here: did you mean replicas?"
    );
    assert_eq!(
        complaint(&[subnet(), with(miner(), "/spec/replicas", json!("three"))]),
        "net.yaml: Miner ibex: spec.replicas: expected a whole number, found the text \"three\""
    );
    assert_eq!(
        complaint(&[subnet(), with(miner(), "/spec/replicas", json!(300))]),
        "net.yaml: Miner ibex: spec.replicas: 300 is above the maximum of 256"
    );
    assert_eq!(
        complaint(&[with(subnet(), "/spec/run/training/learningRate", json!(0.003))]),
        "net.yaml: Subnet alps: spec.run.training.learningRate: expected a text, found 0.003: write it in quotes, \"0.003\""
    );
    assert_eq!(
        complaint(&[with(subnet(), "/spec/run/mechanism", json!({"cosine": {}, "tailor": {}}))]),
        "net.yaml: Subnet alps: spec.run.mechanism.tailor: is no field that exists here: did you mean taylor?"
    );
    assert_eq!(
        complaint(&[with(subnet(), "/spec/run/model/preset", json!("tinny"))]),
        "net.yaml: Subnet alps: spec.run.model.preset: \"tinny\" is not one of test, tiny, small, medium, gpt2, llama-1b: did you mean tiny?"
    );
    assert_eq!(
        complaint(&[with(subnet(), "/spec/netuid", Value::Null)]),
        "net.yaml: Subnet alps: spec.netuid: is missing: add it (Number of the subnet on the chain)"
    );
}

#[test]
fn broken_rules() {
    assert_eq!(
        complaint(&[with(subnet(), "/spec/run/schedule/windowBlocks", json!(25))]),
        "net.yaml: Subnet alps: spec.run.schedule: windowBlocks must leave at least 5 blocks for training: \
         raise windowBlocks or shorten commitBlocks, uploadBlocks or mergeBlocks"
    );
    let compressed = json!({"cosine": {"compression": {"topK": {}}}});
    assert_eq!(
        complaint(&[with(subnet(), "/spec/run/mechanism", compressed)]),
        "net.yaml: Subnet alps: spec.run.mechanism.cosine: cosine.sliceRatio must be 1 with compression, \
         which picks by itself what is sent: set cosine.sliceRatio to 1"
    );
    assert_eq!(
        complaint(&[subnet(), with(miner(), "/spec/wallet", json!({}))]),
        "net.yaml: Miner ibex: spec.wallet: wallet needs exactly one of secretRef (a Secret with hotkey files) and dev: true (a devnet only)"
    );
}

#[test]
fn broken_references() {
    assert_eq!(
        complaint(&[subnet(), with(miner(), "/spec/subnetRef/name", json!("alpes"))]),
        "net.yaml: Miner ibex: spec.subnetRef.name: there is no Subnet alpes among the files: did you mean alps?"
    );
    assert_eq!(
        complaint(&[subnet(), with(miner(), "/spec/wallet", json!({"secretRef": {"name": "keys"}}))]),
        "net.yaml: Miner ibex: spec.wallet.secretRef.name: there is no Secret keys among the files: add the file that holds it with -f"
    );
    let no_subnet = complaint(&[miner()]);
    assert!(no_subnet.starts_with("files: hold no Subnet"), "{no_subnet}");
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"hotkey-0": "x"}});
    let with_keys = |name: &str| with(node("Miner", name), "/spec/wallet", json!({"secretRef": {"name": "keys"}}));
    assert_eq!(
        complaint(&[subnet(), secret, with_keys("a"), with_keys("b")]),
        "files: Miner b: spec.wallet.secretRef.name: Miner a signs with Secret keys too: give each its own hotkeys"
    );
}

#[test]
fn wrong_kinds_and_names() {
    assert_eq!(
        complaint(&[subnet(), miner(), miner()]),
        "net.yaml: Miner ibex: metadata.name: stands twice in the files: remove one or rename it"
    );
    assert_eq!(
        complaint(&[subnet(), with(miner(), "/kind", json!("Minor"))]),
        "net.yaml: Minor ibex: kind: Minor does not exist: did you mean Miner?"
    );
    assert_eq!(
        complaint(&[subnet(), with(miner(), "/apiVersion", json!("bistro.dev/v1"))]),
        "net.yaml: Miner ibex: apiVersion: \"bistro.dev/v1\" has no Miner that is known here: write bistro.dev/v1alpha1"
    );
    let second = with(subnet(), "/metadata/name", json!("andes"));
    let two = complaint(&[subnet(), second]);
    assert!(two.contains("Subnet andes: is a second subnet"), "{two}");
}

#[test]
fn jobs_that_cannot_run_here() {
    let job = |container: Value| {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "dig"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}})
    };
    let image = complaint(&[subnet(), job(json!({"name": "x", "image": "busybox:1"}))]);
    assert!(image.contains("Job dig: spec.template.spec.containers[0].image: \"busybox:1\" cannot run"), "{image}");
    let image = "registry.example/team/bistro-worker:v1";
    let command = complaint(&[subnet(), job(json!({"name": "x", "image": image, "command": ["sh"]}))]);
    assert!(command.contains("containers[0].command"), "{command}");
    let field = complaint(&[subnet(), job(json!({"name": "x", "image": image, "arg": ["y"]}))]);
    assert!(
        field.contains("spec.template.spec.containers[0].arg: is no field that exists here: did you mean args?"),
        "{field}"
    );
}

#[test]
fn what_a_process_does_not_get_is_said_once_each() {
    let container = json!({
        "name": "x", "image": "bistro-worker", "args": ["dataset", "--to=$(TARGET)"], "workingDir": "/data",
        "env": [
            {"name": "TARGET", "value": "s3://$(BUCKET)/x"},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}],
        "envFrom": [{"secretRef": {"name": "keys"}}],
        "volumeMounts": [
            {"name": "keys", "mountPath": "/run/bistro/secrets/bucket"},
            {"name": "keys", "mountPath": "/etc/keys"},
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "scratch", "mountPath": "/run/bistro/secrets/scratch"},
            {"name": "disk", "mountPath": "/data"}]
    });
    let volumes = json!([{"name": "keys", "secret": {"secretName": "keys"}}, {"name": "scratch", "emptyDir": {}},
        {"name": "disk", "hostPath": {"path": "/data"}}]);
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "dig"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes}}}});
    let keys = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"k": "x"}});
    let miner = with(miner(), "/spec/pod", json!({"env": [{"name": "A", "value": "$(B)"}]}));
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "net.yaml", &[subnet(), keys, miner, job]).display().to_string();
    let output = bistro(&["check", "-f", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = format!(
        "warning: {file}: Miner ibex: not honoured outside a cluster: the reference in pod.env[A] (it stays as it is)\n\
         warning: {file}: Job dig: not honoured outside a cluster: \
         the reference in the argument \"--to=$(TARGET)\" (it stays as it is), \
         the reference in env[TARGET] (it stays as it is), env[HOST].valueFrom (the variable stays unset), \
         envFrom (name each variable in env), workingDir, the mount of volume keys at /etc/keys, \
         the mount of volume scratch at /run/bistro/secrets/scratch, the mount of volume disk at /data\n"
    );
    assert_eq!(text(&output.stderr), expected);
}
