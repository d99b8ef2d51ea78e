//! A bar for each server, as SVG. Drawn by hand: a dozen rectangles need no crate.

use std::fmt::Write;

use crate::figures::Figure;
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

/// The picture of one load, if anything was measured: its most important figure, with our servers in colour.
pub fn draw(load: Load, results: &Results) -> Option<String> {
    let figure = load.figure();
    let servers = SERVERS.iter().map(|server| (server.name, server.name));
    let heading = format!("{load}: {}", title(figure, load));
    let panel = Panel::new(load, figure, &heading, servers, results)?;
    Some(picture(&[panel]))
}

/// The picture of README's first page: the same handler in coroutines beside a task, a goroutine and a thread for each
/// connection. A peer that was not measured is left out; without Green there is no picture.
pub fn draw_overview(results: &Results) -> Option<String> {
    const SERVERS: [(&str, &str); 4] =
        [("Green", "Green"), ("tokio", "tokio"), ("Go", "Go"), ("std threads", "threads (std)")];
    let thousand = Load::Pingpong(1_000);
    let panels = [
        (thousand, Figure::Rate, "requests per second, 1,000 connections"),
        (thousand, Figure::Cpu, "processor time for each request, in microseconds"),
        (Load::Idle(10_000), Figure::Pss, "memory for each idle connection, in KiB"),
    ];
    let panels = panels.into_iter().map(|(load, figure, heading)| {
        Panel::new(load, figure, heading, SERVERS.into_iter(), results)
            .filter(|panel| panel.bars.iter().any(|bar| bar.is_ours))
    });
    Some(picture(&panels.collect::<Option<Vec<_>>>()?))
}

/// The bars of one figure, the best first.
struct Panel {
    heading: String,
    bars: Vec<Bar>,
}

struct Bar {
    name: &'static str,
    is_ours: bool,
    value: f64,
}

impl Panel {
    /// A panel of these servers, each with the name that it is shown by. `None` if there is nothing to show.
    fn new(
        load: Load,
        figure: Figure,
        heading: &str,
        servers: impl Iterator<Item = (&'static str, &'static str)>,
        results: &Results,
    ) -> Option<Self> {
        let is_ours = |name| SERVERS.iter().any(|server| server.name == name && server.is_ours());
        let bar = |(server, name)| {
            let value = results.of(load, server)?.median(figure)?;
            Some(Bar { name, is_ours: is_ours(server), value })
        };
        let mut bars: Vec<_> = servers.filter_map(bar).collect();
        bars.sort_by(|one, other| other.value.total_cmp(&one.value));
        if figure.less_is_better() {
            bars.reverse();
        }
        let better = if figure.less_is_better() { "less" } else { "more" };
        let panel = Self { heading: format!("{heading}, {better} is better"), bars };
        (panel.most() > 0.0).then_some(panel)
    }

    fn most(&self) -> f64 {
        self.bars.iter().map(|bar| bar.value).fold(0.0, f64::max)
    }

    fn height(&self) -> f64 {
        TOP + ROW * self.bars.len() as f64
    }

    fn draw(&self, top: f64, text: &mut String) {
        let heading = &self.heading;
        let _ =
            writeln!(text, "<text x=\"8\" y=\"{}\" font-size=\"16\">{heading}</text>", top + 28.0);
        for (row, bar) in self.bars.iter().enumerate() {
            let y = top + TOP + ROW * row as f64;
            let length = bar.value / self.most() * LONGEST;
            let colour = if bar.is_ours { "#c4561b" } else { "#8a9aa8" };
            let _ = writeln!(
                text,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                LEFT - 8.0,
                y + 14.0,
                bar.name,
                LEFT + length + 6.0,
                y + 14.0,
                number(bar.value),
            );
        }
    }
}

/// Panels below each other.
fn picture(panels: &[Panel]) -> String {
    let height = panels.iter().map(Panel::height).sum::<f64>() + 8.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut top = 0.0;
    for panel in panels {
        panel.draw(top, &mut text);
        top += panel.height();
    }
    text.push_str("</svg>\n");
    text
}
