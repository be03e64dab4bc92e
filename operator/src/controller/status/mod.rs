//! What a resource's status says, from what is known of its pods (pure).

use std::collections::{BTreeMap, HashMap};

use bistro_api::{
    conditions::{condition, reason},
    workload::{NodeSummary, STATUS_NODES, WorkloadStatus},
};
use k8s_controller::conditions::{ConditionStatus, DesiredCondition, set};

use super::{
    cache::PodRecord,
    child::Rollout,
    pod::{Trouble, score, short},
};

/// A pod may wait this long for a machine before its resource says so: schedulers need a moment.
const SCHEDULING_SECONDS: i64 = 10;
/// A pod may be this long past its grace period before its machine counts as silent.
const SILENT_SECONDS: i64 = 30;

/// What came of a pass before the pods are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Situation {
    /// The children are what the resource asks for.
    Applied,
    /// Nothing is written, because somebody said so.
    Paused,
    /// Nothing can be built or must be; the reason from the vocabulary, and what to do.
    Stuck(&'static str, String),
}

/// Everything that a status is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// Name of the StatefulSet, which pods are named after.
    pub child_name: &'a str,
    /// Pods that the resource asks for; none while suspended.
    pub wanted: u32,
    /// `spec.suspend`.
    pub suspended: bool,
    /// Label selector of the pods.
    pub selector: String,
    /// What came of the pass.
    pub situation: &'a Situation,
    /// What the StatefulSet says; absent while there is none.
    pub rollout: Option<Rollout>,
    /// The pods.
    pub pods: &'a BTreeMap<u32, PodRecord>,
    /// What validators think of hotkeys; empty for what is not scored.
    pub scores: HashMap<Box<str>, f64>,
    /// The status before was written in an earlier life of the operator.
    pub inherited: bool,
    /// Now, in Unix seconds.
    pub now: i64,
}

/// The status, and in how many seconds it may change by time alone.
pub fn of(facts: &Facts<'_>, before: Option<&WorkloadStatus>) -> (WorkloadStatus, Option<u64>) {
    let mut conditions = before.map(|status| status.conditions.clone()).unwrap_or_default();
    let mut put = |type_: &str, status, reason: &str, message: String| {
        let desired = DesiredCondition::new(type_, status, reason, message).observed_generation(facts.generation);
        let _ = set(&mut conditions, desired);
    };
    let (status, reason, message) = ready(facts);
    put(condition::READY, status, reason, message);
    let (status, reason, message) = progressing(facts);
    put(condition::PROGRESSING, status, reason, message);
    let (status, reason, message) = suspended(facts);
    put(condition::SUSPENDED, status, reason, message);
    for (type_, verdict) in reported(facts) {
        // An operator that just started has not asked yet; what was known before still stands.
        let known = before.is_some_and(|status| status.conditions.iter().any(|c| c.type_ == type_));
        match verdict {
            Some((status, reason, message)) => put(type_, status, reason, message),
            // Until there is a node to ask it is absent: to Kubernetes that is the same as Unknown.
            None if known && !facts.pods.is_empty() => {}
            None if !known && !facts.pods.values().any(|pod| pod.state.running) => {}
            None => put(type_, ConditionStatus::Unknown, reason::NOT_REPORTED, "no node has reported yet".to_owned()),
        }
    }
    let lost = lost(facts);
    let was_lost = before.is_some_and(|status| status.conditions.iter().any(|c| c.type_ == condition::NODE_LOST));
    match lost {
        Some(message) => put(condition::NODE_LOST, ConditionStatus::True, reason::MACHINE_SILENT, message),
        None if was_lost => {
            let message = "every pod's machine answers".to_owned();
            put(condition::NODE_LOST, ConditionStatus::False, reason::MACHINES_ANSWER, message);
        }
        None => {}
    }
    let summaries = summaries(facts, before);
    let rollout = facts.rollout.unwrap_or_default();
    let newest = summaries.values().max_by_key(|node| node.window);
    let status = WorkloadStatus {
        observed_generation: facts.generation,
        replicas: rollout.replicas,
        ready_replicas: rollout.ready,
        selector: Some(facts.selector.clone()),
        window: newest.and_then(|node| node.window),
        loss: newest.and_then(|node| node.loss.clone()),
        score: mean(summaries.values().filter_map(|node| node.score.as_deref())),
        incentive: sum(summaries.values().filter_map(|node| node.incentive.as_deref())),
        nodes_total: u32::try_from(facts.pods.len()).unwrap_or(u32::MAX),
        nodes: nodes(facts, before, summaries),
        conditions,
    };
    (status, next_look(facts))
}

type Verdict = (ConditionStatus, &'static str, String);

fn ready(facts: &Facts<'_>) -> Verdict {
    use ConditionStatus::{False, True};
    if let Situation::Stuck(reason, message) = facts.situation {
        return (False, reason, message.clone());
    }
    if facts.suspended {
        return (False, reason::SUSPENDED, "spec.suspend is set: no pod runs".to_owned());
    }
    if let Some(message) = lost(facts) {
        return (False, reason::MACHINE_SILENT, message);
    }
    let rollout = facts.rollout.unwrap_or_default();
    let settled = rollout.observed && rollout.wanted == facts.wanted && rollout.updated >= facts.wanted;
    if settled && rollout.ready >= facts.wanted {
        return match facts.wanted {
            0 => (True, reason::SCALED_TO_ZERO, "spec.replicas is 0: no pod is wanted".to_owned()),
            wanted => (True, reason::ALL_READY, format!("{} ready", are(wanted))),
        };
    }
    let (reason, why) = trouble(facts).unwrap_or_else(|| (reason::NODES_NOT_READY, String::new()));
    let message = format!("{} of {} ready{}{why}", rollout.ready, facts.wanted, if why.is_empty() { "" } else { "; " });
    (False, reason, message)
}

/// The gravest trouble of any pod, with the pod's name.
fn trouble(facts: &Facts<'_>) -> Option<(&'static str, String)> {
    let mut found: Vec<(u8, &'static str, String)> = Vec::new();
    for (ordinal, pod) in facts.pods {
        let name = format!("{}-{ordinal}", facts.child_name);
        let mut add = |rank, reason, words: &str| found.push((rank, reason, format!("{name}: {words}")));
        if pod.state.ready {
            continue;
        }
        let mount = pod.mount.as_deref().or(match &pod.state.trouble {
            Some(Trouble::Mount(words)) => Some(words.as_str()),
            _ => None,
        });
        match (mount, &pod.state.trouble, pod.report.as_ref().and_then(|report| report.summary.message.as_deref())) {
            (Some(words), ..) if words.contains("secret") => add(0, reason::SECRET_NOT_FOUND, words),
            (_, _, Some(words)) if words.starts_with("failed to use the hotkey file") => {
                add(1, reason::HOTKEY_MISSING, words);
            }
            (_, Some(Trouble::Failing(words)), _) => add(2, reason::WORKER_FAILING, words),
            (_, Some(Trouble::Image(words)), _) => add(3, reason::IMAGE_NOT_PULLED, words),
            (_, Some(Trouble::Unschedulable(words)), _) if facts.now - pod.state.created >= SCHEDULING_SECONDS => {
                add(4, reason::UNSCHEDULABLE, words);
            }
            (Some(words), ..) => add(5, reason::NODES_NOT_READY, words),
            (_, _, Some(words)) => add(6, reason::NODES_NOT_READY, words),
            _ => {}
        }
    }
    found.into_iter().min_by_key(|(rank, ..)| *rank).map(|(_, reason, words)| (reason, short(&words)))
}

fn progressing(facts: &Facts<'_>) -> Verdict {
    use ConditionStatus::{False, True};
    match facts.situation {
        Situation::Paused => {
            let message = "the annotation bistro.dev/paused is set: children stay as they are".to_owned();
            return (False, reason::PAUSED, message);
        }
        Situation::Stuck(reason, message) => return (False, reason, message.clone()),
        Situation::Applied => {}
    }
    let rollout = facts.rollout.unwrap_or_default();
    let still = rollout.observed
        && [rollout.wanted, rollout.replicas, rollout.updated, rollout.ready].iter().all(|n| *n == facts.wanted);
    match still {
        true => (False, reason::SETTLED, "the pods are what the resource asks for".to_owned()),
        false => {
            let message = format!("{} wanted, {} updated, {} ready", facts.wanted, rollout.updated, rollout.ready);
            (True, reason::ROLLING_OUT, message)
        }
    }
}

fn suspended(facts: &Facts<'_>) -> Verdict {
    let left = facts.rollout.map_or(0, |rollout| rollout.replicas);
    match (facts.suspended, left) {
        (false, _) => (ConditionStatus::False, reason::RUNNING, "spec.suspend is not set".to_owned()),
        (true, 0) => (ConditionStatus::True, reason::SUSPENDED, "no pod runs; their state is kept".to_owned()),
        (true, left) => (ConditionStatus::False, reason::ROLLING_OUT, format!("{} still ending", are(left))),
    }
}

/// What the nodes themselves report. One that has not reported says nothing.
fn reported(facts: &Facts<'_>) -> [(&'static str, Option<Verdict>); 3] {
    let about =
        |good: (&'static str, &str), bad: &'static str, fault: &dyn Fn(&PodRecord) -> Option<Option<String>>| {
            let (mut heard, mut faults) = (0, Vec::new());
            for (ordinal, pod) in facts.pods {
                let Some(answer) = fault(pod) else { continue };
                heard += 1;
                faults.extend(answer.map(|words| format!("{}-{ordinal}: {words}", facts.child_name)));
            }
            match (heard, faults.first()) {
                (0, _) => None,
                (_, None) => Some((ConditionStatus::True, good.0, good.1.to_owned())),
                (_, Some(first)) => {
                    let more = if faults.len() > 1 { format!(" ({} more)", faults.len() - 1) } else { String::new() };
                    Some((ConditionStatus::False, bad, format!("{first}{more}")))
                }
            }
        };
    let registered = |pod: &PodRecord| {
        let report = pod.report.as_ref()?;
        let words = report.summary.message.clone().unwrap_or_else(|| "its hotkey has no uid yet".to_owned());
        Some((!report.registered).then_some(words))
    };
    let chain = |pod: &PodRecord| Some(pod.report.as_ref()?.chain.clone().err());
    let bucket = |pod: &PodRecord| Some(pod.report.as_ref()?.bucket.clone().err());
    [
        (
            condition::REGISTERED,
            about((reason::REGISTERED, "every hotkey has a uid"), reason::NOT_REGISTERED, &registered),
        ),
        (condition::CHAIN_REACHABLE, about((reason::REACHABLE, "the chain answers"), reason::UNREACHABLE, &chain)),
        (condition::BUCKET_REACHABLE, about((reason::REACHABLE, "the bucket answers"), reason::UNREACHABLE, &bucket)),
    ]
}

/// The pods that nobody may replace: long past their grace period, so their machine does not answer.
fn lost(facts: &Facts<'_>) -> Option<String> {
    let mut lost = facts.pods.iter().filter(|(_, pod)| is_lost(pod, facts.now));
    let (ordinal, pod) = lost.next()?;
    let (name, more) = (format!("{}-{ordinal}", facts.child_name), lost.count());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let machine = pod.state.machine.as_deref().unwrap_or("unknown");
    Some(format!(
        "{name}{more}: machine {machine} does not answer; its hotkey may still sign there. Make sure that it is off, then: kubectl delete pod {name} --force"
    ))
}

fn is_lost(pod: &PodRecord, now: i64) -> bool {
    pod.state.deleted_by.is_some_and(|by| now >= by + SILENT_SECONDS)
}

/// What each node said last; in this life of the operator or, as long as it was not asked, in an earlier one.
fn summaries(facts: &Facts<'_>, before: Option<&WorkloadStatus>) -> BTreeMap<u32, NodeSummary> {
    let earlier = |name: &str| before?.nodes.iter().find(|node| node.pod == name).cloned();
    let summary = |(ordinal, pod): (&u32, &PodRecord)| {
        let name = format!("{}-{ordinal}", facts.child_name);
        let said = pod.report.as_ref().map(|report| report.summary.clone());
        // What was wrong may not be any more; only of a pod that was not asked yet nobody knows.
        let keep = unasked(facts, pod);
        let before = || earlier(&name).map(|node| NodeSummary { message: node.message.filter(|_| keep), ..node });
        let mut said = said.or_else(before).unwrap_or_default();
        let average = said.hotkey.as_deref().and_then(|hotkey| facts.scores.get(hotkey));
        said.score = average.and_then(|average| score(*average)).or(said.score).or_else(|| {
            // A validator that has not answered yet has not forgotten it either.
            earlier(&name).filter(|earlier| earlier.hotkey == said.hotkey)?.score
        });
        (*ordinal, NodeSummary { pod: name, ..said })
    };
    facts.pods.iter().map(summary).collect()
}

/// An operator that just started has not asked this pod yet, though it can; an earlier one may have.
fn unasked(facts: &Facts<'_>, pod: &PodRecord) -> bool {
    facts.inherited && pod.report.is_none() && pod.silence.is_none() && pod.state.asked_at().is_some()
}

/// The least healthy nodes, at most 64.
fn nodes(
    facts: &Facts<'_>,
    before: Option<&WorkloadStatus>,
    mut summaries: BTreeMap<u32, NodeSummary>,
) -> Vec<NodeSummary> {
    let stood = |name: &str| before?.nodes.iter().position(|node| node.pod == name);
    let mut all: Vec<(u8, usize, NodeSummary)> = facts
        .pods
        .iter()
        .map(|(ordinal, pod)| {
            let mut node = summaries.remove(ordinal).unwrap_or_default();
            let words = pod.mount.as_deref().map(str::to_owned).or_else(|| match &pod.state.trouble {
                Some(Trouble::Unschedulable(_)) if facts.now - pod.state.created < SCHEDULING_SECONDS => None,
                Some(
                    Trouble::Unschedulable(words)
                    | Trouble::Mount(words)
                    | Trouble::Image(words)
                    | Trouble::Failing(words),
                ) => Some(words.clone()),
                None => None,
            });
            node.message =
                words.or(node.message).or_else(|| pod.silence.as_deref().map(str::to_owned)).map(|w| short(&w));
            let healthy = pod.report.as_ref().is_some_and(|report| report.chain.is_ok() && report.bucket.is_ok());
            let rank = match (is_lost(pod, facts.now), pod.state.ready, pod.silence.is_some(), healthy) {
                (true, ..) => 0,
                (_, false, ..) => 1,
                (_, _, true, _) => 2,
                (_, _, _, false) => 3,
                _ => 4,
            };
            // One that was not asked yet stands where it stood.
            let place = stood(&node.pod).filter(|_| unasked(facts, pod)).unwrap_or(*ordinal as usize);
            (rank, place, node)
        })
        .collect();
    all.sort_by_key(|(rank, place, _)| (*rank, *place));
    all.truncate(STATUS_NODES);
    all.into_iter().map(|(_, _, node)| node).collect()
}

/// When time alone changes something: a pod waits too long for a machine, or is too long past its grace period.
fn next_look(facts: &Facts<'_>) -> Option<u64> {
    let due = facts.pods.values().filter_map(|pod| match (&pod.state.trouble, pod.state.deleted_by) {
        (_, Some(by)) => Some(by + SILENT_SECONDS),
        (Some(Trouble::Unschedulable(_)), None) => Some(pod.state.created + SCHEDULING_SECONDS),
        _ => None,
    });
    due.filter(|due| *due > facts.now).map(|due| due.abs_diff(facts.now)).min()
}

fn mean<'a>(values: impl Iterator<Item = &'a str>) -> Option<String> {
    let values: Vec<f64> = values.filter_map(|value| value.parse().ok()).collect();
    (!values.is_empty()).then(|| format!("{:.3}", values.iter().sum::<f64>() / values.len() as f64))
}

fn sum<'a>(values: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut values = values.filter_map(|value| value.parse::<f64>().ok()).peekable();
    values.peek().is_some().then(|| format!("{:.4}", values.sum::<f64>()))
}

fn are(pods: u32) -> String {
    match pods {
        1 => "1 node is".to_owned(),
        pods => format!("{pods} nodes are"),
    }
}

#[cfg(test)]
mod tests;
