//! What `up` shows: lines, or on a terminal a table that is drawn anew in its place.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use super::{
    board::Board,
    frame::{self, Heading, Occurrence, View},
    lines,
    node_view::News,
    screen::Screen,
};

/// Time between two frames.
pub const FRAME: Duration = Duration::from_millis(500);

/// Lines until [`Display::begin`], and after it too where there is no terminal.
#[derive(Debug)]
pub struct Display {
    started: Instant,
    terminal: Option<Screen>,
    table: Option<Table>,
}

/// The table and what stands around it.
#[derive(Debug)]
struct Table {
    screen: Screen,
    heading: Heading,
    /// The last events.
    events: Vec<Occurrence>,
}

impl Display {
    /// `plain`: lines, even on a terminal.
    pub fn new(plain: bool, started: Instant) -> Self {
        Self { started, terminal: if plain { None } else { Screen::open() }, table: None }
    }

    /// From now on a table, on a terminal.
    pub fn begin(&mut self, heading: Heading) {
        self.table = self.terminal.take().map(|screen| Table { screen, heading, events: Vec::new() });
    }

    /// A line for people.
    pub fn say(&mut self, line: &str) {
        let Some(table) = &mut self.table else { return print(line) };
        table.events.push(Occurrence { at: self.started.elapsed(), line: line.to_owned() });
        let older = table.events.len().saturating_sub(frame::EVENTS);
        table.events.drain(..older);
    }

    /// What is new of nodes. The table shows windows by itself.
    pub fn news(&mut self, board: &Board, news: impl IntoIterator<Item = News>) {
        for news in news {
            match news {
                News::Window(_) if self.table.is_some() => {}
                News::Window(line) => print(&line),
                News::Message { label, text } if self.table.is_some() => self.say(&format!("{label}: {text}")),
                News::Message { label, text } => print(&lines::message(&label, board.label_width(), &text)),
            }
        }
    }

    /// Draws the table as things are now.
    pub fn draw(&mut self, board: &Board) {
        let Some(Table { screen, heading, events }) = &mut self.table else { return };
        let size = Screen::size();
        let view = View { board, heading, events, now: self.started.elapsed() };
        screen.draw(&frame::frame(&view, size), size);
    }

    /// Something else wrote to the terminal: the next frame begins below it.
    pub fn resume(&mut self) {
        if let Some(table) = &mut self.table {
            table.screen.forget();
        }
    }

    /// Draws the table for the last time: it stays, and lines follow it.
    pub fn end(&mut self, board: &Board) {
        self.draw(board);
        self.table = None;
    }
}

/// A closed pipe is no reason to stop a network.
fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
