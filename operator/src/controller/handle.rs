//! What the watches do: put what they found into the cache, and queue whoever has to look at it.

use std::{sync::Arc, time::Duration};

use bistro_api::{Node, Subnet};
use kube::ResourceExt;

use super::{
    cache::{ChildChange, Held, PodChange, State, Stored},
    child::{self, Child, ChildKind},
    context::Context,
    key::{Key, Kind},
    pass::PAUSED,
    pod::{PodState, short},
    poll::PodId,
    seen::{self, Involved, Parts, part},
    watch::{Change, name_of},
};

/// Pods come up in bursts; one pass after a burst is enough.
const BURST: Duration = Duration::from_millis(200);
/// Users of a Subnet change all the time; its status is written every 30 s at most anyway.
const SUBNET_BURST: Duration = Duration::from_secs(1);

/// A Miner, Validator or Averager.
pub fn node<K: Node + Stored + Parts>(context: &Context, change: Change) {
    resource::<K>(context, change, |state, key, held| {
        let Some(Ok(node)) = held else { return state.forget(key) };
        let workload = node.workload();
        let wallet = workload.wallet.secret_ref.as_ref().map(|secret| secret.name.as_str());
        state.index(key, &workload.subnet_ref.name, wallet);
    });
}

/// A Subnet.
pub fn subnet(context: &Context, change: Change) {
    resource::<Subnet>(context, change, |state, key, held| {
        if held.is_none() {
            state.forget(key);
        }
    });
}

/// A resource came, changed or went: `index` keeps the cache's indexes, and everybody whom it concerns is queued.
fn resource<K: Stored + Parts>(context: &Context, change: Change, index: impl Fn(&mut State, &Key, Option<&Held<K>>)) {
    let put = |key: Key, held: Option<Held<K>>| {
        let mut state = context.cache.lock();
        // Both before and after: whoever it no longer concerns has to know too.
        let mut concerned = concerned(&state, &key);
        index(&mut state, &key, held.as_ref());
        concerned.extend(self::concerned(&state, &key));
        let before = match held.clone() {
            Some(held) => K::all_mut(&mut state).insert(key.clone(), held),
            None => K::all_mut(&mut state).remove(&key),
        };
        let written = state.memories.get(&key).and_then(|memory| memory.status).map_or(0, |(_, version)| version);
        drop(state);
        match weight(before.as_ref(), held.as_ref()) {
            Weight::Spec => {
                concerned.into_iter().filter(|other| *other != key).for_each(|other| match other.kind {
                    Kind::Subnet => context.queue.add_after(other, SUBNET_BURST),
                    _ => context.queue.add(other),
                });
                context.queue.add(key);
            }
            Weight::Status => {
                let subnets = concerned.into_iter().filter(|other| other.kind == Kind::Subnet);
                subnets.for_each(|subnet| context.queue.add_after(subnet, SUBNET_BURST));
                let ours = held.and_then(|held| held.ok()).is_some_and(|k| child::version(k.meta()) <= written);
                if !ours {
                    context.queue.add_after(key, BURST);
                }
            }
        }
    };
    match change {
        Change::Applied(object) => {
            let (namespace, name) = name_of(&object);
            let held = seen::resource::<K>(*object).map(Arc::new).map_err(Arc::from);
            put(Key::new(K::KIND, &namespace, &name), Some(held));
        }
        Change::Deleted(object) => {
            let (namespace, name) = name_of(&object);
            put(Key::new(K::KIND, &namespace, &name), None);
        }
        Change::Listed(within, listed) => {
            let listed: std::collections::HashSet<_> =
                listed.into_iter().map(|(namespace, name)| Key::new(K::KIND, &namespace, &name)).collect();
            let gone: Vec<Key> = {
                let state = context.cache.lock();
                let here = |key: &&Key| within.as_deref().is_none_or(|namespace| *key.namespace == *namespace);
                K::all(&state).keys().filter(here).filter(|key| !listed.contains(key)).cloned().collect()
            };
            gone.into_iter().for_each(|key| put(key, None));
        }
    }
}

/// The Subnet that a node names, the nodes that name a Subnet, and those that name the same hotkeys.
fn concerned(state: &State, key: &Key) -> Vec<Key> {
    if key.kind == Kind::Subnet {
        let users = state.users.get(&(key.namespace.clone(), key.name.clone()));
        return users.into_iter().flatten().cloned().collect();
    }
    let Some((subnet, wallet)) = state.names_of(key) else { return Vec::new() };
    let rivals = wallet.and_then(|wallet| state.claims.get(&(key.namespace.clone(), wallet.into())));
    let rivals = rivals.into_iter().flatten().filter(|rival| *rival != key).cloned();
    rivals.chain([Key::new(Kind::Subnet, &key.namespace, subnet)]).collect()
}

/// How much a change weighs.
enum Weight {
    /// What the resource asks for changed, or it came or went.
    Spec,
    /// Its status changed, or something that nobody acts on.
    Status,
}

fn weight<K: kube::Resource>(before: Option<&Held<K>>, after: Option<&Held<K>>) -> Weight {
    let (Some(Ok(before)), Some(Ok(after))) = (before, after) else { return Weight::Spec };
    let (before, after) = (before.meta(), after.meta());
    let paused = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
        meta.annotations.as_ref().and_then(|all| all.get(PAUSED)).cloned()
    };
    let same = before.uid == after.uid
        && before.generation == after.generation
        && before.deletion_timestamp == after.deletion_timestamp
        && paused(before) == paused(after);
    if same { Weight::Status } else { Weight::Spec }
}

/// A child.
pub fn child(context: &Context, kind: ChildKind, change: Change) {
    match change {
        Change::Applied(object) => {
            let Some(owner) = child::owner(&object.metadata) else { return };
            let child = Child::seen(kind, &object);
            let change = context.cache.lock().put_child(&owner, kind, child);
            match change {
                ChildChange::Nothing => {}
                ChildChange::Rollout => context.queue.add_after(owner, BURST),
                ChildChange::Content => context.queue.add(owner),
            }
        }
        Change::Deleted(object) => {
            let Some(owner) = child::owner(&object.metadata) else { return };
            let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
            if context.cache.lock().drop_child(&owner, kind, &name, &uid) {
                context.queue.add(owner);
            }
        }
        Change::Listed(within, listed) => {
            let listed: std::collections::HashSet<_> = listed.into_iter().collect();
            let mut gone = Vec::new();
            for (owner, children) in &context.cache.lock().children {
                let here = within.as_deref().is_none_or(|namespace| *owner.namespace == *namespace);
                let missing = |name: &str| !listed.contains(&(owner.namespace.to_string(), name.to_owned()));
                let lost = children.iter().filter(|(k, child)| here && *k == kind && missing(&child.name));
                gone.extend(lost.map(|(_, child)| (owner.clone(), child.name.clone(), child.uid.clone())));
            }
            for (owner, name, uid) in gone {
                context.cache.lock().drop_child(&owner, kind, &name, &uid);
                context.queue.add(owner);
            }
        }
    }
}

/// A pod of a node. Gives it back if it came up or changed: it may be asked for its status.
pub fn pod(context: &Context, change: Change) -> Option<PodId> {
    let gone = |owner: Key, ordinal: u32, uid: Option<&str>| {
        let mut state = context.cache.lock();
        let Some(dropped) = state.drop_pod(&owner, ordinal, uid) else { return };
        let secret = dropped.state.wallet.map(|wallet| (owner.namespace.clone(), wallet));
        let waiting: Vec<Key> =
            secret.and_then(|secret| state.claims.get(&secret)).into_iter().flatten().cloned().collect();
        drop(state);
        waiting.into_iter().for_each(|key| context.queue.add(key));
        context.queue.add_after(owner, BURST);
    };
    match change {
        Change::Applied(object) => {
            let (owner, ordinal, state) = PodState::seen(&object)?;
            let change = context.cache.lock().put_pod(&owner, ordinal, state);
            if change == PodChange::Shown {
                context.queue.add_after(owner.clone(), BURST);
            }
            return (change != PodChange::Nothing).then_some((owner, ordinal));
        }
        Change::Deleted(object) => {
            let (owner, ordinal, state) = PodState::seen(&object)?;
            gone(owner, ordinal, Some(&state.uid));
        }
        Change::Listed(within, listed) => {
            let listed: std::collections::HashSet<_> = listed.into_iter().collect();
            let mut lost = Vec::new();
            for (owner, pods) in &context.cache.lock().pods {
                let here = within.as_deref().is_none_or(|namespace| *owner.namespace == *namespace);
                let name = |ordinal: &u32| (owner.namespace.to_string(), format!("{}-{ordinal}", owner.child_name()));
                lost.extend(pods.keys().filter(|o| here && !listed.contains(&name(o))).map(|o| (owner.clone(), *o)));
            }
            lost.into_iter().for_each(|(owner, ordinal)| gone(owner, ordinal, None));
        }
    }
    None
}

/// The kubelet cannot mount a volume of a pod: it tells that in an event only.
pub fn mount_failure(context: &Context, change: Change) {
    let Change::Applied(event) = change else { return };
    let pod: Involved = part(event.involved_object.as_deref());
    let Some((child, ordinal)) = pod.name.rsplit_once('-') else { return };
    let (Some(owner), Ok(ordinal)) = (Key::of_child(&pod.namespace, child), ordinal.parse::<u32>()) else { return };
    let uid = pod.uid;
    let message: String = part(event.message.as_deref());
    let mut state = context.cache.lock();
    let Some(pod) = state.pods.get_mut(&owner).and_then(|pods| pods.get_mut(&ordinal)) else { return };
    if pod.state.running || *pod.state.uid != *uid {
        return;
    }
    let words = Some(Box::from(short(&message)));
    if std::mem::replace(&mut pod.mount, words.clone()) != words {
        drop(state);
        context.queue.add_after(owner, BURST);
    }
}
