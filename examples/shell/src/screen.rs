//! The screen of the client: a command's output goes to the client's own stdout and stderr, never faster than they accept
//! it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use encoding_rs::Encoding;

use crate::encoding::Transcoder;
use crate::run::Printed;

/// How many bytes a writable pipe accepts without waiting.
const AT_ONCE: usize = 4_096;

/// The output of one command.
pub struct Screen {
    stdout: io::Stdout,
    stderr: io::Stderr,
    /// Output on its way to one of the two streams.
    waiting: Option<(Printed, Vec<u8>)>,
    /// The transcoders of stdout and stderr, if the output is not UTF-8.
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

    /// Adds output. Earlier output must have been shown.
    pub fn show(&mut self, on: Printed, bytes: &[u8]) {
        let bytes = match &mut self.turns {
            Some(turns) => turns[on as usize].turn(bytes),
            None => bytes.to_vec(),
        };
        self.waiting = Some((on, bytes)).filter(|(_, bytes)| !bytes.is_empty());
    }

    /// The descriptor that has to accept bytes before more can be shown.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.waiting.as_ref().map(|(on, _)| match on {
            Printed::Stdout => self.stdout.as_fd(),
            Printed::Stderr => self.stderr.as_fd(),
        })
    }

    /// Shows as much as the descriptor accepts.
    pub fn print_piece(&mut self) -> io::Result<()> {
        let Some((on, bytes)) = &mut self.waiting else { return Ok(()) };
        let piece = &bytes[..bytes.len().min(AT_ONCE)];
        // The bytes bypass the buffer of std's stdout, which would hold back an incomplete line.
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

    /// Shows the rest of a character that was cut off.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some([out, err]) = &mut self.turns else { return Ok(()) };
        self.stdout.write_all(&out.finish())?;
        self.stdout.flush()?;
        self.stderr.write_all(&err.finish())
    }
}

/// Shows the user a line that is not output.
pub fn say(text: &str) {
    // A failure is ignored: the user still has the exit status.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A peer's text without control characters.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
