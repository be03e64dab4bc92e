//! Structural schemas, as an API server checks them: types, known fields, bounds, patterns.

use kube::core::cel::cel::{Context, Program, Value as CelValue};
use serde_json::{Map, Value};

use super::{Violation, nearest};

/// Known names listed in a message before it becomes too long to read.
const NAMES_SHOWN: usize = 12;

/// Everything in which `object` breaks `schema`.
pub fn check(schema: &Value, object: &Value) -> Vec<Violation> {
    let mut checker = Checker { found: Vec::new() };
    checker.value(schema, object, "");
    checker.found
}

struct Checker {
    found: Vec<Violation>,
}

impl Checker {
    fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.found.push(Violation { field: field.to_owned(), message: message.into() });
    }

    fn value(&mut self, schema: &Value, value: &Value, field: &str) {
        if value.is_null() {
            if !flag(schema, "nullable") {
                self.refuse(field, format!("is empty: {}", expected(schema)));
            }
            return;
        }
        if flag(schema, "x-kubernetes-int-or-string") {
            if !value.is_string() && !is_whole(value) {
                self.refuse(field, format!("expected a whole number or a text, found {}", shown(value)));
            }
            return;
        }
        let matches = match schema.get("type").and_then(Value::as_str) {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => is_whole(value),
            Some("number") => value.is_number(),
            _ => true,
        };
        if !matches {
            return self.refuse(field, wrong_type(schema, value));
        }
        match value {
            Value::Object(members) => self.object(schema, members, field),
            Value::Array(items) => self.array(schema, items, field),
            Value::String(text) => self.text(schema, text, field),
            Value::Number(number) => self.number(schema, number.as_f64().unwrap_or(f64::NAN), value, field),
            Value::Bool(_) | Value::Null => {}
        }
        self.one_of(schema, value, field);
    }

    fn object(&mut self, schema: &Value, members: &Map<String, Value>, field: &str) {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let others = schema.get("additionalProperties");
        let open = flag(schema, "x-kubernetes-preserve-unknown-fields") || others == Some(&Value::Bool(true));
        for (name, value) in members {
            let path = join(field, name);
            match (properties.get(name), others.filter(|o| o.is_object())) {
                (Some(property), _) => self.value(property, value, &path),
                (None, Some(other)) => self.value(other, value, &path),
                // A schema without any property describes an object that may hold anything.
                (None, None) if open || schema.get("properties").is_none() => {}
                (None, None) => self.refuse(&path, unknown(name, properties)),
            }
        }
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !members.contains_key(name) {
                let what = properties.get(name).map(first_sentence).unwrap_or_default();
                self.refuse(&join(field, name), format!("is missing: add it{}", in_brackets(&what)));
            }
        }
        self.count(schema, members.len(), ("minProperties", "maxProperties"), "members", field);
    }

    fn array(&mut self, schema: &Value, items: &[Value], field: &str) {
        self.count(schema, items.len(), ("minItems", "maxItems"), "entries", field);
        if let Some(item) = schema.get("items") {
            for (i, value) in items.iter().enumerate() {
                self.value(item, value, &format!("{field}[{i}]"));
            }
        }
        let keys: Vec<&str> = schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .map(|keys| keys.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        if keys.is_empty() {
            return;
        }
        for (i, item) in items.iter().enumerate() {
            let same = |other: &Value| keys.iter().all(|key| other.get(key) == item.get(key));
            if items[..i].iter().any(same) {
                self.refuse(
                    &format!("{field}[{i}]"),
                    format!("repeats the {} of an earlier entry", keys.join(" and ")),
                );
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, field: &str) {
        self.count(schema, text.chars().count(), ("minLength", "maxLength"), "characters", field);
        if let Some(known) = schema.get("enum").and_then(Value::as_array) {
            let known: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
            if !known.contains(&text) {
                let meant = nearest(text, known.iter().copied()).map(|m| format!(": did you mean {m}?"));
                let message = format!("{text:?} is not one of {}{}", known.join(", "), meant.unwrap_or_default());
                self.refuse(field, message);
            }
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && !matches(pattern, text)
        {
            let what = in_brackets(&first_sentence(schema));
            self.refuse(field, format!("{text:?} does not have the form {pattern}{what}"));
        }
    }

    fn number(&mut self, schema: &Value, number: f64, value: &Value, field: &str) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        if let Some(least) = bound("minimum").filter(|least| number < *least) {
            self.refuse(field, format!("{value} is below the minimum of {least}"));
        }
        if let Some(most) = bound("maximum").filter(|most| number > *most) {
            self.refuse(field, format!("{value} is above the maximum of {most}"));
        }
    }

    /// Alternatives of a structural schema only narrow what the other keywords allow.
    fn one_of(&mut self, schema: &Value, value: &Value, field: &str) {
        let alternatives = |name: &str| schema.get(name).and_then(Value::as_array);
        for all in alternatives("allOf").into_iter().flatten() {
            self.value(all, value, field);
        }
        for name in ["anyOf", "oneOf"] {
            if let Some(branches) = alternatives(name)
                && !branches.iter().any(|branch| check(branch, value).is_empty())
            {
                self.refuse(field, format!("{} fits none of the forms that this field may have", shown(value)));
            }
        }
    }

    fn count(&mut self, schema: &Value, count: usize, names: (&str, &str), what: &str, field: &str) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|b| usize::try_from(b).ok());
        if let Some(least) = bound(names.0).filter(|least| count < *least) {
            self.refuse(field, format!("has {count} {what}, at least {least} are needed"));
        }
        if let Some(most) = bound(names.1).filter(|most| count > *most) {
            self.refuse(field, format!("has {count} {what}, at most {most} are allowed"));
        }
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or_default()
}

/// JSON Schema counts 2.0 as an integer.
fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
}

fn expected(schema: &Value) -> &'static str {
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => "expected a mapping",
        Some("array") => "expected a list",
        Some("string") => "expected a text",
        Some("boolean") => "expected true or false",
        Some("integer") => "expected a whole number",
        Some("number") => "expected a number",
        _ => "expected a value",
    }
}

fn wrong_type(schema: &Value, value: &Value) -> String {
    let remedy = match (schema.get("type").and_then(Value::as_str), value) {
        (Some("string"), Value::Number(_) | Value::Bool(_)) => format!(": write it in quotes, \"{value}\""),
        (Some("integer" | "boolean"), Value::String(text)) if serde_json::from_str::<Value>(text).is_ok() => {
            format!(": write it without quotes, {text}")
        }
        (Some("array"), _) => ": begin each entry with a dash".to_owned(),
        _ => String::new(),
    };
    format!("{}, found {}{remedy}", expected(schema), shown(value))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) => format!("the text {text:?}"),
        Value::Bool(_) | Value::Number(_) => format!("{value}"),
    }
}

fn unknown(name: &str, properties: &Map<String, Value>) -> String {
    let known = properties.keys().map(String::as_str);
    match nearest(name, known.clone()) {
        Some(meant) => format!("is no field that exists here: did you mean {meant}?"),
        None if properties.len() <= NAMES_SHOWN => {
            format!("is no field that exists here: known are {}", known.collect::<Vec<_>>().join(", "))
        }
        None => "is no field that exists here: remove it".to_owned(),
    }
}

/// The first sentence of a field's description: what it is for.
fn first_sentence(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let end = text.find(". ").unwrap_or_else(|| text.trim_end_matches('.').len());
    text[..end].to_owned()
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn join(field: &str, name: &str) -> String {
    if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") }
}

/// Unanchored search, as in an API server; CEL brings the regular expressions along.
fn matches(pattern: &str, text: &str) -> bool {
    let mut context = Context::default();
    context.add_variable_from_value("pattern", pattern.to_owned());
    context.add_variable_from_value("text", text.to_owned());
    Program::compile("text.matches(pattern)")
        .ok()
        .and_then(|program| program.execute(&context).ok())
        .is_some_and(|result| result == CelValue::Bool(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn only(schema: Value, object: Value) -> String {
        let found = check(&schema, &object);
        assert_eq!(found.len(), 1, "{found:?}");
        format!("{}: {}", found[0].field, found[0].message)
    }

    fn shape() -> Value {
        json!({
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9, "description": "How large. Really."},
                "name": {"type": "string", "maxLength": 3, "pattern": "^[a-z]+$", "nullable": true},
                "colour": {"type": "string", "enum": ["red", "green"]},
                "parts": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {"id": {"type": "integer"}}},
                          "x-kubernetes-list-map-keys": ["id"]},
                "rest": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "quantity": {"x-kubernetes-int-or-string": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}
            }
        })
    }

    #[test]
    fn a_fitting_object_passes() {
        let object = json!({"size": 2, "name": null, "colour": "red", "parts": [{"id": 1}, {"id": 2}],
            "rest": {"any": ["thing"]}, "quantity": "20Gi", "labels": {"a": "b"}});
        assert_eq!(check(&shape(), &object), vec![]);
    }

    #[test]
    fn each_keyword_refuses_with_a_remedy() {
        assert_eq!(only(shape(), json!({})), "size: is missing: add it (How large)");
        assert_eq!(only(shape(), json!({"size": 10})), "size: 10 is above the maximum of 9");
        assert_eq!(only(shape(), json!({"size": 0})), "size: 0 is below the minimum of 1");
        assert_eq!(
            only(shape(), json!({"size": "2"})),
            "size: expected a whole number, found the text \"2\": write it without quotes, 2"
        );
        assert_eq!(
            only(shape(), json!({"size": 1, "name": 5})),
            "name: expected a text, found 5: write it in quotes, \"5\""
        );
        assert_eq!(only(shape(), json!({"size": 1, "name": "abcd"})), "name: has 4 characters, at most 3 are allowed");
        assert_eq!(only(shape(), json!({"size": 1, "name": "A"})), "name: \"A\" does not have the form ^[a-z]+$");
        assert_eq!(
            only(shape(), json!({"size": 1, "colour": "gren"})),
            "colour: \"gren\" is not one of red, green: did you mean green?"
        );
        assert_eq!(
            only(shape(), json!({"size": 1, "sise": 1})),
            "sise: is no field that exists here: did you mean size?"
        );
        assert_eq!(
            only(shape(), json!({"size": 1, "labels": {"a": 1}})),
            "labels.a: expected a text, found 1: write it in quotes, \"1\""
        );
        assert_eq!(
            only(shape(), json!({"size": 1, "quantity": [1]})),
            "quantity: expected a whole number or a text, found a list"
        );
        assert_eq!(only(shape(), json!({"size": null})), "size: is empty: expected a whole number");
    }

    #[test]
    fn lists_are_bounded_and_their_keys_unique() {
        assert_eq!(
            only(shape(), json!({"size": 1, "parts": [{"id": 1}, {"id": 1}]})),
            "parts[1]: repeats the id of an earlier entry"
        );
        assert_eq!(
            only(shape(), json!({"size": 1, "parts": [{"id": 1}, {"id": 2}, {"id": 3}]})),
            "parts: has 3 entries, at most 2 are allowed"
        );
    }
}
