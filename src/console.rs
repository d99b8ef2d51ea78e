//! Messages to the operator that never wait for their reader: [`Console`].
//!
//! ```text
//! a text fits                    it is written, at once
//! it does not fit, or in part    LOST + 1; TORN, if the last line has no end
//! the next text                  a note about the lost ones is written before it, in the same write
//! the note does not fit either   the old count is put back, and LOST + 1
//! ```
//!
//! The counts are taken out before the write, and put back after it if the note did not fit. So two threads may call
//! `tell` at once, and each loss is reported once; their two notes may share the count.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::{self, Common};

/// Standard output or standard error, written to at once or not at all.
///
/// A stream that nobody reads (a pager, a terminal after Ctrl-S, a log collector that hangs) is full after a few dozen
/// kilobytes, and from then on every `eprintln!` waits. Such a wait delays one request in a worker, and all requests in
/// the accept loop. So this crate writes its reports through `Console`, and hooks and handlers can use it as well. A
/// text that does not fit at once is lost; the next text that fits begins with the number of lost texts. A forking
/// server also counts the lost texts of its children.
///
/// Nothing is buffered, and there is no thread for it. A regular file takes everything. The mode of the descriptor, which
/// a shell may share, stays as it is. If standard error is a terminal, one descriptor of it is kept open (Linux), so that
/// it can be written to when the process is out of descriptors.
///
/// ```
/// use socketserver::monitor::Console;
///
/// Console::Stderr.tell("the disk is nearly full\n");
/// ```
///
/// One message can still wait: the standard library's own report of a panic. (The server catches the panic and reports
/// it as well.) If the standard error of a program may be unread, replace that report:
///
/// ```
/// # use socketserver::monitor::Console;
/// std::panic::set_hook(Box::new(|panic| {
///     Console::Stderr.tell(&format!("{panic}\n"));
/// }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Standard output.
    Stdout,
    /// Standard error, which the crate's own reports are written to.
    Stderr,
}

/// The earlier losses of one stream, which the next text has to report: [`LOST`] and [`TORN`]. They are two plain numbers,
/// because they may be in memory that several processes share.
type Losses = [AtomicU64; 2];

/// The index of the number of texts that did not fit, or not as a whole.
const LOST: usize = 0;
/// The index of a flag: 1 if the last text was cut off in the middle of a line.
const TORN: usize = 1;

const fn none_lost() -> Losses {
    [const { AtomicU64::new(0) }; 2]
}

/// The losses of this process, by the number of the stream: that of [`Console`]'s variants.
static PROCESS_LOSSES: [Losses; 2] = [const { none_lost() }; 2];

/// The losses that a process and its forked children count together, in place of [`PROCESS_LOSSES`]. The parent or the next
/// child reports a child's losses.
static SHARED: OnceLock<Common<2>> = OnceLock::new();

/// Makes this process and the children that it forks from here on count their losses together. Without shared memory
/// each counts alone. Called before the first fork of a run; a second call changes nothing.
pub(crate) fn share_with_children() {
    if SHARED.get().is_none() {
        if let Ok(shared) = Common::new(PROCESS_LOSSES.len()) {
            let _ = SHARED.set(shared);
        }
    }
}

/// Opens and keeps a descriptor of the terminal, before descriptors may run out.
pub(crate) fn prepare() {
    // An empty text writes nothing; the first write opens the descriptor.
    sys::write_now(io::stderr().as_fd(), b"");
}

/// The losses of a stream: 0 is standard output, and 1 is standard error.
fn losses(stream: usize) -> &'static Losses {
    SHARED.get().map_or(&PROCESS_LOSSES[stream], |shared| &shared.rows()[stream])
}

impl Console {
    /// Writes a text: one or more lines, each with its newline. A text of at most 4,096 bytes, which a pipe takes at
    /// once, is one write, so that texts of several threads do not mix. The call never waits, not even for the lock of
    /// [`std::io::stderr`]. Returns whether the whole text was written; if not, it is counted as lost.
    pub fn tell(self, text: &str) -> bool {
        tell(losses(self as usize), text, |bytes| match self {
            Self::Stdout => sys::write_now(io::stdout().as_fd(), bytes),
            Self::Stderr => sys::write_now(io::stderr().as_fd(), bytes),
        })
    }
}

/// Writes the notice of earlier losses, if there are any, together with the text. `write` is called once, and returns
/// how many bytes it has written. Returns whether it has written all of them.
fn tell(losses: &Losses, text: &str, write: impl FnOnce(&[u8]) -> usize) -> bool {
    // Taken before the write, so that only one of two threads reports them.
    let lost = losses[LOST].swap(0, Ordering::Relaxed);
    let torn = losses[TORN].swap(0, Ordering::Relaxed) != 0;
    // Ends a line that was cut off: the note, or the text itself, is a line of its own.
    let newline = if torn { "\n" } else { "" };
    let before = format!("{newline}{}", notice_of(lost));
    let whole: Cow<'_, str> =
        if before.is_empty() { text.into() } else { format!("{before}{text}").into() };
    let count = write(whole.as_bytes());
    if count == whole.len() {
        return true;
    }
    // The losses count as reported only if the note about them was written to its end.
    let still = if count < before.len() { lost } else { 0 };
    losses[LOST].fetch_add(still + 1, Ordering::Relaxed);
    // If nothing was written, the stream ends as it did before.
    let ends_a_line = if count == 0 { !torn } else { whole.as_bytes()[count - 1] == b'\n' };
    if !ends_a_line {
        losses[TORN].store(1, Ordering::Relaxed);
    }
    false
}

/// The line that says how many texts are lost; empty if none is.
fn notice_of(lost: u64) -> String {
    match lost {
        0 => String::new(),
        1 => "(one text before this one is lost: nobody read it)\n".to_owned(),
        _ => format!("({lost} texts before this one are lost: nobody read them)\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// Writes a text to a stream that takes `room` bytes. Returns the result of `tell`, and the bytes that have arrived.
    fn told(losses: &Losses, text: &str, room: usize) -> (bool, String) {
        let arrived = RefCell::new(Vec::new());
        let whole = tell(losses, text, |bytes| {
            arrived.borrow_mut().extend_from_slice(&bytes[..room.min(bytes.len())]);
            room.min(bytes.len())
        });
        (whole, String::from_utf8(arrived.into_inner()).unwrap())
    }

    #[test]
    fn what_is_lost_is_counted_and_the_count_is_told_once() {
        let losses = none_lost();
        assert_eq!(told(&losses, "a\n", 99), (true, "a\n".into()));
        assert_eq!(told(&losses, "b\n", 0), (false, String::new()));
        assert_eq!(told(&losses, "c\n", 0), (false, String::new()));
        let (whole, arrived) = told(&losses, "d\n", 999);
        assert!(whole && arrived.starts_with("(2 texts before") && arrived.ends_with("\nd\n"));
        assert_eq!(told(&losses, "e\n", 999), (true, "e\n".into()));
    }

    #[test]
    fn a_text_that_was_cut_off_is_lost_and_the_next_one_begins_a_line() {
        let losses = none_lost();
        assert_eq!(told(&losses, "abcdef\n", 3), (false, "abc".into()));
        let (whole, arrived) = told(&losses, "g\n", 999);
        assert!(whole && arrived.starts_with("\n(one text before") && arrived.ends_with("\ng\n"));
    }

    #[test]
    fn a_count_that_does_not_fit_itself_is_kept() {
        let losses = none_lost();
        assert!(!told(&losses, "a\n", 0).0 && !told(&losses, "b\n", 5).0);
        assert_eq!(losses[LOST].load(Ordering::Relaxed), 2);
        assert!(told(&losses, "c\n", 999).1.contains("\n(2 texts"));
    }

    /// Writes until nothing more fits, while nobody reads. Then everything that was written must be readable.
    fn fills_without_a_wait(fd: OwnedFd, reader: impl Read) {
        let line = [b'x'; 1_000];
        let mut written = 0;
        loop {
            let count = sys::write_now(fd.as_fd(), &line);
            written += count;
            assert!(written < 100 << 20, "it takes everything");
            if count < line.len() {
                break;
            }
        }
        assert_eq!(sys::write_now(fd.as_fd(), &line), 0);
        drop(fd);
        let mut all = Vec::new();
        reader.take(1 << 30).read_to_end(&mut all).unwrap();
        assert!(written > 0 && all.len() == written);
    }

    #[test]
    fn a_full_pipe_is_not_waited_for() {
        let (reader, writer) = std::io::pipe().unwrap();
        fills_without_a_wait(writer.into(), reader);
    }

    #[test]
    fn a_full_socket_is_not_waited_for() {
        let (reader, writer) = UnixStream::pair().unwrap();
        fills_without_a_wait(writer.into(), reader);
    }

    #[test]
    fn a_file_takes_everything_and_what_cannot_be_written_to_none_lost() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(sys::write_now(file.as_fd(), &[b'x'; 100_000]), 100_000);
        assert_eq!(file.metadata().unwrap().len(), 100_000);
        let read_only = File::open("/dev/null").unwrap();
        assert_eq!(sys::write_now(read_only.as_fd(), b"x"), 0);
    }
}
