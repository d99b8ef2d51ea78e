//! The client's side of a control socket: `PROGRAM control PATH COMMAND`.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use socket2::{Domain, SockAddr, Socket, Type};

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

/// How long the beginning of an answer may take: a program that computes in its only thread answers late.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the rest of an answer may take: a program writes it at once. The limit ends the wait for a server of another
/// kind, whose answer may have no end.
const REST: Duration = Duration::from_secs(2);

/// The longest line of an answer, and the longest answer, in bytes. The latter has room for several hundred thousand live
/// requests.
const LINE_BYTES: usize = 1 << 16;
const ANSWER_BYTES: usize = 1 << 26;

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
    /// Whether the program has closed the connection.
    has_ended: bool,
}

/// The answer to a command.
pub(super) struct Reply {
    /// Its lines before the last one.
    pub(super) lines: Vec<String>,
    /// The text after `ok`.
    pub(super) note: String,
    /// The text after `error`.
    pub(super) error: Option<String>,
}

impl ControlSocket {
    pub(super) fn connect(path: &std::path::Path) -> Result<Self, Failure> {
        let open = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // This bounds the connect too: the accept queue of a program that is stopped may be full.
            socket.set_write_timeout(Some(ANSWER))?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(UnixStream::from(OwnedFd::from(socket)))
        };
        let stream = open().map_err(|error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "; is the program running with this --control?"
                }
                io::ErrorKind::PermissionDenied => "; only the program's own user may control it",
                io::ErrorKind::WouldBlock => {
                    let (path, seconds) = (path.display(), ANSWER.as_secs());
                    let why = format!(
                        "{path} accepts no connection within {seconds} s: is its program stopped?"
                    );
                    return Failure::Other(why);
                }
                _ => "",
            };
            Failure::Other(format!("cannot connect to {}: {error}{advice}", path.display()))
        })?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream), has_ended: false })
    }

    /// Sends a command.
    pub(super) fn send(&mut self, command: &str) -> Result<(), Failure> {
        // A command is one line, so a newline in a word becomes a space.
        let line = command.replace(['\n', '\r'], " ") + "\n";
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        // A server that has turned the connection away has sent its answer before it ended the connection.
        sent.or_else(
            |error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) },
        )
        .map_err(|error| self.broke(&error))
    }

    /// Waits for an answer.
    fn receive(&mut self) -> Result<Reply, Failure> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        let mut deadline = Instant::now() + ANSWER;
        loop {
            let line = self.receive_line(deadline, &lines)?;
            bytes += line.len();
            let line = String::from_utf8_lossy(&line).into_owned();
            let (mark, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match mark {
                "ok" => return Ok(Reply { lines, note: rest.to_owned(), error: None }),
                "error" => {
                    let error = Some(rest.to_owned());
                    return Ok(Reply { lines, note: String::new(), error });
                }
                _ if bytes > ANSWER_BYTES => return Err(self.is_something_else(&lines)),
                _ => lines.push(line),
            }
            deadline = deadline.min(Instant::now() + REST);
        }
    }

    /// The next line, without its newline. `before` are the lines before it.
    fn receive_line(&mut self, deadline: Instant, before: &[String]) -> Result<Vec<u8>, Failure> {
        let mut line = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !self.has_buffered() {
                return Err(self.no_answer(&line, before));
            }
            // `set_read_timeout` refuses a timeout of zero.
            let timeout = Some(left.max(Duration::from_millis(1)));
            let set = self.stream().set_read_timeout(timeout);
            let block = match set.and_then(|()| self.stream.fill_buf()) {
                Ok([]) => {
                    self.has_ended = true;
                    return Err(Failure::Other(format!("{} has ended", self.path.display())));
                }
                Ok(block) => block,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => {
                    self.has_ended = error.kind() == io::ErrorKind::ConnectionReset;
                    return Err(self.broke(&error));
                }
            };
            let end = block.iter().position(|byte| *byte == b'\n');
            let count = end.unwrap_or(block.len());
            line.extend(&block[..count]);
            self.stream.consume(count + usize::from(end.is_some()));
            if line.len() > LINE_BYTES {
                return Err(self.is_something_else(&[String::from_utf8_lossy(&line).into_owned()]));
            }
            if end.is_some() {
                return Ok(line);
            }
        }
    }

    /// The failure for an answer that has not come, or has no end.
    fn no_answer(&self, line: &[u8], before: &[String]) -> Failure {
        if line.is_empty() && before.is_empty() {
            let (path, seconds) = (self.path.display(), ANSWER.as_secs());
            return Failure::Other(format!(
                "no answer from {path} within {seconds} s: is it the --control of a program, and is that program running?"
            ));
        }
        let line = String::from_utf8_lossy(line).into_owned();
        self.is_something_else(if before.is_empty() { std::slice::from_ref(&line) } else { before })
    }

    /// The failure for an answer that none of these programs gives.
    fn is_something_else(&self, lines: &[String]) -> Failure {
        let path = self.path.display();
        let says: String = lines.first().map_or("", |line| line).chars().take(60).collect();
        Failure::Other(format!(
            "{path} is no control socket of a program, or one of another version: it says {:?}",
            says.trim_end()
        ))
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

    /// Whether the program has ended the connection, mostly because the program itself has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether a part of the next answer has been received.
    pub(super) fn has_buffered(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    /// The connection, for a caller that waits for an answer.
    pub(super) fn stream(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    fn broke(&self, error: &io::Error) -> Failure {
        Failure::Other(format!("the connection to {} broke: {error}", self.path.display()))
    }

    /// Sends each line of stdin, from an operator or a script, as a command. If a command fails, its error is printed, and
    /// the next command is sent. The result is that of the last command.
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
            // `watch` would read its keys from the same stdin as the commands.
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

/// Makes a table from lines in which tabs separate the values.
fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    table(&rows).into_iter().map(|line| line + "\n").collect()
}

/// Makes lines of rows: each column is as wide as its widest value. A column of numbers, below its name, is aligned to the
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
