//! Plots as SVG, readable on light and on dark pages: one grey for text and lines that stands out from both.

use std::fmt::Write;

const WIDTH: usize = 720;
const LABELS: usize = 150;
const ROW: usize = 20;
const TEXT: &str = "#8b949e";

/// One bar.
pub struct Bar {
    /// Beside it, on the left.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// Its colour.
    pub colour: &'static str,
}

/// Horizontal bars with their values, and a dashed line at `bound`. Values above `most` are cut off there; the number says
/// what they are.
pub fn bars(title: &str, bars: &[Bar], bound: f64, most: f64) -> String {
    let height = 50 + ROW * bars.len();
    let scale = (WIDTH - LABELS - 70) as f64 / most;
    let x = |value: f64| LABELS as f64 + value.clamp(0.0, most) * scale;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"{TEXT}\">\n\
         <title>{title}</title>\n<text x=\"8\" y=\"18\" font-size=\"14\">{title}</text>\n"
    );
    for (number, Bar { label, value, colour }) in bars.iter().enumerate() {
        let (top, end) = (32 + ROW * number, x(*value));
        // Numbers stand behind the dashed line, which must not cross them. Writing to a text never fails.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text><rect x=\"{LABELS}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{value:.3}</text>",
            LABELS - 8,
            top + 13,
            top + 2,
            (end - LABELS as f64).max(1.0),
            ROW - 6,
            end.max(x(bound)) + 6.0,
            top + 13,
        );
    }
    let (at, bottom) = (x(bound), 32 + ROW * bars.len());
    let _ = writeln!(
        svg,
        "<path d=\"M{at:.1} 28V{bottom}\" stroke=\"{TEXT}\" stroke-dasharray=\"4 3\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{bound}</text>\n</svg>",
        bottom + 14
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_every_bar_and_stays_within_its_frame() {
        let bar = |label: &str, value| Bar { label: label.into(), value, colour: "#2da44e" };
        let svg = bars("shares", &[bar("one", 0.5), bar("two", 9.0), bar("three", -1.0)], 0.05, 1.5);
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains(">9.000<") && svg.contains("width=\"500.0\"") && svg.contains("width=\"1.0\""));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
