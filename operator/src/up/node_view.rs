//! One node on the board: its latest answer, what was shown of it, and whether it still answers.

use std::{collections::BTreeMap, time::Duration};

use bistro_api::{NodeStatus, Role, status::WindowRecord};

use super::lines;

/// A message that comes back within this time is not shown again.
const REPEATED: Duration = Duration::from_secs(60);
/// A start and a busy machine take seconds; a longer silence is trouble.
const SILENT: Duration = Duration::from_secs(5);
/// A longer one is worth a line.
const SILENT_FOR_LONG: Duration = Duration::from_secs(30);

/// Something to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The line of a window that a node has left behind.
    Window(String),
    /// What a node has to say, or what is to be said of it.
    Message {
        /// The node, by its name for people.
        label: String,
        /// One line.
        text: String,
    },
}

/// One node.
#[derive(Debug)]
pub struct NodeView {
    /// Name of its pod.
    pub id: String,
    /// Name for people.
    pub label: String,
    /// What it does.
    pub role: Role,
    /// Its latest answer.
    pub status: Option<NodeStatus>,
    /// All its windows; answers hold the last 64 only.
    pub history: BTreeMap<u64, WindowRecord>,
    /// How often its process was started again.
    pub restarts: u32,
    /// Verdicts of the last window that had any.
    pub latest: String,
    /// Since when it does not answer.
    silence: Option<Silence>,
    /// The last window that was shown.
    shown: Option<u64>,
    /// Its verdicts when that window was shown.
    verdicts: BTreeMap<String, u64>,
    /// Its messages, and when each was shown.
    messages: BTreeMap<String, Duration>,
}

/// A time without answers.
#[derive(Debug)]
struct Silence {
    since: Duration,
    why: String,
    /// A line was shown of it.
    shown: bool,
}

impl NodeView {
    /// A node that has not answered yet.
    pub fn new(id: String, label: String, role: Role) -> Self {
        Self {
            id,
            label,
            role,
            status: None,
            history: BTreeMap::new(),
            restarts: 0,
            latest: String::new(),
            silence: None,
            shown: None,
            verdicts: BTreeMap::new(),
            messages: BTreeMap::new(),
        }
    }

    /// The newest window whose base it holds.
    pub fn newest_window(&self) -> Option<u64> {
        self.history.keys().next_back().copied()
    }

    /// Why its latest answer is old, if it is.
    pub fn trouble(&self, now: Duration) -> Option<String> {
        let Silence { since, why, shown: _ } = self.silence.as_ref()?;
        let silent = now.saturating_sub(*since);
        (silent >= SILENT).then(|| format!("no answer for {} s: {why}", silent.as_secs()))
    }

    /// Takes in an answer.
    pub fn answered(&mut self, status: NodeStatus) {
        self.silence = None;
        self.status = Some(status);
    }

    /// Its process ended and starts again.
    pub fn restarting(&mut self, cause: &str, now: Duration) {
        self.restarts = self.restarts.saturating_add(1);
        self.silence(now).why = cause.to_owned();
    }

    /// It gave no answer; a long silence is said once.
    pub fn unanswered(&mut self, why: &str, now: Duration) -> Option<News> {
        let silence = self.silence(now);
        silence.why = why.to_owned();
        let silent = now.saturating_sub(silence.since);
        if silence.shown || silent < SILENT_FOR_LONG {
            return None;
        }
        silence.shown = true;
        let text = format!("has not answered for {} s: {why}: see its log", silent.as_secs());
        Some(News::Message { label: self.label.clone(), text })
    }

    fn silence(&mut self, now: Duration) -> &mut Silence {
        self.silence.get_or_insert_with(|| Silence { since: now, why: String::new(), shown: false })
    }

    /// What is new: each window that the node has left behind, and a new message.
    pub fn news(&mut self, first_answer: bool, score: Option<f64>, width: usize, now: Duration) -> Vec<News> {
        let mut news = Vec::new();
        let Some(status) = self.status.as_ref() else { return news };
        if first_answer {
            self.verdicts = status.verdicts.clone();
        }
        if let Some(newest) = self.newest_window() {
            // Windows from before `up` are history, not news.
            let from = match self.shown {
                Some(shown) => shown + 1,
                None if first_answer => newest,
                None => 0,
            };
            for (window, record) in self.history.range(from..newest.max(from)) {
                let verdicts = lines::verdicts_since(&status.verdicts, &self.verdicts);
                news.push(News::Window(lines::window(*window, &self.label, width, status, record, score, &verdicts)));
                self.verdicts = status.verdicts.clone();
                if !verdicts.is_empty() {
                    self.latest = verdicts;
                }
            }
            if newest > 0 {
                self.shown = Some(self.shown.unwrap_or_default().max(newest - 1));
            }
        }
        let message = status.message.clone();
        let fresh = |shown: &Duration| now.saturating_sub(*shown) < REPEATED;
        if !message.is_empty() && !self.messages.get(&message).is_some_and(fresh) {
            news.push(News::Message { label: self.label.clone(), text: message.clone() });
        }
        if !message.is_empty() {
            // Said again while it is still true: it stays shown.
            self.messages.insert(message, now);
        }
        self.messages.retain(|_, shown| now.saturating_sub(*shown) < REPEATED);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_silence_is_trouble_and_is_said_once() {
        let mut node = NodeView::new("miner-ibex-0".to_owned(), "ibex-0".to_owned(), Role::Miner);
        let at = Duration::from_secs;
        assert_eq!(node.unanswered("it refuses the connection", at(10)), None);
        assert_eq!(node.trouble(at(14)), None);
        assert_eq!(node.trouble(at(16)).as_deref(), Some("no answer for 6 s: it refuses the connection"));
        let said = News::Message {
            label: "ibex-0".to_owned(),
            text: "has not answered for 31 s: it gives no status: see its log".to_owned(),
        };
        assert_eq!(node.unanswered("it gives no status", at(41)), Some(said));
        assert_eq!(node.unanswered("it gives no status", at(100)), None);
    }

    #[test]
    fn a_restart_is_counted_and_does_not_end_a_silence() {
        let mut node = NodeView::new("miner-ibex-0".to_owned(), "ibex-0".to_owned(), Role::Miner);
        node.restarting("ended with exit code 1", Duration::from_secs(1));
        node.restarting("was ended by signal 9", Duration::from_secs(5));
        assert_eq!(node.restarts, 2);
        assert_eq!(node.trouble(Duration::from_secs(8)).as_deref(), Some("no answer for 7 s: was ended by signal 9"));
    }
}
