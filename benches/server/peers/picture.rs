//! The picture of the comparison: a bar for each server, as SVG that is readable on light and on dark pages.

use std::fmt::Write;

/// Of the whole picture, and where its columns begin.
const WIDTH: f64 = 760.0;
const BARS: f64 = 230.0;
const LOST: f64 = 650.0;
/// The longest bar, which has its figure behind it.
const LONGEST: f64 = 360.0;
const FIRST: f64 = 56.0;
const STEP: f64 = 28.0;
const HEIGHT: f64 = 16.0;

/// Grey on both; callbridge's bars have a colour of their own.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-weight:600}.peer{fill:#8c959f}.ours{fill:#2f81f7}.lost{fill:#d1242f}\
                     @media(prefers-color-scheme:dark){text{fill:#b1bac4}.lost{fill:#ff7b72}}";

/// One server.
pub(super) struct Bar {
    pub(super) name: &'static str,
    pub(super) cpu_micros: f64,
    /// Callbacks that were answered with 200 and are nowhere, if it was killed.
    pub(super) lost: Option<usize>,
    pub(super) is_ours: bool,
}

/// Draws the bars in their order.
pub(super) fn draw(bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.cpu_micros).fold(1.0, f64::max);
    let height = FIRST + STEP * bars.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>CPU time for one callback, and callbacks lost by kill -9, of callbridge and its peers</title>\n<style>{STYLE}</style>\n"
    );
    text(&mut svg, (BARS, 24.0), "title", "CPU µs a callback, 64 connections");
    text(&mut svg, (LOST, 24.0), "title", "lost by kill -9");
    for (index, bar) in bars.iter().enumerate() {
        let y = FIRST + STEP * index as f64;
        let length = LONGEST * bar.cpu_micros / most;
        let class = if bar.is_ours { "ours" } else { "peer" };
        text(&mut svg, (8.0, y), "name", &bar.name.replace('`', ""));
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{BARS}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{HEIGHT}\" rx=\"2\"/>",
            y - HEIGHT + 3.0
        );
        text(&mut svg, (BARS + length + 6.0, y), "figure", &format!("{:.1}", bar.cpu_micros));
        let class = if bar.lost.is_some_and(|lost| lost > 0) { "lost" } else { "figure" };
        let lost = bar.lost.map_or("–".to_owned(), |lost| lost.to_string());
        text(&mut svg, (LOST, y), class, &lost);
    }
    svg + "</svg>\n"
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>");
}
