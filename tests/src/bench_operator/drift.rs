//! How long a child is away that somebody deleted, or other than it should be that somebody edited.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

use super::subject::Child;

/// An operator that takes longer does not do it at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deletes a child: how long until another one has its name.
pub async fn deleted(api: &Api<DynamicObject>, name: &str) -> Duration {
    let (old, version) = now(api, name).await;
    let delete = async {
        let parameters = DeleteParams::background().grace_period(0);
        api.delete(name, &parameters).await.expect("it can be deleted");
    };
    let is_new = |event: WatchEvent<DynamicObject>| match event {
        WatchEvent::Added(new) => new.uid() != old.uid(),
        _ => false,
    };
    until(api, name, &version, delete, is_new).await
}

/// Edits a child: how long until it is as it was.
pub async fn edited(api: &Api<DynamicObject>, name: &str, pointer: &str, value: Value) -> Duration {
    let (old, version) = now(api, name).await;
    let right = old.data.pointer(pointer).cloned();
    assert!(right.as_ref().is_some_and(|right| *right != value), "{name} has no other {pointer} than {value}");
    let patch = merge_patch(pointer, &value);
    let edit = async {
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("it can be edited");
    };
    let mut wrong = false;
    let is_right = |event: WatchEvent<DynamicObject>| match event {
        WatchEvent::Modified(object) => {
            let found = object.data.pointer(pointer);
            // A false may just be left out.
            wrong |= found != right.as_ref();
            wrong && found == right.as_ref()
        }
        _ => false,
    };
    until(api, name, &version, edit, is_right).await
}

/// The child, and a version to watch from: that of a list is fresh.
async fn now(api: &Api<DynamicObject>, name: &str) -> (DynamicObject, String) {
    let list =
        api.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await.expect("it can be listed");
    let version = list.metadata.resource_version.expect("a list has a version");
    let object = list.items.into_iter().next().unwrap_or_else(|| panic!("there is no {name}"));
    (object, version)
}

/// Does something: how long from its beginning until an event of that object says that it was undone.
async fn until(
    api: &Api<DynamicObject>,
    name: &str,
    version: &str,
    act: impl Future<Output = ()>,
    mut undone: impl FnMut(WatchEvent<DynamicObject>) -> bool,
) -> Duration {
    let only = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(api.watch(&only, version).await.expect("it can be watched"));
    let began = Instant::now();
    let seen = async {
        while let Some(event) = events.next().await {
            if undone(event.expect("an event")) {
                return Instant::now();
            }
        }
        panic!("the watch of {name} has ended");
    };
    let ((), seen) = tokio::join!(act, tokio::time::timeout(PATIENCE, seen));
    let Ok(seen) = seen else { panic!("{name} is not put back") };
    seen - began
}

/// The merge patch that sets one value.
fn merge_patch(pointer: &str, value: &Value) -> Value {
    pointer.rsplit('/').filter(|key| !key.is_empty()).fold(value.clone(), |inner, key| json!({ key: inner }))
}

/// The same of the child of a resource; `None` where there is no such child, or nothing that may be edited.
pub async fn trial(api: &Api<DynamicObject>, child: &Child, resource: &str, edit: bool) -> Option<Duration> {
    let name = child.name?(resource);
    if !edit {
        return Some(deleted(api, &name).await);
    }
    let (pointer, value) = child.edit?;
    Some(edited(api, &name, pointer, value()).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_sets_one_value() {
        assert_eq!(merge_patch("/data/settings.yaml", &json!("x")), json!({ "data": { "settings.yaml": "x" } }));
    }
}
