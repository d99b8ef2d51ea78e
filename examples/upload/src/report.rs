//! The client's report: a progress bar, a line for each file, and a summary.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::protocol::shown;
use crate::sources::Sources;
use common::Failure;

pub struct Report {
    /// Hidden if stderr is not a terminal.
    bar: ProgressBar,
    /// The verb of the lines: `stored`, or `sent` on a wire without answers.
    word: &'static str,
    began: Instant,
    /// How many files there are, those that cannot be sent included.
    of: usize,
    folders: usize,
    stored: usize,
    already: usize,
    /// How many bytes were sent of the files that were then stored.
    bytes: u64,
    /// How many bytes were sent of the file that is on its way.
    under_way: std::cell::Cell<u64>,
    /// The files that were not stored, and why.
    failed: Vec<(String, String)>,
}

impl Report {
    pub fn new(sources: &Sources, word: &'static str) -> Self {
        let bar = ProgressBar::new(sources.bytes());
        let template = "{wide_bar} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        let mut report = Self {
            bar,
            word,
            began: Instant::now(),
            of: sources.files.len() + sources.failed.len(),
            folders: 0,
            stored: 0,
            already: 0,
            bytes: 0,
            under_way: std::cell::Cell::new(0),
            failed: Vec::new(),
        };
        for path in &sources.left_out {
            report.say(&format!("left out {path:?}: neither a file nor a folder"));
        }
        for (path, why) in &sources.failed {
            report.failed(path, why);
        }
        report
    }

    /// Notes that a file begins.
    pub fn begin(&self, path: &[Vec<u8>]) {
        self.under_way.set(0);
        let name = path.last().map_or(String::new(), |name| shown(std::slice::from_ref(name)));
        self.bar.set_message(name.chars().take(24).collect::<String>());
    }

    pub fn sent(&self, bytes: u64) {
        self.under_way.set(self.under_way.get() + bytes);
        self.bar.inc(bytes);
    }

    /// Notes that these bytes need not be sent.
    pub fn skip(&self, bytes: u64) {
        self.bar.set_length(self.bar.length().unwrap_or(0).saturating_sub(bytes));
    }

    pub fn stored(&mut self, path: &[Vec<u8>], stored: &[Vec<u8>]) {
        self.stored += 1;
        self.bytes += self.under_way.take();
        let (word, name) = (self.word, shown(path));
        if path == stored {
            self.say(&format!("{word} {name}"));
        } else {
            self.say(&format!("{word} {name} as {}", shown(stored)));
        }
    }

    /// Reports that an empty folder was made.
    pub fn made(&mut self, path: &[Vec<u8>]) {
        self.folders += 1;
        self.say(&format!("made the folder {}", shown(path)));
    }

    /// Reports that an empty folder was not made.
    pub fn not_made(&mut self, path: &[Vec<u8>], why: &str) {
        self.of += 1;
        self.failed(path, why);
    }

    pub fn already(&mut self, path: &[Vec<u8>]) {
        self.already += 1;
        self.say(&format!("{} is there already", shown(path)));
    }

    pub fn failed(&mut self, path: &[Vec<u8>], why: &str) {
        self.say(&format!("not {}: {}: {why}", self.word, shown(path)));
        self.failed.push((shown(path), why.to_owned()));
    }

    /// Prints the summary, and returns the result of the program.
    ///
    /// # Errors
    ///
    /// If something was not stored.
    pub fn end(self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let time = self.began.elapsed().as_secs_f64();
        let bytes = self.bytes;
        let rate = HumanBytes((bytes as f64 / time.max(1e-3)) as u64);
        let already = match self.already {
            0 => String::new(),
            count => format!(", {count} there already"),
        };
        let folders = match self.folders {
            0 => String::new(),
            1 => ", 1 empty folder made".to_owned(),
            count => format!(", {count} empty folders made"),
        };
        let (stored, of, word) = (self.stored, self.of, self.word);
        let sent = HumanBytes(bytes);
        self.say(&format!(
            "{stored} of {of} files {word}{already}{folders}: {sent} in {time:.1} s, {rate}/s"
        ));
        match &self.failed[..] {
            [] => Ok(()),
            [(name, why)] => Err(Failure::Other(format!("{name} was not {word}: {why}"))),
            [(name, why), ..] => {
                let count = self.failed.len();
                let text =
                    format!("{count} of {of} files were not {word}; the first, {name}: {why}");
                Err(Failure::Other(text))
            }
        }
    }

    fn say(&self, line: &str) {
        // A closed stdout is not an error.
        self.bar.suspend(|| {
            let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
        });
    }
}
