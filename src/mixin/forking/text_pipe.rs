//! [`TextPipe`]: brings the text of a [`Fatal`](crate::Fatal), or of a failed step before the handler, from a child to its
//! parent. An exit status has no room for it.

use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;

use crate::sys;

/// One pair of sockets for the texts of one kind, of all children of a process. A child writes its text before it exits,
/// and the parent reads when it has reaped a child whose status says that there is one.
///
/// ```text
/// child 71                      child 72                      the parent
/// writes "71 text\0"
///                               writes "72 text\0"
///                               exits                        reaps 72: reads both, keeps that of 71
/// exits                                                       reaps 71: finds its text in `read_ahead`
/// ```
///
/// A pipe for each child would cost two descriptors and a few system calls for each request, and nearly no request has a text.
#[derive(Debug)]
pub(super) struct TextPipe {
    /// The parent's end. Children have copies, and never read.
    reader: UnixStream,
    /// The children's end. The parent keeps it open, so that the reader never meets an end of input.
    writer: UnixStream,
    /// Texts that came with an earlier read, and whose children have not been reaped yet.
    read_ahead: Mutex<Vec<(i32, String)>>,
}

/// The longest message, in bytes: one write puts a message of this length into the socket's buffer as a whole or not at
/// all. Longer texts are cut.
const LONGEST_TEXT: usize = 2_048;

impl TextPipe {
    /// Takes two descriptors, which are close-on-exec: programs of the handlers have neither.
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer, read_ahead: Mutex::default() })
    }

    /// In a forked child that goes on to run the server itself: replaces the sockets, which it shares with its parent, by
    /// new ones with the same numbers.
    pub(super) fn renew(&self) -> io::Result<()> {
        let Self { reader, writer, read_ahead: _ } = Self::new()?;
        self.read_ahead.lock().clear();
        sys::replace(&self.reader, reader.into())?;
        sys::replace(&self.writer, writer.into())
    }

    /// Sends a text, in the child. If the text does not fit, because the parent is far behind, it is lost.
    pub(super) fn send(&self, text: &str) {
        // A zero ends the message: a text may have any length and any line breaks.
        let mut message =
            format!("{} {}", std::process::id(), text.replace('\0', " ")).into_bytes();
        message.truncate(LONGEST_TEXT);
        message.push(0);
        // One write, so that the texts of two children do not mix. Without the text the parent still knows by the status
        // that there was one.
        let _ = (&self.writer).write_all(&message);
    }

    /// Returns the text of a child that the parent has reaped. None: it was lost. `has` says which processes are children
    /// that are still to be reaped: the texts of others are dropped.
    pub(super) fn receive_from(&self, child: i32, has: impl Fn(i32) -> bool) -> Option<String> {
        let mut bytes = Vec::new();
        // The read does not block: all that an ended child has written is there already.
        let _ = (&self.reader).read_to_end(&mut bytes);
        let mut all = mem::take(&mut *self.read_ahead.lock());
        for message in String::from_utf8_lossy(&bytes).split_terminator('\0') {
            let Some((process, text)) = message.split_once(' ') else { continue };
            all.extend(process.parse().ok().map(|process| (process, text.to_owned())));
        }
        // The last text of this number: an earlier process of the same number may have sent a text and been killed then.
        let at = all.iter().rposition(|(process, _)| *process == child);
        // The others keep their order, by which the last text of the next child is found.
        let text = at.map(|at| all.remove(at).1);
        all.retain(|(process, _)| *process != child && has(*process));
        *self.read_ahead.lock() = all;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn a_text_arrives_and_one_that_is_too_long_arrives_in_part() {
        let pipe = TextPipe::new().unwrap();
        pipe.send("the disk\0is full");
        assert_eq!(pipe.receive_from(this(), |_| false).as_deref(), Some("the disk is full"));
        assert_eq!(pipe.receive_from(this(), |_| true), None, "it has been read");
        pipe.send(&"x".repeat(10 * LONGEST_TEXT));
        let text = pipe.receive_from(this(), |_| true).unwrap();
        assert!(text.len() > LONGEST_TEXT / 2 && text.len() < LONGEST_TEXT);
    }

    #[test]
    fn texts_of_others_are_kept_for_their_turn_and_those_of_strangers_are_dropped() {
        let pipe = TextPipe::new().unwrap();
        for message in
            ["1 one\0", "2 of its number's last process\0", "3 three\0", "2 two\0", "bad\0"]
        {
            (&pipe.writer).write_all(message.as_bytes()).unwrap();
        }
        let has = |process| process != 3;
        assert_eq!(pipe.receive_from(1, has).as_deref(), Some("one"));
        assert_eq!(pipe.read_ahead.lock().len(), 2);
        assert_eq!(pipe.receive_from(2, has).as_deref(), Some("two"));
        assert_eq!(pipe.receive_from(3, has), None);
        assert!(pipe.read_ahead.lock().is_empty());
    }

    #[test]
    fn a_parent_that_is_far_behind_loses_texts_and_nobody_waits() {
        let pipe = TextPipe::new().unwrap();
        for _ in 0..10_000 {
            pipe.send(&"x".repeat(LONGEST_TEXT));
        }
        // The texts that have fitted are whole.
        assert_eq!(
            pipe.receive_from(this(), |_| true).unwrap().len(),
            LONGEST_TEXT - 1 - this().to_string().len()
        );
    }
}
