//! The server's handler: a login, and then one command after the other.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socketserver::{HandlerError, HandlerResult, StreamRequest, StreamRequestHandler};

use crate::document;
use crate::encoding::Transcoder;
use crate::link::Link;
use crate::login::log_in;
use crate::protocol::{Ended, LONGEST_PAYLOAD, Malformed, Message, Status};
use crate::run::{Printed, Wire, Wish, run};
use crate::settings::{Settings, WireName, log_refusal, log_refused_command, short};

/// The handler of one connection.
pub struct Shell {
    settings: Arc<Settings>,
}

impl Shell {
    pub fn new(settings: &Arc<Settings>) -> Self {
        Self { settings: Arc::clone(settings) }
    }
}

impl StreamRequestHandler for Shell {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        if self.settings.wire == WireName::Document {
            return document::serve(request, &self.settings);
        }
        let mut link = Link::new();
        let result = match log_in(request, &mut link, &self.settings) {
            Ok(true) => serve(request, link, &self.settings),
            Ok(false) => Ok(()),
            Err(error) if is_timeout(&error) => {
                log_refusal(request, "it did not log in within its time");
                Ok(())
            }
            Err(error) => Err(error),
        };
        match result {
            // An invalid message is the peer's fault and not a failure of this server.
            Err(error) if error.is::<snow::Error>() => {
                log_refusal(request, "it sent a message that is not its session's next");
                Ok(())
            }
            Err(error) if error.is::<Malformed>() => {
                log_refusal(request, &format!("it sent {error}"));
                Ok(())
            }
            result => result,
        }
    }
}

fn is_timeout(error: &HandlerError) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// How long one wait for the next command lasts. Under `Inline` a stop does not end the wait, so the handler checks for it
/// after each one.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the client's commands, until it leaves.
fn serve(request: &mut StreamRequest, link: Link, settings: &Settings) -> HandlerResult {
    let mut session = Session { link, turns: None };
    let mut asked = Instant::now();
    // A stopping server does not begin a command that the client has sent already.
    while !request.is_stopping() {
        match session.link.next_message()? {
            Some(Message::Run { line, has_input }) => {
                let ended = session.run(request, settings, (&line, has_input))?;
                session.link.send(request, &Message::Ended(ended))?;
                asked = Instant::now();
                continue;
            }
            // The message comes too late: its command has ended.
            Some(Message::Interrupt | Message::Input(_)) => continue,
            Some(_) => return Err(Malformed::BadBody("command").into()),
            None => {}
        }
        if session.link.is_between_messages() {
            request.between_requests();
        }
        request.set_timeout(Some(LOOK));
        let came = request.chunk();
        request.set_timeout(None);
        match came {
            Ok(Some(bytes)) => session.link.push(&bytes),
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if asked.elapsed() > request.server().limits().idle {
                    break;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A session after its login.
struct Session {
    link: Link,
    /// The transcoders of the running command's stdout and stderr, if its output is transcoded.
    turns: Option<[Transcoder; 2]>,
}

impl Session {
    fn run(
        &mut self,
        request: &mut StreamRequest,
        settings: &Settings,
        (line, has_input): (&[u8], bool),
    ) -> Result<Ended, HandlerError> {
        let arguments = match settings.arguments(line) {
            Ok(arguments) => arguments,
            Err(why) => {
                log_refused_command(request, line, &why);
                return Ok(Ended { status: Status::NotStarted, why });
            }
        };
        self.turns = settings.encoding.map(|to| [(); 2].map(|()| Transcoder::from_utf8(to)));
        let mut ended = run(request, self, (&arguments, has_input), &settings.bounds)?;
        ended.why = short(&ended.why);
        let turns = self.turns.take();
        for (mut turn, from) in turns.into_iter().flatten().zip([Printed::Stdout, Printed::Stderr])
        {
            let bytes = self.output(from, &turn.finish())?;
            request.write_all(&bytes)?;
        }
        Ok(ended)
    }
}

impl Wire for Session {
    fn output(&mut self, from: Printed, bytes: &[u8]) -> Result<Vec<u8>, HandlerError> {
        let turned = self.turns.as_mut().map(|turns| turns[from as usize].turn(bytes));
        let mut sent = Vec::new();
        for piece in turned.as_deref().unwrap_or(bytes).chunks(LONGEST_PAYLOAD) {
            let message = match from {
                Printed::Stdout => Message::Stdout(piece.to_vec()),
                Printed::Stderr => Message::Stderr(piece.to_vec()),
            };
            sent.extend(self.link.bytes_of(&message)?);
        }
        Ok(sent)
    }

    fn notice(&mut self, text: &str) -> Result<Vec<u8>, HandlerError> {
        self.link.bytes_of(&Message::Notice(text.to_owned()))
    }

    fn room(&mut self, bytes: usize) -> Result<Vec<u8>, HandlerError> {
        self.link.bytes_of(&Message::Room(u32::try_from(bytes)?))
    }

    fn input(&mut self, bytes: &[u8]) -> Result<Vec<Wish>, HandlerError> {
        self.link.push(bytes);
        let mut wishes = Vec::new();
        while let Some(message) = self.link.next_message()? {
            match message {
                Message::Interrupt => wishes.push(Wish::Interrupt),
                Message::Input(bytes) if bytes.is_empty() => wishes.push(Wish::EndOfInput),
                Message::Input(bytes) => wishes.push(Wish::Input(bytes)),
                // A client may send its next command only when this one has ended.
                _ => return Err(Malformed::BadBody("message while a command runs").into()),
            }
        }
        Ok(wishes)
    }
}
