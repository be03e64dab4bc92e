//! Decimal numbers as people write them.
//!
//! Floats do not survive the way through an API server and back with the same text, and the text is
//! what nodes agree on: a resource therefore holds decimals as strings, and they enter digests as written.

use std::{borrow::Cow, fmt, str::FromStr};

use codec::{Decode, Encode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Longest text accepted: a sign, 17 significant digits, a point and an exponent fit well.
pub const MAX_LENGTH: usize = 24;
/// What the schema and [`Decimal::from_str`] accept: no plus, no leading zeros, no bare point.
pub const PATTERN: &str = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE]-?[0-9]{1,2})?$";

/// A decimal number that keeps its text; finite by construction when parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Decimal(String);

/// Why a text is not a [`Decimal`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a decimal: write it in quotes like \"0.1\" or \"3e-3\"")]
pub struct NotADecimal(String);

impl Decimal {
    /// The nearest f64 (correctly rounded, so every node gets the same bits).
    pub fn value(&self) -> f64 {
        // The text was checked on the way in; Rust parses everything that the grammar accepts.
        self.0.parse().unwrap_or(f64::NAN)
    }

    /// The nearest f32, rounded once from the text.
    pub fn value_f32(&self) -> f32 {
        self.0.parse().unwrap_or(f32::NAN)
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Decimal {
    type Err = NotADecimal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = text.len() <= MAX_LENGTH && is_decimal(text);
        match text.parse::<f64>() {
            Ok(value) if well_formed && value.is_finite() => Ok(Self(text.to_owned())),
            _ => Err(NotADecimal(text.chars().take(MAX_LENGTH + 1).collect())),
        }
    }
}

/// [`PATTERN`] by hand, so that this crate needs no regular expressions.
fn is_decimal(text: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((w, f)) => (w, Some(f)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| {
            let e = e.strip_prefix('-').unwrap_or(e);
            digits(e) && e.len() <= 2
        })
}

impl TryFrom<String> for Decimal {
    type Error = NotADecimal;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Decimal> for String {
    fn from(decimal: Decimal) -> Self {
        decimal.0
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Decimal {
    fn schema_name() -> Cow<'static, str> {
        "Decimal".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": MAX_LENGTH })
    }
}

/// A default that is known to be well formed.
pub(crate) fn literal(text: &'static str) -> Decimal {
    Decimal(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_people_write() {
        for text in ["0", "1", "-1", "0.1", "3e-3", "1.0", "10.25E2", "-0.5"] {
            assert!(text.parse::<Decimal>().is_ok(), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", ".5", "1.", "01", "+1", "inf", "NaN", "1e", "1e999", "0x1", "1 ", "1_0", "--1", "1e+3"] {
            assert!(text.parse::<Decimal>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_without_quotes_is_refused_with_the_remedy() {
        assert!(serde_json::from_str::<Decimal>("0.1").is_err());
        let error = "1,5".parse::<Decimal>().expect_err("comma").to_string();
        assert!(error.contains("in quotes"), "{error}");
    }
}
