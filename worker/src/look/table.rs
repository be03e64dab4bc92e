//! What people read: the same rows as an aligned table, as JSON, or as CSV.

use clap::ValueEnum;
use serde_json::{Map, Value};

/// How rows are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// An array of objects.
    Json,
    /// Comma-separated values with a line of names (RFC 4180).
    Csv,
}

/// Named columns and rows of values.
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Table {
    /// Without rows.
    pub fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a value for each column.
    pub fn push(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// The text, with a newline at its end.
    pub fn text(&self, format: Format) -> String {
        match format {
            Format::Table => self.aligned(),
            Format::Json => {
                let object = |row: &Vec<Value>| -> Value {
                    let members = self.columns.iter().map(|name| (*name).to_owned()).zip(row.iter().cloned());
                    members.collect::<Map<_, _>>().into()
                };
                let rows: Vec<Value> = self.rows.iter().map(object).collect();
                serde_json::to_string_pretty(&rows).expect("values serialise") + "\n"
            }
            Format::Csv => {
                let names = self.columns.iter().map(|name| (*name).to_owned()).collect();
                let lines = std::iter::once(names).chain(self.rows.iter().map(|row| row.iter().map(plain).collect()));
                lines
                    .map(|fields: Vec<String>| {
                        fields.iter().map(|field| quoted(field)).collect::<Vec<_>>().join(",") + "\r\n"
                    })
                    .collect()
            }
        }
    }

    fn aligned(&self) -> String {
        let shown = |value: &Value| if value.is_null() { "-".to_owned() } else { plain(value) };
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(shown).collect()).collect();
        let width = |at: usize| {
            let longest = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
            longest.max(self.columns[at].len())
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        // Numbers to the right, so that their places stand below each other.
        let right = |at: usize| self.rows.iter().all(|row| row[at].is_number() || row[at].is_null());
        let line = |cells: Vec<String>| {
            let cell = |(at, cell): (usize, &String)| {
                let blanks = " ".repeat(widths[at].saturating_sub(cell.chars().count()));
                if right(at) { blanks + cell } else { cell.clone() + &blanks }
            };
            cells.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        let names = self.columns.iter().map(|name| name.to_uppercase()).collect();
        std::iter::once(names).chain(rows.clone()).map(line).collect()
    }
}

/// A fraction with so many places, as a number.
pub fn rounded(value: f64, places: i32) -> Value {
    let scale = 10f64.powi(places);
    let rounded = (value * scale).round() / scale;
    if rounded.is_finite() { rounded.into() } else { value.to_string().into() }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["uid", "name", "losses"]);
        table.push(vec![json!(7), json!("a,\"b\""), json!([1.5, 2.0])]);
        table.push(vec![json!(123), Value::Null, Value::Null]);
        table
    }

    #[test]
    fn one_table_three_ways() {
        assert_eq!(table().text(Format::Table), "UID  NAME   LOSSES\n  7  a,\"b\"  1.5 2.0\n123  -      -\n");
        assert_eq!(table().text(Format::Csv), "uid,name,losses\r\n7,\"a,\"\"b\"\"\",1.5 2.0\r\n123,,\r\n");
        let json: Value = serde_json::from_str(&table().text(Format::Json)).expect("JSON");
        assert_eq!(json[0], json!({ "uid": 7, "name": "a,\"b\"", "losses": [1.5, 2.0] }));
        assert_eq!(Table::new(&["uid"]).text(Format::Table), "UID\n");
    }

    #[test]
    fn what_is_no_number_is_said() {
        assert_eq!(rounded(1.23456, 2), json!(1.23));
        assert_eq!(rounded(f64::INFINITY, 2), json!("inf"));
    }
}
