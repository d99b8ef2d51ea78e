//! The prompt: each typed line is a command.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::client::{INTERRUPTED, Leave};
use crate::protocol::{Ended, Status};
use crate::screen::{printable, say};

/// A connection as the prompt needs it, on either wire.
pub trait Session {
    /// Runs one command, shows its output, and returns its status.
    fn run_line(&mut self, line: &[u8]) -> Result<u8, Leave>;
    /// Whether Ctrl-C was pressed while the last command ran.
    fn was_interrupted(&self) -> bool;
    /// Waits for input, without a bound, and for Ctrl-C.
    fn wait_for_input(&mut self, input: BorrowedFd<'_>) -> Result<Waited, Leave>;
}

/// How a wait for input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    Input,
    /// Ctrl-C.
    Interrupt,
}

/// Runs each line of stdin, up to its end or `exit`, and returns the status of the last one. On a terminal there is a
/// prompt, at which Ctrl-C discards the typed line.
pub fn prompt(session: &mut dyn Session) -> Result<u8, Leave> {
    let stdin = io::stdin();
    let typed = stdin.is_terminal();
    let (mut lines, mut status) = (Lines::default(), 0);
    loop {
        if typed {
            // The prompt goes to stderr, because it is not output.
            let _ = io::stderr().write_all(b"> ");
        }
        let line = match lines.next(|| session.wait_for_input(stdin.as_fd())) {
            Ok(Next::Line(line)) => line,
            Ok(Next::End) => break,
            // The terminal has discarded the line, and shown `^C` without a newline.
            Ok(Next::Interrupt) if typed => {
                lines = Lines::default();
                let _ = io::stderr().write_all(b"\n");
                continue;
            }
            // Without a prompt Ctrl-C ends the whole client.
            Ok(Next::Interrupt) => return Err(Leave::Silent(INTERRUPTED)),
            Err(leave) => {
                // The prompt of the user's shell begins on a new line.
                let _ = if typed { io::stderr().write_all(b"\n") } else { Ok(()) };
                return Err(leave);
            }
        };
        // The blanks are removed for the comparison alone: one at the end may be escaped, and is then a part of the
        // line.
        match line.trim_ascii() {
            b"" => continue,
            b"exit" => return Ok(status),
            _ => status = session.run_line(&line)?,
        }
        if typed && status != 0 {
            // The terminal has shown `^C`, without a newline.
            let begin = if session.was_interrupted() { "\n" } else { "" };
            say(&format!("{begin}[status {status}]"));
        }
        if !typed && session.was_interrupted() {
            return Err(Leave::Silent(INTERRUPTED));
        }
    }
    if typed {
        let _ = io::stderr().write_all(b"\n");
    }
    Ok(status)
}

/// Shows why the server ended a command, if it did, and returns the client's status: a command that was ended has not
/// succeeded, even if its own status says so.
pub fn show(ended: &Ended) -> u8 {
    let code = ended.status.code();
    if ended.why.is_empty() {
        return code;
    }
    let why = printable(&ended.why);
    match ended.status {
        Status::NotStarted => say(&format!("the command was not run: {why}")),
        _ => say(&format!("the server ended the command: {why}")),
    }
    code.max(1)
}

/// Lines of stdin, read without std's buffer, because the client waits for the descriptor.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    ended: bool,
}

/// The next part of stdin.
enum Next {
    /// A line, without its newline.
    Line(Vec<u8>),
    Interrupt,
    End,
}

impl Lines {
    /// The next line. `wait` returns when there is input, or after Ctrl-C.
    fn next(&mut self, mut wait: impl FnMut() -> Result<Waited, Leave>) -> Result<Next, Leave> {
        let mut searched = 0;
        loop {
            let found = self.bytes[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = found.map(|at| searched + at) {
                let mut line = self.bytes.drain(..=at).collect::<Vec<u8>>();
                line.truncate(at);
                return Ok(Next::Line(line));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.bytes);
                return Ok(if rest.is_empty() { Next::End } else { Next::Line(rest) });
            }
            searched = self.bytes.len();
            if wait()? == Waited::Interrupt {
                return Ok(Next::Interrupt);
            }
            let mut piece = [0; 8_192];
            let count = rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut piece))
                .map_err(io::Error::from)?;
            self.bytes.extend_from_slice(&piece[..count]);
            self.ended = count == 0;
        }
    }
}
