//! The resources that the processes of a server use, read from /proc. All processes of its group count: children, and
//! also orphans.

use std::fs;
use std::time::{Duration, Instant};

use crate::sys;

/// One process, as `/proc/PID/stat` has it.
struct Process {
    pid: u32,
    state: char,
    group: u32,
    /// The CPU time of the process itself.
    own: f64,
    /// The CPU time of the children that it has waited for.
    reaped: f64,
    threads: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let seconds = |at| Some((number(at)? + number(at + 1)?) as f64 / sys::ticks());
        Some(Self {
            pid,
            state: fields.first()?.chars().next()?,
            group: number(2)? as u32,
            own: seconds(11)?,
            reaped: seconds(13)?,
            threads: number(17)?,
        })
    }
}

fn processes(group: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?))
        .filter(|process| process.group == group)
        .collect()
}

/// Whether a process has ended, also if nobody has waited for it yet.
pub fn has_ended(pid: u32) -> bool {
    Process::read(pid).is_none_or(|process| process.state == 'Z')
}

/// CPU time of the group, with that of children that were waited for.
pub fn cpu(group: u32) -> Duration {
    let of = |process: Process| {
        let own = sys::process_cpu(process.pid).map_or(process.own, |time| time.as_secs_f64());
        own + process.reaped
    };
    Duration::from_secs_f64(processes(group).into_iter().map(of).sum())
}

/// Memory of the group in KiB, shared pages by their share.
pub fn pss(group: u32) -> u64 {
    let of = |process: Process| field(&format!("/proc/{}/smaps_rollup", process.pid), &["Pss:"]);
    processes(group).into_iter().map(of).sum()
}

/// Threads of the group.
pub fn threads(group: u32) -> u64 {
    processes(group).iter().map(|process| process.threads).sum()
}

/// Memory of the kernel in KiB, on the whole machine.
pub fn kernel() -> u64 {
    field("/proc/meminfo", &["Slab:", "KernelStack:", "PageTables:", "Percpu:"])
}

/// The processor time of other programs since a moment, which tells whether figures can be trusted.
pub struct Others {
    begin: Instant,
    before: f64,
}

impl Others {
    pub fn begin() -> Self {
        Self { begin: Instant::now(), before: Self::seconds() }
    }

    /// How many processors the other programs kept busy on average.
    pub fn share(&self) -> f64 {
        ((Self::seconds() - self.before) / self.begin.elapsed().as_secs_f64()).max(0.0)
    }

    /// CPU seconds of the machine, without those of this program and of the servers it has ended.
    fn seconds() -> f64 {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let times: Vec<f64> = times.filter_map(|time| time.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; the other columns are contained in these.
        let busy = times.iter().take(8).sum::<f64>() - times.iter().skip(3).take(2).sum::<f64>();
        let own = Process::read(std::process::id()).map_or(0.0, |own| own.own + own.reaped);
        busy / sys::ticks() - own
    }
}

/// The sum of some lines `name number kB` of a file.
fn field(path: &str, names: &[&str]) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = |line: &str| {
        let (name, rest) = line.split_once(char::is_whitespace)?;
        names.contains(&name).then(|| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}
