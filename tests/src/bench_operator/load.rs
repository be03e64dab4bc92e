//! Creates resources and watches what becomes of them.

use std::{
    collections::HashSet,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};

use super::subject::Subject;

/// Creators at once.
const CREATORS: usize = 32;
/// Longest time that the slowest may take for one resource, besides a start of two minutes.
const SLOWEST: Duration = Duration::from_millis(300);

/// Name of the resource with this number.
pub fn name(number: usize) -> String {
    format!("b{number:05}")
}

/// Where the resource with this number is.
pub fn place(namespaces: &[String], number: usize) -> &str {
    &namespaces[number % namespaces.len()]
}

/// Objects of a kind in the namespace.
pub fn api(client: &Client, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, resource)
}

/// Creates `count` resources and waits until all are ready: how long that took. `watching` and `creating` share no
/// connection.
pub async fn until_all_ready(
    subject: &Subject,
    creating: &Client,
    watching: &Client,
    namespaces: &[String],
    count: usize,
) -> Duration {
    let limit = Duration::from_secs(120) + SLOWEST * u32::try_from(count).expect("a number of resources");
    let watched = Api::all_with(watching.clone(), &subject.resource);
    let began = Instant::now();
    let (created, ready) = tokio::join!(
        tokio::time::timeout(limit, create(subject, creating, namespaces, count)),
        tokio::time::timeout(limit, all_ready(subject, watched, count)),
    );
    created.expect("resources can be created");
    let Ok(at) = ready else { panic!("{} is not ready after {limit:?}", subject.name) };
    at - began
}

async fn create(subject: &Subject, client: &Client, namespaces: &[String], count: usize) {
    let one = async |number| {
        for object in (subject.objects)(&name(number)) {
            let object: DynamicObject = serde_json::from_value(object).expect("an object");
            let types = object.types.clone().expect("it names its kind");
            let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types).expect("group/version"));
            api(client, place(namespaces, number), &resource).create(&PostParams::default(), &object).await?;
        }
        Ok::<(), kube::Error>(())
    };
    let all = stream::iter(0..count).map(one).buffer_unordered(CREATORS);
    all.try_collect::<Vec<()>>().await.expect("everything can be created");
}

/// When the last was ready.
async fn all_ready(subject: &Subject, watched: Api<DynamicObject>, count: usize) -> Instant {
    // It lists once, and goes on from there when the API server closes a watch that is read too slowly.
    let mut changed = pin!(watcher(watched, watcher::Config::default()).default_backoff().applied_objects());
    let mut ready = HashSet::new();
    while ready.len() < count {
        let object = changed.next().await.expect("a watch never ends");
        // What was lost is listed again.
        if let Ok(object) = object
            && (subject.ready)(&object.data)
        {
            ready.insert(object.name_any());
        }
    }
    Instant::now()
}

/// Fails unless there is exactly what `count` resources need: nobody saves time by making less.
pub async fn check_children(subject: &Subject, client: &Client, namespaces: &[String], count: usize) {
    for child in &subject.children {
        let mut found = 0;
        for namespace in namespaces {
            let all = api(client, namespace, &child.resource).list_metadata(&ListParams::default()).await;
            // Every namespace has one.
            let made = |object: &&PartialObjectMeta<DynamicObject>| object.name_any() != "kube-root-ca.crt";
            found += all.expect("they can be listed").items.iter().filter(made).count();
        }
        assert_eq!(found, count * child.count, "{}: {}", subject.name, child.resource.plural);
    }
}
