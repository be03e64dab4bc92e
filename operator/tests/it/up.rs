//! `bistro up` with workers that do as they are told.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    fake_worker,
    support::{BISTRO, node, subnet, text, with, write},
};

/// A folder with a scenario, its manifests and its state.
pub struct Scene {
    folder: tempfile::TempDir,
    manifests: PathBuf,
}

impl Scene {
    pub fn new(objects: &[Value], scenario: Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fake_worker::install(folder.path(), &scenario);
        let manifests = write(folder.path(), "net.yaml", objects);
        Self { folder, manifests }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BISTRO);
        command.arg("up").arg("-f").arg(&self.manifests);
        command.arg("--bin-dir").arg(self.path()).arg("--state").arg(self.path().join("state")).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("bistro runs")
    }

    /// Pod, process id and arguments of every process that was started.
    pub fn notes(&self) -> Vec<(String, i32, String)> {
        let notes = fs::read_to_string(self.path().join("notes")).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            (word(), word().parse().expect("a process id"), word())
        };
        notes.lines().map(line).collect()
    }

    /// How often a node that gives no status was asked.
    fn asked(&self) -> usize {
        fs::read_to_string(self.path().join("asked")).map_or(0, |asked| asked.len())
    }

    fn wait_for_processes(&self, count: usize) {
        until(|| self.notes().len() >= count);
    }

    pub fn nothing_runs(&self) {
        until(|| self.notes().iter().all(|(_, id, _)| !runs(*id)));
    }
}

/// Whether a process runs; one that ended and that nobody has asked about yet does not.
fn runs(id: i32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits for something that must come; a test that waits too long has failed.
pub fn until(mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited in vain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("an id")), signal).expect("signalled");
}

pub fn three_nodes() -> Vec<Value> {
    vec![subnet(), node("Averager", "marmot"), node("Validator", "eagle"), node("Miner", "ibex")]
}

pub fn roles() -> Value {
    json!({"averager-marmot-0": {"role": "averager"}, "validator-eagle-0": {"role": "validator"}, "miner-ibex-0": {"role": "miner"}})
}

#[test]
fn ends_after_the_windows_with_a_summary_and_nothing_left() {
    let scene = Scene::new(&three_nodes(), roles());
    let summary = scene.path().join("summary.json");
    let output = scene.run(&["--windows", "2", "--summary", &summary.display().to_string()]);
    let (shown, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{shown}{errors}");
    // On a busy machine the first answer may come late; what ended before it is not shown.
    let line = shown.lines().find(|line| line.starts_with("window ") && line.contains("ibex-0")).expect("a line");
    let window: u32 = line[6..12].trim().parse().expect("a window");
    let loss = 4.0 - 0.1 * f64::from(window - 10);
    let expected = format!(
        "window {window:>5}  ibex-0    uid   3  loss  {loss:.3}  score 0.75  weight  50%  incentive 1.00  accepted"
    );
    assert!(line.starts_with(&expected), "{line}");
    let summary: Value = serde_json::from_str(&fs::read_to_string(summary).expect("written")).expect("JSON");
    assert!(summary["windows"].as_u64() >= Some(2), "{summary}");
    assert!(summary["secondsToFirstWeights"].is_number(), "{summary}");
    let names: Vec<&str> =
        summary["nodes"].as_array().expect("nodes").iter().filter_map(|n| n["name"].as_str()).collect();
    assert_eq!(names, ["marmot-0", "eagle-0", "ibex-0"]);
    let ibex = &summary["nodes"][2];
    assert_eq!((&ibex["hotkey"], &ibex["uid"], &ibex["score"]), (&json!("5miner"), &json!(3), &json!(0.75)));
    assert_eq!((&ibex["firstLoss"], &ibex["digests"]["11"]), (&json!(4.0), &json!("d11")));
    assert!(ibex["digests"]["12"].is_string(), "the base after the last window is known: {ibex}");
    scene.nothing_runs();
}

#[test]
fn the_pod_contract_is_kept() {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"hotkey-0": "seed", "hotkey-1": "other"}});
    let miner = with(node("Miner", "ibex"), "/spec/wallet", json!({"secretRef": {"name": "keys"}}));
    let miner =
        with(with(miner, "/spec/replicas", json!(2)), "/spec/pod", json!({"env": [{"name": "EXTRA", "value": "yes"}]}));
    let scene = Scene::new(&[subnet(), secret, miner], json!({}));
    let mut up = scene.command(&[]).env("BISTRO_SETTINGS", "/elsewhere").spawn().expect("bistro runs");
    scene.wait_for_processes(2);
    for (pod, id, arguments) in scene.notes() {
        assert_eq!(arguments, "miner");
        let environment = fs::read(format!("/proc/{id}/environ")).expect("it runs");
        let value = |name: &str| {
            let all = environment.split(|byte| *byte == 0).map(|pair| String::from_utf8_lossy(pair).into_owned());
            all.filter_map(|pair| pair.strip_prefix(&format!("{name}=")).map(str::to_owned)).next().unwrap_or_default()
        };
        let folder = scene.path().canonicalize().expect("a path").join("state/pods").join(&pod);
        assert_eq!(PathBuf::from(value("BISTRO_SETTINGS")), folder.join("settings.yaml"));
        assert_eq!(PathBuf::from(value("BISTRO_SECRETS")), folder.join("secrets"));
        assert_eq!(PathBuf::from(value("BISTRO_STATE")), folder.join("state"));
        assert!(value("BISTRO_HTTP").starts_with("127.0.0.1:"));
        assert!(value("BISTRO_THREADS").parse::<usize>().expect("a number") >= 1);
        assert!(pod.ends_with(&format!("-{}", value("BISTRO_ORDINAL"))), "{pod}");
        assert_eq!(value("EXTRA"), "yes");
        assert_eq!(fs::read_to_string(folder.join("secrets/wallet/hotkey-1")).expect("a key"), "other");
        let settings = fs::read_to_string(folder.join("settings.yaml")).expect("settings");
        let settings: bistro_api::Settings = serde_yaml::from_str(&settings).expect("settings");
        assert_eq!(
            (settings.name.as_str(), settings.namespace.as_str(), settings.dev_wallet),
            ("ibex", "default", false)
        );
    }
    signal(&up, Signal::SIGINT);
    assert_eq!(up.wait().expect("ended").code(), Some(0), "Ctrl-C is how it ends");
    scene.nothing_runs();
}

#[test]
fn a_killed_up_leaves_nothing_running() {
    let scene = Scene::new(&three_nodes(), roles());
    let mut up = scene.command(&[]).spawn().expect("bistro runs");
    scene.wait_for_processes(3);
    signal(&up, Signal::SIGKILL);
    up.wait().expect("ended");
    scene.nothing_runs();
}

#[test]
fn a_node_that_dies_starts_again() {
    let scene = Scene::new(&three_nodes(), roles());
    let mut up = scene.command(&[]).spawn().expect("bistro runs");
    scene.wait_for_processes(3);
    let (pod, id, _) = scene.notes().swap_remove(0);
    kill(Pid::from_raw(id), Signal::SIGKILL).expect("killed");
    until(|| scene.notes().iter().filter(|(name, _, _)| *name == pod).count() == 2);
    signal(&up, Signal::SIGTERM);
    assert_eq!(up.wait().expect("ended").code(), Some(0));
    scene.nothing_runs();
}

#[test]
fn a_fault_that_will_not_pass_ends_everything_with_its_line() {
    let mut scenario = roles();
    scenario["miner-ibex-0"] = json!({"exits": 2, "says": "hotkey 5F is not registered: register it"});
    let scene = Scene::new(&three_nodes(), scenario);
    let output = scene.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "ibex-0: hotkey 5F is not registered: register it\n");
    assert_eq!(scene.notes().iter().filter(|(pod, _, _)| pod == "miner-ibex-0").count(), 1, "not started again");
    scene.nothing_runs();
}

#[test]
fn different_bases_end_everything_with_both_digests() {
    let mut scenario = roles();
    scenario["miner-ibex-0"]["differsAt"] = json!(11);
    let scene = Scene::new(&three_nodes(), scenario);
    let output = scene.run(&["--windows", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let line = text(&output.stderr);
    for word in ["ibex-0", "before window 11", "ff", "d11"] {
        assert!(line.contains(word), "{line}");
    }
    assert_eq!(line.lines().count(), 1);
    scene.nothing_runs();
}

#[test]
fn what_a_node_waits_for_is_shown_once() {
    let mut scenario = roles();
    scenario["miner-ibex-0"]["message"] = json!("waiting for datasets/rust/index.json");
    let scene = Scene::new(&three_nodes(), scenario);
    let output = scene.run(&["--windows", "2"]);
    let shown = text(&output.stdout);
    assert_eq!(shown.matches("waiting for datasets/rust/index.json").count(), 1, "{shown}");
}

#[test]
fn a_devnet_is_started_and_takes_the_place_of_its_host() {
    let on_devnet = with(subnet(), "/spec/chain/endpoints", json!(["ws://devnet:9944"]));
    let on_devnet = with(on_devnet, "/spec/bucket/endpoint", json!("http://devnet:9000"));
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "dig"},
        "spec": {"backoffLimit": 1, "template": {"spec": {"restartPolicy": "Never", "containers": [
            {"name": "x", "image": "bistro-worker", "args": ["dataset", "--endpoint=http://devnet:9000"]}]}}}});
    let mut scenario = roles();
    scenario["job-dig"] = json!({"exits": 0});
    let objects = [vec![on_devnet, job], three_nodes().split_off(1)].concat();
    let scene = Scene::new(&objects, scenario);
    let output = scene.run(&["--windows", "1", "--block-time", "250ms"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
    assert!(shown.contains("job dig is done"), "{shown}");
    let notes = scene.notes();
    let arguments = |pod: &str| notes.iter().find(|(name, _, _)| name == pod).expect("started").2.clone();
    let devnet = arguments("devnet");
    for part in [
        "--rpc 127.0.0.1:0",
        "--s3 127.0.0.1:0",
        "--block-time 250ms",
        "--tempo 40",
        "--weights-rate-limit 40",
        "--finality-lag 3",
    ] {
        assert!(devnet.contains(part), "{devnet}");
    }
    assert_eq!(arguments("job-dig"), "dataset --endpoint=http://127.0.0.1:19000");
    let settings = fs::read_to_string(scene.path().join("state/pods/miner-ibex-0/settings.yaml")).expect("settings");
    assert!(settings.contains("ws://127.0.0.1:19944") && settings.contains("http://127.0.0.1:19000"), "{settings}");
    scene.nothing_runs();
}

#[test]
fn a_devnet_that_dies_starts_again_where_it_was() {
    let on_devnet = with(subnet(), "/spec/chain/endpoints", json!(["ws://devnet:9944"]));
    let scene = Scene::new(&[on_devnet, node("Miner", "ibex")], roles());
    let mut up = scene.command(&[]).spawn().expect("bistro runs");
    scene.wait_for_processes(2);
    let (_, id, _) = scene.notes().into_iter().find(|(pod, _, _)| pod == "devnet").expect("started");
    kill(Pid::from_raw(id), Signal::SIGKILL).expect("killed");
    let again = || scene.notes().into_iter().filter(|(pod, _, _)| pod == "devnet").nth(1);
    until(|| again().is_some());
    let arguments = again().expect("again").2;
    assert!(arguments.contains("--rpc 127.0.0.1:19944 --s3 127.0.0.1:19000"), "{arguments}");
    signal(&up, Signal::SIGINT);
    up.wait().expect("ended");
    scene.nothing_runs();
}

#[test]
fn a_job_is_tried_as_often_as_it_says() {
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "dig"},
        "spec": {"backoffLimit": 1, "template": {"spec": {"restartPolicy": "Never", "containers": [
            {"name": "x", "image": "bistro-worker", "args": ["dataset"]}]}}}});
    let scene = Scene::new(&[subnet(), job], json!({"job-dig": {"exits": 1, "says": "no corpus"}}));
    let output = scene.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "dig: no corpus\n");
    assert_eq!(scene.notes().len(), 2);
}

#[test]
fn a_node_that_does_not_answer_stops_nobody() {
    for part in [json!({"mute": true}), json!({"garbage": true}), json!({"floods": true})] {
        let mut scenario = roles();
        scenario["miner-ibex-0"] = part.clone();
        let scene = Scene::new(&three_nodes(), scenario);
        let summary = scene.path().join("summary.json");
        let up = scene.command(&["--summary", &summary.display().to_string()]).spawn().expect("bistro runs");
        scene.wait_for_processes(3);
        until(|| scene.asked() >= 3);
        signal(&up, Signal::SIGINT);
        let output = up.wait_with_output().expect("ended");
        assert_eq!(output.status.code(), Some(0), "{part}: {}", text(&output.stderr));
        let summary: Value = serde_json::from_str(&fs::read_to_string(summary).expect("written")).expect("JSON");
        let hotkeys: Vec<_> = (0..3).map(|node| summary["nodes"][node]["hotkey"].as_str()).collect();
        assert_eq!(hotkeys, [Some("5averager"), Some("5validator"), None], "{part}");
        scene.nothing_runs();
    }
}

#[test]
fn two_at_a_time_in_one_folder_are_refused() {
    let scene = Scene::new(&three_nodes(), roles());
    let mut first = scene.command(&[]).spawn().expect("bistro runs");
    scene.wait_for_processes(3);
    let second = scene.run(&[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another bistro up runs in"), "{}", text(&second.stderr));
    signal(&first, Signal::SIGINT);
    first.wait().expect("ended");
}

#[test]
fn a_missing_program_is_named() {
    let scene = Scene::new(&three_nodes(), roles());
    fs::remove_file(scene.path().join("bistro-worker")).expect("removed");
    let output = scene.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("bistro-worker does not exist: build or install it"),
        "{}",
        text(&output.stderr)
    );
}
