//! What `up` shows on a terminal, drawn anew twice a second (pure: no terminal, no clock).
//!
//! ```text
//! alps  netuid 7  run 1   block 4711   window 117   commit: block 3 of 8                12:34
//! ██████████████████████████████████████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
//! train                                   commit              upload             merge
//!
//! node      phase       loss  score  weight  message
//! ibex-0    committing  2.322   1.19     35%
//!
//!   12:30  ibex-0: waiting for datasets/rust/index.json
//! ```

mod clock;
mod table;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bistro_api::run::Schedule;

use super::{
    board::Board,
    styled::{Line, Style},
    text,
};

/// Events below the table at most.
pub const EVENTS: usize = 5;
/// Fewest rows for the clock's bar to be worth two of them.
const ROWS_WITH_BAR: usize = 10;

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Cells of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// What does not change while `up` runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Heading {
    /// Name of the Subnet.
    pub subnet: String,
    /// Its number on the chain.
    pub netuid: u16,
    /// Id of its run.
    pub run: u32,
    /// Window and phases in blocks.
    pub schedule: Schedule,
    /// How many windows are wanted.
    pub windows: Option<u32>,
}

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Since the start of `up`.
    pub at: Duration,
    /// One line.
    pub line: String,
}

/// Everything that a frame shows.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The nodes.
    pub board: &'a Board,
    /// What they are of.
    pub heading: &'a Heading,
    /// What happened, oldest first.
    pub events: &'a [Occurrence],
    /// Since the start of `up`.
    pub now: Duration,
}

/// The lines of one frame: none wider than the terminal, and one fewer than it has, where the cursor rests.
pub fn frame(view: &View<'_>, size: Size) -> Vec<Line> {
    let room = size.height.saturating_sub(1);
    let mut lines = vec![clock::heading(view, size.width)];
    if room >= ROWS_WITH_BAR {
        lines.extend(clock::bar(view, size.width));
        lines.push(Line::default());
    }
    let left = room.saturating_sub(lines.len() + 1);
    let nodes = view.board.nodes.len();
    let events = events_shown(view.events.len().min(EVENTS), nodes, left);
    let for_events = if events == 0 { 0 } else { events + 1 };
    lines.extend(table::table(view, size.width, left.saturating_sub(for_events)));
    if events > 0 {
        lines.push(Line::default());
        lines.extend(view.events[view.events.len() - events..].iter().map(event));
    }
    lines.truncate(room);
    lines.into_iter().map(|line| line.clip(size.width).trimmed()).collect()
}

/// How many events fit below so many nodes; where not all nodes fit, they have two thirds.
fn events_shown(events: usize, nodes: usize, room: usize) -> usize {
    match room.saturating_sub(nodes + 1) {
        0 => events.min((room / 3).saturating_sub(1)),
        beside_all_nodes => events.min(beside_all_nodes),
    }
}

fn event(event: &Occurrence) -> Line {
    Line::of(Style::Dim, format!("{:>7}  ", minutes(event.at))).and(Style::Plain, text::plain(&event.line))
}

/// `12:34`, or `1:02:03` after an hour.
fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}
