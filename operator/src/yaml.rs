//! YAML that does not depend on how serde_json keeps its numbers.
//!
//! Another crate of the workspace may switch serde_json to numbers of arbitrary precision; such a number
//! means a private mapping to every other serializer. Here each becomes the plain number that it is.

use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap, SerializeSeq},
};
use serde_json::{Number, Value};
use serde_yaml::SerializeError;

/// An object as YAML, with sorted keys.
pub fn to_string<T: Serialize>(object: &T) -> Result<String, SerializeError> {
    let value = serde_json::to_value(object).map_err(SerializeError::custom)?;
    serde_yaml::to_string(&Plain(&value))
}

struct Plain<'a>(&'a Value);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_none(),
            Value::Bool(flag) => serializer.serialize_bool(*flag),
            Value::Number(number) => serialize_number(number, serializer),
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(&Plain(item)))?;
                list.end()
            }
            Value::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, member)| map.serialize_entry(name, &Plain(member)))?;
                map.end()
            }
        }
    }
}

/// Whole numbers without a point: bounds of a schema are floats, but read as integers.
fn serialize_number<S: Serializer>(number: &Number, serializer: S) -> Result<S::Ok, S::Error> {
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(number), _, _) => serializer.serialize_u64(number),
        (None, Some(number), _) => serializer.serialize_i64(number),
        // 2^53: up to here a whole f64 names one integer.
        (None, None, Some(number)) if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 => {
            serializer.serialize_i64(number as i64)
        }
        (None, None, Some(number)) => serializer.serialize_f64(number),
        (None, None, None) => Err(S::Error::custom("a number is out of range")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_plain() {
        let text = to_string(&json!({"a": 1, "b": -2, "c": 3.0, "d": 0.5, "e": "3e-3", "f": [1e-5]})).expect("YAML");
        assert!(!text.contains("private"), "{text}");
        let again: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(again, json!({"a": 1, "b": -2, "c": 3, "d": 0.5, "e": "3e-3", "f": [0.00001]}));
    }
}
