//! Whether a live object already is what is wanted.
//!
//! The API server adds defaults, and other clients may own fields of their own, as server-side apply allows. So a live
//! object agrees if it has everything that is wanted, with the same values; what it has besides does not matter.

use serde_json::Value;

/// Every field of `wanted` stands in `live` with the same value.
pub fn agrees(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(name, value)| live.get(name).is_some_and(|live| agrees(value, live)))
        }
        (Value::Array(wanted), Value::Array(live)) => list_agrees(wanted, live),
        (wanted, live) => wanted == live,
    }
}

/// Lists agree item by item. Where another client added items to a list of named items (a sidecar, a variable), each
/// wanted one is looked up by its name.
fn list_agrees(wanted: &[Value], live: &[Value]) -> bool {
    if wanted.len() == live.len() && wanted.iter().zip(live).all(|(wanted, live)| agrees(wanted, live)) {
        return true;
    }
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let named = !wanted.is_empty() && wanted.iter().all(|item| name(item).is_some());
    named
        && wanted.iter().all(|item| {
            let mut same = live.iter().filter(|live| name(live) == name(item));
            // Mounts may share a volume's name; then only the order tells them apart.
            matches!((same.next(), same.next()), (Some(live), None) if agrees(item, live))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_fields_of_others_do_not_matter() {
        let wanted = json!({"a": {"b": 1}, "list": [{"name": "x", "v": 1}]});
        for live in [
            json!({"a": {"b": 1, "default": true}, "list": [{"name": "x", "v": 1, "w": 2}], "status": {}}),
            json!({"a": {"b": 1}, "list": [{"name": "sidecar"}, {"name": "x", "v": 1}]}),
        ] {
            assert!(agrees(&wanted, &live), "{live}");
        }
    }

    #[test]
    fn whatever_is_missing_or_differs_does() {
        let wanted = json!({"a": {"b": 1}, "list": [{"name": "x", "v": 1}], "plain": ["1", "2"]});
        for (path, value) in [
            ("/a/b", json!(2)),
            ("/a", json!({})),
            ("/list", json!([])),
            ("/list/0/v", json!(2)),
            ("/list", json!([{"name": "x", "v": 1}, {"name": "x", "v": 2}])),
            ("/plain", json!(["2", "1"])),
            ("/plain", json!(["1", "2", "3"])),
            ("/plain", json!(null)),
        ] {
            let mut live = wanted.clone();
            *live.pointer_mut(path).expect("stands there") = value;
            assert!(!agrees(&wanted, &live), "{live}");
        }
    }
}
