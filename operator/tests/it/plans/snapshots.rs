//! All children of some resources as YAML: a change of the pod contract is a change of these files.

use bistro::yaml;
use serde_json::Value;

use super::cases;

#[test]
fn children_are_as_they_were_reviewed() {
    for (name, documents) in cases::all() {
        let texts: Vec<String> = documents.iter().map(|document| yaml::to_string(document).expect("YAML")).collect();
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, texts.join("---\n"));
        });
    }
}

/// An API server drops what means nothing, so what means nothing would be a difference for ever.
#[test]
fn only_members_that_say_something_are_sent() {
    for (name, documents) in cases::all() {
        for document in documents {
            assert_eq!(document.get("status"), None, "{name}");
            walk(&document, name, "");
        }
    }
}

fn walk(value: &Value, name: &str, path: &str) {
    let says_that_something_is_there = path.ends_with("/emptyDir") || path.ends_with("/namespaceSelector");
    match value {
        Value::Null => panic!("{name}: {path} is null"),
        Value::String(text) => assert!(!text.is_empty(), "{name}: {path} is empty"),
        Value::Array(items) => {
            assert!(!items.is_empty(), "{name}: {path} has no items");
            items.iter().enumerate().for_each(|(i, item)| walk(item, name, &format!("{path}/{i}")));
        }
        Value::Object(members) => {
            assert!(!members.is_empty() || says_that_something_is_there, "{name}: {path} has no members");
            assert!(!members.contains_key("creationTimestamp"), "{name}: {path}");
            members.iter().for_each(|(key, member)| walk(member, name, &format!("{path}/{key}")));
        }
        Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Lists that an API server merges by keys have each key once, with the members that make up the key.
#[test]
fn lists_with_keys_are_complete() {
    for (name, documents) in cases::all() {
        for document in documents.iter().filter(|document| document["kind"] == "StatefulSet") {
            let pod = &document["spec"]["template"]["spec"];
            keyed(name, &pod["containers"], &["name"]);
            keyed(name, &pod["volumes"], &["name"]);
            for container in pod["containers"].as_array().expect("containers") {
                keyed(name, &container["env"], &["name"]);
                keyed(name, &container["volumeMounts"], &["mountPath"]);
                keyed(name, &container["ports"], &["containerPort", "protocol"]);
            }
        }
    }
}

fn keyed(name: &str, list: &Value, members: &[&str]) {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let keys: Vec<Vec<&Value>> =
        items.iter().map(|item| members.iter().map(|member| &item[*member]).collect()).collect();
    for (i, key) in keys.iter().enumerate() {
        assert!(key.iter().all(|part| !part.is_null()), "{name}: {members:?} of {key:?}");
        assert!(!keys[..i].contains(key), "{name}: {key:?} stands twice");
    }
}
