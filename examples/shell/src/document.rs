//! The wire of the document's programs, its server: a command as it is, and for an answer its length in decimal
//! digits and then so many bytes of output.
//!
//! It has no frames, and so it cannot be understood with certainty. All that comes until nothing comes for a
//! moment is taken for one command, so that one `send` is one command, however the system cuts it into pieces; two that
//! come together are one as well. Where the digits of a length end nobody can know, if the output begins with digits
//! and comes in one piece with them. So this sends the length in a segment of its own, and waits a little
//! before the output.
//!
//! The wire has no login either: `foreign.rs` says what is refused so that other programs of this machine, a browser
//! above all, cannot be made to send commands.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::{HandlerError, HandlerResult, StreamRequest};

use crate::encoding::Transcoder;
use crate::foreign;
use crate::protocol::{Ended, Status};
use crate::run::{Bounds, Printed, Wire, Wish, run};
use crate::settings::{Settings, log_refusal, log_refused_command};

/// How much one command may have. Linux takes no longer argument than twice this.
const LONGEST_COMMAND: usize = 64 * 1024;

/// How long nothing comes before what has come is taken for a whole command. A `send` reaches this machine's own
/// receiver within microseconds, in however many pieces; this is for a machine that is busy.
const QUIET: Duration = Duration::from_millis(100);

/// How long one command may be in coming. Without it a byte now and then would keep a stopping server waiting.
const LONGEST_SEND: Duration = Duration::from_secs(10);

/// How long after the length the output is sent. A client that waits for the length has read it by then; one
/// that has not takes both for the length, and there is nothing that a server could do.
const PAUSE: Duration = Duration::from_millis(100);

/// How much output there may be: the length goes first, and so all of it has to be kept.
const LONGEST_OUTPUT: u64 = 16 * 1024 * 1024;

/// How long one wait for the next command is before it is looked whether the server stops.
const LOOK: Duration = Duration::from_secs(1);

/// Serves one client.
pub fn serve(request: &mut StreamRequest, settings: &Settings) -> HandlerResult {
    let mut idle = Duration::ZERO;
    let mut patience = settings.first_word;
    let mut line = Vec::new();
    while !request.is_stopping() && idle < patience {
        if line.is_empty() {
            request.between_requests();
            request.set_timeout(Some(LOOK.min(patience)));
            match request.chunk() {
                Ok(Some(bytes)) => line.extend_from_slice(&bytes),
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    idle += LOOK.min(patience);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        (idle, patience) = (Duration::ZERO, request.server().limits().idle);
        let is_whole = receive_rest(request, &mut line);
        request.set_timeout(None);
        if let Err(why) = is_whole?.and_then(|()| check(&line)) {
            log_refusal(request, &why);
            return Ok(());
        }
        let mut answer = Answer { output: Vec::new(), next: Vec::new() };
        answer.fill(request, settings, &line)?;
        request.write_all(answer.output.len().to_string().as_bytes())?;
        thread::sleep(PAUSE);
        request.write_all(&answer.output)?;
        line = answer.next;
    }
    Ok(())
}

/// Receives what belongs to a command whose beginning is here. The inner result says why it is none.
fn receive_rest(request: &mut StreamRequest, line: &mut Vec<u8>) -> io::Result<Result<(), String>> {
    let until = Instant::now() + LONGEST_SEND;
    request.set_timeout(Some(QUIET));
    while line.len() <= LONGEST_COMMAND {
        if until <= Instant::now() {
            let seconds = LONGEST_SEND.as_secs();
            return Ok(Err(format!("it went on with one command for {seconds} s")));
        }
        match request.chunk() {
            Ok(Some(bytes)) => line.extend_from_slice(&bytes),
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(()))
}

/// Whether this is a command, of which then all is here.
fn check(line: &[u8]) -> Result<(), String> {
    if let Some(kind) = foreign::kind_of(line) {
        return Err(format!("it sent {kind}"));
    }
    if line.len() > LONGEST_COMMAND {
        return Err(format!("it sent more than {LONGEST_COMMAND} bytes for one command"));
    }
    Ok(())
}

/// An answer as it comes to be.
struct Answer {
    output: Vec<u8>,
    /// What the client has sent meanwhile: its next command.
    next: Vec<u8>,
}

impl Answer {
    fn fill(
        &mut self,
        request: &mut StreamRequest,
        settings: &Settings,
        line: &[u8],
    ) -> Result<(), HandlerError> {
        let most = settings.bounds.output_bytes.min(LONGEST_OUTPUT);
        let bounds = Bounds { output_bytes: most, ..settings.bounds.clone() };
        let ended = match settings.arguments(line) {
            Ok(arguments) => run(request, self, (&arguments, false), &bounds)?,
            Err(why) => {
                log_refused_command(request, line, &why);
                Ended { status: Status::NotStarted, why }
            }
        };
        if !ended.why.is_empty() {
            // There is no other place for it.
            self.output.extend(format!("[{}]\n", ended.why).into_bytes());
        }
        if let Some(encoding) = settings.encoding {
            let mut turn = Transcoder::from_utf8(encoding);
            let mut turned = turn.turn(&self.output);
            turned.extend(turn.finish());
            self.output = turned;
        }
        Ok(())
    }
}

impl Wire for Answer {
    /// Both kinds, as they come: the wire does not tell them apart, and an error that is not shown is worse.
    fn output(&mut self, _: Printed, bytes: &[u8]) -> Result<Vec<u8>, HandlerError> {
        self.output.extend_from_slice(bytes);
        Ok(Vec::new())
    }

    fn notice(&mut self, _: &str) -> Result<Vec<u8>, HandlerError> {
        Ok(Vec::new())
    }

    fn room(&mut self, _: usize) -> Result<Vec<u8>, HandlerError> {
        Ok(Vec::new())
    }

    /// It belongs to the next command, and what is too long is refused when its turn has come.
    fn input(&mut self, bytes: &[u8]) -> Result<Vec<Wish>, HandlerError> {
        let room = (LONGEST_COMMAND + 1).saturating_sub(self.next.len());
        self.next.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(Vec::new())
    }
}
