//! Figures that an honest implementation must reach, and what was found.

use std::fmt::{self, Display};

/// What a figure must be.
#[derive(Clone, Copy, Debug)]
pub enum Bar {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// A figure and what it must be.
#[derive(Clone, Debug)]
pub struct Target {
    /// Figures that belong together have one number.
    pub number: u32,
    /// In words that stand in a table.
    pub what: String,
    /// What was measured.
    pub found: f64,
    /// What it must be.
    pub bar: Bar,
}

impl Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<={most}"),
            Self::AtLeast(least) => write!(f, ">={least}"),
        }
    }
}

impl Target {
    /// A figure that must be at most `most`.
    pub fn at_most(number: u32, what: impl Into<String>, most: f64, found: f64) -> Self {
        Self { number, what: what.into(), found, bar: Bar::AtMost(most) }
    }

    /// A figure that must be at least `least`.
    pub fn at_least(number: u32, what: impl Into<String>, least: f64, found: f64) -> Self {
        Self { number, what: what.into(), found, bar: Bar::AtLeast(least) }
    }

    /// Whether it is reached; a figure that is no number is not.
    pub fn is_met(&self) -> bool {
        match self.bar {
            Bar::AtMost(most) => self.found <= most,
            Bar::AtLeast(least) => self.found >= least,
        }
    }

    fn shown(&self) -> String {
        // Errors of rounding are too small for a fixed number of digits.
        if self.found != 0.0 && self.found.abs() < 1e-3 {
            format!("{:.1e}", self.found)
        } else {
            format!("{:.4}", self.found)
        }
    }

    /// The line of a benchmark.
    pub fn line(&self) -> String {
        let what = self.what.replace(' ', "_");
        format!(
            "BENCH target number={} what={what} found={} bar={} met={}",
            self.number,
            self.shown(),
            self.bar,
            self.is_met()
        )
    }

    /// The row of a table.
    pub fn row(&self) -> String {
        let met = if self.is_met() { "" } else { ", missed" };
        format!("| {} | {} | {} | {}{met} |\n", self.number, self.what, self.bar, self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_says_whether_it_is_met() {
        let met = |target: Target| target.is_met();
        assert!(met(Target::at_most(1, "a", 0.5, 0.5)) && !met(Target::at_most(1, "a", 0.5, 0.51)));
        assert!(met(Target::at_least(1, "a", -0.5, -0.4)) && !met(Target::at_least(1, "a", 0.5, f64::NAN)));
        let target = Target::at_most(8, "an error", 1e-5, 6e-7);
        assert_eq!(target.line(), "BENCH target number=8 what=an_error found=6.0e-7 bar=<=0.00001 met=true");
        assert_eq!(Target::at_least(2, "more", 1.0, 0.5).row(), "| 2 | more | >=1 | 0.5000, missed |\n");
    }
}
