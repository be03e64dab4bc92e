//! What is known of all nodes: put together from their answers, one after the other (no IO).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use bistro_api::{NodeStatus, Role, status::WindowRecord};

use super::{
    answer,
    node_view::{News, NodeView},
};

/// All nodes.
#[derive(Debug, Default)]
pub struct Board {
    /// The nodes, in the order in which they were added.
    pub nodes: Vec<NodeView>,
    /// Time from the start of `up` to the first answer of a validator with finalised weights.
    pub first_weights: Option<Duration>,
    /// Windows that admitted something and ended while `up` ran.
    pub admitted: BTreeSet<u64>,
    /// Windows that had admitted something before.
    before: BTreeSet<u64>,
    /// Digest of each base and the node that named it first.
    bases: BTreeMap<u64, (String, String)>,
}

/// Two nodes that hold different bases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The window before which they differ.
    pub window: u64,
    /// A node and its digest.
    pub first: (String, String),
    /// Another node and its digest.
    pub second: (String, String),
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { window, first, second } = self;
        write!(
            f,
            "{} and {} hold different bases before window {window}: {} and {}: compare their logs and their settings.yaml",
            second.0, first.0, second.1, first.1
        )
    }
}

impl Board {
    /// A board for nodes, by name of the pod, name for people and role.
    pub fn new(nodes: impl IntoIterator<Item = (String, String, Role)>) -> Self {
        let view = |(id, label, role)| NodeView::new(id, label, role);
        Self { nodes: nodes.into_iter().map(view).collect(), ..Self::default() }
    }

    /// Takes in an answer; gives what is new, or the first divergence.
    pub fn observe(&mut self, id: &str, status: NodeStatus, now: Duration) -> Result<Vec<News>, Divergence> {
        let Some(index) = self.nodes.iter().position(|node| node.id == id) else { return Ok(Vec::new()) };
        let status = answer::bounded(status);
        if status.role == Role::Validator && status.first_weights_block.is_some() {
            self.first_weights.get_or_insert(now);
        }
        let first_answer = self.nodes[index].status.is_none();
        for record in &status.history {
            self.compare(&self.nodes[index].label.clone(), record)?;
            self.count(record, first_answer);
            self.nodes[index].history.insert(record.window, record.clone());
        }
        self.nodes[index].answered(status);
        let (scores, width) = (self.miner_score(index), self.label_width());
        Ok(self.nodes[index].news(first_answer, scores, width, now))
    }

    /// A node gave no answer, and why; gives what is new.
    pub fn unanswered(&mut self, id: &str, why: &str, now: Duration) -> Option<News> {
        self.node(id)?.unanswered(why, now)
    }

    /// The process of a node ended, and how; it starts again.
    pub fn restarting(&mut self, id: &str, cause: &str, now: Duration) {
        if let Some(node) = self.node(id) {
            node.restarting(cause, now);
        }
    }

    fn node(&mut self, id: &str) -> Option<&mut NodeView> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    /// Characters of the longest name.
    pub fn label_width(&self) -> usize {
        self.nodes.iter().map(|node| node.label.chars().count()).max().unwrap_or_default()
    }

    /// The latest finalised block, as half of the nodes or more see it: one that errs does not move the clock.
    pub fn block(&self) -> Option<u64> {
        let mut blocks: Vec<u64> = self.nodes.iter().filter_map(|node| node.status.as_ref()?.block).collect();
        blocks.sort_unstable();
        blocks.get(blocks.len() / 2).copied()
    }

    fn compare(&mut self, label: &str, record: &WindowRecord) -> Result<(), Divergence> {
        let (first, digest) =
            self.bases.entry(record.window).or_insert_with(|| (label.to_owned(), record.base_digest.clone()));
        if *digest == record.base_digest {
            return Ok(());
        }
        Err(Divergence {
            window: record.window,
            first: (first.clone(), digest.clone()),
            second: (label.to_owned(), record.base_digest.clone()),
        })
    }

    /// What a node remembers from before `up` started is not counted.
    fn count(&mut self, record: &WindowRecord, first_answer: bool) {
        if record.admitted == 0 {
            return;
        }
        if first_answer && self.admitted.is_empty() {
            self.before.insert(record.window);
        }
        if !self.before.contains(&record.window) {
            self.admitted.insert(record.window);
        }
    }

    /// The mean of what the validators think of a miner; a node's own view where no validator runs here.
    pub fn miner_score(&self, index: usize) -> Option<f64> {
        let node = &self.nodes[index];
        let status = node.status.as_ref()?;
        let hotkey = status.hotkey.as_ref()?;
        let scores: Vec<f64> = self
            .nodes
            .iter()
            .filter_map(|other| other.status.as_ref())
            .flat_map(|other| &other.scores)
            .filter(|scored| scored.hotkey == *hotkey)
            .map(|scored| scored.average)
            .collect();
        if scores.is_empty() { status.score } else { Some(scores.iter().sum::<f64>() / scores.len() as f64) }
    }

    /// The last of the first `windows` windows that admitted something, once there are so many.
    pub fn target(&self, windows: usize) -> Option<u64> {
        self.admitted.iter().nth(windows.checked_sub(1)?).copied()
    }

    /// The nodes that do not hold the base after a window yet.
    pub fn behind(&self, window: u64) -> Vec<&str> {
        let behind = |node: &&NodeView| node.newest_window().is_none_or(|newest| newest <= window);
        self.nodes.iter().filter(behind).map(|node| node.label.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn board() -> Board {
        let node = |role: Role| (role.as_str().to_owned(), role.as_str().to_owned(), role);
        Board::new(Role::ALL.map(node))
    }

    /// A node that remembers some windows, all of which admitted work but the last.
    fn status(role: Role, windows: std::ops::RangeInclusive<u64>) -> NodeStatus {
        let last = *windows.end();
        let history: Vec<_> = windows
            .map(|w| json!({"window": w, "baseDigest": format!("d{w}"), "admitted": u32::from(w < last)}))
            .collect();
        let reachable = json!({"reachable": true});
        let value =
            json!({"role": role, "phase": "waiting", "chain": reachable, "bucket": reachable, "history": history});
        serde_json::from_value(value).expect("a status")
    }

    fn observe(board: &mut Board, role: Role, windows: std::ops::RangeInclusive<u64>) -> Vec<News> {
        board.observe(role.as_str(), status(role, windows), NOW).expect("the same bases")
    }

    #[test]
    fn windows_are_kept_longer_than_nodes_remember_them() {
        let mut board = board();
        for last in 0..200_u64 {
            observe(&mut board, Role::Miner, last.saturating_sub(63)..=last);
        }
        let miner = board.nodes.iter().find(|node| node.role == Role::Miner).expect("a miner");
        assert_eq!(miner.history.len(), 200);
        assert_eq!(board.admitted.len(), 199);
    }

    #[test]
    fn the_end_waits_for_every_node() {
        let mut board = board();
        for role in Role::ALL {
            observe(&mut board, role, 5..=5);
        }
        assert_eq!(board.target(2), None);
        observe(&mut board, Role::Averager, 5..=7);
        assert_eq!(board.target(2), Some(6));
        assert_eq!(board.behind(6), ["validator", "miner"]);
        observe(&mut board, Role::Validator, 5..=7);
        observe(&mut board, Role::Miner, 5..=8);
        assert!(board.behind(6).is_empty());
    }

    #[test]
    fn what_ended_before_does_not_count() {
        let mut board = board();
        assert!(observe(&mut board, Role::Averager, 0..=9).is_empty(), "history is no news");
        assert_eq!(board.target(1), None);
        let news = observe(&mut board, Role::Averager, 0..=10);
        let [News::Window(line)] = news.as_slice() else { panic!("one window ended: {news:?}") };
        assert!(line.starts_with("window     9"), "{line}");
        assert_eq!(board.target(1), Some(9));
    }

    #[test]
    fn the_first_difference_is_reported_with_both_nodes() {
        let mut board = board();
        observe(&mut board, Role::Averager, 3..=4);
        let mut other = status(Role::Miner, 3..=4);
        other.history[1].base_digest = "other".to_owned();
        let divergence = board.observe("miner", other, NOW).expect_err("different bases");
        let [averager, miner] = [("averager", "d4"), ("miner", "other")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(divergence, Divergence { window: 4, first: averager, second: miner });
    }

    #[test]
    fn the_first_weights_are_timed_once() {
        let mut board = board();
        observe(&mut board, Role::Validator, 0..=1);
        assert_eq!(board.first_weights, None);
        let with_weights = NodeStatus { first_weights_block: Some(80), ..status(Role::Validator, 0..=1) };
        for seconds in [7, 9] {
            board.observe("validator", with_weights.clone(), Duration::from_secs(seconds)).expect("the same bases");
        }
        assert_eq!(board.first_weights, Some(Duration::from_secs(7)));
    }

    #[test]
    fn one_node_alone_does_not_move_the_clock() {
        let mut board = board();
        assert_eq!(board.block(), None);
        for (role, block) in [(Role::Averager, 70), (Role::Miner, u64::MAX), (Role::Validator, 71)] {
            let status = NodeStatus { block: Some(block), ..status(role, 0..=0) };
            board.observe(role.as_str(), status, NOW).expect("the same bases");
        }
        assert_eq!(board.block(), Some(71));
    }

    #[test]
    fn a_message_is_shown_once_while_it_is_true() {
        let mut board = board();
        let mut shown = |message: &str, seconds| {
            let status = NodeStatus { message: message.to_owned(), ..status(Role::Miner, 0..=0) };
            board.observe("miner", status, Duration::from_secs(seconds)).expect("the same bases").len()
        };
        assert_eq!(shown("waiting for the dataset", 0), 1);
        assert_eq!(shown("waiting for the dataset", 50), 0);
        assert_eq!(shown("waiting for the dataset", 100), 0);
        assert_eq!(shown("something else", 101), 1);
        assert_eq!(shown("waiting for the dataset", 300), 1);
    }
}
