//! What the client shows: the output of a command on its own stdout and stderr, never faster than they take it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use encoding_rs::Encoding;

use crate::encoding::Transcoder;
use crate::run::Printed;

/// What a pipe takes without making its writer wait, once it says that there is room.
const AT_ONCE: usize = 4_096;

/// The output of one command.
pub struct Screen {
    stdout: io::Stdout,
    stderr: io::Stderr,
    /// On its way to one of the two.
    waiting: Option<(Printed, Vec<u8>)>,
    /// Where the output is not UTF-8.
    turns: Option<[Transcoder; 2]>,
}

impl Screen {
    pub fn new(encoding: Option<&'static Encoding>) -> Self {
        let turns = encoding.map(|from| [(); 2].map(|()| Transcoder::to_utf8(from)));
        Self { stdout: io::stdout(), stderr: io::stderr(), waiting: None, turns }
    }

    /// Whether everything is shown.
    pub fn is_free(&self) -> bool {
        self.waiting.is_none()
    }

    /// Takes output to be shown, when everything before it is.
    pub fn show(&mut self, on: Printed, bytes: &[u8]) {
        let bytes = match &mut self.turns {
            Some(turns) => turns[on as usize].turn(bytes),
            None => bytes.to_vec(),
        };
        self.waiting = Some((on, bytes)).filter(|(_, bytes)| !bytes.is_empty());
    }

    /// What has to have room before more can be shown.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.waiting.as_ref().map(|(on, _)| match on {
            Printed::Stdout => self.stdout.as_fd(),
            Printed::Stderr => self.stderr.as_fd(),
        })
    }

    /// Shows as much as there is room for.
    pub fn print_piece(&mut self) -> io::Result<()> {
        let Some((on, bytes)) = &mut self.waiting else { return Ok(()) };
        let piece = &bytes[..bytes.len().min(AT_ONCE)];
        // Past the buffer of std's stdout, which would hold back the end of a line.
        let fd = match on {
            Printed::Stdout => self.stdout.as_fd(),
            Printed::Stderr => self.stderr.as_fd(),
        };
        let count = rustix::io::retry_on_intr(|| rustix::io::write(fd, piece))?;
        bytes.drain(..count);
        if bytes.is_empty() {
            self.waiting = None;
        }
        Ok(())
    }

    /// Shows what is left of characters that were cut off.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some([out, err]) = &mut self.turns else { return Ok(()) };
        self.stdout.write_all(&out.finish())?;
        self.stdout.flush()?;
        self.stderr.write_all(&err.finish())
    }
}

/// Says something to the user that is not output.
pub fn say(text: &str) {
    // A closed stderr leaves the status.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A peer's words without what would steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
