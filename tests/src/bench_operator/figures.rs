//! Measured numbers by subject and name, and the lines that they make.

use std::{collections::BTreeMap, fmt::Write as _};

/// What came of every round, for one subject.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    /// Takes down one number.
    pub fn add(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    /// The middle one of what was taken down under a name.
    pub fn median(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|values| median(values))
    }

    /// The largest.
    pub fn largest(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.iter().copied().reduce(f64::max)
    }
}

/// The middle one; of an even number, the mean of the two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

/// `key=value` pairs; what was not measured is `-`.
#[derive(Default)]
pub struct Line(String);

impl Line {
    /// Adds a word.
    pub fn word(mut self, key: &str, value: &str) -> Self {
        let _ = write!(self.0, " {key}={value}");
        self
    }

    /// Adds a number with so many decimals.
    pub fn number(self, key: &str, value: Option<f64>, decimals: usize) -> Self {
        let text = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"));
        self.word(key, &text)
    }

    /// Prints it.
    pub fn print(self, bench: &str) {
        println!("BENCH {bench}{}", self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_lines() {
        let mut figures = Figures::default();
        for value in [3.0, 1.0, 2.0, 10.0] {
            figures.add("seconds", value);
        }
        assert_eq!((figures.median("seconds"), figures.largest("seconds")), (Some(2.5), Some(10.0)));
        let line = Line::default().word("peer", "x").number("a", Some(1.26), 1).number("b", None, 1);
        assert_eq!(line.0, " peer=x a=1.3 b=-");
    }
}
