//! What the operator remembers of a child: enough to know whether it must be written, and nothing more.
//!
//! A live StatefulSet takes tens of kilobytes in memory, of which one hash is needed: the one of everything but its
//! status. Only until the first pass over its owner the text itself is kept, to compare it with what is wanted.

use std::collections::BTreeMap;

use k8s_openapi::{
    Resource as _,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Service},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{ResourceExt, api::ApiResource, core::GroupVersionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    agree::agrees,
    key::Key,
    seen::{Object, Owned, part},
};

/// Annotation of a child: a digest of all fields that the operator wants in it.
const WANTED: &str = "bistro.dev/wanted-digest";

/// The kinds of objects that the operator writes, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildKind {
    /// settings.yaml; before the pods that mount it.
    ConfigMap,
    /// Names of the pods.
    Service,
    /// Limits of a drain.
    PodDisruptionBudget,
    /// Who may talk to the pods.
    NetworkPolicy,
    /// The pods.
    StatefulSet,
}

impl ChildKind {
    /// All of them.
    pub const ALL: [ChildKind; 5] = [
        ChildKind::ConfigMap,
        ChildKind::Service,
        ChildKind::PodDisruptionBudget,
        ChildKind::NetworkPolicy,
        ChildKind::StatefulSet,
    ];

    /// Kind as it stands in manifests; label value of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            ChildKind::ConfigMap => "ConfigMap",
            ChildKind::Service => "Service",
            ChildKind::PodDisruptionBudget => "PodDisruptionBudget",
            ChildKind::NetworkPolicy => "NetworkPolicy",
            ChildKind::StatefulSet => "StatefulSet",
        }
    }

    /// How the API server names it.
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            ChildKind::ConfigMap => (ConfigMap::GROUP, ConfigMap::VERSION, ConfigMap::KIND, "configmaps"),
            ChildKind::Service => (Service::GROUP, Service::VERSION, Service::KIND, "services"),
            ChildKind::PodDisruptionBudget => (
                PodDisruptionBudget::GROUP,
                PodDisruptionBudget::VERSION,
                PodDisruptionBudget::KIND,
                "poddisruptionbudgets",
            ),
            ChildKind::NetworkPolicy => {
                (NetworkPolicy::GROUP, NetworkPolicy::VERSION, NetworkPolicy::KIND, "networkpolicies")
            }
            ChildKind::StatefulSet => (StatefulSet::GROUP, StatefulSet::VERSION, StatefulSet::KIND, "statefulsets"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }
}

/// One child as it was last seen.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its name.
    pub name: Box<str>,
    /// Its identity; another one of the same name is another object.
    pub uid: Box<str>,
    /// Its version; a higher one is newer.
    pub version: u64,
    /// Hash of everything but its status.
    live: u64,
    /// Hash of what was wanted when it last agreed with that; 0: never.
    agrees: u64,
    /// Its text, until it is compared with what is wanted.
    unverified: Option<Box<[u8]>>,
    /// It is being deleted.
    pub deleting: bool,
    /// Identity of the resource that controls it.
    pub controller: Option<Box<str>>,
    /// How far its pods are; a StatefulSet's only.
    pub rollout: Option<Rollout>,
    /// As whom the operator owns fields of it.
    pub owned: Owned,
    /// The digest of what was wanted in it when it was written last.
    pub digest: Option<u64>,
}

/// What a StatefulSet says of its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// The controller of StatefulSets has seen its latest spec.
    pub observed: bool,
    /// Pods that it wants.
    pub wanted: u32,
    /// Pods that exist.
    pub replicas: u32,
    /// Pods that are ready.
    pub ready: u32,
    /// Pods of the latest template.
    pub updated: u32,
}

impl Child {
    /// What is remembered of an object that a watch or a write returned, not compared with anything yet.
    pub fn seen(kind: ChildKind, object: &Object) -> Self {
        let metadata = &object.metadata;
        let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let text = Fields::of(object).text();
        let digest = metadata.annotations.as_ref().and_then(|all| u64::from_str_radix(all.get(WANTED)?, 16).ok());
        Self {
            name: metadata.name.clone().unwrap_or_default().into(),
            uid: metadata.uid.clone().unwrap_or_default().into(),
            version: version(metadata),
            live: hash(&text),
            agrees: 0,
            unverified: Some(text),
            deleting: metadata.deletion_timestamp.is_some(),
            controller: controller.map(|owner| owner.uid.clone().into()),
            rollout: (kind == ChildKind::StatefulSet).then(|| rollout(object)),
            owned: object.owned,
            digest,
        }
    }

    /// What is remembered of an object that was just written as `wanted`.
    pub fn written(object: &Object, wanted: &Wanted) -> Self {
        Self { agrees: wanted.hash, unverified: None, ..Self::seen(wanted.kind, object) }
    }

    /// Takes over what was known of the same object, if nothing but its status changed since.
    /// Says whether what it should be has to be looked at again.
    pub fn succeeds(&mut self, known: &Child) -> bool {
        let same = self.uid == known.uid && self.live == known.live && self.deleting == known.deleting;
        if same {
            self.agrees = known.agrees;
            self.unverified.clone_from(&known.unverified);
        }
        !same
    }

    /// It is what is wanted.
    pub fn is(&mut self, wanted: &Wanted) -> bool {
        if let Some(text) = self.unverified.take() {
            let live = serde_json::from_slice(&text).unwrap_or(Value::Null);
            self.agrees = if wanted.stands_in(&live) { wanted.hash } else { 0 };
        }
        self.agrees == wanted.hash && !self.deleting
    }

    /// The same without a comparison: for passes that did not build what is wanted.
    pub fn is_known_as(&self, hash: u64) -> bool {
        self.agrees == hash && self.unverified.is_none() && !self.deleting
    }
}

/// A child as it should be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// All fields that the operator owns, as they are sent.
    pub text: Box<RawValue>,
    /// Hash of these.
    pub hash: u64,
    /// Digest of all of it but this digest; it stands in an annotation of the child.
    pub digest: u64,
}

impl Wanted {
    /// A child as it should be, with an annotation that names all of it: else an operator that was away while something was
    /// taken from a resource would find everything in the child that is still wanted, and leave the rest.
    pub fn new<K>(kind: ChildKind, mut object: K) -> Result<Self, serde_json::Error>
    where
        K: kube::Resource<DynamicType = ()> + Serialize,
    {
        let digest = hash(&serde_json::to_vec(&object)?);
        object.annotations_mut().insert(WANTED.to_owned(), format!("{digest:016x}"));
        let text = serde_json::value::to_raw_value(&object)?;
        Ok(Self { kind, name: object.name_any(), hash: hash(text.get().as_bytes()).max(1), text, digest })
    }

    /// A live object has all of it. Items of lists come without their kind, which the watch knows anyway.
    fn stands_in(&self, live: &Value) -> bool {
        let wanted: Value = serde_json::from_str(self.text.get()).unwrap_or(Value::Null);
        let fields = wanted.as_object().into_iter().flatten();
        fields
            .filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind"))
            .all(|(name, wanted)| live.get(name).is_some_and(|live| agrees(wanted, live)))
    }
}

/// The owner of a child: the resource that controls it, else the one that its name leads to.
pub fn owner(metadata: &ObjectMeta) -> Option<Key> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let kind = controller.filter(|owner| owner.api_version.starts_with("bistro.dev/"));
    kind.and_then(|owner| Some(Key::new(super::key::Kind::parse(&owner.kind)?, namespace, &owner.name)))
        .or_else(|| Key::of_child(namespace, metadata.name.as_deref()?))
}

/// Resource versions of one resource grow with each change (Kubernetes guarantees that since 1.35, etcd always did).
pub fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Everything that anybody asked for: without status, versions and who wrote what.
#[derive(Serialize)]
struct Fields<'a> {
    metadata: Metadata<'a>,
    spec: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    name: &'a Option<String>,
    namespace: &'a Option<String>,
    labels: &'a Option<BTreeMap<String, String>>,
    annotations: &'a Option<BTreeMap<String, String>>,
    owner_references: &'a Option<Vec<OwnerReference>>,
}

impl<'a> Fields<'a> {
    fn of(object: &'a Object) -> Self {
        let ObjectMeta { name, namespace, labels, annotations, owner_references, .. } = &object.metadata;
        let metadata = Metadata { name, namespace, labels, annotations, owner_references };
        Self { metadata, spec: object.spec.as_deref(), data: object.data.as_deref() }
    }

    fn text(&self) -> Box<[u8]> {
        // Texts and maps of texts: JSON can say them all.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

fn rollout(object: &Object) -> Rollout {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Status {
        observed_generation: i64,
        replicas: u32,
        ready_replicas: u32,
        updated_replicas: u32,
    }
    #[derive(Default, Deserialize)]
    struct Spec {
        replicas: u32,
    }
    let status: Status = part(object.status.as_deref());
    Rollout {
        observed: object.metadata.generation.is_some_and(|generation| status.observed_generation >= generation),
        wanted: part::<Spec>(object.spec.as_deref()).replicas,
        replicas: status.replicas,
        ready: status.ready_replicas,
        updated: status.updated_replicas,
    }
}

fn hash(text: &[u8]) -> u64 {
    u64::from_le_bytes(blake3::hash(text).as_bytes()[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(replicas: u32) -> Wanted {
        let object = json!({"metadata": {"name": "miner-m"}, "spec": {"replicas": replicas, "serviceName": "miner-m"}});
        let set: StatefulSet = serde_json::from_value(object).expect("a StatefulSet");
        Wanted::new(ChildKind::StatefulSet, set).expect("JSON")
    }

    /// What the API server made of `wanted(2)`, with so many replicas by now.
    fn live(version: &str, replicas: u32, ready: u32) -> Object {
        let mut object: Value = serde_json::from_str(wanted(2).text.get()).expect("JSON");
        for (field, value) in [("uid", json!("u")), ("resourceVersion", json!(version)), ("generation", json!(1))] {
            object["metadata"][field] = value;
        }
        object["spec"]["replicas"] = json!(replicas);
        object["spec"]["defaulted"] = json!(true);
        object["status"] = json!({"observedGeneration": 1, "readyReplicas": ready});
        serde_json::from_str(&object.to_string()).expect("an object")
    }

    fn seen(version: &str, replicas: u32, ready: u32) -> Child {
        Child::seen(ChildKind::StatefulSet, &live(version, replicas, ready))
    }

    #[test]
    fn a_child_of_an_earlier_life_is_compared_with_what_is_wanted() {
        assert!(seen("1", 2, 0).is(&wanted(2)));
        assert!(!seen("1", 3, 0).is(&wanted(2)));
    }

    #[test]
    fn what_was_wanted_in_an_earlier_life_and_is_no_more_counts_too() {
        let object = json!({"metadata": {"name": "miner-m"}, "spec": {"replicas": 2}});
        let less: StatefulSet = serde_json::from_value(object).expect("a StatefulSet");
        assert!(!seen("1", 2, 0).is(&Wanted::new(ChildKind::StatefulSet, less).expect("JSON")));
    }

    #[test]
    fn a_changed_status_changes_nothing_and_a_changed_spec_does() {
        let known = Child::written(&live("1", 2, 0), &wanted(2));
        let mut ready = seen("2", 2, 2);
        assert!(!ready.succeeds(&known));
        assert!(ready.is(&wanted(2)) && ready.is_known_as(wanted(2).hash));
        assert_eq!(ready.rollout.map(|rollout| rollout.ready), Some(2));
        let mut edited = seen("3", 5, 2);
        assert!(edited.succeeds(&ready));
        assert!(!edited.is(&wanted(2)));
    }

    #[test]
    fn a_child_that_was_written_counts_as_wanted_even_where_the_server_spells_it_another_way() {
        let mut written = Child::written(&live("1", 2, 0), &wanted(7));
        assert!(written.is(&wanted(7)));
        assert!(!written.is(&wanted(8)));
    }
}
