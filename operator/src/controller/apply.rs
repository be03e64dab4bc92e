//! Writes the children that are not what is wanted, and deletes those that are wanted no more.

use std::{error::Error as _, time::Duration};

use hyper::http::{Request, header::CONTENT_TYPE};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    child::{Child, ChildKind, Wanted},
    context::{Context, FIELD_MANAGER},
    gate,
    key::Key,
    seen::{Object, Owned},
};

/// What is done to a child that was created, before it is applied.
const ADOPT: &str = "adopt";

/// Why a child is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} the {} {name}", kind.as_str())]
pub struct ApplyError {
    verb: &'static str,
    kind: ChildKind,
    name: String,
    #[source]
    source: Box<RequestError>,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The API server said no, or could not be asked.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// The answer broke off.
    #[error(transparent)]
    Slow(#[from] gate::Slow),
}

impl ApplyError {
    /// The API server will say the same again until somebody changes something: a quota, a policy, a field.
    pub fn is_refusal(&self) -> bool {
        // To adopt a child only fails because somebody else was faster.
        self.verb != ADOPT && matches!(self.code(), Some(400 | 403 | 404 | 413 | 422))
    }

    fn code(&self) -> Option<u16> {
        match &*self.source {
            RequestError::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// This replica lost the lease in the middle of the pass.
    pub fn is_fenced(&self) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            if error.is::<gate::Fenced>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The children are what is wanted.
    Complete,
    /// Something must be written, and this replica does not lead; or a child must go before another can take its place.
    Waiting,
}

/// Makes the children of a resource what is wanted.
pub async fn apply(context: &Context, key: &Key, uid: &str, wanted: &[Wanted]) -> Result<Applied, ApplyError> {
    let mut applied = Applied::Complete;
    for child in wanted {
        let state = {
            let mut state = context.cache.lock();
            let known = state.children.get_mut(key).into_iter().flatten();
            let mut known = known.filter(|(kind, known)| *kind == child.kind && *known.name == child.name);
            known.next().map(|(_, known)| (known.is(child), known.deleting))
        };
        match state {
            Some((true, _)) => {}
            // It is on its way out; its end starts another pass.
            Some((false, true)) => applied = Applied::Waiting,
            Some((false, false)) | None if !context.leads() => applied = Applied::Waiting,
            Some((false, false)) | None => write(context, key, child).await?,
        }
    }
    let orphans: Vec<(ChildKind, Child)> = {
        let state = context.cache.lock();
        let known = state.children.get(key).into_iter().flatten();
        let ours = known.filter(|(_, child)| child.controller.as_deref() == Some(uid) && !child.deleting);
        let orphan = |kind: ChildKind, name: &str| !wanted.iter().any(|w| w.kind == kind && w.name == name);
        ours.filter(|(kind, child)| orphan(*kind, &child.name)).cloned().collect()
    };
    for (kind, orphan) in orphans {
        match context.leads() {
            true => delete(context, key, kind, &orphan, PropagationPolicy::Background).await?,
            false => applied = Applied::Waiting,
        }
    }
    Ok(applied)
}

/// Makes a child what is wanted.
///
/// Where none is known it is created, which costs the API server half of an apply. Else server-side apply: the operator
/// owns the fields that it sends, and takes them from whoever else wrote them.
async fn write(context: &Context, key: &Key, child: &Wanted) -> Result<(), ApplyError> {
    let api = api(context, key, child.kind);
    let mut known = context.cache.lock().child(key, child.kind, &child.name).cloned();
    if known.is_none() {
        match bounded(create(context, key, child)).await {
            Ok(object) => {
                note(context, key, child, "create", &object);
                return Ok(());
            }
            Err(RequestError::Kube(kube::Error::Api(status))) if status.code == 409 => {}
            Err(error) => return Err(failed("create", child, error)),
        }
        // It lost our labels, or never had them, so that no watch shows it.
        let there = bounded(api.get_opt(&child.name)).await.map_err(|error| failed("read", child, error))?;
        known = there.map(|object| Child::seen(child.kind, &object));
    }
    // Where the same is wanted as before nothing of ours has to go.
    if let Some(old) = known.as_ref().filter(|old| old.digest != Some(child.digest)) {
        adopt(context, key, child, old.owned).await?;
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let error = match bounded(api.patch(&child.name, &params, &Patch::Apply(&child.text))).await {
        Ok(object) => {
            note(context, key, child, "apply", &object);
            return Ok(());
        }
        Err(error) => failed("apply", child, error),
    };
    match known {
        Some(old) if child.kind == ChildKind::StatefulSet && is_immutable(&error) => {
            // Its pods stay and are adopted by the next one, which its end makes: no hotkey signs twice, none stops.
            tracing::info!(%key, "a StatefulSet cannot change like this: replaced without touching its pods");
            delete(context, key, child.kind, &old, PropagationPolicy::Orphan).await
        }
        _ => Err(error),
    }
}

async fn create(context: &Context, key: &Key, child: &Wanted) -> Result<Object, kube::Error> {
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let body = child.text.get().as_bytes().to_vec();
    let request = kube::core::Request::new(api(context, key, child.kind).resource_url()).create(&params, body);
    context.client.request(request.map_err(kube::Error::BuildRequest)?).await
}

fn note(context: &Context, key: &Key, child: &Wanted, verb: &str, object: &Object) {
    context.metrics.wrote(child.kind.as_str(), verb);
    context.cache.lock().wrote_child(key, child.kind, Child::written(object, child));
}

fn failed(verb: &'static str, child: &Wanted, error: RequestError) -> ApplyError {
    ApplyError { verb, kind: child.kind, name: child.name.clone(), source: Box::new(error) }
}

/// Makes the fields that the operator owns because it created a child into fields that it applied. To the API server these
/// are two owners: a field that is wanted no more would stay, as the other one's. Once in the life of a child.
async fn adopt(context: &Context, key: &Key, child: &Wanted, owned: Owned) -> Result<(), ApplyError> {
    let Some(at) = owned.created else { return Ok(()) };
    let entry = format!("/metadata/managedFields/{at}");
    let field = |name: &str| format!("{entry}/{name}");
    // It was applied since with the same fields: then these are known as applied already.
    let change = match owned.applied {
        true => json!({ "op": "remove", "path": entry }),
        false => json!({ "op": "replace", "path": field("operation"), "value": "Apply" }),
    };
    // Fails if the list is another one by now; the watch shows that one, and the queue tries again.
    let patch = json!([
        { "op": "test", "path": field("manager"), "value": FIELD_MANAGER },
        { "op": "test", "path": field("operation"), "value": "Update" },
        change,
    ]);
    let url = format!("{}/{}", api(context, key, child.kind).resource_url(), child.name);
    let request = Request::patch(url).header(CONTENT_TYPE, "application/json-patch+json");
    let request = request.body(patch.to_string().into_bytes()).map_err(kube::core::request::Error::BuildRequest);
    let send = async { context.client.request::<Object>(request.map_err(kube::Error::BuildRequest)?).await };
    match bounded(send).await {
        Ok(object) => {
            let adopted = Child::seen(child.kind, &object);
            let _ = context.cache.lock().put_child(key, child.kind, adopted);
            Ok(())
        }
        // Gone: there is nothing to adopt.
        Err(RequestError::Kube(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        Err(error) => Err(failed(ADOPT, child, error)),
    }
}

/// The API server names the fields of a StatefulSet that may change when another one did.
fn is_immutable(error: &ApplyError) -> bool {
    matches!(&*error.source, RequestError::Kube(kube::Error::Api(status))
        if status.code == 422 && status.message.contains("updates to statefulset spec"))
}

async fn delete(
    context: &Context,
    key: &Key,
    kind: ChildKind,
    child: &Child,
    propagation: PropagationPolicy,
) -> Result<(), ApplyError> {
    let uid = Some(child.uid.to_string());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version: None }),
        propagation_policy: Some(propagation),
        ..DeleteParams::default()
    };
    match bounded(api(context, key, kind).delete(&child.name, &params)).await {
        Ok(_) => context.metrics.wrote(kind.as_str(), "delete"),
        // Gone already, or another one by now.
        Err(RequestError::Kube(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
        Err(error) => {
            let name = child.name.to_string();
            return Err(ApplyError { verb: "delete", kind, name, source: Box::new(error) });
        }
    }
    Ok(())
}

fn api(context: &Context, key: &Key, kind: ChildKind) -> Api<Object> {
    Api::namespaced_with(context.client.clone(), &key.namespace, &kind.resource())
}

/// The gate bounds the wait for the head of an answer; this bounds its body too.
pub async fn bounded<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, RequestError> {
    match timeout(gate::PATIENCE + Duration::from_secs(1), request).await {
        Ok(answer) => answer.map_err(RequestError::from),
        Err(_) => Err(gate::Slow.into()),
    }
}
