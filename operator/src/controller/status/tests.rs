use std::{collections::HashMap, sync::Arc};

use bistro_api::{NodeStatus, Role, status::Reachable};

use super::*;
use crate::controller::pod::{PodState, Report};

const NOW: i64 = 1_000_000;

fn pod(ready: bool) -> PodRecord {
    let state = PodState {
        uid: "u".into(),
        version: 1,
        address: ready.then(|| "10.0.0.7".into()),
        ready,
        trouble: None,
        deleted_by: None,
        created: NOW - 60,
        machine: Some("machine-7".into()),
        wallet: None,
        running: ready,
    };
    PodRecord { state, mount: None, report: None, silence: None }
}

fn troubled(trouble: Trouble) -> PodRecord {
    let mut pod = pod(false);
    pod.state.trouble = Some(trouble);
    pod
}

fn reporting(change: impl FnOnce(&mut NodeStatus)) -> PodRecord {
    let service = Reachable { reachable: true, since: None, error: None };
    let status =
        serde_json::json!({ "role": Role::Miner, "phase": "training", "uid": 7, "chain": service, "bucket": service });
    let mut status: NodeStatus = serde_json::from_value(status).expect("a status");
    change(&mut status);
    PodRecord { report: Some(Arc::new(Report::of(&status))), ..pod(true) }
}

/// The status of a miner with these pods, of which the ready ones count.
fn status(situation: Situation, pods: Vec<PodRecord>, before: Option<&WorkloadStatus>) -> WorkloadStatus {
    let count = |ready: bool| u32::try_from(pods.iter().filter(|pod| !ready || pod.state.ready).count()).expect("few");
    let wanted = count(false);
    let rollout = Rollout { observed: true, wanted, replicas: wanted, ready: count(true), updated: wanted };
    let pods = (0..).zip(pods).collect();
    let facts = Facts {
        generation: Some(3),
        child_name: "miner-m",
        wanted,
        suspended: false,
        selector: String::new(),
        situation: &situation,
        rollout: Some(rollout),
        pods: &pods,
        scores: HashMap::from([("5Scored".into(), 0.5)]),
        inherited: true,
        now: NOW,
    };
    of(&facts, before).0
}

fn condition(status: &WorkloadStatus, type_: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == type_).expect("it is there");
    assert_eq!(found.observed_generation, Some(3));
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

fn is(status: &WorkloadStatus, type_: &str, value: &str, reason: &str, words: &str) {
    let (found, why, message) = condition(status, type_);
    assert_eq!((found.as_str(), why.as_str()), (value, reason), "{message}");
    assert!(message.contains(words), "{message}");
}

#[test]
fn ready_means_that_every_wanted_pod_is() {
    is(&status(Situation::Applied, vec![pod(true), pod(true)], None), "Ready", "True", "AllReady", "2 nodes are ready");
    is(
        &status(Situation::Applied, vec![pod(true), pod(false)], None),
        "Ready",
        "False",
        "NodesNotReady",
        "1 of 2 ready",
    );
    is(&status(Situation::Applied, vec![], None), "Ready", "True", "ScaledToZero", "no pod is wanted");
}

#[test]
fn the_gravest_trouble_is_named_with_its_pod() {
    let mut unmounted = pod(false);
    unmounted.mount = Some("secret \"keys\" not found".into());
    let mut no_key = reporting(|status| {
        status.message =
            "failed to use the hotkey file /run/bistro/secrets/wallet/hotkey-1: it is not there".to_owned();
    });
    no_key.state.ready = false;
    let pods = [
        (troubled(Trouble::Unschedulable("0/3 nodes".into())), "Unschedulable", "0/3 nodes"),
        (troubled(Trouble::Image("no such image".into())), "ImageNotPulled", "no such image"),
        (troubled(Trouble::Failing("ended with code 2: wrong chain".into())), "WorkerFailing", "wrong chain"),
        (no_key, "HotkeyMissing", "hotkey-1"),
        (unmounted, "SecretNotFound", "secret \"keys\" not found"),
    ];
    // Each is graver than all before it.
    let mut all = Vec::new();
    for (pod, reason, words) in pods {
        all.push(pod);
        let status = status(Situation::Applied, all.clone(), None);
        is(&status, "Ready", "False", reason, words);
        is(&status, "Ready", "False", reason, &format!("miner-m-{}", all.len() - 1));
    }
}

#[test]
fn a_scheduler_gets_a_moment_and_a_machine_its_grace() {
    let mut fresh = troubled(Trouble::Unschedulable("0/3 nodes".into()));
    fresh.state.created = NOW - 2;
    is(&status(Situation::Applied, vec![fresh], None), "Ready", "False", "NodesNotReady", "0 of 1");
    let mut ending = pod(true);
    ending.state.deleted_by = Some(NOW - 5);
    let quiet = status(Situation::Applied, vec![ending.clone()], None);
    assert!(quiet.conditions.iter().all(|c| c.type_ != "NodeLost"));
    ending.state.deleted_by = Some(NOW - 31);
    let lost = status(Situation::Applied, vec![ending], None);
    is(&lost, "NodeLost", "True", "MachineSilent", "machine-7");
    is(&lost, "Ready", "False", "MachineSilent", "kubectl delete pod miner-m-0 --force");
    is(&status(Situation::Applied, vec![pod(true)], Some(&lost)), "NodeLost", "False", "MachinesAnswer", "");
}

#[test]
fn what_stops_a_pass_is_said_before_anything_else() {
    let stuck = Situation::Stuck(reason::SUBNET_NOT_FOUND, "create Subnet demo".to_owned());
    let status = status(stuck, vec![pod(true)], None);
    is(&status, "Ready", "False", "SubnetNotFound", "demo");
    is(&status, "Progressing", "False", "SubnetNotFound", "demo");
    assert_eq!(status.ready_replicas, 1, "its pods go on");
}

#[test]
fn nodes_report_for_themselves_and_silence_says_nothing() {
    let chain_away = reporting(|status| {
        status.chain = Reachable { reachable: false, since: None, error: Some("connection refused".to_owned()) };
    });
    let unregistered = reporting(|status| {
        status.uid = None;
        status.message = "hotkey 5F is not registered: register it".to_owned();
    });
    let status = status(Situation::Applied, vec![pod(true), chain_away, unregistered], None);
    is(&status, "ChainReachable", "False", "Unreachable", "miner-m-1: connection refused");
    is(&status, "BucketReachable", "True", "Reachable", "");
    is(&status, "Registered", "False", "NotRegistered", "miner-m-2: hotkey 5F");
    let silent = super::tests::status(Situation::Applied, vec![pod(true)], None);
    is(&silent, "ChainReachable", "Unknown", "NotReported", "");
}

#[test]
fn an_operator_that_just_started_keeps_what_nodes_said_before() {
    let node = reporting(|status| {
        status.score = Some(1.25);
        status.incentive = Some(0.5);
        status.window = Some(9);
        status.held_out_loss = Some(2.5);
    });
    let mut silent = node.clone();
    silent.silence = Some("its /status is silent".into());
    let before = status(Situation::Applied, vec![node, silent], None);
    assert_eq!(before.nodes[0].pod, "miner-m-1", "the least healthy first");
    assert_eq!((before.score.as_deref(), before.incentive.as_deref()), (Some("1.250"), Some("1.0000")));
    assert_eq!((before.window, before.loss.as_deref()), (Some(9), Some("2.500")));
    let after = status(Situation::Applied, vec![pod(true), pod(true)], Some(&before));
    assert_eq!(after, before, "a restart writes nothing");
}

#[test]
fn the_least_healthy_nodes_come_first_and_at_most_64() {
    let mut pods = vec![reporting(|_| {}); 100];
    pods[90] = pod(false);
    pods[80].silence = Some("its /status is silent".into());
    let status = status(Situation::Applied, pods, None);
    let names: Vec<_> = status.nodes.iter().take(3).map(|node| node.pod.as_str()).collect();
    assert_eq!(names, ["miner-m-90", "miner-m-80", "miner-m-0"]);
    assert_eq!((status.nodes.len(), status.nodes_total), (64, 100));
}

#[test]
fn hostile_reports_are_cut_and_odd_numbers_left_out() {
    let hostile = reporting(|status| {
        status.message = "\u{1b}[2J".repeat(1000);
        status.score = Some(f64::NAN);
        status.verdicts.insert("x".repeat(10_000), 1);
    });
    let node = status(Situation::Applied, vec![hostile], None).nodes.remove(0);
    assert!(node.message.is_some_and(|message| message.chars().count() <= 300 && !message.contains('\u{1b}')));
    assert!(node.verdict.is_some_and(|verdict| verdict.chars().count() <= 300) && node.score.is_none());
}

/// A miner does not know its score: the validators of its Subnet do.
#[test]
fn a_node_has_the_score_that_validators_give_its_hotkey() {
    let node = |hotkey: &str| reporting(|status| status.hotkey = Some(hotkey.to_owned()));
    let first = status(Situation::Applied, vec![node("5Scored"), node("5Unknown")], None);
    let scores = |status: &WorkloadStatus| status.nodes.iter().map(|node| node.score.clone()).collect::<Vec<_>>();
    assert_eq!(scores(&first), [Some("0.500".to_owned()), None]);
    assert_eq!(first.score.as_deref(), Some("0.500"));
    // Until a validator has answered a new operator, what was known stands; a new hotkey has no score.
    let mut before = first;
    before.nodes[1].score = Some("0.250".to_owned());
    assert_eq!(
        scores(&status(Situation::Applied, vec![node("5Scored"), node("5Unknown")], Some(&before)))[1].as_deref(),
        Some("0.250")
    );
    assert_eq!(scores(&status(Situation::Applied, vec![node("5Scored"), node("5New")], Some(&before)))[1], None);
}
