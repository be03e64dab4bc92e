//! The lines that `up` shows, aligned so that a column can be read down.

use std::collections::BTreeMap;

use bistro_api::{NodeStatus, status::WindowRecord};

/// One node and window: `window    12  miner-0      uid   1  loss 3.412  score 0.93  weight  33%  incentive 0.33  accepted`.
pub fn window(
    window: u64,
    label: &str,
    width: usize,
    status: &NodeStatus,
    record: &WindowRecord,
    score: Option<f64>,
    verdicts: &str,
) -> String {
    let uid = status.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
    let loss = decimals(record.held_out_loss, 3);
    let (score, incentive) = (decimals(score, 2), decimals(status.incentive, 2));
    let weight = percent(status.weight);
    let line = format!(
        "window {window:>5}  {label:<width$}  uid {uid:>3}  loss {loss:>6}  score {score:>4}  weight {weight:>4}  incentive {incentive:>4}  {verdicts}"
    );
    line.trim_end().to_owned()
}

/// Something that a node has to say.
pub fn message(label: &str, width: usize, message: &str) -> String {
    format!("              {label:<width$}  {message}")
}

/// The verdicts that were added: `accepted`, or `accepted 2, late`.
pub fn verdicts_since(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> String {
    let added = now.iter().filter_map(|(verdict, count)| {
        match count.saturating_sub(before.get(verdict).copied().unwrap_or_default()) {
            0 => None,
            1 => Some(verdict.clone()),
            more => Some(format!("{verdict} {more}")),
        }
    });
    added.collect::<Vec<_>>().join(", ")
}

/// A number, or `-`.
pub fn decimals(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.places$}", positive_zero(value)))
}

/// A share as `33%`, or `-`.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.0}%", positive_zero(value) * 100.0))
}

/// An empty sum of floats is -0.0, which nobody wants to read.
pub fn positive_zero(value: f64) -> f64 {
    value + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_as_negative_nothing() {
        assert_eq!(decimals(Some(-0.0), 2), "0.00");
        assert_eq!(decimals(None, 2), "-");
    }

    #[test]
    fn only_new_verdicts_are_shown() {
        let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let before = map(&[("accepted", 3), ("late", 1)]);
        assert_eq!(verdicts_since(&map(&[("accepted", 4), ("late", 1)]), &before), "accepted");
        assert_eq!(verdicts_since(&map(&[("accepted", 6), ("forged", 1), ("late", 1)]), &before), "accepted 3, forged");
        assert_eq!(verdicts_since(&before, &before), "");
        // A restarted node counts from zero again.
        assert_eq!(verdicts_since(&map(&[("accepted", 1)]), &before), "");
    }
}
