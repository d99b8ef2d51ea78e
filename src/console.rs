//! What a server says to its operator, without ever waiting for a reader: [`Console`].

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::{self, Common};

/// Standard output or standard error, as a server should write to it: now or not at all.
///
/// A stream that nobody reads (a pager, a terminal after Ctrl-S, a log collector that hangs) is full after some
/// kilobytes, and from then on every `eprintln!` waits: a worker with its request, and a loop with all of them. So
/// the reports of this crate go this way, and those of hooks and handlers may as well. What does not fit at once is
/// lost; how many texts were, stands in front of the next one that fits. A server that forks counts what its children
/// have lost as well.
///
/// Nothing is buffered and no thread is needed. A regular file takes everything. The mode of the descriptor, which a
/// shell may share, stays as it is. Where standard error is a terminal, one descriptor is kept for it (Linux), which
/// says what there is to say when descriptors have run out.
///
/// ```
/// use socketserver::monitor::Console;
///
/// Console::Stderr.tell("the disk is nearly full\n");
/// ```
///
/// One thing is left that waits: the message by which the standard library announces a panic, which a server catches
/// and reports as well. A program whose stderr may be unread says it this way instead:
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
    /// Standard error: where the crate's own reports go.
    Stderr,
}

/// What one stream owes its reader: [`LOST`] and [`TORN`].
type Debt = [AtomicU64; 2];

/// Texts that did not fit, or not as a whole.
const LOST: usize = 0;
/// One if the last text that was written is cut off in the middle of a line.
const TORN: usize = 1;

const fn nothing() -> Debt {
    [const { AtomicU64::new(0) }; 2]
}

/// By the number of the stream.
static OWN: [Debt; 2] = [const { nothing() }; 2];

/// In place of [`OWN`], for a process and the children that it forks: what a child has lost, its parent or the next
/// child says.
static SHARED: OnceLock<Common<2>> = OnceLock::new();

/// From here on children that are forked count together with this process. Without memory for it each counts for itself.
pub(crate) fn share_with_children() {
    if SHARED.get().is_none() {
        if let Ok(shared) = Common::new(OWN.len()) {
            let _ = SHARED.set(shared);
        }
    }
}

/// Before descriptors may run out: has a terminal at hand for what there is to say then.
pub(crate) fn prepare() {
    sys::write_now(io::stderr().as_fd(), b"");
}

fn debt(stream: usize) -> &'static Debt {
    SHARED.get().map_or(&OWN[stream], |shared| &shared.rows()[stream])
}

impl Console {
    /// Writes a text, one line or several with their newlines, by one write if it is no longer than a pipe takes at
    /// once (4,096 bytes), so that the texts of several threads do not mix. It never waits, also not for the lock
    /// of [`std::io::stderr`]. False: it was lost, at least in part, and is counted.
    pub fn tell(self, text: &str) -> bool {
        match self {
            Self::Stdout => {
                tell(debt(0), text, |bytes| sys::write_now(io::stdout().as_fd(), bytes))
            }
            Self::Stderr => {
                tell(debt(1), text, |bytes| sys::write_now(io::stderr().as_fd(), bytes))
            }
        }
    }
}

fn tell(debt: &Debt, text: &str, write: impl FnOnce(&[u8]) -> usize) -> bool {
    let lost = debt[LOST].swap(0, Ordering::Relaxed);
    let torn = debt[TORN].swap(0, Ordering::Relaxed) != 0;
    let before = match (torn, lost) {
        (false, 0) => String::new(),
        (true, 0) => "\n".to_owned(),
        (_, 1) => format!("{}(one text before this one is lost: nobody read it)\n", newline(torn)),
        _ => {
            format!("{}({lost} texts before this one are lost: nobody read them)\n", newline(torn))
        }
    };
    let whole: Cow<'_, str> =
        if before.is_empty() { text.into() } else { format!("{before}{text}").into() };
    let count = write(whole.as_bytes());
    if count == whole.len() {
        return true;
    }
    // What was said of the loss is said, if it was said to its end.
    let still = if count < before.len() { lost } else { 0 };
    debt[LOST].fetch_add(still + 1, Ordering::Relaxed);
    let ends_a_line = if count == 0 { !torn } else { whole.as_bytes()[count - 1] == b'\n' };
    if !ends_a_line {
        debt[TORN].store(1, Ordering::Relaxed);
    }
    false
}

fn newline(torn: bool) -> &'static str {
    if torn { "\n" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// Tells to something that takes `room` bytes, and gives what has arrived.
    fn told(debt: &Debt, text: &str, room: usize) -> (bool, String) {
        let arrived = RefCell::new(Vec::new());
        let whole = tell(debt, text, |bytes| {
            arrived.borrow_mut().extend_from_slice(&bytes[..room.min(bytes.len())]);
            room.min(bytes.len())
        });
        (whole, String::from_utf8(arrived.into_inner()).unwrap())
    }

    #[test]
    fn what_is_lost_is_counted_and_the_count_is_told_once() {
        let debt = nothing();
        assert_eq!(told(&debt, "a\n", 99), (true, "a\n".into()));
        assert_eq!(told(&debt, "b\n", 0), (false, String::new()));
        assert_eq!(told(&debt, "c\n", 0), (false, String::new()));
        let (whole, arrived) = told(&debt, "d\n", 999);
        assert!(whole && arrived.starts_with("(2 texts before") && arrived.ends_with("\nd\n"));
        assert_eq!(told(&debt, "e\n", 999), (true, "e\n".into()));
    }

    #[test]
    fn a_text_that_was_cut_off_is_lost_and_the_next_one_begins_a_line() {
        let debt = nothing();
        assert_eq!(told(&debt, "abcdef\n", 3), (false, "abc".into()));
        let (whole, arrived) = told(&debt, "g\n", 999);
        assert!(whole && arrived.starts_with("\n(one text before") && arrived.ends_with("\ng\n"));
    }

    #[test]
    fn a_count_that_does_not_fit_itself_is_kept() {
        let debt = nothing();
        assert!(!told(&debt, "a\n", 0).0 && !told(&debt, "b\n", 5).0);
        assert_eq!(debt[LOST].load(Ordering::Relaxed), 2);
        assert!(told(&debt, "c\n", 999).1.contains("\n(2 texts"));
    }

    /// Writes until nothing more fits, which must not take a reader; then everything that was taken can be read.
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
    fn a_file_takes_everything_and_what_cannot_be_written_to_nothing() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(sys::write_now(file.as_fd(), &[b'x'; 100_000]), 100_000);
        assert_eq!(file.metadata().unwrap().len(), 100_000);
        let read_only = File::open("/dev/null").unwrap();
        assert_eq!(sys::write_now(read_only.as_fd(), b"x"), 0);
    }
}
