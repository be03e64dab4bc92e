//! Frames on a terminal: each is one write that takes the place of the one before.
//!
//! No mode of the terminal outlives a write: the cursor is hidden and shown again within it, and neither echo nor line
//! editing is touched. So there is nothing to restore, whatever ends this program and whenever.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use super::{frame::Size, styled::Line};

/// Where a terminal does not say how large it is.
const USUAL: Size = Size { width: 80, height: 24 };

/// A terminal, and what stands on it.
#[derive(Debug)]
pub struct Screen {
    /// Cells of each line of the last frame.
    drawn: Vec<usize>,
    colours: bool,
}

impl Screen {
    /// The terminal of standard output; `None` where that is no terminal, or one that cannot move its cursor.
    pub fn open() -> Option<Self> {
        let able = env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        // https://no-color.org
        let colours = env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        (io::stdout().is_terminal() && able).then_some(Self { drawn: Vec::new(), colours })
    }

    /// Its size now: asked anew for each frame, so that a resize needs no signal.
    pub fn size() -> Size {
        match terminal_size::terminal_size_of(io::stdout()) {
            Some((terminal_size::Width(width), terminal_size::Height(height))) if width > 0 && height > 0 => {
                Size { width: width.into(), height: height.into() }
            }
            _ => USUAL,
        }
    }

    /// What stands there is no longer the last frame: the next one begins below it.
    pub fn forget(&mut self) {
        self.drawn.clear();
    }

    /// Puts a frame in the place of the last one. A terminal that is gone is no reason to stop a network.
    pub fn draw(&mut self, lines: &[Line], size: Size) {
        let text = paint(&self.drawn, lines, size, self.colours);
        self.drawn = lines.iter().map(Line::width).collect();
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// What puts `lines` in the place of lines of these widths, with the cursor below the last of them.
fn paint(drawn: &[usize], lines: &[Line], size: Size, colours: bool) -> String {
    // Terminals break lines anew when they become narrower; what went over the top is out of reach.
    let rows: usize = drawn.iter().map(|width| width.div_ceil(size.width.max(1)).max(1)).sum();
    let up = rows.min(size.height.saturating_sub(1));
    // Show it all at once (mode 2026, where it is known), without the cursor.
    let mut text = "\x1b[?2026h\x1b[?25l\r".to_owned();
    if up > 0 {
        text += &format!("\x1b[{up}A");
    }
    for line in lines {
        let shown = if colours { line.coloured() } else { line.text() };
        // What stood behind it goes. After a full line the cursor is still on its last cell, which would go too.
        let rest = if line.width() < size.width { "\x1b[K" } else { "" };
        text += &format!("{shown}{rest}\r\n");
    }
    text + "\x1b[J\x1b[?25h\x1b[?2026l"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::styled::Style;

    const SMALL: Size = Size { width: 10, height: 6 };

    fn screen(texts: &[String], size: Size) -> String {
        let rows = u16::try_from(size.height).expect("small");
        let mut terminal = vt100::Parser::new(rows, u16::try_from(size.width).expect("small"), 0);
        texts.iter().for_each(|text| terminal.process(text.as_bytes()));
        assert!(!terminal.screen().hide_cursor());
        terminal.screen().contents()
    }

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| Line::of(Style::Train, *text)).collect()
    }

    #[test]
    fn a_frame_takes_the_place_of_the_one_before_and_of_nothing_else() {
        let first = paint(&[], &lines(&["aaaaaaaaaa", "bbbb", "cc"]), SMALL, true);
        let second = paint(&[10, 4, 2], &lines(&["aaaaaaaaa", "0123456789"]), SMALL, true);
        assert_eq!(screen(&["before\r\n".to_owned(), first, second], SMALL), "before\naaaaaaaaa\n0123456789");
    }

    #[test]
    fn lines_that_a_narrower_terminal_broke_are_taken_back() {
        // As a terminal of 10 cells shows lines of 15.
        let broken = "before\r\n0123456789\r\n01234\r\n";
        let frame = paint(&[15], &lines(&["short"]), SMALL, false);
        assert_eq!(screen(&[broken.to_owned(), frame], SMALL), "before\nshort");
    }

    #[test]
    fn a_frame_is_whole_again_whenever_the_terminal_became_narrow() {
        const WIDE: Size = Size { width: 20, height: 12 };
        let wide = lines(&["one, which is as big", "two, wide too", "three"]);
        let narrow = lines(&["one, which", "two, wide", "three"]);
        let first = paint(&[], &wide, WIDE, false);
        // Asked for its size before it became narrow, and after.
        for (second, drawn) in [
            (paint(&[20, 13, 5], &wide, WIDE, false), [20, 13, 5]),
            (paint(&[20, 13, 5], &narrow, SMALL, false), [10, 9, 5]),
        ] {
            let third = paint(&drawn, &narrow, SMALL, false);
            for at in 0..=second.len() {
                let mut terminal = vt100::Parser::new(12, 20, 0);
                terminal.process(first.as_bytes());
                terminal.process(&second.as_bytes()[..at]);
                terminal.screen_mut().set_size(12, 10);
                terminal.process(&second.as_bytes()[at..]);
                terminal.process(third.as_bytes());
                let rows: Vec<_> = terminal.screen().rows(0, 10).filter(|row| !row.is_empty()).collect();
                assert_eq!(rows, ["one, which", "two, wide", "three"], "narrow after {at} bytes");
            }
        }
    }

    #[test]
    fn every_write_leaves_the_terminal_as_it_was() {
        let text = paint(&[], &lines(&["a"]), SMALL, true);
        assert!(text.ends_with("\x1b[?25h\x1b[?2026l"));
        assert!(!paint(&[], &lines(&["a"]), SMALL, false).contains('m'), "no colours where none are wanted");
    }
}
