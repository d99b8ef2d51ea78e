//! The server of the tutorial's wire. A command arrives as it is typed. The answer is the length of the output in
//! decimal digits, and then the output.
//!
//! The wire has no frames, and so it is ambiguous. The bytes that arrive until a short silence are one command. So
//! one `send` is one command, however the network cuts it, but two that arrive together are one as well. If the
//! output begins with digits and arrives in one piece with its length, the client cannot know where the length ends.
//! So this server sends the length in a segment of its own, and waits a little before the output.
//!
//! The wire has no login either. `foreign.rs` decides what is refused, so that other programs of this machine, a
//! browser above all, cannot be made to send commands.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use socketserver::{HandlerError, HandlerResult, StreamRequest};

use crate::encoding::Transcoder;
use crate::foreign;
use crate::protocol::{Ended, Status};
use crate::run::{Bounds, Printed, Wire, Wish, run};
use crate::settings::{Settings, log_refusal, log_refused_command};

/// The most bytes of one command. Linux accepts arguments of up to twice this.
const LONGEST_COMMAND: usize = 64 * 1024;

/// The silence that ends a command. All pieces of a `send` arrive over loopback within microseconds; the rest of this
/// time is for a busy machine.
const QUIET: Duration = Duration::from_millis(100);

/// How long one command may take to arrive. Without this bound, a byte now and then would keep a stopping server
/// waiting.
const LONGEST_SEND: Duration = Duration::from_secs(10);

/// The pause between the length and the output. A client that waits for the length reads it in this time. A slower
/// client takes both for the length, which no server can prevent.
const PAUSE: Duration = Duration::from_millis(100);

/// The most bytes of output. The length is sent first, so all of the output has to be in memory.
const LONGEST_OUTPUT: u64 = 16 * 1024 * 1024;

/// The interval at which the handler checks whether the server is stopping, while it waits for a command.
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
        socketserver::sleep(PAUSE);
        request.write_all(&answer.output)?;
        line = answer.next;
    }
    Ok(())
}

/// Receives the rest of a command. The inner error says why it is refused.
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

/// Checks a complete command.
fn check(line: &[u8]) -> Result<(), String> {
    if let Some(kind) = foreign::kind_of(line) {
        return Err(format!("it sent {kind}"));
    }
    if line.len() > LONGEST_COMMAND {
        return Err(format!("it sent more than {LONGEST_COMMAND} bytes for one command"));
    }
    Ok(())
}

/// An answer that is being collected.
struct Answer {
    output: Vec<u8>,
    /// Bytes that the client has sent while the command ran: its next command.
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
            // The tutorial's protocol has no other place for a reason than the output.
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
    /// Keeps the output of both streams in its order: the wire cannot separate them, and hiding stderr would be worse.
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

    /// These bytes belong to the next command, whose length is checked later.
    fn input(&mut self, bytes: &[u8]) -> Result<Vec<Wish>, HandlerError> {
        let room = (LONGEST_COMMAND + 1).saturating_sub(self.next.len());
        self.next.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(Vec::new())
    }
}
