//! The first lines of a frame: where the chain is in the window.

use bistro_api::run::Schedule;

use super::{Heading, View, minutes};
use crate::up::{
    styled::{Line, Style},
    text,
};

/// One phase of a window, in blocks from the window's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    name: &'static str,
    style: Style,
    begin: u64,
    end: u64,
}

/// The four phases: training takes what the others leave.
fn parts(schedule: &Schedule) -> [Part; 4] {
    let lengths = [
        ("train", Style::Train, schedule.train_blocks().unwrap_or_default()),
        ("commit", Style::Commit, schedule.commit_blocks),
        ("upload", Style::Upload, schedule.upload_blocks),
        ("merge", Style::Merge, schedule.merge_blocks),
    ];
    let mut begin = 0;
    lengths.map(|(name, style, blocks)| {
        let part = Part { name, style, begin, end: begin + u64::from(blocks) };
        begin = part.end;
        part
    })
}

/// Window, and blocks of it that are over; `None` until a node knows a block.
fn position(view: &View<'_>) -> Option<(u64, u64)> {
    let block = view.board.block()?;
    let window_blocks = u64::from(view.heading.schedule.window_blocks).max(1);
    Some((block / window_blocks, block % window_blocks))
}

/// Subnet, block, window, phase, and the time since the start; what does not fit goes whole.
pub fn heading(view: &View<'_>, width: usize) -> Line {
    let Heading { subnet, netuid, run, schedule, windows } = view.heading;
    let name = Line::of(Style::Bold, text::plain(subnet));
    let place = name.clone().and(Style::Dim, format!("  netuid {netuid}  run {run}"));
    let clock = |line: Line| now(view, schedule, line);
    let (time, done) = (minutes(view.now), view.board.admitted.len());
    let right = match windows {
        Some(windows) => format!("{done} of {windows} windows  {time}"),
        None => format!("{done} windows  {time}"),
    };
    let left = [place, name.clone()].into_iter().map(clock).find(|line| line.width() <= width);
    let left = left.unwrap_or_else(|| clock(name));
    match width.checked_sub(left.width() + text::width(&right)) {
        Some(free @ 2..) => left.and(Style::Plain, " ".repeat(free)).and(Style::Dim, right),
        _ => left,
    }
}

/// The line with block, window and phase.
fn now(view: &View<'_>, schedule: &Schedule, line: Line) -> Line {
    let Some(((window, offset), block)) = position(view).zip(view.board.block()) else {
        return line.and(Style::Plain, "   waiting for the chain");
    };
    let line = line.and(Style::Plain, format!("   block {block}   window {window}   "));
    match parts(schedule).into_iter().find(|part| offset < part.end) {
        Some(Part { name, style, begin, end }) => {
            let (nth, count) = (offset - begin + 1, end - begin);
            line.and(style, name).and(Style::Plain, format!(": block {nth} of {count}"))
        }
        None => line,
    }
}

/// The window as a bar, and the names of its phases below it.
pub fn bar(view: &View<'_>, width: usize) -> [Line; 2] {
    let schedule = &view.heading.schedule;
    let cells = |blocks: u64| {
        let scaled = blocks.saturating_mul(width as u64) / u64::from(schedule.window_blocks).max(1);
        usize::try_from(scaled).unwrap_or(width).min(width)
    };
    let offset = position(view).map(|(_, offset)| offset);
    let done = offset.map_or(0, |offset| cells(offset + 1));
    let (mut bar, mut names) = (Line::default(), Line::default());
    for Part { name, style, begin, end } in parts(schedule) {
        let (from, to) = (cells(begin), cells(end));
        let full = done.clamp(from, to) - from;
        bar = bar.and(style, "█".repeat(full)).and(Style::Dim, "░".repeat(to - from - full));
        let is_current = offset.is_some_and(|offset| (begin..end).contains(&offset));
        let name = text::clip(name, (to - from).saturating_sub(1));
        let gap = to - from - text::width(&name);
        names = names.and(if is_current { style } else { Style::Dim }, name).and(Style::Plain, " ".repeat(gap));
    }
    [bar, names]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_fill_the_window() {
        let schedule = Schedule {
            window_blocks: 40,
            commit_blocks: 8,
            upload_blocks: 7,
            merge_blocks: 6,
            skew_seconds: 0,
            snapshot_windows: 1,
        };
        let bounds = parts(&schedule).map(|part| (part.name, part.begin, part.end));
        assert_eq!(bounds, [("train", 0, 19), ("commit", 19, 27), ("upload", 27, 34), ("merge", 34, 40)]);
    }
}
