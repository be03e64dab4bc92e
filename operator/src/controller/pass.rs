//! One pass over a Miner, Validator or Averager: five named steps, with IO in the first and the last two only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bistro_api::{Node, Subnet, conditions::reason, workload::WorkloadStatus};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::ResourceExt;
use tokio::time::Instant;

use super::{
    apply::{Applied, ApplyError, apply},
    cache::{Built, Held, PodRecord, State, Stored},
    child::{ChildKind, Rollout, Wanted},
    context::{Context, RESYNC},
    key::{Key, Kind},
    queue::Outcome,
    report::{self, StatusError},
    status::{self, Facts, Situation},
};
use crate::plan::{self, Children};

/// Annotation that keeps the operator from writing children.
pub const PAUSED: &str = "bistro.dev/paused";

/// The first status waits so long for somebody to make pods: before that it would say nothing, and soon be another.
const FIRST_STATUS: Duration = Duration::from_secs(10);

/// Why a pass failed; it is tried again after a pause.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A child could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// A child cannot be said in JSON: a fault of the operator.
    #[error("failed to write a child as JSON")]
    Render(#[from] serde_json::Error),
}

/// What the cache has about a resource.
#[derive(Debug)]
struct Dereferenced<K> {
    resource: Arc<K>,
    uid: String,
    subnet: Option<Held<Subnet>>,
    signs: Signs,
}

/// Whether the resource's hotkeys may sign.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Signs {
    /// Nobody else has them.
    Alone,
    /// An older resource names the same Secret: no pods here.
    Not(Key),
    /// The pods of another resource still have them: nothing is written until they are gone.
    Later(Key),
}

/// Makes the cluster what the resource asks for, and its status what the cluster is.
pub async fn pass<K: Node + Stored + Sync>(context: &Context, key: &Key) -> Result<Outcome, PassError> {
    let found = dereference::<K>(&context.cache.lock(), key);
    let found = match found {
        Some(Ok(found)) => found,
        Some(Err(unreadable)) => return Ok(report::unreadable::<K>(context, key, &unreadable).await?),
        None => return Ok(Outcome::Settled),
    };
    let (situation, failed) = match situation(context, key, &found).await {
        Ok(situation) => (situation, None),
        Err(PassError::Apply(error)) if error.is_fenced() => return Ok(Outcome::Settled),
        Err(PassError::Apply(error)) if error.is_refusal() => {
            let message = super::pod::short(&crate::cli::one_line(&error));
            (Situation::Stuck(reason::APPLY_FAILED, message), Some(error))
        }
        Err(error) => return Err(error),
    };
    let outcome = update_status(context, key, &found, &situation).await?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(outcome),
    }
}

/// Reads everything that the resource refers to. Absent: it is gone or going, and its children go with it.
fn dereference<K: Node + Stored>(state: &State, key: &Key) -> Option<Result<Dereferenced<K>, Arc<str>>> {
    let resource = match K::all(state).get(key)? {
        Ok(resource) => resource.clone(),
        Err(unreadable) => return Some(Err(unreadable.clone())),
    };
    if resource.meta().deletion_timestamp.is_some() {
        return None;
    }
    let subnet = Key::new(Kind::Subnet, &key.namespace, &resource.workload().subnet_ref.name);
    let subnet = Subnet::all(state).get(&subnet).cloned();
    let signs = signs(state, key, resource.workload().wallet.secret_ref.as_ref().map(|secret| secret.name.as_str()));
    Some(Ok(Dereferenced { uid: resource.uid().unwrap_or_default(), resource, subnet, signs }))
}

fn signs(state: &State, key: &Key, wallet: Option<&str>) -> Signs {
    let Some(wallet) = wallet else { return Signs::Alone };
    let secret = (key.namespace.clone(), Box::from(wallet));
    let claims = state.claims.get(&secret).into_iter().flatten();
    if let Some(oldest) =
        claims.min_by_key(|claim| (state.created(claim), (*claim).clone())).filter(|oldest| *oldest != key)
    {
        return Signs::Not(oldest.clone());
    }
    let signers = state.signers.get(&secret).into_iter().flatten();
    match signers.map(|(owner, _)| owner).find(|owner| *owner != key) {
        Some(other) => Signs::Later(other.clone()),
        None => Signs::Alone,
    }
}

/// Validates, builds and applies, as far as each allows the next.
async fn situation<K: Node + Stored>(
    context: &Context,
    key: &Key,
    found: &Dereferenced<K>,
) -> Result<Situation, PassError> {
    let subnet_name = &found.resource.workload().subnet_ref.name;
    let subnet = match &found.subnet {
        Some(Ok(subnet)) => subnet,
        Some(Err(unreadable)) => {
            let message = format!("Subnet {subnet_name} cannot be read: {unreadable}");
            return Ok(Situation::Stuck(reason::INVALID, message));
        }
        None => {
            let message =
                format!("create Subnet {subnet_name} in namespace {}; running pods keep their settings", key.namespace);
            return Ok(Situation::Stuck(reason::SUBNET_NOT_FOUND, message));
        }
    };
    if found.resource.annotations().get(PAUSED).is_some_and(|paused| paused == "true") {
        return Ok(Situation::Paused);
    }
    if let Signs::Later(other) = &found.signs {
        let message = format!("waits for the pods of {other} to end, which sign with the same hotkeys");
        return Ok(Situation::Stuck(reason::HOTKEY_CONFLICT, message));
    }
    let from = built_from(found, subnet);
    if !is_built(context, key, &found.uid, from) {
        let mut validated = match plan::validate(&*found.resource, subnet, &context.environment) {
            Ok(validated) => validated,
            Err(invalid) => return Ok(Situation::Stuck(reason::INVALID, invalid.to_string())),
        };
        if found.signs != Signs::Alone {
            validated.replicas = 0;
        }
        let wanted = wanted(plan::build(&validated))?;
        let hashes = wanted.iter().map(|child| (child.kind, child.hash)).collect();
        if apply(context, key, &found.uid, &wanted).await? == Applied::Complete {
            let mut state = context.cache.lock();
            state.memories.entry(key.clone()).or_default().built =
                Some(Built { from, wanted: hashes, since: Instant::now() });
        }
    }
    Ok(match &found.signs {
        Signs::Not(older) => {
            let message = format!("{older} is older and has the same wallet Secret: give this one a Secret of its own");
            Situation::Stuck(reason::HOTKEY_CONFLICT, message)
        }
        Signs::Alone | Signs::Later(_) => Situation::Applied,
    })
}

/// Changes whenever anything changes that children are made from.
fn built_from<K: Node>(found: &Dereferenced<K>, subnet: &Subnet) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (&found.uid, found.resource.meta().generation, found.signs == Signs::Alone).hash(&mut hasher);
    (subnet.uid(), subnet.metadata.generation).hash(&mut hasher);
    hasher.finish()
}

/// All children are known to be what was built from the same, and there are no others.
fn is_built(context: &Context, key: &Key, uid: &str, from: u64) -> bool {
    let state = context.cache.lock();
    let built = state.memories.get(key).and_then(|memory| memory.built.as_ref());
    let Some(built) = built.filter(|built| built.from == from) else { return false };
    let children: &[_] = state.children.get(key).map_or(&[], Vec::as_slice);
    let is = |kind: ChildKind, hash: u64| children.iter().any(|(k, child)| *k == kind && child.is_known_as(hash));
    let ours = children.iter().filter(|(_, child)| child.controller.as_deref() == Some(uid)).count();
    built.wanted.iter().all(|(kind, hash)| is(*kind, *hash)) && ours == built.wanted.len()
}

/// The children in the order in which they are written: the pods' settings exist before the pods.
fn wanted(children: Children) -> Result<Vec<Wanted>, serde_json::Error> {
    let Children { config_map, service, pod_disruption_budget, stateful_set } = children;
    let mut all = vec![Wanted::new(ChildKind::ConfigMap, config_map)?, Wanted::new(ChildKind::Service, service)?];
    if let Some(budget) = pod_disruption_budget {
        all.push(Wanted::new(ChildKind::PodDisruptionBudget, budget)?);
    }
    all.push(Wanted::new(ChildKind::StatefulSet, stateful_set)?);
    Ok(all)
}

/// Writes the status if it changed; a condition at once, anything else every 30 s at most.
async fn update_status<K: Node + Stored + Sync>(
    context: &Context,
    key: &Key,
    found: &Dereferenced<K>,
    situation: &Situation,
) -> Result<Outcome, PassError> {
    let resource = &found.resource;
    let workload = resource.workload();
    let child_name = key.child_name();
    let Observed { rollout, pods, scores, inherited, early } = observed(&context.cache.lock(), key);
    let facts = Facts {
        generation: resource.meta().generation,
        child_name: &child_name,
        wanted: if workload.suspend || matches!(found.signs, Signs::Not(_)) { 0 } else { workload.replicas },
        suspended: workload.suspend,
        selector: format!("{}={child_name}", plan::WORKLOAD),
        situation,
        rollout,
        pods: &pods,
        scores,
        inherited,
        now: Timestamp::now().as_second(),
    };
    let (status, next_look) = status::of(&facts, resource.status());
    let next_look = next_look.map_or(RESYNC, |seconds| Duration::from_secs(seconds + 1));
    let pause = super::jitter::between(next_look.mul_f64(0.9), next_look);
    let before = resource.status();
    if before == Some(&status) {
        return Ok(Outcome::Again(pause));
    }
    let draft = report::Draft::new(key, &**resource, &status)?;
    if draft.is_written(context) {
        return Ok(Outcome::Again(pause));
    }
    if !context.leads() {
        return Ok(Outcome::Settled);
    }
    if let Some(left) = early.filter(|_| before.is_none() && *situation == Situation::Applied) {
        return Ok(Outcome::Again(left));
    }
    if let Some(left) = draft.too_soon(context).filter(|_| !flips(before, &status)) {
        return Ok(Outcome::Again(left.min(pause)));
    }
    draft.write(context).await?;
    report::tell(context, key, &**resource, &status.conditions).await;
    Ok(Outcome::Again(pause))
}

/// What is seen of a resource's pods.
struct Observed {
    /// What the StatefulSet says.
    rollout: Option<Rollout>,
    pods: BTreeMap<u32, PodRecord>,
    /// What validators think of a Miner's hotkeys.
    scores: HashMap<Box<str>, f64>,
    /// No status was written in this life of the operator.
    inherited: bool,
    /// For how long there may be nothing to say yet: the pods were asked for just now, and nobody has answered that.
    early: Option<Duration>,
}

fn observed(state: &State, key: &Key) -> Observed {
    let children = state.children.get(key).into_iter().flatten();
    let rollout: Option<Rollout> =
        children.filter(|(kind, _)| *kind == ChildKind::StatefulSet).find_map(|(_, child)| child.rollout);
    let built = state.memories.get(key).and_then(|memory| memory.built.as_ref());
    let left = built.and_then(|built| FIRST_STATUS.checked_sub(built.since.elapsed()));
    Observed {
        rollout,
        early: left.filter(|_| rollout.is_none_or(|rollout| !rollout.observed)),
        pods: state.pods.get(key).cloned().unwrap_or_default(),
        scores: if key.kind == Kind::Miner { state.scores(key) } else { HashMap::new() },
        inherited: state.memories.get(key).is_none_or(|memory| memory.status.is_none()),
    }
}

/// A condition has another status or reason, or the status is of another spec: people and scripts wait for these.
/// One that is new and Unknown says no more than one that is absent.
fn flips(before: Option<&WorkloadStatus>, after: &WorkloadStatus) -> bool {
    let Some(before) = before else { return true };
    let said = |c: &Condition| {
        let known = before.conditions.iter().find(|known| known.type_ == c.type_);
        known.map_or(c.status == "Unknown", |known| known.status == c.status && known.reason == c.reason)
    };
    before.observed_generation != after.observed_generation || !after.conditions.iter().all(said)
}
