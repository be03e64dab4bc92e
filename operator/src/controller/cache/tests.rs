use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::*;
use crate::controller::{child::Wanted, seen::Object};

fn object(uid: &str, version: u64, value: u32) -> Object {
    let object = json!({
        "metadata": {"name": "miner-m", "namespace": "ns", "uid": uid, "resourceVersion": version.to_string()},
        "data": {"value": value},
    });
    serde_json::from_str(&object.to_string()).expect("an object")
}

fn child(uid: &str, version: u64, value: u32) -> Child {
    Child::seen(ChildKind::ConfigMap, &object(uid, version, value))
}

#[test]
fn an_event_from_before_our_own_write_changes_nothing() {
    let (mut state, key) = (State::default(), Key::new(Kind::Miner, "ns", "m"));
    assert_eq!(state.put_child(&key, ChildKind::ConfigMap, child("a", 5, 1)), ChildChange::Content);
    let wanted = Wanted::new(ChildKind::ConfigMap, ConfigMap::default()).expect("JSON");
    let written = Child::written(&object("a", 7, 2), &wanted);
    state.wrote_child(&key, ChildKind::ConfigMap, written);
    assert_eq!(state.put_child(&key, ChildKind::ConfigMap, child("a", 6, 1)), ChildChange::Nothing);
    assert_eq!(state.put_child(&key, ChildKind::ConfigMap, child("a", 7, 2)), ChildChange::Nothing);
    assert_eq!(state.put_child(&key, ChildKind::ConfigMap, child("a", 8, 3)), ChildChange::Content);
}

#[test]
fn the_deletion_of_an_earlier_child_does_not_touch_the_one_that_took_its_name() {
    let (mut state, key) = (State::default(), Key::new(Kind::Miner, "ns", "m"));
    state.put_child(&key, ChildKind::ConfigMap, child("b", 9, 1));
    assert!(!state.drop_child(&key, ChildKind::ConfigMap, "miner-m", "a"));
    assert!(state.drop_child(&key, ChildKind::ConfigMap, "miner-m", "b"));
    assert!(state.children.is_empty());
}

#[test]
fn a_resource_stands_under_the_wallet_that_it_names_now() {
    let (mut state, key) = (State::default(), Key::new(Kind::Miner, "ns", "m"));
    state.index(&key, "demo", Some("one"));
    state.index(&key, "demo", Some("two"));
    assert_eq!(state.claims.keys().map(|(_, secret)| &**secret).collect::<Vec<_>>(), ["two"]);
    state.index(&key, "demo", None);
    assert!(state.claims.is_empty() && state.users.len() == 1);
    state.forget(&key);
    assert!(state.users.is_empty());
}
