//! The prompt: a line typed is a command run.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use crate::client::{Client, INTERRUPTED, Leave};
use crate::protocol::{Ended, Status};
use crate::screen::{printable, say};

/// Runs every line of stdin, up to its end or `exit`, and gives the status of the last one. Only a terminal is
/// shown a prompt.
pub fn prompt(client: &mut Client) -> Result<u8, Leave> {
    let stdin = io::stdin();
    let typed = stdin.is_terminal();
    let (mut lines, mut status) = (Lines::default(), 0);
    loop {
        if typed {
            // On stderr, where it is not taken for output.
            let _ = io::stderr().write_all(b"> ");
        }
        let line = match lines.next(|| client.wait_for_input(stdin.as_fd())) {
            Ok(Some(line)) => line,
            Ok(None) => break,
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
            _ => status = show(&client.run(&line)?),
        }
        if typed && status != 0 {
            // The terminal has shown `^C`, without a newline.
            let begin = if client.was_interrupted() { "\n" } else { "" };
            say(&format!("{begin}[status {status}]"));
        }
        // Whoever sees no prompt means the whole of what is running.
        if !typed && client.was_interrupted() {
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
pub struct Lines {
    bytes: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// The next line, without its newline; none at the end. `wait` comes back when there is something to read.
    pub fn next(
        &mut self,
        mut wait: impl FnMut() -> Result<(), Leave>,
    ) -> Result<Option<Vec<u8>>, Leave> {
        let mut searched = 0;
        loop {
            let found = self.bytes[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = found.map(|at| searched + at) {
                let mut line = self.bytes.drain(..=at).collect::<Vec<u8>>();
                line.truncate(at);
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(Some(std::mem::take(&mut self.bytes)).filter(|rest| !rest.is_empty()));
            }
            searched = self.bytes.len();
            wait()?;
            let mut piece = [0; 8_192];
            let count = rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut piece))
                .map_err(io::Error::from)?;
            self.bytes.extend_from_slice(&piece[..count]);
            self.ended = count == 0;
        }
    }
}
