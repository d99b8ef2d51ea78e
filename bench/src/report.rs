//! The results as text: a line for each measurement during the run, and the tables in Markdown at the end.

use std::fmt::Write;
use std::fs;

use crate::figures::{Figure, Figures, interval, median};
use crate::gates::{GATES, Gate, Verdict, baseline};
use crate::load::Load;
use crate::process::Trouble;
use crate::run::{Options, Results, Samples};
use crate::servers::SERVERS;

const COLUMNS: [Figure; 9] = [
    Figure::Rate,
    Figure::Cpu,
    Figure::P50,
    Figure::P99,
    Figure::P999,
    Figure::Lost,
    Figure::Pss,
    Figure::Kernel,
    Figure::Threads,
];

/// The title of a column.
pub fn title(figure: Figure, load: Load) -> String {
    let operations = load.operations();
    match figure {
        Figure::Rate => format!("{operations}/s"),
        Figure::Cpu => "CPU us each".to_owned(),
        Figure::P50 => "p50 us".to_owned(),
        Figure::P99 => "p99 us".to_owned(),
        Figure::P999 => "p99.9 us".to_owned(),
        Figure::Lost => "lost per million".to_owned(),
        Figure::Pss => "KiB PSS each".to_owned(),
        Figure::Kernel => "KiB kernel each".to_owned(),
        Figure::Threads => "threads".to_owned(),
    }
}

/// A number with its significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..1_000.0 => format!("{value:.1}"),
        _ => thousands(value.round() as i64),
    }
}

fn thousands(value: i64) -> String {
    let digits = value.abs().to_string();
    let mut text = String::from(if value < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One measurement in a line.
pub fn short(load: Load, figures: &Figures) -> String {
    let text =
        |(&figure, &value): (&Figure, &f64)| format!("{} {}", number(value), title(figure, load));
    figures.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Why there is no figure.
pub fn trouble(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Skipped(why) => format!("skipped: {why}"),
        Trouble::Failed(why) => format!("FAILED: {why}"),
    }
}

/// The machine, and its load before the run.
pub fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()))
        .unwrap_or_else(|| "processor unknown".to_owned());
    let processors = crate::sys::processors().map_or(0, |processors| processors.len());
    let release = read("/proc/sys/kernel/osrelease");
    let version = release.split(['-', '\n']).next().unwrap_or_default();
    let average = read("/proc/loadavg");
    let average = average.split(' ').next().unwrap_or_default();
    format!("{model}, {processors} processors, Linux {version}, load average before {average}")
}

/// The whole report.
pub fn write(options: &Options, machine: &str, results: &Results) -> String {
    let mut text = String::from("# Results\n\n");
    let place = match options.unpinned {
        true => "servers and load on all processors",
        false => "servers on one processor, load on another",
    };
    let (rounds, seconds) = (options.rounds, options.seconds);
    let _ = writeln!(
        text,
        "{machine}; {place}; medians of {rounds} rounds of {seconds} s. The [README](README.md) explains \
         the columns, and what they cannot tell. Ratios are medians of the ratios within a round.\n"
    );
    write_gates(&mut text, results);
    for &load in &results.loads {
        write_load(&mut text, load, results);
    }
    write_troubles(&mut text, results);
    text
}

fn write_load(text: &mut String, load: Load, results: &Results) {
    let base = baseline(load);
    let rows: Vec<_> = SERVERS
        .iter()
        .filter_map(|server| Some((server, results.of(load, server.name)?)))
        .collect();
    if rows.is_empty() {
        return;
    }
    let has = |figure: &Figure| rows.iter().any(|(_, samples)| samples.median(*figure).is_some());
    let columns: Vec<_> = COLUMNS.into_iter().filter(has).collect();
    let main = load.figure();
    let _ = writeln!(text, "## {load}\n");
    let titles = columns.iter().map(|&figure| match figure == main {
        true => format!("**{}** | of {base}", title(figure, load)),
        false => title(figure, load),
    });
    let _ = writeln!(text, "| server | {} |", titles.collect::<Vec<_>>().join(" | "));
    let _ = writeln!(text, "|---|{}", "--:|".repeat(columns.len() + 1));
    for (server, samples) in rows {
        let cell = |&figure: &Figure| {
            let value = samples.median(figure).map_or_else(String::new, number);
            match figure == main {
                true => format!("{value} | {}", ratio(samples, results.of(load, base), main)),
                false => value,
            }
        };
        let name =
            if server.is_ours() { format!("**{}**", server.name) } else { server.name.into() };
        let cells: Vec<_> = columns.iter().map(cell).collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text.push('\n');
}

fn ratio(samples: &Samples, base: Option<&Samples>, figure: Figure) -> String {
    base.and_then(|base| median(samples.ratios(base, figure)))
        .map_or_else(String::new, |it| format!("{it:.2}"))
}

fn write_gates(text: &mut String, results: &Results) {
    let _ = writeln!(text, "## Gates\n");
    let mut rows = String::new();
    for gate in GATES.iter().filter(|gate| results.loads.contains(&gate.load)) {
        if let Some((value, interval)) = measured(gate, results) {
            write_gate(&mut rows, gate, value, interval);
        }
    }
    if rows.is_empty() {
        let _ = writeln!(text, "None of them was measured.\n");
        return;
    }
    let _ = writeln!(
        text,
        "| load | ours | against | figure | measured | 95 % between | gate | goal | holds |\n\
         |---|---|---|---|--:|--:|--:|--:|---|\n{rows}"
    );
}

/// The ratio that a gate is about, or the figure, and its confidence interval. `None` if a figure was not measured.
fn measured(gate: &Gate, results: &Results) -> Option<(f64, (f64, f64))> {
    let samples = results.of(gate.load, gate.ours)?;
    let values = match gate.against.peer() {
        Some(peer) => samples.ratios(results.of(gate.load, peer)?, gate.figure),
        None => samples.values(gate.figure),
    };
    Some((median(values.clone())?, interval(values)?))
}

fn write_gate(rows: &mut String, gate: &Gate, value: f64, (low, high): (f64, f64)) {
    let against = gate.against.peer().unwrap_or_default();
    let verdict = match gate.verdict(value) {
        Verdict::Goal => "goal",
        Verdict::Gate => "gate",
        Verdict::Neither => "**no**",
    };
    let sign = if gate.figure.less_is_better() { "≤" } else { "≥" };
    let _ = writeln!(
        rows,
        "| {} | {} | {against} | {} | {value:.2} | {low:.2} to {high:.2} | {sign} {:.2} | {sign} {:.2} | {verdict} |",
        gate.load,
        gate.ours,
        title(gate.figure, gate.load),
        gate.gate,
        gate.goal,
    );
}

/// Writes the measurements that have no figure in some round. The loads that a server lacks for one reason share a row.
fn write_troubles(text: &mut String, results: &Results) {
    let mut rows: Vec<(&str, String, Vec<String>)> = Vec::new();
    for (load, server, why) in &results.troubles {
        let why = trouble(why).replace('|', "/");
        match rows.iter_mut().find(|row| row.0 == *server && row.1 == why) {
            Some(row) => row.2.push(load.to_string()),
            None => rows.push((server, why, vec![load.to_string()])),
        }
    }
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "## Not measured\n\n| server | why | loads |\n|---|---|---|");
    for (server, why, loads) in rows {
        let _ = writeln!(text, "| {server} | {why} | {} |", loads.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        let numbers = [0.123, 9.876, 12.34, 1_234.5, 1_234_567.0].map(number);
        assert_eq!(numbers, ["0.12", "9.88", "12.3", "1,235", "1,234,567"]);
    }
}
