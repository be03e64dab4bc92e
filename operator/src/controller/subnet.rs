//! One pass over a Subnet: its NetworkPolicy, and a status made from its users. It runs no pods itself.

use bistro_api::{
    Averager, Miner, Node, Subnet, Validator,
    conditions::{condition, reason},
    subnet::SubnetStatus,
};
use k8s_controller::conditions::{ConditionStatus, DesiredCondition, set};
use kube::ResourceExt;

use super::{
    apply::apply,
    cache::{State, Stored},
    child::{ChildKind, Wanted},
    context::{Context, RESYNC},
    key::{Key, Kind},
    pass::PassError,
    queue::Outcome,
    report,
};
use crate::plan;

/// Makes the cluster what the Subnet asks for, and its status what its users report.
pub async fn pass(context: &Context, key: &Key) -> Result<Outcome, PassError> {
    let held = Subnet::all(&context.cache.lock()).get(key).cloned();
    let subnet = match held {
        Some(Ok(subnet)) if subnet.metadata.deletion_timestamp.is_none() => subnet,
        Some(Err(unreadable)) => return Ok(report::unreadable::<Subnet>(context, key, &unreadable).await?),
        _ => return Ok(Outcome::Settled),
    };
    let validated = plan::validate_subnet(&subnet, &context.environment);
    let (verdict, run_digest, failed) = match validated {
        Err(invalid) => (Err((reason::INVALID, invalid.to_string())), None, None),
        Ok(validated) => {
            let policy = plan::build_subnet(&validated).network_policy;
            let wanted = policy.map(|policy| Wanted::new(ChildKind::NetworkPolicy, policy)).transpose()?;
            let applied = apply(context, key, &subnet.uid().unwrap_or_default(), wanted.as_slice()).await;
            let digest = Some(validated.run_digest);
            match applied {
                Ok(_) => (Ok(()), digest, None),
                Err(error) if error.is_fenced() => return Ok(Outcome::Settled),
                Err(error) if error.is_refusal() => {
                    let message = super::pod::short(&crate::cli::one_line(&error));
                    (Err((reason::APPLY_FAILED, message)), digest, Some(error))
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let (users, window) = users(&context.cache.lock(), key);
    let mut conditions = subnet.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let (status, reason, message) = match verdict {
        Ok(()) => (ConditionStatus::True, reason::VALID, "nodes can use these settings".to_owned()),
        Err((reason, message)) => (ConditionStatus::False, reason, message),
    };
    let ready = DesiredCondition::new(condition::READY, status, reason, message);
    let flipped = set(&mut conditions, ready.observed_generation(subnet.metadata.generation)).is_changed();
    let status =
        SubnetStatus { observed_generation: subnet.metadata.generation, run_digest, users, window, conditions };
    let outcome = update_status(context, key, &subnet, &status, flipped).await?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(outcome),
    }
}

async fn update_status(
    context: &Context,
    key: &Key,
    subnet: &Subnet,
    status: &SubnetStatus,
    flipped: bool,
) -> Result<Outcome, PassError> {
    let pause = super::jitter::between(RESYNC.mul_f64(0.9), RESYNC);
    let draft = report::Draft::new(key, subnet, status)?;
    if subnet.status.as_ref() == Some(status) || draft.is_written(context) {
        return Ok(Outcome::Again(pause));
    }
    if !context.leads() {
        return Ok(Outcome::Settled);
    }
    if let Some(left) = draft.too_soon(context).filter(|_| !flipped) {
        return Ok(Outcome::Again(left));
    }
    draft.write(context).await?;
    report::tell(context, key, subnet, &status.conditions).await;
    Ok(Outcome::Again(pause))
}

/// How many resources name it, and the latest window that any of their nodes reported.
fn users(state: &State, key: &Key) -> (u32, Option<u64>) {
    fn window<K: Node + Stored>(state: &State, key: &Key) -> Option<u64> {
        K::all(state).get(key)?.as_ref().ok()?.status()?.window
    }
    let users = state.users.get(&(key.namespace.clone(), key.name.clone()));
    let windows = users.into_iter().flatten().filter_map(|user| match user.kind {
        Kind::Subnet => None,
        Kind::Miner => window::<Miner>(state, user),
        Kind::Validator => window::<Validator>(state, user),
        Kind::Averager => window::<Averager>(state, user),
    });
    (users.map_or(0, |users| u32::try_from(users.len()).unwrap_or(u32::MAX)), windows.max())
}
