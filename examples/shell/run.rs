//! One run of a command for a client: its output goes to the connection as it comes, and it ends with the
//! connection, with its bounds, or with the server.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socketserver::{HandlerError, StreamRequest};

use crate::command::Running;
use crate::protocol::{Ended, Message, Status};

/// What a command may use.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How long it may run; a year at the most.
    pub time: Duration,
    /// How many bytes it may print, on stdout and stderr together.
    pub output_bytes: u64,
    /// How long it may go on when the server has been told to stop.
    pub after_stop: Duration,
}

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printed {
    Stdout,
    Stderr,
}

/// What the client wants of a command that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Interrupt,
}

/// The client's side of a run: what its wire makes of output, and of what comes in meanwhile.
pub trait Wire {
    /// What has to be sent for this output; it may be nothing yet.
    fn output(&mut self, from: Printed, bytes: &[u8]) -> Result<Vec<u8>, HandlerError>;
    /// What has to be sent for this word of the server's own.
    fn notice(&mut self, text: &str) -> Result<Vec<u8>, HandlerError>;
    /// What these bytes from the client want.
    fn input(&mut self, bytes: &[u8]) -> Result<Wish, HandlerError>;
}

/// Runs a command to its end and says how it has ended.
///
/// # Errors
///
/// Those of the connection; nothing of the command is left then, either.
pub fn run(
    request: &mut StreamRequest,
    wire: &mut dyn Wire,
    arguments: &[OsString],
    bounds: &Bounds,
) -> Result<Ended, HandlerError> {
    let mut running = match Running::start(arguments) {
        Ok(running) => running,
        Err(error) => {
            let why = format!("the server cannot start a process for it: {error}");
            return Ok(Ended { status: Status::NotStarted, why });
        }
    };
    let result = Run::new(request, wire, &mut running, bounds).finish();
    request.set_timeout(None);
    running.end();
    result
}

/// How often to look whether the server stops, which nothing announces to a handler that waits by itself.
const LOOK: Duration = Duration::from_millis(200);

/// How much is read of a pipe at once: half of what Linux keeps in one.
const PIECE: usize = 32 * 1024;

/// Waits for the command and the connection at once, in one thread, and reads no output while the client has
/// not taken what was read before. So a command that prints faster than its client reads waits in its own
/// write, and nothing grows.
struct Run<'a> {
    request: &'a mut StreamRequest,
    wire: &'a mut dyn Wire,
    running: &'a mut Running,
    bounds: &'a Bounds,
    /// On its way to the client.
    pending: Vec<u8>,
    /// When the client last took something, or had nothing to take.
    taken: Instant,
    printed: u64,
    until: Instant,
    stopping: bool,
    /// Why the server has ended the command, if it has.
    why: Option<String>,
}

/// What is ready to be read.
struct Ready {
    client: bool,
    stdout: bool,
    stderr: bool,
    control: bool,
}

impl<'a> Run<'a> {
    fn new(
        request: &'a mut StreamRequest,
        wire: &'a mut dyn Wire,
        running: &'a mut Running,
        bounds: &'a Bounds,
    ) -> Self {
        // Each read and write is a single try; what waits is the poll.
        request.set_timeout(Some(Duration::ZERO));
        let taken = Instant::now();
        let until = taken + bounds.time;
        let (pending, stopping, why) = (Vec::new(), false, None);
        Self { request, wire, running, bounds, pending, taken, printed: 0, until, stopping, why }
    }

    fn finish(mut self) -> Result<Ended, HandlerError> {
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
        // What is in the pipes of a command that is over is all there will be: whoever still has their other
        // ends could not be ended, and is not waited for.
        let over = idle && control.is_none();
        let sources = [self.request.fileno(), pipes, errors, control];
        let [client, stdout, stderr, control] =
            wait_for(sources, !idle, if over { Duration::ZERO } else { LOOK })?;
        if over && !stdout && !stderr {
            (self.running.stdout, self.running.stderr) = (None, None);
        }
        Ok(Ready { client, stdout, stderr, control })
    }

    fn hear_client(&mut self) -> Result<(), HandlerError> {
        let bytes = match self.request.chunk() {
            Ok(Some(bytes)) => bytes,
            // A client that is gone ends its command. One that only sends no more cannot be told from it.
            Ok(None) => return Err(self.request.ended_early().into()),
            Err(error) if is_no_more_for_now(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if self.wire.input(&bytes)? == Wish::Interrupt {
            self.running.interrupt();
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

    /// Sends as much as the client takes now.
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

    /// Has the supervisor end the command, for the first reason that there is.
    fn terminate(&mut self, why: String) {
        if self.why.is_none() {
            self.why = Some(why);
            self.running.terminate();
        }
    }

    fn ended(self) -> Ended {
        let report = Message::from_body(self.running.report());
        // A supervisor without a word was killed, and what it watched is then not known.
        let (status, said) = match report {
            Ok(Message::Ended(Ended { status, why })) => (status, why),
            _ => (Status::Signalled(9), "its supervisor was killed".to_owned()),
        };
        Ended { status, why: self.why.unwrap_or(said) }
    }
}

/// Waits until one of these is readable, or the first is writable, if that is asked for, or for a while.
/// Says which can be read.
fn wait_for(
    sources: [Option<BorrowedFd<'_>>; 4],
    writable: bool,
    time: Duration,
) -> io::Result<[bool; 4]> {
    let mut fds: Vec<PollFd<'_>> = sources
        .iter()
        .flatten()
        .map(|source| PollFd::from_borrowed_fd(*source, PollFlags::IN))
        .collect();
    if let (Some(connection), true) = (sources[0], writable) {
        fds[0] = PollFd::from_borrowed_fd(connection, PollFlags::IN | PollFlags::OUT);
    }
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&time)) {
        // A signal: there may be something to look at besides.
        Err(rustix::io::Errno::INTR) => return Ok([false; 4]),
        result => result?,
    };
    let mut polled = fds.iter();
    Ok(sources.map(|source| {
        let fd = source.and_then(|_| polled.next());
        fd.is_some_and(|fd| fd.revents().intersects(!PollFlags::OUT))
    }))
}

/// What a pipe has; at its end it is closed.
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
