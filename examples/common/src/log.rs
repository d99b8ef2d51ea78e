//! The log: what a server says to its operator while it serves. No caller ever waits for a reader.
//!
//! ```text
//! say, warn ->  Queue (256 KiB)  -> thread "stdout" or "stderr" -> the stream
//!               |                   waits for its reader
//!               full: the line is counted as lost, and the next lines
//!               that are written say how many were
//! ```
//!
//! How a line is written depends on the state in [`HOW`]:
//!
//! | state | from | a line is |
//! |---|---|---|
//! | `PLAINLY` | the beginning; a client has no other state | written, and may wait for a reader |
//! | `QUEUED` | [`start`], but not under `forking`, which allows no thread | put into the queue |
//! | `AT_ONCE` | [`finish`], or under `forking` [`start`] | written at once or lost, by [`Console`] |
//!
//! Which lines there are depends on the [`Level`], which the operator may change while the program serves.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, poll};
use socketserver::monitor::{Console, RunPhase, ServerEvent};

/// How many bytes a queue holds. As many again may be in the hands of the stream's thread, which is writing them. These are
/// a few thousand lines, more than a busy server prints in a second.
const QUEUE_BYTES: usize = 256 * 1024;

/// How long the end of a program waits for the queues to be read.
const AT_END: Duration = Duration::from_secs(1);

/// How much a serving program says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// Warnings and failures alone, on stderr
    Quiet,
    /// Also the program's own lines on stdout
    #[default]
    Normal,
    /// Also a line on stdout for each event: the start and the end of each request, limits that are reached
    Verbose,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quiet => "quiet",
            Self::Normal => "normal",
            Self::Verbose => "verbose",
        })
    }
}

/// The present level, as its number. Under `forking` a child keeps the level that its parent had at the fork.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Normal as u8);

/// Returns the present level.
pub fn level() -> Level {
    // Relaxed, here and below: the level orders nothing else.
    match LEVEL.load(Ordering::Relaxed) {
        0 => Level::Quiet,
        1 => Level::Normal,
        _ => Level::Verbose,
    }
}

/// Changes how much is said from here on.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// An observer of servers: prints each event at [`Level::Verbose`].
pub(crate) fn observe(event: &ServerEvent<'_>) {
    // Before the first line, which says where the program listens, no event is printed. The phase `Bound` comes before that
    // line, and `Ready` has an event of its own.
    let is_said =
        matches!(event, ServerEvent::PhaseReached { phase: RunPhase::Bound | RunPhase::Ready, .. });
    if level() == Level::Verbose && !is_said && HOW.load(Ordering::SeqCst) != PLAINLY {
        say(&event.to_string());
    }
}

/// Prints a line on stdout, and adds its newline. At [`Level::Quiet`] nothing is printed.
pub fn say(line: &str) {
    if level() != Level::Quiet {
        tell(&STDOUT, Console::Stdout, line);
    }
}

/// Prints a line on stderr, and adds its newline.
pub fn warn(line: &str) {
    tell(&STDERR, Console::Stderr, line);
}

/// The writers of the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    /// A thread for each stream.
    Threads,
    /// No writer: the process may have no second thread, and lines are written at once or lost.
    None,
}

/// Starts the log: from here on no line waits for a reader. The calling thread itself prints `first` on stdout, so that
/// it comes before anything else that the caller writes to the terminal.
pub(crate) fn start(first: &str, writers: Writers) {
    HOW.store(AT_ONCE, Ordering::SeqCst);
    // The server catches and reports a panic, but std prints it first and would wait for a reader.
    panic::set_hook(Box::new(|panic| warn(&panic.to_string())));
    // The first line is printed at every level, because it says where the program listens.
    tell(&STDOUT, Console::Stdout, first);
    let has_threads = writers == Writers::Threads
        && start_writer("stdout", &STDOUT, io::stdout())
        && start_writer("stderr", &STDERR, io::stderr());
    if has_threads {
        HOW.store(QUEUED, Ordering::SeqCst);
    }
}

/// Waits at the end of the program until the queues are written, at most [`AT_END`]. Later lines are written at once or
/// lost.
pub(crate) fn finish() {
    if HOW.load(Ordering::SeqCst) != QUEUED {
        return;
    }
    HOW.store(AT_ONCE, Ordering::SeqCst);
    let deadline = Instant::now() + AT_END;
    for queue in [&STDOUT, &STDERR] {
        let mut waiting = queue.lock();
        while !waiting.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            let woken = queue.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The present state: see the table at the top.
static HOW: AtomicU8 = AtomicU8::new(PLAINLY);
const PLAINLY: u8 = 0;
const QUEUED: u8 = 1;
const AT_ONCE: u8 = 2;

static STDOUT: Queue = Queue::new();
static STDERR: Queue = Queue::new();

fn tell(queue: &'static Queue, console: Console, line: &str) {
    let line = format!("{line}\n");
    match HOW.load(Ordering::SeqCst) {
        QUEUED => queue.push(&line),
        AT_ONCE => drop(console.tell(&line)),
        // A closed stream is not an error, nor is a full disk: a server without an operator goes on serving.
        _ => drop(match console {
            Console::Stdout => io::stdout().write_all(line.as_bytes()),
            Console::Stderr => io::stderr().write_all(line.as_bytes()),
        }),
    }
}

/// The lines that wait for one stream.
struct Queue {
    waiting: Mutex<Waiting>,
    /// Notified when the first line arrives, and when all lines are written.
    changed: Condvar,
}

struct Waiting {
    lines: Vec<u8>,
    /// Lines that found the queue full, or could not be written.
    lost: u64,
    /// Whether the writer has taken lines and is writing them.
    writing: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && !self.writing
    }
}

impl Queue {
    const fn new() -> Self {
        let waiting = Waiting { lines: Vec::new(), lost: 0, writing: false };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &str) {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > QUEUE_BYTES {
            waiting.lost += 1;
            return;
        }
        let was_empty = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line.as_bytes());
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Waits for lines and takes all of them. The writer calls this when it has written the lines that it took at its
    /// previous call.
    fn take(&self) -> Vec<u8> {
        let mut waiting = self.lock();
        waiting.writing = false;
        if waiting.is_empty() {
            self.changed.notify_all();
        }
        while waiting.lines.is_empty() {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.writing = true;
        let mut lines = std::mem::take(&mut waiting.lines);
        let lost = std::mem::take(&mut waiting.lost);
        if lost > 0 {
            // The notice comes last: the lines in the queue are older than those that found it full.
            lines.extend_from_slice(
                format!("({lost} lines were lost here: nobody read them in time)\n").as_bytes(),
            );
        }
        lines
    }
}

/// Starts the thread that writes one stream. It ends with the process.
fn start_writer(name: &str, queue: &'static Queue, stream: impl AsFd) -> bool {
    // The thread has a descriptor of its own: std's streams have a lock, for which every `println!` would wait.
    let Ok(stream) = stream.as_fd().try_clone_to_owned() else { return false };
    let stream = File::from(stream);
    // A failure of stderr cannot be reported anywhere.
    let mut is_told = name != "stdout";
    let write = move || {
        loop {
            let lines = queue.take();
            if let Err(error) = write_all(&stream, &lines) {
                // The reader has gone, or a disk is full. The latter may change, so the thread goes on.
                if !std::mem::replace(&mut is_told, true) {
                    warn(&format!("cannot write to stdout: {error}; lines are lost"));
                }
                let count = lines.iter().filter(|byte| **byte == b'\n').count();
                queue.lock().lost += count as u64;
            }
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(write).is_ok()
}

/// `Write::write_all`, also for a stream that another process has made non-blocking, as happens to terminals.
fn write_all(mut stream: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(stream, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};

    /// A queue whose stream is a pipe, and the reading end, which nobody reads for now.
    fn queue() -> (&'static Queue, impl Read) {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        let (reader, writer) = io::pipe().unwrap();
        assert!(start_writer("test", queue, writer));
        (queue, reader)
    }

    #[test]
    fn no_caller_waits_and_lost_lines_are_counted() {
        let (queue, reader) = queue();
        let mut said = 0;
        // A caller that waited would stop here for ever: nobody reads.
        while queue.lock().lost < 10 {
            queue.push(&format!("line {said} {}\n", "x".repeat(1_000)));
            said += 1;
        }
        queue.push("short\n");
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let kept = said - 10;
        for number in 0..kept {
            let line = lines.next().unwrap();
            assert!(line.starts_with(&format!("line {number} x")) && line.ends_with('x'), "{line}");
        }
        // The short line may have found room where the last long ones did not.
        let next = lines.next().unwrap();
        let notice = if next == "short" { lines.next().unwrap() } else { next };
        assert!(notice.contains("lines were lost here"), "{notice}");
        queue.push("again\n");
        assert_eq!(lines.find(|line| line == "again").as_deref(), Some("again"));
    }

    #[test]
    fn a_reader_that_has_gone_keeps_nobody_waiting() {
        let (queue, reader) = queue();
        drop(reader);
        for number in 0..10_000 {
            queue.push(&format!("line {number}\n"));
        }
        let mut waiting = queue.lock();
        while !waiting.is_empty() {
            waiting = queue.changed.wait(waiting).unwrap();
        }
        assert!(waiting.lost > 0);
    }
}
