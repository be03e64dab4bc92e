//! What the operator remembers of a pod: what people want to know of it, and whose hotkeys it may sign with.

use super::{
    child,
    key::Key,
    seen::{Object, SeenPodSpec, SeenPodStatus, SeenState, part},
};
use crate::{plan::contract, text};
use bistro_api::{NodeStatus, workload::NodeSummary};

/// Longest text that is kept of a pod or node, in characters; conditions take 32 KiB, people a line.
const LONGEST_TEXT: usize = 300;

/// One pod as it was last seen.
#[derive(Clone, Debug, PartialEq)]
pub struct PodState {
    /// Its identity.
    pub uid: Box<str>,
    /// Its version; a higher one is newer.
    pub version: u64,
    /// Its address, once it has one.
    pub address: Option<Box<str>>,
    /// It is ready.
    pub ready: bool,
    /// Why it is not.
    pub trouble: Option<Trouble>,
    /// When its grace period ends or ended, in Unix seconds; it is being deleted.
    pub deleted_by: Option<i64>,
    /// When it was made, in Unix seconds.
    pub created: i64,
    /// The machine it is on.
    pub machine: Option<Box<str>>,
    /// The Secret whose hotkeys it mounts.
    pub wallet: Option<Box<str>>,
    /// Its container has started.
    pub running: bool,
}

/// Why a pod is not ready, as Kubernetes tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No machine takes it.
    Unschedulable(String),
    /// A Secret that it mounts does not exist, or another volume cannot be mounted.
    Mount(String),
    /// Its image cannot be pulled.
    Image(String),
    /// Its container ends again and again; with its last words.
    Failing(String),
}

impl PodState {
    /// What is remembered of a pod, and whose it is.
    pub fn seen(pod: &Object) -> Option<(Key, u32, Self)> {
        let metadata = &pod.metadata;
        let owner = metadata.owner_references.iter().flatten().find(|owner| owner.kind == "StatefulSet")?;
        let key = Key::of_child(metadata.namespace.as_deref()?, &owner.name)?;
        let ordinal = metadata.name.as_deref()?.strip_prefix(&owner.name)?.strip_prefix('-')?.parse().ok()?;
        let spec: SeenPodSpec = part(pod.spec.as_deref());
        let status: SeenPodStatus = part(pod.status.as_deref());
        let wallet = spec.volumes.iter().filter(|volume| volume.name == contract::WALLET);
        let wallet = wallet.flat_map(|volume| &volume.secret).find_map(|secret| secret.secret_name.as_deref());
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let state = Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            version: child::version(metadata),
            address: status.pod_ip.as_deref().map(Into::into),
            ready,
            trouble: if ready { None } else { trouble(&status) },
            deleted_by: metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second()),
            created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            machine: spec.node_name.as_deref().map(Into::into),
            wallet: wallet.map(Into::into),
            running: status.container_statuses.iter().any(|container| container.state.running.is_some()),
        };
        Some((key, ordinal, state))
    }

    /// Where its node can be asked for its status, once it runs.
    pub fn asked_at(&self) -> Option<&str> {
        self.address.as_deref().filter(|_| self.running)
    }

    /// It shows as the same in a status. Where it runs does not count: nobody is told that before something is wrong.
    pub fn shows_as(&self, other: &PodState) -> bool {
        let shown = |pod: &PodState| (pod.ready, pod.deleted_by);
        self.uid == other.uid && shown(self) == shown(other) && self.trouble == other.trouble
    }
}

fn trouble(status: &SeenPodStatus) -> Option<Trouble> {
    let words = |reason: &Option<String>, message: &Option<String>| {
        short(message.as_deref().or(reason.as_deref()).unwrap_or_default())
    };
    let unscheduled = status.conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        return Some(Trouble::Unschedulable(words(&condition.reason, &condition.message)));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    for container in containers {
        let last_words = |state: &SeenState| {
            let ended = state.terminated.as_ref()?;
            let words = ended.message.as_deref().unwrap_or_default().trim().lines().last().unwrap_or_default();
            (ended.exit_code != 0).then(|| {
                format!(
                    "ended with code {}{}{}",
                    ended.exit_code,
                    if words.is_empty() { "" } else { ": " },
                    short(words)
                )
            })
        };
        let waiting = container.state.waiting.as_ref();
        match waiting.map(|waiting| (waiting.reason.as_deref().unwrap_or_default(), waiting)) {
            Some(("CrashLoopBackOff" | "RunContainerError" | "StartError", waiting)) => {
                let last =
                    last_words(&container.last_state).unwrap_or_else(|| words(&waiting.reason, &waiting.message));
                return Some(Trouble::Failing(last));
            }
            Some(("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull", waiting)) => {
                return Some(Trouble::Image(format!(
                    "{}: {}",
                    container.image,
                    words(&waiting.reason, &waiting.message)
                )));
            }
            Some(("CreateContainerConfigError" | "CreateContainerError", waiting)) => {
                return Some(Trouble::Mount(words(&waiting.reason, &waiting.message)));
            }
            _ => {}
        }
        if let Some(words) = last_words(&container.state) {
            return Some(Trouble::Failing(words));
        }
    }
    None
}

/// One line that a person can read at a glance.
pub fn short(text: &str) -> String {
    text::clip(&text::plain(text), LONGEST_TEXT)
}

/// What a node reported on `/status`, as far as a status of a resource shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its row in the status, without the name of the pod.
    pub summary: NodeSummary,
    /// Its chain answers; else what is wrong.
    pub chain: Result<(), String>,
    /// Its bucket answers; else what is wrong.
    pub bucket: Result<(), String>,
    /// It knows its uid, or is one that needs none.
    pub registered: bool,
    /// What a validator thinks of miners: hotkey and average.
    pub scores: Vec<(Box<str>, f64)>,
}

/// A number as a status shows it; nothing for what is none.
fn decimal(value: f64, digits: usize) -> Option<String> {
    value.is_finite().then(|| format!("{value:.digits$}"))
}

/// A score as a status shows it.
pub fn score(value: f64) -> Option<String> {
    decimal(value, 3)
}

impl Report {
    /// What counts of an answer.
    pub fn of(status: &NodeStatus) -> Self {
        let reachable = |service: &bistro_api::status::Reachable| match service.reachable {
            true => Ok(()),
            false => Err(short(service.error.as_deref().unwrap_or("it has not answered yet"))),
        };
        // Verdicts of a miner are on its own work; those of others would be a sum over all miners.
        let verdict = status.verdicts.iter().max_by_key(|(_, count)| **count).map(|(verdict, _)| short(verdict));
        Self {
            summary: NodeSummary {
                pod: String::new(),
                hotkey: status.hotkey.as_deref().map(short),
                uid: status.uid,
                window: status.window,
                loss: status.held_out_loss.and_then(|loss| decimal(loss, 3)),
                score: status.score.and_then(score),
                weight: status.weight.and_then(|weight| decimal(weight, 4)),
                incentive: status.incentive.and_then(|incentive| decimal(incentive, 4)),
                verdict,
                message: (!status.message.is_empty()).then(|| short(&status.message)),
            },
            chain: reachable(&status.chain),
            bucket: reachable(&status.bucket),
            registered: status.uid.is_some() || status.role == bistro_api::Role::Averager,
            // The answer was bounded before it was read.
            scores: status.scores.iter().map(|scored| (Box::from(scored.hotkey.as_str()), scored.average)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Option<(Key, u32, PodState)> {
        let pod = json!({
            "metadata": {"name": "miner-m-3", "namespace": "ns", "uid": "u", "resourceVersion": "7",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "miner-m", "uid": "s"}]},
            "spec": {"containers": [], "volumes": [{"name": "wallet", "secret": {"secretName": "keys"}}]},
            "status": status,
        });
        PodState::seen(&serde_json::from_str(&pod.to_string()).expect("a pod"))
    }

    #[test]
    fn a_pod_is_known_by_its_owner_its_number_and_the_hotkeys_it_mounts() {
        let (key, ordinal, state) = pod(json!({"podIP": "10.0.0.7"})).expect("ours");
        assert_eq!((key.to_string().as_str(), ordinal), ("miner ns/m", 3));
        assert_eq!((state.wallet.as_deref(), state.address.as_deref()), (Some("keys"), Some("10.0.0.7")));
    }

    #[test]
    fn each_trouble_has_a_name_and_its_words() {
        let waiting = |reason: &str, message: &str, last: serde_json::Value| {
            json!({"containerStatuses": [{"name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
                "state": {"waiting": {"reason": reason, "message": message}}, "lastState": last}]})
        };
        let ended = json!({"terminated": {"exitCode": 2, "message": "hotkey 5F.. is not registered\n"}});
        let unscheduled = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]});
        for (status, trouble) in [
            (json!({}), None),
            (unscheduled, Some(Trouble::Unschedulable("0/1 nodes".into()))),
            (waiting("ImagePullBackOff", "no such", json!({})), Some(Trouble::Image("i: no such".into()))),
            (
                waiting("CrashLoopBackOff", "back-off", ended),
                Some(Trouble::Failing("ended with code 2: hotkey 5F.. is not registered".into())),
            ),
            (
                waiting("CreateContainerConfigError", "secret \"x\" not found", json!({})),
                Some(Trouble::Mount("secret \"x\" not found".into())),
            ),
            (waiting("ContainerCreating", "", json!({})), None),
        ] {
            assert_eq!(pod(status).expect("ours").2.trouble, trouble);
        }
    }

    #[test]
    fn texts_of_others_are_one_short_line() {
        assert_eq!(short("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb");
        assert_eq!(short(&"x".repeat(1000)).chars().count(), 300);
    }
}
