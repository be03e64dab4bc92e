//! Writes statuses and tells people about trouble.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use bistro_api::conditions::{condition, reason};
use k8s_controller::{
    conditions::{ConditionStatus, DesiredCondition, set},
    events::{Event, EventType},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Resource,
    api::{ApiResource, Patch, PatchParams},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    apply::{RequestError, bounded},
    cache::Stored,
    child,
    context::{Context, FIELD_MANAGER, STATUS_PERIOD},
    key::Key,
    queue::Outcome,
    seen::Object,
};

/// Reasons that a person has to do something about.
const TROUBLE: [&str; 10] = [
    reason::SUBNET_NOT_FOUND,
    reason::INVALID,
    reason::SECRET_NOT_FOUND,
    reason::HOTKEY_MISSING,
    reason::HOTKEY_CONFLICT,
    reason::APPLY_FAILED,
    reason::UNSCHEDULABLE,
    reason::IMAGE_NOT_PULLED,
    reason::WORKER_FAILING,
    reason::MACHINE_SILENT,
];

/// Why a status is not written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The API server said no, or could not be asked.
    #[error("failed to write the status")]
    Write(#[source] Box<RequestError>),
    /// It cannot be said in JSON: a fault of the operator.
    #[error("failed to write the status as JSON")]
    Render(#[from] serde_json::Error),
}

/// A status that may have to be written.
#[derive(Debug)]
pub struct Draft<'a> {
    /// Of which resource.
    pub key: &'a Key,
    /// How the API server names its kind.
    pub resource: ApiResource,
    /// Version of the resource as it was last seen.
    pub seen: u64,
    /// The new status.
    status: Value,
    /// Its hash.
    hash: u64,
}

impl<'a> Draft<'a> {
    /// A status of a resource as it was last seen.
    pub fn new<K: Resource<DynamicType = ()>>(
        key: &'a Key,
        resource: &K,
        status: &impl Serialize,
    ) -> Result<Self, StatusError> {
        let (seen, status) = (child::version(resource.meta()), serde_json::to_value(status)?);
        Ok(Self { key, resource: ApiResource::erase::<K>(&()), seen, hash: fingerprint(&status), status })
    }

    /// It was written before, and the watch has not shown that yet.
    pub fn is_written(&self, context: &Context) -> bool {
        let state = context.cache.lock();
        let written = state.memories.get(self.key).and_then(|memory| memory.status);
        written.is_some_and(|(hash, version)| hash == self.hash && self.seen < version)
    }

    /// How long it has to wait for its turn.
    pub fn too_soon(&self, context: &Context) -> Option<Duration> {
        let since = context.cache.lock().memories.get(self.key).and_then(|memory| memory.status_at)?;
        STATUS_PERIOD.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }

    /// Writes it.
    pub async fn write(&self, context: &Context) -> Result<(), StatusError> {
        let resource = &self.resource;
        let api: Api<Object> = Api::namespaced_with(context.client.clone(), &self.key.namespace, resource);
        let patch = json!({ "apiVersion": resource.api_version, "kind": resource.kind, "status": self.status });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match bounded(api.patch_status(&self.key.name, &params, &Patch::Apply(&patch))).await {
            Ok(object) => {
                context.metrics.wrote(&format!("{}/status", resource.kind), "apply");
                let mut state = context.cache.lock();
                let memory = state.memories.entry(self.key.clone()).or_default();
                memory.status = Some((self.hash, child::version(&object.metadata)));
                memory.status_at = Some(Instant::now());
                Ok(())
            }
            // Deleted meanwhile; its watch says so too.
            Err(RequestError::Kube(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Err(error) => Err(StatusError::Write(Box::new(error))),
        }
    }
}

/// Hash of a status without the times of its conditions.
fn fingerprint(status: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, value) in status.as_object().into_iter().flatten() {
        match value.as_array().filter(|_| name == "conditions") {
            None => (name, value).hash(&mut hasher),
            Some(conditions) => {
                let fields = conditions.iter().filter_map(Value::as_object).flatten();
                fields.filter(|(name, _)| *name != "lastTransitionTime").for_each(|field| field.hash(&mut hasher));
            }
        }
    }
    hasher.finish()
}

/// An event for trouble that is new; none for trouble that was told already.
pub async fn tell<K: Resource<DynamicType = ()>>(context: &Context, key: &Key, resource: &K, conditions: &[Condition]) {
    let Some(ready) = conditions.iter().find(|c| c.type_ == condition::READY) else { return };
    let trouble = TROUBLE.contains(&ready.reason.as_str()).then(|| fingerprint(&json!({ "reason": ready.reason })));
    {
        let mut state = context.cache.lock();
        let memory = state.memories.entry(key.clone()).or_default();
        if std::mem::replace(&mut memory.event, trouble) == trouble {
            return;
        }
    }
    if trouble.is_none() {
        return;
    }
    let event = Event {
        type_: EventType::Warning,
        reason: ready.reason.clone(),
        action: "Reconcile".to_owned(),
        note: Some(ready.message.clone()),
        related: None,
    };
    if let Err(error) = context.events.publish(resource, &event).await {
        tracing::warn!(%key, error = crate::cli::one_line(&error), "failed to publish an event");
    }
}

/// The status of a resource that was stored under another schema and cannot be read: one condition that says so.
pub async fn unreadable<K: Stored>(context: &Context, key: &Key, why: &str) -> Result<Outcome, StatusError> {
    let message = format!("the resource cannot be read: {why}; write it again as the schema of this version says");
    let mut conditions = Vec::new();
    let ready = DesiredCondition::new(condition::READY, ConditionStatus::False, reason::INVALID, message);
    let _ = set(&mut conditions, ready);
    let status = json!({ "conditions": conditions });
    let hash = fingerprint(&status);
    let told = context.cache.lock().memories.entry(key.clone()).or_default().event.replace(hash) == Some(hash);
    if told || !context.leads() {
        return Ok(Outcome::Settled);
    }
    tracing::warn!(%key, why, "a resource cannot be read");
    Draft { key, resource: ApiResource::erase::<K>(&()), seen: 0, status, hash }.write(context).await?;
    Ok(Outcome::Settled)
}
