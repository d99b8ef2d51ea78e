//! A bar for each server, as SVG. Drawn by hand: a dozen rectangles need no crate.

use std::fmt::Write;

use crate::load::Load;
use crate::report::{number, title};
use crate::run::Results;
use crate::servers::SERVERS;

const WIDTH: f64 = 720.0;
const ROW: f64 = 24.0;
const TOP: f64 = 48.0;
/// Where the bars begin, and how long the longest is.
const LEFT: f64 = 150.0;
const LONGEST: f64 = 470.0;

/// The picture of one load, if anything was measured: the figure that counts, ours in colour.
pub fn draw(load: Load, results: &Results) -> Option<String> {
    let figure = load.figure();
    let mut bars: Vec<_> = SERVERS
        .iter()
        .filter_map(|server| Some((server, results.of(load, server.name)?.median(figure)?)))
        .collect();
    bars.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    if figure.less_is_better() {
        bars.reverse();
    }
    let most = bars.iter().map(|(_, value)| *value).fold(f64::NAN, f64::max);
    if most.is_nan() || most <= 0.0 {
        return None;
    }
    let height = TOP + ROW * bars.len() as f64 + 8.0;
    let better = if figure.less_is_better() { "less" } else { "more" };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"28\" font-size=\"16\">{load}: {}, {better} is better</text>\n",
        title(figure, load),
    );
    for (row, (server, value)) in bars.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let length = (value / most).max(0.0) * LONGEST;
        let colour = if server.is_ours() { "#c4561b" } else { "#8a9aa8" };
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LEFT - 8.0,
            y + 14.0,
            server.name,
            LEFT + length + 6.0,
            y + 14.0,
            number(*value),
        );
    }
    text.push_str("</svg>\n");
    Some(text)
}
