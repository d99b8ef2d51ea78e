//! What a server says to its operator while it serves: never waited for, whoever reads or does not.
//!
//! A line goes into a queue of so many bytes, and a thread writes it. What finds the queue full is lost, and the
//! operator is told how many lines were as soon as he reads again. Where no thread may be started (`forking`), a
//! line is written at once or lost, by [`Console`]; so it is at the end, when the queue has had its second.
//! Before a server serves, and in a client, which has nothing better to do, lines are simply written.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use socketserver::Console;

/// So many bytes may wait for a reader of a stream, beside as many that its thread is writing: some thousands of
/// lines, which is more than a second of a busy server, and nothing that its memory notices.
const QUEUE_BYTES: usize = 256 * 1024;

/// How long the end of a program waits for a reader of what is queued.
const AT_END: Duration = Duration::from_secs(1);

/// Says a line on stdout, its newline included here.
pub fn say(line: &str) {
    tell(&STDOUT, Console::Stdout, line);
}

/// Says a line on stderr, its newline included here.
pub fn warn(line: &str) {
    tell(&STDERR, Console::Stderr, line);
}

/// From here on nothing that is said waits. `first` is said on stdout before anything else is, by this thread, so that
/// it is there before whatever else the caller does with the terminal. With `threads` two are started, that write.
pub fn start(first: &str, threads: bool) {
    HOW.store(AT_ONCE, Ordering::SeqCst);
    // A panic is caught by the server and reported; what std says of it before would wait for a reader.
    panic::set_hook(Box::new(|panic| warn(&panic.to_string())));
    say(first);
    let has_threads = threads
        && start_writer("stdout", &STDOUT, io::stdout())
        && start_writer("stderr", &STDERR, io::stderr());
    if has_threads {
        HOW.store(QUEUED, Ordering::SeqCst);
    }
}

/// The end of the program: waits for what is queued, but not for long. What is said from here on is written at once
/// or lost.
pub fn finish() {
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

/// How lines are written at the moment.
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
    /// Something has come, or all of it is written.
    changed: Condvar,
}

struct Waiting {
    lines: Vec<u8>,
    /// Lines that found no room, or were not written.
    lost: u64,
    /// The writer is about to write what it has taken.
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

    /// Waits for lines, and takes all that there are, behind the count of those that were lost before them.
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
            // They were lost while these waited: what is in the queue is older than what found no room.
            lines.extend_from_slice(
                format!("({lost} lines were lost here: nobody read them in time)\n").as_bytes(),
            );
        }
        lines
    }
}

/// Starts the thread that writes one stream. It ends with the process.
fn start_writer(name: &str, queue: &'static Queue, stream: impl AsFd) -> bool {
    // A descriptor of its own, because the one in the library has a lock, which whoever prints would wait for.
    let Ok(stream) = stream.as_fd().try_clone_to_owned() else { return false };
    let stream = File::from(stream);
    // Of the other one nobody could be told.
    let mut is_told = name != "stdout";
    let write = move || {
        loop {
            let lines = queue.take();
            if let Err(error) = write_all(&stream, &lines) {
                // Nobody reads any more, or a disk is full, which may change.
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

/// As that of `Write`, also where somebody has made the stream non-blocking: it may be a terminal's.
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

    /// A queue whose stream is a pipe, and the end that nobody reads for now.
    fn queue() -> (&'static Queue, impl Read) {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        let (reader, writer) = io::pipe().unwrap();
        assert!(start_writer("test", queue, writer));
        (queue, reader)
    }

    #[test]
    fn who_says_a_line_never_waits_and_what_is_lost_is_counted() {
        let (queue, reader) = queue();
        let mut said = 0;
        // It would stop here for ever, if it waited: nobody reads.
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
        // A short one may have found room behind the long ones that did not.
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
