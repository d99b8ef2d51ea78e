//! One run of a command for a client. The output goes to the connection as it is printed. The command is ended when the
//! connection or the server ends, or when it exceeds its bounds.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use socketserver::{HandlerError, StreamRequest};

use crate::command::Running;
use crate::protocol::{Ended, Message, Status};
use crate::ready::offloaded_wait;

/// The bounds of a command.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How long it may run; a year at the most.
    pub time: Duration,
    /// How many bytes it may print, on stdout and stderr together.
    pub output_bytes: u64,
    /// How long it may go on when the server stops.
    pub after_stop: Duration,
}

/// The stream on which output was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printed {
    Stdout,
    Stderr,
}

/// A client's message to a running command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Interrupt,
    /// Input for the command.
    Input(Vec<u8>),
    EndOfInput,
}

/// The wire of a run: how output is encoded, and how the client's bytes are read.
pub trait Wire {
    /// The bytes to send for this output; there may be none yet.
    fn output(&mut self, from: Printed, bytes: &[u8]) -> Result<Vec<u8>, HandlerError>;
    /// The bytes to send for a line of the server's own.
    fn notice(&mut self, text: &str) -> Result<Vec<u8>, HandlerError>;
    /// The bytes that allow the client to send more input.
    fn room(&mut self, bytes: usize) -> Result<Vec<u8>, HandlerError>;
    /// Reads bytes of the client.
    fn input(&mut self, bytes: &[u8]) -> Result<Vec<Wish>, HandlerError>;
}

/// Runs a command to its end.
///
/// # Errors
///
/// Errors of the connection. In that case too, no process of the command is left.
pub fn run(
    request: &mut StreamRequest,
    wire: &mut dyn Wire,
    (arguments, has_input): (&[OsString], bool),
    bounds: &Bounds,
) -> Result<Ended, HandlerError> {
    let mut running = match Running::start(arguments, has_input) {
        Ok(running) => running,
        Err(error) => {
            let why = format!("the server cannot start a process for it: {error}");
            return Ok(Ended { status: Status::NotStarted, why });
        }
    };
    let result = Run::new(request, wire, &mut running, bounds).finish();
    request.set_timeout(None);
    // `end` waits for processes, which would block a coroutine's worker.
    socketserver::offload(move || running.end())?;
    result
}

/// The interval at which a run checks whether the server is stopping: nothing wakes a handler that polls descriptors of its own.
const LOOK: Duration = Duration::from_millis(200);

/// How many bytes of a pipe one read takes: half of a pipe's buffer on Linux.
const PIECE: usize = 32 * 1024;

/// A run, which waits for the command and the connection at once, in one thread. It reads no output while earlier output
/// waits for the client. So if a command prints faster than its client reads, the command waits in its own write, and no buffer
/// grows.
struct Run<'a> {
    request: &'a mut StreamRequest,
    wire: &'a mut dyn Wire,
    running: &'a mut Running,
    bounds: &'a Bounds,
    /// Output on its way to the client.
    pending: Vec<u8>,
    /// The last moment at which the client accepted bytes, or no bytes were waiting.
    taken: Instant,
    printed: u64,
    until: Instant,
    stopping: bool,
    /// Why the server has ended the command, if it has.
    why: Option<String>,
}

/// Which descriptors are ready.
struct Ready {
    client: bool,
    stdout: bool,
    stderr: bool,
    control: bool,
    /// Whether the command accepts more input.
    stdin: bool,
}

impl<'a> Run<'a> {
    fn new(
        request: &'a mut StreamRequest,
        wire: &'a mut dyn Wire,
        running: &'a mut Running,
        bounds: &'a Bounds,
    ) -> Self {
        // Reads and writes never wait; the poll does.
        request.set_timeout(Some(Duration::ZERO));
        let taken = Instant::now();
        let until = taken + bounds.time;
        let (pending, stopping, why) = (Vec::new(), false, None);
        Self { request, wire, running, bounds, pending, taken, printed: 0, until, stopping, why }
    }

    fn finish(mut self) -> Result<Ended, HandlerError> {
        // Bytes may have arrived together with the command.
        self.heed_wishes(&[])?;
        while !self.is_over() {
            let ready = self.wait()?;
            if ready.client {
                self.hear_client()?;
            }
            if ready.stdout {
                let read = read_piece(&mut self.running.stdout)?;
                self.forward(Printed::Stdout, &read)?;
            }
            if ready.stderr {
                let read = read_piece(&mut self.running.stderr)?;
                self.forward(Printed::Stderr, &read)?;
            }
            if ready.control {
                self.running.read_report();
            }
            if ready.stdin {
                self.feed()?;
            }
            self.send()?;
            self.heed_bounds()?;
        }
        Ok(self.ended())
    }

    fn is_over(&self) -> bool {
        let Running { stdout, stderr, .. } = &self.running;
        let silent = stdout.is_none() && stderr.is_none();
        silent && self.running.control().is_none() && self.pending.is_empty()
    }

    fn wait(&mut self) -> Result<Ready, HandlerError> {
        let idle = self.pending.is_empty();
        let running = &self.running;
        let pipes = idle.then_some(&running.stdout).and_then(Option::as_ref).map(AsFd::as_fd);
        let errors = idle.then_some(&running.stderr).and_then(Option::as_ref).map(AsFd::as_fd);
        let control = running.control().map(AsFd::as_fd);
        // After the end of a command only the bytes in its pipes are read. Processes that still hold the other
        // ends of these pipes could not be ended, and are not waited for.
        let over = idle && control.is_none();
        let talk = if idle { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let client = self.request.fileno().map(|fd| (fd, talk));
        let stdin = running.input.waits_for().map(|fd| (fd, PollFlags::OUT));
        let [pipes, errors, control] =
            [pipes, errors, control].map(|fd| fd.map(|fd| (fd, PollFlags::IN)));
        let sources = [client, pipes, errors, control, stdin];
        let time = if over { Duration::ZERO } else { LOOK };
        let [client, stdout, stderr, control, stdin] = offloaded_wait(sources, time)?;
        let stdin = !stdin.is_empty();
        let [client, stdout, stderr, control] =
            [client, stdout, stderr, control].map(|ready| ready.intersects(!PollFlags::OUT));
        if over && !stdout && !stderr {
            (self.running.stdout, self.running.stderr) = (None, None);
        }
        Ok(Ready { client, stdout, stderr, control, stdin })
    }

    fn hear_client(&mut self) -> Result<(), HandlerError> {
        let bytes = match self.request.chunk() {
            Ok(Some(bytes)) => bytes,
            // A client that has ended its output looks like one that has gone, so its command ends.
            Ok(None) => return Err(self.request.ended_early().into()),
            Err(error) if is_no_more_for_now(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.heed_wishes(&bytes)
    }

    fn heed_wishes(&mut self, bytes: &[u8]) -> Result<(), HandlerError> {
        for wish in self.wire.input(bytes)? {
            match wish {
                Wish::Interrupt => self.running.interrupt(),
                Wish::Input(bytes) => self.running.input.push(&bytes)?,
                Wish::EndOfInput => self.running.input.end(),
            }
        }
        Ok(())
    }

    fn feed(&mut self) -> Result<(), HandlerError> {
        self.running.input.write()?;
        if let Some(bytes) = self.running.input.room() {
            let sent = self.wire.room(bytes)?;
            self.pending.extend(sent);
        }
        Ok(())
    }

    fn forward(&mut self, from: Printed, bytes: &[u8]) -> Result<(), HandlerError> {
        let left = self.bounds.output_bytes - self.printed;
        let allowed = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.printed += allowed as u64;
        if allowed < bytes.len() {
            self.terminate(format!("it printed more than {} bytes", self.bounds.output_bytes));
            (self.running.stdout, self.running.stderr) = (None, None);
        }
        if allowed > 0 {
            let sent = self.wire.output(from, &bytes[..allowed])?;
            self.pending.extend(sent);
        }
        Ok(())
    }

    /// Sends as much as the client accepts now.
    fn send(&mut self) -> Result<(), HandlerError> {
        while !self.pending.is_empty() {
            match self.request.write(&self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                    self.taken = Instant::now();
                }
                Err(error) if is_no_more_for_now(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.pending.is_empty() {
            self.taken = Instant::now();
        }
        Ok(())
    }

    fn heed_bounds(&mut self) -> Result<(), HandlerError> {
        let patience = self.request.server().limits().write;
        if self.taken.elapsed() > patience {
            let text = format!("it took no output for {} s", patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
        }
        if !self.stopping && self.request.is_stopping() {
            self.stopping = true;
            let left = self.bounds.after_stop;
            self.until = self.until.min(Instant::now() + left);
            let text =
                format!("the server stops; the command has {:.1} s left", left.as_secs_f64());
            let sent = self.wire.notice(&text)?;
            self.pending.extend(sent);
        }
        if Instant::now() >= self.until {
            self.terminate(if self.stopping {
                "the server stops".to_owned()
            } else {
                format!("it ran for longer than {} s", self.bounds.time.as_secs_f64())
            });
        }
        self.running.enforce_end();
        Ok(())
    }

    /// Makes the supervisor end the command. The first reason counts.
    fn terminate(&mut self, why: String) {
        if self.why.is_none() {
            self.why = Some(why);
            self.running.terminate();
        }
    }

    fn ended(self) -> Ended {
        let report = Message::from_body(self.running.report());
        // A supervisor that reports nothing was killed.
        let (status, said) = match report {
            Ok(Message::Ended(Ended { status, why })) => (status, why),
            _ => (Status::Signalled(9), "its supervisor was killed".to_owned()),
        };
        Ended { status, why: self.why.unwrap_or(said) }
    }
}

/// Reads once from a pipe, and closes it at its end.
fn read_piece(pipe: &mut Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE];
    let count = match pipe {
        Some(pipe) => pipe.read(&mut piece)?,
        None => 0,
    };
    if count == 0 {
        *pipe = None;
    }
    piece.truncate(count);
    Ok(piece)
}

fn is_no_more_for_now(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}
