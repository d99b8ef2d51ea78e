//! The resources that a process has.

use std::fmt;
use std::fs;

/// A process at one moment.
#[derive(Clone, Copy)]
pub struct Measure {
    heap_bytes: u64,
    heap_blocks: u64,
    pss_kib: u64,
    descriptors: u64,
    mappings: u64,
    threads: u64,
}

impl Measure {
    /// The measure of a running process, which has said how many bytes of its heap are in use, and in how many blocks.
    pub fn of(pid: u32, heap: &str) -> Self {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|_| String::new())
        };
        let number = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let mut heap = heap.split(' ').map(|word| word.parse().unwrap_or(0));
        Self {
            heap_bytes: heap.next().unwrap_or(0),
            heap_blocks: heap.next().unwrap_or(0),
            pss_kib: number(&read("smaps_rollup"), "Pss:"),
            descriptors: descriptors as u64,
            mappings: read("maps").lines().count() as u64,
            threads: number(&read("status"), "Threads:"),
        }
    }

    /// The cells of a row of a table.
    pub fn cells(&self) -> String {
        let Self { heap_bytes, heap_blocks, pss_kib, descriptors, mappings, threads } = self;
        format!(
            "{:.0} KiB | {heap_blocks} | {:.1} MiB | {descriptors} | {mappings} | {threads}",
            *heap_bytes as f64 / 1024.0,
            *pss_kib as f64 / 1024.0
        )
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heap_bytes, heap_blocks, pss_kib, descriptors, mappings, threads } = self;
        write!(
            f,
            "{heap_bytes} bytes in {heap_blocks} blocks, {pss_kib} KiB, {descriptors} descriptors, {mappings} mappings, {threads} threads"
        )
    }
}

/// The resources that have grown, and how much: the middle of the last third is compared with that of the first, so that
/// one moment counts for little.
pub fn growth(measures: &[Measure]) -> Vec<String> {
    let third = measures.len().div_ceil(3);
    let middle = |part: &[Measure], value: &dyn Fn(&Measure) -> u64| {
        let mut values: Vec<u64> = part.iter().map(value).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let mut grown = Vec::new();
    let mut compare = |what: &str, value: &dyn Fn(&Measure) -> u64, more: &dyn Fn(u64) -> u64| {
        let first = middle(&measures[..third], value);
        let last = middle(&measures[measures.len() - third..], value);
        if last > more(first) {
            grown.push(format!("{what}: grown from {first} to {last}"));
        }
    };
    // The memory in use is counted exactly. Threads that come and go, and tables that grow to their full size, take some
    // of it.
    compare("bytes of the heap in use", &|one| one.heap_bytes, &|first| first + 65_536);
    compare("blocks of the heap in use", &|one| one.heap_blocks, &|first| first + 300);
    // A tenth and 2 MiB are allowed for freed memory that the allocator keeps.
    compare("KiB of memory", &|one| one.pss_kib, &|first| first + first / 10 + 2_048);
    compare("descriptors", &|one| one.descriptors, &|first| first);
    // Threads of `offload` come and go, each with its mappings.
    compare("mappings", &|one| one.mappings, &|first| first + 24);
    compare("threads", &|one| one.threads, &|first| first + 4);
    grown
}
