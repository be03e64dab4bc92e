//! Names of what the operator works on.

use std::fmt;

use bistro_api::{Averager, Miner, Role, Subnet, Validator};

/// The kinds of resources that are reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One training network.
    Subnet,
    /// Pods that train.
    Miner,
    /// Pods that score.
    Validator,
    /// Pods that merge.
    Averager,
}

impl Kind {
    /// All kinds, in the order in which their watches start: a Subnet is read before those that name it.
    pub const ALL: [Kind; 4] = [Kind::Subnet, Kind::Miner, Kind::Validator, Kind::Averager];

    /// Label value of metrics, and prefix of the names of children.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Subnet => "subnet",
            Kind::Miner => "miner",
            Kind::Validator => "validator",
            Kind::Averager => "averager",
        }
    }

    /// The kind as it stands in manifests.
    pub fn kind(self) -> &'static str {
        match self {
            Kind::Subnet => "Subnet",
            Kind::Miner => "Miner",
            Kind::Validator => "Validator",
            Kind::Averager => "Averager",
        }
    }

    /// The kind that a manifest names.
    pub fn parse(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.kind() == kind)
    }
}

impl From<Role> for Kind {
    fn from(role: Role) -> Self {
        match role {
            Role::Miner => Kind::Miner,
            Role::Validator => Kind::Validator,
            Role::Averager => Kind::Averager,
        }
    }
}

/// A resource type that is watched.
pub trait Watched: kube::Resource<DynamicType = ()> {
    /// Its kind.
    const KIND: Kind;
}

impl Watched for Subnet {
    const KIND: Kind = Kind::Subnet;
}
impl Watched for Miner {
    const KIND: Kind = Kind::Miner;
}
impl Watched for Validator {
    const KIND: Kind = Kind::Validator;
}
impl Watched for Averager {
    const KIND: Kind = Kind::Averager;
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl Key {
    /// The key of a resource.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// The owner of a child, by the child's name; the inverse of [`Key::child_name`].
    pub fn of_child(namespace: &str, child: &str) -> Option<Self> {
        let (prefix, name) = child.split_once('-')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == prefix)?;
        Some(Self::new(kind, namespace, name))
    }

    /// Name of all children.
    pub fn child_name(&self) -> String {
        format!("{}-{}", self.kind.as_str(), self.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_name_leads_back_to_its_owner() {
        for kind in Kind::ALL {
            let key = Key::new(kind, "ns", "a-b-0");
            assert_eq!(Key::of_child("ns", &key.child_name()), Some(key));
            assert_eq!(Kind::parse(kind.kind()), Some(kind));
        }
        assert_eq!(Key::of_child("ns", "postgres-0"), None);
        assert_eq!(Key::of_child("ns", "miner"), None);
    }
}
