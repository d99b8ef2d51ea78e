//! The panel: the figures of a program on one screen, made of the lines of `status`.

use super::client::{Reply, table};

/// The figures that a program has reported. Lines that only a newer version of the program writes are left out.
#[derive(Default)]
pub(super) struct Panel {
    program: String,
    pub(super) process: String,
    took_over: bool,
    /// The process that has taken the place of `process`.
    pub(super) successor: Option<String>,
    uptime: f64,
    log: String,
    servers: Vec<Server>,
}

#[derive(Default)]
struct Server {
    number: String,
    address: String,
    state: String,
    phase: String,
    live: String,
    activities: Vec<(String, String)>,
    per_second: Vec<String>,
    /// Busy workers, idle workers, and requests that wait for one.
    workers: Vec<String>,
    counts: Vec<(String, u64)>,
    uses: Vec<Use>,
    slow: Vec<Vec<String>>,
}

struct Use {
    limit: String,
    used: f64,
    max: f64,
    by: String,
}

/// How a line is shown on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Bold,
    Reversed,
    /// A limit is nearly reached, or a server is not in its usual state.
    Alarm,
}

/// A line of the panel.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) tone: Tone,
    pub(super) text: String,
}

impl Line {
    fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }
}

/// A limit of which this share is used is shown as an alarm.
const NEAR: f64 = crate::status::NEAR;

/// How many limits of a server are shown: those that are used most. More are shown if more are nearly reached.
const USES: usize = 4;

/// The width of a bar.
const BAR: usize = 20;

impl Panel {
    /// Reads the answer to `status`.
    pub(super) fn read(reply: &Reply) -> Self {
        let mut panel = Self::default();
        for line in &reply.lines {
            let values: Vec<&str> = line.split('\t').collect();
            match values[..] {
                ["program", name, process] => {
                    (panel.program, panel.process) = (name.to_owned(), process.to_owned());
                }
                ["took_over"] => panel.took_over = true,
                ["successor", process] => panel.successor = Some(process.to_owned()),
                ["uptime", seconds] => panel.uptime = seconds.parse().unwrap_or_default(),
                ["log", level] => level.clone_into(&mut panel.log),
                ["server", number, address, state] => panel.servers.push(Server {
                    number: number.to_owned(),
                    address: address.to_owned(),
                    state: state.to_owned(),
                    ..Server::default()
                }),
                _ => {
                    if let Some(server) = panel.servers.last_mut() {
                        server.read(&values);
                    }
                }
            }
        }
        panel
    }

    /// The panel in at most `height` lines. The table of the slowest requests gets the lines that are left.
    pub(super) fn lines(&self, height: usize) -> Vec<Line> {
        let (program, process) = (&self.program, &self.process);
        let before = if self.took_over { ", after another one" } else { "" };
        let head = format!(
            "{program}   process {process}{before}   up {}   log {}",
            time(self.uptime),
            self.log
        );
        let mut lines = vec![Line::new(Tone::Bold, head)];
        if let Some(successor) = &self.successor {
            let text = format!("process {successor} has taken its place");
            lines.push(Line::new(Tone::Alarm, text));
        }
        for server in &self.servers {
            lines.push(Line::new(Tone::Plain, ""));
            server.write_lines(&mut lines);
        }
        lines.push(Line::new(Tone::Plain, ""));
        let left = height.saturating_sub(lines.len());
        lines.extend(self.slowest(left));
        lines.truncate(height);
        lines
    }

    fn slowest(&self, height: usize) -> Vec<Line> {
        let several = self.servers.len() > 1;
        let mut rows: Vec<(bool, f64, Vec<String>)> = Vec::new();
        for server in &self.servers {
            for row in &server.slow {
                let age = row.get(2).and_then(|age| age.parse().ok()).unwrap_or(0.0);
                let is_idle = row.get(3).is_some_and(|activity| activity == "idle");
                let mut row = row.clone();
                if several {
                    row[0] = format!("{}:{}", server.number, row[0]);
                }
                if let Some(text) = row.get_mut(2) {
                    *text = time(age);
                }
                rows.push((is_idle, age, row));
            }
        }
        if rows.is_empty() {
            return vec![Line::new(Tone::Plain, "no request is alive")];
        }
        rows.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
        rows.truncate(height.saturating_sub(1));
        let names = ["ID", "SLOWEST", "AGE", "ACTIVITY", "IN", "OUT", "HANDLER"];
        let names = names.map(str::to_owned).to_vec();
        let rows: Vec<_> =
            std::iter::once(names).chain(rows.into_iter().map(|row| row.2)).collect();
        let tones = std::iter::once(Tone::Reversed).chain(std::iter::repeat(Tone::Plain));
        table(&rows).into_iter().zip(tones).map(|(text, tone)| Line::new(tone, text)).collect()
    }
}

impl Server {
    fn read(&mut self, values: &[&str]) {
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        match *values {
            ["phase", phase] => phase.clone_into(&mut self.phase),
            ["live", live] => live.clone_into(&mut self.live),
            ["activity", name, count] => self.activities.push((name.to_owned(), count.to_owned())),
            ["per_second", ..] => self.per_second = owned(&values[1..]),
            ["workers", ..] => self.workers = owned(&values[1..]),
            ["count", name, count] => {
                self.counts.push((name.to_owned(), count.parse().unwrap_or_default()));
            }
            ["use", limit, used, max, by] => {
                let number = |text: &str| text.parse().unwrap_or_default();
                let (limit, by) = (limit.to_owned(), by.to_owned());
                self.uses.push(Use { limit, used: number(used), max: number(max), by });
            }
            ["slow", ..] => self.slow.push(owned(&values[1..])),
            _ => {}
        }
    }

    fn write_lines(&self, lines: &mut Vec<Line>) {
        let at = |values: &[String], place: usize| values.get(place).cloned().unwrap_or_default();
        let rate = |place| at(&self.per_second, place);
        let (address, state) = (&self.address, &self.state);
        // While the server serves, its phase adds nothing to its state.
        let phase = match &*self.phase {
            "" | "ready" => String::new(),
            phase => format!(": {phase}"),
        };
        let tone = if state == "serving" && phase.is_empty() { Tone::Bold } else { Tone::Alarm };
        let head = format!(
            "{address}   {state}{phase}   {} accepted/s   {} ended/s   {} failed/s",
            rate(0),
            rate(1),
            rate(2)
        );
        lines.push(Line::new(tone, head));
        let activities = self.activities.iter().map(|(name, count)| format!("{name} {count}"));
        let activities = activities.collect::<Vec<_>>().join("   ");
        lines.push(Line::new(Tone::Plain, format!("  live {}:   {activities}", self.live)));
        let workers = |place| at(&self.workers, place);
        let text = format!(
            "  workers: busy {}   idle {}   waiting for one {}",
            workers(0),
            workers(1),
            workers(2)
        );
        lines.push(Line::new(Tone::Plain, text));
        let mut uses: Vec<&Use> = self.uses.iter().collect();
        uses.sort_by(|a, b| b.part().total_cmp(&a.part()));
        let near = uses.iter().filter(|used| used.part() >= NEAR).count();
        uses.truncate(near.max(USES));
        lines.extend(uses.into_iter().map(Use::line));
        // Counts of zero are left out.
        let counts = self.counts.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = counts.map(|(name, count)| format!("{name} {count}")).collect();
        if !counts.is_empty() {
            lines.push(Line::new(Tone::Plain, format!("  {}", counts.join("   "))));
        }
    }
}

impl Use {
    fn part(&self) -> f64 {
        if self.max > 0.0 { self.used / self.max } else { 0.0 }
    }

    fn line(&self) -> Line {
        let Self { limit, used, max, by } = self;
        let part = self.part();
        // Any part shows one block at least, and only the whole shows a full bar.
        let filled = (part.clamp(0.0, 1.0) * BAR as f64).floor() as usize;
        let filled = if *used > 0.0 { filled.max(1) } else { 0 };
        let bar = "#".repeat(filled) + &".".repeat(BAR - filled);
        let tone = if part >= NEAR { Tone::Alarm } else { Tone::Plain };
        let text =
            format!("  {limit:<14} [{bar}] {:>3.0} %   {used} of {max}   {by}", part * 100.0);
        Line::new(tone, text.trim_end())
    }
}

/// A time as a person reads it: `0.3 s`, `5 min`, `3.2 h`, `12 d`.
fn time(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(lines: &[&str]) -> Panel {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Panel::read(&Reply { lines, note: String::new(), error: None })
    }

    const LINES: [&str; 12] = [
        "program\techo\t17",
        "uptime\t7300.0",
        "log\tnormal",
        "server\t1\t127.0.0.1:9\tserving",
        "live\t9",
        "activity\trunning\t9",
        "per_second\t1.0\t2.0\t3.0\t5.0",
        "count\taccepted\t12",
        "count\tfailed\t0",
        "use\tlive\t9\t10\t",
        "slow\t7\t192.0.2.1:1\t3000.0\tidle\t1\t2\tEcho",
        "slow\t8\t192.0.2.1:2\t1.5\trunning\t1\t2\tEcho",
    ];

    #[test]
    fn it_has_what_an_operator_looks_for() {
        let lines = panel(&LINES).lines(24);
        let text: Vec<&str> = lines.iter().map(|line| &*line.text).collect();
        assert_eq!(text[0], "echo   process 17   up 2.0 h   log normal");
        assert!(text[2].contains("serving   1.0 accepted/s   2.0 ended/s   3.0 failed/s"));
        assert!(text.contains(&"  accepted 12"), "counts of nothing are left out: {text:#?}");
        let near = lines.iter().find(|line| line.text.contains("live ")).unwrap();
        assert_eq!(near.tone, Tone::Plain);
        let near = lines.iter().find(|line| line.text.contains("[##################..]  90 %"));
        assert_eq!(near.unwrap().tone, Tone::Alarm);
        let slow: Vec<_> = text.iter().filter(|line| line.contains("192.0.2.1")).collect();
        assert!(slow[0].contains(":2  1.5 s   running"), "the idle one is below: {slow:?}");
        assert!(slow[1].contains(":1  50 min  idle"), "{slow:?}");
    }

    #[test]
    fn it_fits_and_needs_nothing() {
        for height in 0..30 {
            assert!(panel(&LINES).lines(height).len() <= height);
            assert!(panel(&[]).lines(height).len() <= height);
        }
        let odd =
            ["slow\t1", "server\t1", "server\t1\ta\tb", "slow", "slow\t1", "use\tx\ty\tz\t", "?"];
        assert!(panel(&odd).lines(24).len() > 3);
    }
}
