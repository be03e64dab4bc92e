//! Lines in colour: spans of text that a terminal shows in one way, and their width in cells.

use super::text;

/// How a span looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// As the terminal has it.
    #[default]
    Plain,
    /// A title, and where the window is.
    Bold,
    /// What is no news.
    Dim,
    /// What needs somebody.
    Bad,
    /// The phases of a window.
    Train,
    Commit,
    Upload,
    Merge,
}

impl Style {
    /// Parameters of SGR (ECMA-48, 8.3.117), from the eight colours that every terminal has.
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "0",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Bad => "31",
            Style::Train => "32",
            Style::Commit => "33",
            Style::Upload => "36",
            Style::Merge => "35",
        }
    }
}

/// One line of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Style, String)>);

impl Line {
    /// A line of one span.
    pub fn of(style: Style, text: impl Into<String>) -> Self {
        Self(vec![(style, text.into())])
    }

    /// The line with a span more.
    pub fn and(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    /// Cells that it takes.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text::width(text)).sum()
    }

    /// The line in at most so many cells.
    pub fn clip(self, room: usize) -> Self {
        let mut left = room;
        let clipped = self.0.into_iter().map(|(style, text)| {
            let text = text::clip(&text, left);
            left -= text::width(&text);
            (style, text)
        });
        Self(clipped.filter(|(_, text)| !text.is_empty()).collect())
    }

    /// The line without spaces at its end: a terminal that becomes narrower would break it for them.
    pub fn trimmed(mut self) -> Self {
        while let Some((_, text)) = self.0.last_mut() {
            text.truncate(text.trim_end().len());
            if !text.is_empty() {
                break;
            }
            self.0.pop();
        }
        self
    }

    /// Its text without colours.
    pub fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Its text with the escape sequences of its colours.
    pub fn coloured(&self) -> String {
        let span = |(style, text): &(Style, String)| match style {
            Style::Plain => text.clone(),
            style => format!("\x1b[{}m{text}\x1b[0m", style.code()),
        };
        self.0.iter().map(span).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clipped_line_keeps_its_colours_and_its_width() {
        let line = Line::of(Style::Bold, "alps").and(Style::Plain, "  ").and(Style::Bad, "大きい");
        assert_eq!(line.width(), 12);
        let clipped = line.clone().clip(9);
        assert_eq!((clipped.width(), clipped.text()), (9, "alps  大…".to_owned()));
        assert_eq!(clipped.coloured(), "\x1b[1malps\x1b[0m  \x1b[31m大…\x1b[0m");
        assert_eq!(line.clone().clip(4).text(), "alps");
        assert_eq!(line.clone().clip(6).trimmed(), Line::of(Style::Bold, "alps"));
        assert_eq!(line.clip(0), Line::default());
    }
}
