//! The client's side of a control socket: `PROGRAM control PATH COMMAND`.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::watch::watch;
use crate::{Failure, client};

/// The options of `control`.
#[derive(Clone, Debug, Args)]
pub struct ControlOptions {
    /// The control socket of a running program: the path that its --control has
    #[arg(value_name = "PATH", value_parser = super::path)]
    path: PathBuf,
    /// A command and its words; `help` lists them. Without one, the lines of stdin are commands
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<String>,
}

/// How long an answer may take: a program that computes in its only thread answers late.
const ANSWER: Duration = Duration::from_secs(30);

/// Sends a command to a running program, and shows the answer. A command that fails is a failure with status 1.
pub fn control(options: &ControlOptions) -> Result<(), Failure> {
    let mut socket = ControlSocket::connect(&options.path)?;
    if options.command.is_empty() {
        return socket.obey_stdin();
    }
    let command = options.command.join(" ");
    if options.command[0] == "watch" {
        return watch(socket, &command);
    }
    let answer = socket.ask(&command)?;
    client::show(answer.shown().as_bytes())?;
    match answer.error {
        Some(why) => Err(Failure::Other(why)),
        None => Ok(()),
    }
}

/// A connection to a running program.
pub(super) struct ControlSocket {
    pub(super) path: PathBuf,
    stream: BufReader<UnixStream>,
    /// The program has closed it.
    has_ended: bool,
}

/// The answer to a command.
pub(super) struct Reply {
    /// Its lines, without the last one.
    pub(super) lines: Vec<String>,
    /// The text behind `ok`.
    pub(super) note: String,
    /// The text behind `error`.
    pub(super) error: Option<String>,
}

impl ControlSocket {
    pub(super) fn connect(path: &std::path::Path) -> Result<Self, Failure> {
        let open = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(ANSWER))?;
            stream.set_write_timeout(Some(ANSWER))?;
            Ok(stream)
        };
        let stream = open().map_err(|error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "; is the program running with this --control?"
                }
                io::ErrorKind::PermissionDenied => "; only the program's own user may control it",
                _ => "",
            };
            Failure::Other(format!("cannot connect to {}: {error}{advice}", path.display()))
        })?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream), has_ended: false })
    }

    /// Sends a command.
    pub(super) fn send(&mut self, command: &str) -> Result<(), Failure> {
        // A command is one line, whatever its words are.
        let line = command.replace(['\n', '\r'], " ") + "\n";
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        // A connection that was turned away has its answer already.
        sent.or_else(
            |error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) },
        )
        .map_err(|error| self.broke(&error))
    }

    /// Waits for an answer.
    fn receive(&mut self) -> Result<Reply, Failure> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            match self.stream.read_until(b'\n', &mut line) {
                Ok(0) => {
                    self.has_ended = true;
                    return Err(Failure::Other(format!("{} has ended", self.path.display())));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let why = format!(
                        "no answer from {} within {} s",
                        self.path.display(),
                        ANSWER.as_secs()
                    );
                    return Err(Failure::Other(why));
                }
                Err(error) => {
                    self.has_ended = error.kind() == io::ErrorKind::ConnectionReset;
                    return Err(self.broke(&error));
                }
            }
            let line = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            let (mark, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match mark {
                "ok" => return Ok(Reply { lines, note: rest.to_owned(), error: None }),
                "error" => {
                    let error = Some(rest.to_owned());
                    return Ok(Reply { lines, note: String::new(), error });
                }
                _ => lines.push(line),
            }
        }
    }

    fn ask(&mut self, command: &str) -> Result<Reply, Failure> {
        self.send(command)?;
        self.receive()
    }

    /// Sends a command, and returns its answer. A command that fails is an error.
    pub(super) fn ask_well(&mut self, command: &str) -> Result<Reply, Failure> {
        self.send(command)?;
        self.receive_well()
    }

    /// Receives the next answer. A command that has failed is an error.
    pub(super) fn receive_well(&mut self) -> Result<Reply, Failure> {
        let reply = self.receive()?;
        match reply.error {
            Some(why) => Err(Failure::Other(why)),
            None => Ok(reply),
        }
    }

    /// Whether the program has ended the connection, mostly by its own end.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether a part of the next answer has been received.
    pub(super) fn has_buffered(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    /// The connection, to wait for an answer.
    pub(super) fn stream(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    fn broke(&self, error: &io::Error) -> Failure {
        Failure::Other(format!("the connection to {} broke: {error}", self.path.display()))
    }

    /// Obeys an operator, or a script. If a command fails, its error is printed, and the next command is obeyed. The
    /// status is that of the last command.
    fn obey_stdin(&mut self) -> Result<(), Failure> {
        let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let mut last = Ok(());
        let mut lines = io::stdin().lock().lines();
        loop {
            if is_terminal {
                client::show(b"> ")?;
            }
            let Some(line) = lines.next() else { return last };
            let line =
                line.map_err(|error| Failure::Other(format!("cannot read stdin: {error}")))?;
            if line.trim().is_empty() {
                continue;
            }
            // `watch` at the prompt would read keys and show figures at once.
            if line.split_whitespace().next() == Some("watch") {
                crate::warn("error: `watch` is a command of its own: PROGRAM control PATH watch");
                continue;
            }
            if let Err(failure) = std::mem::replace(&mut last, Ok(())) {
                crate::warn(&format!("error: {failure}"));
            }
            let reply = self.ask(&line)?;
            client::show(reply.shown().as_bytes())?;
            if let Some(why) = reply.error {
                last = Err(Failure::Other(why));
            }
            if line.trim() == "quit" {
                return last;
            }
        }
    }
}

impl Reply {
    /// The answer as a person reads it.
    fn shown(&self) -> String {
        let mut text = aligned(&self.lines);
        if !self.note.is_empty() {
            text += &self.note;
            text.push('\n');
        }
        text
    }
}

/// Lines with tabs as a table.
fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    table(&rows).into_iter().map(|line| line + "\n").collect()
}

/// Rows as lines: each column is as wide as its widest value. A column of numbers, below its name, is aligned to the
/// right.
pub(super) fn table<S: AsRef<str>>(rows: &[Vec<S>]) -> Vec<String> {
    let mut widths = Vec::new();
    for row in rows.iter().filter(|row| row.len() > 1) {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, value) in widths.iter_mut().zip(row) {
            *width = value.as_ref().chars().count().max(*width);
        }
    }
    let is_number =
        |value: &S| value.as_ref().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'));
    let stands_right = |column| {
        let mut values = rows.iter().skip(1).filter_map(|row| row.get(column)).peekable();
        values.peek().is_some() && values.all(is_number)
    };
    let right: Vec<bool> = (0..widths.len()).map(stands_right).collect();
    let line = |row: &Vec<S>| {
        // A row of one value is a sentence, and belongs in no column.
        if let [sentence] = &row[..] {
            return sentence.as_ref().to_owned();
        }
        let mut line = String::new();
        for ((value, width), right) in row.iter().zip(&widths).zip(&right) {
            let value = value.as_ref();
            line +=
                &if *right { format!("{value:>width$}  ") } else { format!("{value:<width$}  ") };
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
