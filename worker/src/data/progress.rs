//! How far a run is: one line that is drawn again on a terminal, else a line of the log every few seconds.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::{Duration, Instant},
};

use super::Prepared;

/// How often the line is drawn.
const DRAW: Duration = Duration::from_millis(200);
/// How often a line is logged.
const LOG: Duration = Duration::from_secs(5);

/// Shows how far a run is.
pub struct Progress {
    /// Bytes of all files.
    total: u64,
    started: Instant,
    shown: Option<Instant>,
    /// Bytes that were read before this run, and how many when it was shown first.
    first: Option<u64>,
    terminal: bool,
}

impl Progress {
    /// For files of so many bytes.
    pub fn new(total: u64) -> Self {
        Self { total, started: Instant::now(), shown: None, first: None, terminal: io::stderr().is_terminal() }
    }

    /// Shows it, if it is time to.
    pub fn show(&mut self, made: &Prepared, read: u64) {
        let read = read.min(self.total);
        let first = *self.first.get_or_insert(read);
        let every = if self.terminal { DRAW } else { LOG };
        if self.shown.unwrap_or(self.started).elapsed() < every && made.digest.is_empty() {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line(made, read, self.total, read - first, self.started.elapsed());
        if self.terminal {
            let end = if made.digest.is_empty() { "" } else { "\n" };
            // Nobody is told that a terminal is gone.
            let _ = write!(io::stderr(), "\r\x1b[K{line}{end}");
        } else {
            tracing::info!("{line}");
        }
    }

    /// Leaves the line as it is and goes on below it.
    pub fn end(&self) {
        if self.terminal && self.shown.is_some() {
            let _ = writeln!(io::stderr());
        }
    }
}

/// `new` bytes were read in `time`.
fn line(made: &Prepared, read: u64, total: u64, new: u64, time: Duration) -> String {
    let Prepared { documents, tokens, shards, skipped, .. } = made;
    let rate = new as f64 / time.as_secs_f64().max(1e-3);
    let percent = 100 * u128::from(read) / u128::from(total.max(1));
    let mut line = format!(
        "{percent:3}%  {} of {}  {documents} documents  {tokens} tokens  {shards} shards  {}/s",
        size(read),
        size(total),
        size(rate as u64)
    );
    if *skipped > 0 {
        // Writing to a string cannot fail.
        let _ = write!(line, "  {skipped} skipped");
    }
    if made.digest.is_empty() && new > 0 {
        let left = ((total - read) as f64 / rate) as u64;
        let _ = write!(line, "  {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60);
    }
    line
}

fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let made = Prepared { documents: 12, tokens: 3456, shards: 1, ..Prepared::default() };
        let half = line(&made, 5 << 20, 10 << 20, 4 << 20, Duration::from_secs(2));
        assert_eq!(half, " 50%  5.0 MB of 10.0 MB  12 documents  3456 tokens  1 shards  2.0 MB/s  0:00:02 left");
        let done = Prepared { digest: "d".into(), skipped: 1, ..made };
        let end = line(&done, 0, 0, 0, Duration::ZERO);
        assert_eq!(end, "  0%  0 B of 0 B  12 documents  3456 tokens  1 shards  0 B/s  1 skipped");
    }
}
