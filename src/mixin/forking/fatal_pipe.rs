//! [`FatalPipe`]: the text of a [`Fatal`](crate::Fatal), from a child to its parent. An exit status has no room for it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use crate::sys;

/// One socket for all children of a process. A child writes its text before it exits, and the parent reads when it has
/// reaped a child whose status says that there is one.
#[derive(Debug)]
pub(super) struct FatalPipe {
    /// The parent's end. Children have copies, and never read.
    reader: UnixStream,
    /// The children's end. The parent keeps it open, so that the reader never meets an end of input.
    writer: UnixStream,
}

/// The most that one write puts into a socket's buffer as a whole; longer texts are cut.
const LONGEST_TEXT: usize = 2_048;

impl FatalPipe {
    /// Takes two descriptors, which are close-on-exec: programs of the handlers have neither.
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer })
    }

    /// In a forked child that goes on for itself: parts it from its parent's, under the same numbers.
    pub(super) fn renew(&self) -> io::Result<()> {
        let Self { reader, writer } = Self::new()?;
        sys::replace(&self.reader, reader.into())?;
        sys::replace(&self.writer, writer.into())
    }

    /// In the child. A text that does not fit, because the parent is far behind, is lost.
    pub(super) fn send(&self, text: &str) {
        let mut message = format!("{} {text}", std::process::id()).into_bytes();
        message.truncate(LONGEST_TEXT);
        // Ends the message: a text may have any length and any line breaks.
        message.push(0);
        // Without the text the parent still ends: the status says that there was a `Fatal`.
        let _ = (&self.writer).write_all(&message);
    }

    /// In the parent, which has reaped this child: its text. Those of other children are dropped; one is enough to end
    /// the server.
    pub(super) fn receive_from(&self, child: i32) -> Option<String> {
        let mut bytes = Vec::new();
        // Non-blocking: all that a child that has ended has written is there.
        let _ = (&self.reader).read_to_end(&mut bytes);
        let messages = String::from_utf8_lossy(&bytes);
        let prefix = format!("{child} ");
        messages.split('\0').find_map(|message| message.strip_prefix(&prefix)).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_arrives_and_one_that_is_too_long_arrives_in_part() {
        let pipe = FatalPipe::new().unwrap();
        let this = i32::try_from(std::process::id()).unwrap();
        pipe.send("the disk is full");
        assert_eq!(pipe.receive_from(this).as_deref(), Some("the disk is full"));
        assert_eq!(pipe.receive_from(this), None, "it has been read");
        pipe.send(&"x".repeat(10 * LONGEST_TEXT));
        let text = pipe.receive_from(this).unwrap();
        assert!(text.len() > LONGEST_TEXT / 2 && text.len() < LONGEST_TEXT);
    }
}
