//! All that the operator knows of the cluster, as its watches told it; read by every pass, written by the watches and by
//! what the operator itself just wrote.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bistro_api::{
    Averager, Miner, Subnet, Validator,
    conditions::{condition, reason},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::time::Instant;

use super::{
    child::{Child, ChildKind},
    key::{Key, Kind, Watched},
    pod::{PodState, Report},
};

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    state: Mutex<State>,
}

/// What is in it.
#[derive(Debug, Default)]
pub struct State {
    subnets: HashMap<Key, Held<Subnet>>,
    miners: HashMap<Key, Held<Miner>>,
    validators: HashMap<Key, Held<Validator>>,
    averagers: HashMap<Key, Held<Averager>>,
    /// Children by owner; few each, so a list.
    pub children: HashMap<Key, Vec<(ChildKind, Child)>>,
    /// Pods by owner and number.
    pub pods: HashMap<Key, BTreeMap<u32, PodRecord>>,
    /// What was built and written for each resource.
    pub memories: HashMap<Key, Memory>,
    /// Pods (owner and number) by the Secret with their hotkeys.
    pub signers: Index<(Key, u32)>,
    /// Resources by the Subnet that they name.
    pub users: Index,
    /// Resources by the Secret with their hotkeys.
    pub claims: Index,
    /// Under which names each resource stands in the two above.
    names: HashMap<Key, Names>,
}

/// What names something, by the namespace and the name of that.
pub type Index<T = Key> = HashMap<(Box<str>, Box<str>), BTreeSet<T>>;

#[derive(Debug, PartialEq, Eq)]
struct Names {
    subnet: Box<str>,
    wallet: Option<Box<str>>,
}

/// A resource, or why it cannot be read: one that was stored under an older schema must not stop the others.
pub type Held<K> = Result<Arc<K>, Arc<str>>;

/// What became of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodChange {
    /// Nothing that anybody acts on.
    Nothing,
    /// Its node can be asked at another address.
    Moved,
    /// A status may show it.
    Shown,
}

/// A pod and what its node reported.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// What Kubernetes says.
    pub state: PodState,
    /// Why a volume cannot be mounted, from the kubelet's event; until its container starts.
    pub mount: Option<Box<str>>,
    /// What the node said last.
    pub report: Option<Arc<Report>>,
    /// Why it did not answer the last time.
    pub silence: Option<Box<str>>,
}

/// What the operator remembers of its own work on a resource.
#[derive(Debug, Default)]
pub struct Memory {
    /// What was built, and from what.
    pub built: Option<Built>,
    /// Hash of the status that was written last, and the version that this made.
    pub status: Option<(u64, u64)>,
    /// When the status was written last.
    pub status_at: Option<Instant>,
    /// Reason and text of the last event.
    pub event: Option<u64>,
}

/// Hashes of the children of a resource, valid while nothing that they are made from changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Hash over everything that they are made from.
    pub from: u64,
    /// What is wanted.
    pub wanted: Vec<(ChildKind, u64)>,
    /// Since when.
    pub since: Instant,
}

/// Picks the map of a kind.
pub trait Stored: Watched + Sized + 'static {
    /// All resources of the kind.
    fn all(state: &State) -> &HashMap<Key, Held<Self>>;
    /// The same to change.
    fn all_mut(state: &mut State) -> &mut HashMap<Key, Held<Self>>;
}

macro_rules! stored {
    ($kind:ident, $field:ident) => {
        impl Stored for $kind {
            fn all(state: &State) -> &HashMap<Key, Held<Self>> {
                &state.$field
            }

            fn all_mut(state: &mut State) -> &mut HashMap<Key, Held<Self>> {
                &mut state.$field
            }
        }
    };
}

stored!(Subnet, subnets);
stored!(Miner, miners);
stored!(Validator, validators);
stored!(Averager, averagers);

impl Cache {
    /// Exclusive access; held for lookups and changes of a few microseconds, never over an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts an object of a child in its place, unless a newer one is known. Says whether its owner has to look at it, and
    /// whether only its pods changed.
    pub fn put_child(&mut self, owner: &Key, kind: ChildKind, mut child: Child) -> ChildChange {
        let children = self.children.entry(owner.clone()).or_default();
        let known = children.iter_mut().find(|(k, known)| *k == kind && known.name == child.name);
        let Some((_, known)) = known else {
            children.push((kind, child));
            return ChildChange::Content;
        };
        if known.uid == child.uid && known.version > child.version {
            return ChildChange::Nothing;
        }
        let content = child.succeeds(known);
        let rollout = child.rollout != known.rollout;
        *known = child;
        match (content, rollout) {
            (true, _) => ChildChange::Content,
            (false, true) => ChildChange::Rollout,
            (false, false) => ChildChange::Nothing,
        }
    }

    /// A child by its name.
    pub fn child(&self, owner: &Key, kind: ChildKind, name: &str) -> Option<&Child> {
        let mut children = self.children.get(owner)?.iter();
        children.find(|(k, child)| *k == kind && *child.name == *name).map(|(_, child)| child)
    }

    /// Remembers what the operator just wrote.
    pub fn wrote_child(&mut self, owner: &Key, kind: ChildKind, child: Child) {
        let children = self.children.entry(owner.clone()).or_default();
        match children.iter_mut().find(|(k, known)| *k == kind && known.name == child.name) {
            Some((_, known)) if known.uid == child.uid && known.version > child.version => {}
            Some((_, known)) => *known = child,
            None => children.push((kind, child)),
        }
    }

    /// Forgets a child, unless another one of the same name took its place. Says whether it was known.
    pub fn drop_child(&mut self, owner: &Key, kind: ChildKind, name: &str, uid: &str) -> bool {
        let Some(children) = self.children.get_mut(owner) else { return false };
        let before = children.len();
        children.retain(|(k, child)| !(*k == kind && &*child.name == name && &*child.uid == uid));
        let dropped = children.len() < before;
        if children.is_empty() {
            self.children.remove(owner);
        }
        dropped
    }

    /// Puts a pod in its place. Says what that changed.
    pub fn put_pod(&mut self, owner: &Key, ordinal: u32, state: PodState) -> PodChange {
        let pods = self.pods.entry(owner.clone()).or_default();
        let known = pods.remove(&ordinal);
        if let Some(known) = &known {
            if known.state.uid == state.uid && known.state.version > state.version {
                pods.insert(ordinal, known.clone());
                return PodChange::Nothing;
            }
            unsign(&mut self.signers, owner, ordinal, &known.state);
        }
        if let Some(wallet) = &state.wallet {
            let pods = self.signers.entry((owner.namespace.clone(), wallet.clone())).or_default();
            pods.insert((owner.clone(), ordinal));
        }
        let shown = known
            .as_ref()
            .is_none_or(|known| !known.state.shows_as(&state) || (known.mount.is_some() && state.running));
        let moved = known.as_ref().is_none_or(|known| known.state.asked_at() != state.asked_at());
        let same = known.filter(|known| known.state.uid == state.uid);
        let (mount, report, silence) = match same {
            Some(known) => (known.mount.filter(|_| !state.running), known.report, known.silence),
            None => (None, None, None),
        };
        pods.insert(ordinal, PodRecord { state, mount, report, silence });
        match (shown, moved) {
            (true, _) => PodChange::Shown,
            (false, true) => PodChange::Moved,
            (false, false) => PodChange::Nothing,
        }
    }

    /// Forgets a pod, unless another one took its place.
    pub fn drop_pod(&mut self, owner: &Key, ordinal: u32, uid: Option<&str>) -> Option<PodRecord> {
        let pods = self.pods.get_mut(owner)?;
        if uid.is_some_and(|uid| pods.get(&ordinal).is_some_and(|pod| &*pod.state.uid != uid)) {
            return None;
        }
        let dropped = pods.remove(&ordinal)?;
        if pods.is_empty() {
            self.pods.remove(owner);
        }
        unsign(&mut self.signers, owner, ordinal, &dropped.state);
        Some(dropped)
    }

    /// Forgets everything of a resource that is gone, but its children and pods, which have watches of their own.
    pub fn forget(&mut self, key: &Key) {
        self.memories.remove(key);
        self.unindex(key);
    }

    /// Notes which Subnet and which hotkeys a resource names.
    pub fn index(&mut self, key: &Key, subnet: &str, wallet: Option<&str>) {
        let names = Names { subnet: subnet.into(), wallet: wallet.map(Into::into) };
        if self.names.get(key) == Some(&names) {
            return;
        }
        self.unindex(key);
        self.users.entry((key.namespace.clone(), names.subnet.clone())).or_default().insert(key.clone());
        if let Some(wallet) = &names.wallet {
            self.claims.entry((key.namespace.clone(), wallet.clone())).or_default().insert(key.clone());
        }
        self.names.insert(key.clone(), names);
    }

    /// The Subnet and the wallet Secret that a resource names.
    pub fn names_of(&self, key: &Key) -> Option<(&str, Option<&str>)> {
        self.names.get(key).map(|names| (&*names.subnet, names.wallet.as_deref()))
    }

    fn unindex(&mut self, key: &Key) {
        let Some(Names { subnet, wallet }) = self.names.remove(key) else { return };
        remove(&mut self.users, (key.namespace.clone(), subnet), key);
        if let Some(wallet) = wallet {
            remove(&mut self.claims, (key.namespace.clone(), wallet), key);
        }
    }

    /// The Miners that work on the Subnet that a resource names.
    pub fn miners_beside(&self, key: &Key) -> Vec<Key> {
        self.beside(key, Kind::Miner).cloned().collect()
    }

    /// What the validators of a Miner's Subnet think of each hotkey: the mean of their averages. A miner does not know
    /// that itself.
    pub fn scores(&self, miner: &Key) -> HashMap<Box<str>, f64> {
        let pods = self
            .beside(miner, Kind::Validator)
            .filter_map(|validator| self.pods.get(validator))
            .flat_map(BTreeMap::values);
        let mut sums: HashMap<Box<str>, (f64, f64)> = HashMap::new();
        for (hotkey, average) in pods.filter_map(|pod| pod.report.as_ref()).flat_map(|report| &report.scores) {
            let (sum, count) = sums.entry(hotkey.clone()).or_default();
            (*sum, *count) = (*sum + average, *count + 1.0);
        }
        sums.into_iter().map(|(hotkey, (sum, count))| (hotkey, sum / count)).collect()
    }

    /// All of a kind that name the same Subnet. Keys are in the order of their kinds, so nobody else is looked at: there
    /// may be thousands of miners, and each pass over one asks for its validators.
    fn beside(&self, key: &Key, kind: Kind) -> impl Iterator<Item = &Key> {
        let subnet = self.names.get(key).map(|names| (key.namespace.clone(), names.subnet.clone()));
        let users = subnet.and_then(|subnet| self.users.get(&subnet)).into_iter();
        users.flat_map(move |users| users.range(Key::new(kind, "", "")..).take_while(move |key| key.kind == kind))
    }

    /// All resources of all kinds.
    pub fn keys(&self) -> Vec<Key> {
        let nodes = self.miners.keys().chain(self.validators.keys()).chain(self.averagers.keys());
        self.subnets.keys().chain(nodes).cloned().collect()
    }

    /// When a resource was made, in Unix seconds; one that is unknown comes last.
    pub fn created(&self, key: &Key) -> i64 {
        fn of<K: kube::Resource>(held: Option<&Held<K>>) -> i64 {
            let made = held.and_then(|held| held.as_ref().ok()?.meta().creation_timestamp.clone());
            made.map_or(i64::MAX, |time| time.0.as_second())
        }
        match key.kind {
            Kind::Subnet => of(self.subnets.get(key)),
            Kind::Miner => of(self.miners.get(key)),
            Kind::Validator => of(self.validators.get(key)),
            Kind::Averager => of(self.averagers.get(key)),
        }
    }

    /// Number of resources of a kind, and of those that are as they should be: ready, or stopped on purpose.
    pub fn count(&self, kind: Kind) -> (usize, usize) {
        fn ready(conditions: Option<&Vec<Condition>>) -> bool {
            let as_it_should_be = |c: &Condition| c.status == "True" || c.reason == reason::SUSPENDED;
            conditions.is_some_and(|all| all.iter().any(|c| c.type_ == condition::READY && as_it_should_be(c)))
        }
        macro_rules! count {
            ($map:expr) => {{
                let ready = $map.values().flatten().filter(|k| ready(k.status.as_ref().map(|s| &s.conditions)));
                ($map.len(), ready.count())
            }};
        }
        match kind {
            Kind::Subnet => count!(self.subnets),
            Kind::Miner => count!(self.miners),
            Kind::Validator => count!(self.validators),
            Kind::Averager => count!(self.averagers),
        }
    }
}

fn unsign(signers: &mut Index<(Key, u32)>, owner: &Key, ordinal: u32, pod: &PodState) {
    if let Some(wallet) = &pod.wallet {
        remove(signers, (owner.namespace.clone(), wallet.clone()), &(owner.clone(), ordinal));
    }
}

fn remove<T: Ord>(index: &mut Index<T>, under: (Box<str>, Box<str>), item: &T) {
    if let Some(items) = index.get_mut(&under) {
        items.remove(item);
        if items.is_empty() {
            index.remove(&under);
        }
    }
}

/// What a watch found out about a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildChange {
    /// Nothing that matters.
    Nothing,
    /// Its pods came or went.
    Rollout,
    /// It is new, or not what it was.
    Content,
}

#[cfg(test)]
mod tests;
