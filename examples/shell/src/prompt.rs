//! The prompt: a line typed is a command run.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::client::{INTERRUPTED, Leave};
use crate::protocol::{Ended, Status};
use crate::screen::{printable, say};

/// What a prompt needs of a connection, whatever is spoken on it.
pub trait Session {
    /// Runs one command, shows what it prints, and gives its status.
    fn run_line(&mut self, line: &[u8]) -> Result<u8, Leave>;
    /// Whether Ctrl-C has come while the last command ran.
    fn was_interrupted(&self) -> bool;
    /// Waits for input, which may be long in coming, and for Ctrl-C.
    fn wait_for_input(&mut self, input: BorrowedFd<'_>) -> Result<Waited, Leave>;
}

/// What a wait for input has ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    Input,
    /// Ctrl-C.
    Interrupt,
}

/// Runs every line of stdin, up to its end or `exit`, and gives the status of the last one. Only a terminal is
/// shown a prompt, at which Ctrl-C takes back what is typed.
pub fn prompt(session: &mut dyn Session) -> Result<u8, Leave> {
    let stdin = io::stdin();
    let typed = stdin.is_terminal();
    let (mut lines, mut status) = (Lines::default(), 0);
    loop {
        if typed {
            // On stderr, where it is not taken for output.
            let _ = io::stderr().write_all(b"> ");
        }
        let line = match lines.next(|| session.wait_for_input(stdin.as_fd())) {
            Ok(Next::Line(line)) => line,
            Ok(Next::End) => break,
            // The terminal has thrown away what it had of the line, and shown `^C` without a newline.
            Ok(Next::Interrupt) if typed => {
                lines = Lines::default();
                let _ = io::stderr().write_all(b"\n");
                continue;
            }
            // Without a prompt the whole of what is running is meant.
            Ok(Next::Interrupt) => return Err(Leave::Silent(INTERRUPTED)),
            Err(leave) => {
                // The shell's own prompt begins on a line of its own.
                let _ = if typed { io::stderr().write_all(b"\n") } else { Ok(()) };
                return Err(leave);
            }
        };
        // Only for this look: a blank at the end may be escaped, and then is a part of the line.
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

/// Says why the server has ended a command, if it has, and gives the status that the client ends with: one that
/// was ended has not succeeded, whatever it says itself.
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

/// Lines of stdin, read past std's buffer, because what is waited for is the descriptor.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    ended: bool,
}

/// What comes next of stdin.
enum Next {
    /// Without its newline.
    Line(Vec<u8>),
    Interrupt,
    End,
}

impl Lines {
    /// The next line. `wait` comes back when there is something to read, or after Ctrl-C.
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
