//! One row per node. Columns that have no room go; messages have what is left.

use bistro_api::{NodeStatus, status::Phase};

use super::View;
use crate::up::{
    lines::{decimals, percent},
    node_view::NodeView,
    styled::{Line, Style},
    text,
};

/// Columns that are shown as far as there is room, the most telling first. Names and messages always stay.
const WANTED: [&str; 11] =
    ["phase", "loss", "score", "weight", "verdict", "restarts", "incentive", "uid", "up", "down", "trend"];
/// Fewest cells of a message that say something.
const MESSAGE: usize = 12;
/// Cells between columns.
const GAP: usize = 2;
/// Windows in a trend.
const TREND: usize = 12;

/// A column: its title, its cells from the first row to the last, and how they stand.
struct Column {
    title: &'static str,
    right: bool,
    cells: Vec<(Style, String)>,
    width: usize,
}

impl Column {
    /// A column between two widths; between them the longest cell decides.
    fn new(
        title: &'static str,
        right: bool,
        (least, most): (usize, usize),
        cells: impl Iterator<Item = (Style, String)>,
    ) -> Self {
        let cells: Vec<_> = cells.map(|(style, cell)| (style, text::clip(&text::plain(&cell), most))).collect();
        let longest = cells.iter().map(|(_, cell)| text::width(cell)).max().unwrap_or_default();
        Self { title, right, cells, width: longest.max(least).max(title.len()) }
    }

    fn cell(&self, line: Line, style: Style, cell: &str) -> Line {
        let space = " ".repeat(self.width.saturating_sub(text::width(cell)));
        if self.right {
            line.and(Style::Plain, space).and(style, cell)
        } else {
            line.and(style, cell).and(Style::Plain, space)
        }
    }
}

/// Titles and as many rows as there is room for; what is left out is counted.
pub fn table(view: &View<'_>, width: usize, room: usize) -> Vec<Line> {
    let columns = fitting(columns(view), width);
    let titles = columns.iter().enumerate().fold(Line::default(), |line, (i, column)| {
        let line = if i > 0 { line.and(Style::Plain, " ".repeat(GAP)) } else { line };
        column.cell(line, Style::Dim, column.title)
    });
    let nodes = view.board.nodes.len();
    let shown = if nodes <= room { nodes } else { room.saturating_sub(1) };
    let mut lines = vec![titles];
    lines.extend((0..shown).map(|row| {
        columns.iter().enumerate().fold(Line::default(), |line, (i, column)| {
            let line = if i > 0 { line.and(Style::Plain, " ".repeat(GAP)) } else { line };
            let (style, cell) = &column.cells[row];
            column.cell(line, *style, cell)
        })
    }));
    if shown < nodes {
        lines.push(Line::of(Style::Dim, format!("... and {} more", nodes - shown)));
    }
    lines
}

/// The columns that fit; the last one, the message, takes the rest.
fn fitting(mut columns: Vec<Column>, width: usize) -> Vec<Column> {
    let Some(mut message) = columns.pop() else { return columns };
    let mut taken = columns.first().map_or(0, |name| name.width + GAP);
    let mut shown = vec!["node"];
    for title in WANTED {
        let Some(column) = columns.iter().find(|column| column.title == title) else { continue };
        if taken + column.width + GAP + MESSAGE <= width {
            taken += column.width + GAP;
            shown.push(title);
        }
    }
    columns.retain(|column| shown.contains(&column.title));
    message.width = width.saturating_sub(taken).max(1);
    message.cells.iter_mut().for_each(|(_, cell)| *cell = text::clip(cell, message.width));
    columns.push(message);
    columns
}

fn columns(view: &View<'_>) -> Vec<Column> {
    let board = view.board;
    let plain = |cell: String| (Style::Plain, cell);
    let number = |title, widths, of: &dyn Fn(usize, &NodeView) -> String| {
        let cells = board.nodes.iter().enumerate().map(|(index, node)| plain(of(index, node)));
        Column::new(title, true, widths, cells)
    };
    let volume = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), text::bytes);
    let uid = |node: &NodeView| status(node)?.uid.map(|uid| uid.to_string());
    let phase = |node: &NodeView| phase(node, view.now);
    let mut columns = vec![
        Column::new("node", false, (8, 24), board.nodes.iter().map(|node| plain(node.label.clone()))),
        number("uid", (3, 5), &|_, node| uid(node).unwrap_or_else(|| "-".to_owned())),
        Column::new("phase", false, (10, 10), board.nodes.iter().map(phase)),
        number("loss", (6, 9), &|_, node| decimals(status(node).and_then(|s| s.held_out_loss), 3)),
        Column::new("trend", false, (TREND, TREND), board.nodes.iter().map(|node| plain(trend(node)))),
        number("score", (5, 9), &|index, _| decimals(board.miner_score(index), 2)),
        number("weight", (6, 9), &|_, node| percent(status(node).and_then(|s| s.weight))),
        number("incentive", (9, 9), &|_, node| decimals(status(node).and_then(|s| s.incentive), 2)),
        number("up", (7, 7), &|_, node| volume(status(node).map(|s| s.uploaded_bytes))),
        number("down", (7, 7), &|_, node| volume(status(node).map(|s| s.downloaded_bytes))),
        Column::new("verdict", false, (10, 16), board.nodes.iter().map(|node| plain(node.latest.clone()))),
    ];
    if board.nodes.iter().any(|node| node.restarts > 0) {
        columns.push(number("restarts", (8, 8), &|_, node| node.restarts.to_string()));
    }
    let message = |node: &NodeView| match node.trouble(view.now) {
        Some(trouble) => (Style::Bad, trouble),
        None => plain(status(node).map(|s| s.message.clone()).unwrap_or_default()),
    };
    columns.push(Column::new("message", false, (MESSAGE, usize::MAX), board.nodes.iter().map(message)));
    columns
}

fn status(node: &NodeView) -> Option<&NodeStatus> {
    node.status.as_ref()
}

/// What a node does; in the colour of that phase of the window.
fn phase(node: &NodeView, now: std::time::Duration) -> (Style, String) {
    if node.trouble(now).is_some() {
        return (Style::Bad, "silent".to_owned());
    }
    let Some(status) = &node.status else { return (Style::Dim, "-".to_owned()) };
    let style = match status.phase {
        Phase::Training => Style::Train,
        Phase::Committing => Style::Commit,
        Phase::Uploading => Style::Upload,
        Phase::Merging | Phase::Scoring => Style::Merge,
        Phase::Failed => Style::Bad,
        Phase::Starting | Phase::Following | Phase::Waiting => Style::Dim,
    };
    (style, status.phase.as_str().to_owned())
}

/// The held-out loss of the last windows, from the lowest to the highest of them.
fn trend(node: &NodeView) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut losses: Vec<f64> =
        node.history.values().rev().filter_map(|record| record.held_out_loss).take(TREND).collect();
    losses.reverse();
    let (low, high) = losses.iter().fold((f64::MAX, f64::MIN), |(low, high), loss| (low.min(*loss), high.max(*loss)));
    let level = |loss: &f64| {
        let share = (loss - low) / (high - low);
        // A loss that stands still has no share: 0 / 0 becomes 0 here.
        LEVELS[((share * LEVELS.len() as f64) as usize).min(LEVELS.len() - 1)]
    };
    losses.iter().map(level).collect()
}
