//! Text from outside, made fit for a terminal: no control characters, and a width in cells that is known.

use unicode_width::UnicodeWidthChar;

/// Longest text that a node is listened to for, in bytes.
const LONGEST: usize = 1024;

/// The first line, without anything that moves a cursor or hides what stands beside it.
///
/// Control characters become U+FFFD. What takes no cell goes: directions, joiners and variation selectors change what
/// their neighbours look like, and combining marks can be stacked without end.
pub fn plain(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(LONGEST)];
    let line = text.trim().lines().next().unwrap_or_default();
    let shown = |c: char| match c {
        '\t' => Some(' '),
        // Line and paragraph separator: some terminals break the line there.
        '\u{2028}' | '\u{2029}' => Some(char::REPLACEMENT_CHARACTER),
        c if c.is_control() => Some(char::REPLACEMENT_CHARACTER),
        c => (cells(c) > 0).then_some(c),
    };
    line.chars().filter_map(shown).collect()
}

/// Cells that a text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(cells).sum()
}

fn cells(c: char) -> usize {
    c.width().unwrap_or_default()
}

/// The text in at most so many cells; one that is cut ends in `…`.
pub fn clip(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let fits = |c: &char| {
        let fits = cells(*c) <= left;
        left = left.saturating_sub(cells(*c));
        fits
    };
    let kept: String = text.chars().take_while(fits).collect();
    if room == 0 { kept } else { kept + "…" }
}

/// Bytes for people, in at most seven cells: `512 B`, `1.5 kB`, `320 MB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // 999.6 kB would be rounded to 1000 kB.
    while value >= 999.5
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1000.0, next);
    }
    let places = usize::from(unit != "B" && value < 99.95);
    format!("{value:.places$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_commands_a_terminal_is_left() {
        for (text, shown) in [
            ("\x1b[2Jgone\x07", "\u{fffd}[2Jgone\u{fffd}"),
            ("csi \u{9b}31m", "csi \u{fffd}31m"),
            ("one\ttwo\r\nthree", "one two"),
            ("back\rto the start", "back\u{fffd}to the start"),
            ("evil\u{202e}txt", "eviltxt"),
            ("a\u{2028}b", "a\u{fffd}b"),
            ("z\u{300}\u{301}\u{302}", "z"),
            ("größe 大きい", "größe 大きい"),
        ] {
            assert_eq!(plain(text), shown, "{text:?}");
        }
        assert_eq!(plain(&"大".repeat(5000)).len(), LONGEST - 1);
    }

    #[test]
    fn a_wide_character_is_not_cut_in_half() {
        assert_eq!(clip("大きい", 6), "大きい");
        assert_eq!(clip("大きい", 5), "大き…");
        assert_eq!(clip("大きい", 4), "大…");
        assert_eq!(clip("大きい", 1), "…");
        assert_eq!(clip("大きい", 0), "");
    }

    #[test]
    fn bytes_are_rounded_to_three_digits() {
        let shown = [0, 999, 1000, 1549, 99_949, 99_950, 999_499, 999_500, 5_600_000_000, u64::MAX].map(bytes);
        let expected =
            ["0 B", "999 B", "1.0 kB", "1.5 kB", "99.9 kB", "100 kB", "999 kB", "1.0 MB", "5.6 GB", "18.4 EB"];
        assert_eq!(shown, expected);
    }
}
