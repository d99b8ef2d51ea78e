//! The wire of the document's programs: a command as it is, and for an answer its length in decimal digits and
//! then so many bytes of output.
//!
//! It has no frames, and so it cannot be understood with certainty: what one `send` has sent is taken for one
//! command, and where the digits of a length end nobody can know, if the output begins with digits and comes
//! in one piece with them. So this sends the length in a segment of its own, and waits a little before the
//! output; and when it reads, it holds the whole answer against every length that it may begin with.

use std::io::{self, IsTerminal, Read, Write};
use std::thread;
use std::time::Duration;

use encoding_rs::Encoding;
use socket2::Socket;
use socketserver::{Endpoint, HandlerError, HandlerResult, StreamRequest};

use crate::answer::{Reading, read_answer};
use crate::client::{Leave, cannot_show};
use crate::common::Failure;
use crate::encoding::Transcoder;
use crate::protocol::{Ended, Status};
use crate::run::{Bounds, Printed, Wire, Wish, run};
use crate::settings::{Settings, log_refusal, short};

/// The document's programs read so much at once: a longer command would come in pieces, as several.
pub const LONGEST_COMMAND: usize = 1_024;

/// How long after the length the output is sent. A client that waits for the length has read it by then; one
/// that has not takes both for the length, and there is nothing that a server could do.
const PAUSE: Duration = Duration::from_millis(100);

/// How much output there may be: the length goes first, and so all of it has to be kept.
const LONGEST_OUTPUT: u64 = 16 * 1024 * 1024;

/// How much a client keeps of one answer.
const LONGEST_ANSWER: usize = 256 * 1024 * 1024;

/// How long one wait for the next command is before it is looked whether the server stops.
const LOOK: Duration = Duration::from_secs(1);

/// Serves one client.
pub fn serve(request: &mut StreamRequest, settings: &Settings) -> HandlerResult {
    let mut idle = Duration::ZERO;
    let mut waiting = None;
    while !request.is_stopping() && idle < request.server().limits().idle {
        let line = match waiting.take() {
            Some(line) => line,
            None => {
                request.between_requests();
                request.set_timeout(Some(LOOK));
                match request.chunk() {
                    Ok(Some(bytes)) => bytes.to_vec(),
                    Ok(None) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        idle += LOOK;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        idle = Duration::ZERO;
        request.set_timeout(None);
        if is_of_a_browser(&line) {
            log_refusal(request, "it sent a request of HTTP, which no user types");
            return Ok(());
        }
        let mut answer = Answer { output: Vec::new(), next: Vec::new() };
        answer.fill(request, settings, &String::from_utf8_lossy(&line))?;
        request.write_all(answer.output.len().to_string().as_bytes())?;
        thread::sleep(PAUSE);
        request.write_all(&answer.output)?;
        waiting = Some(answer.next).filter(|next| !next.is_empty());
    }
    Ok(())
}

/// Any page of the web can have its reader's browser send to a port of this machine, and choose most of what it
/// sends: without a login that would be commands of the page's. What the page cannot choose is how it begins.
fn is_of_a_browser(line: &[u8]) -> bool {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let path = METHODS.iter().find_map(|method| line.strip_prefix(method.as_bytes()));
    path.is_some_and(|path| path.starts_with(b" /"))
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
        line: &str,
    ) -> Result<(), HandlerError> {
        let most = settings.bounds.output_bytes.min(LONGEST_OUTPUT);
        let bounds = Bounds { output_bytes: most, ..settings.bounds.clone() };
        let ended = match settings.arguments(line) {
            Ok(arguments) => run(request, self, &arguments, &bounds)?,
            Err(why) => {
                log_refusal(request, &format!("the command {:?}: {why}", short(line)));
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

    fn input(&mut self, bytes: &[u8]) -> Result<Wish, HandlerError> {
        if self.next.len() + bytes.len() > LONGEST_COMMAND {
            let text = "more than one command was sent while another one ran";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text).into());
        }
        self.next.extend_from_slice(bytes);
        Ok(Wish::Nothing)
    }
}

/// How long nothing comes before an answer that may be whole is taken for it: longer than the pause of `serve`.
const QUIET: Duration = Duration::from_millis(300);

/// The client: what is typed, or one command, to a server of this wire. The wire has no exit status.
pub fn connect(
    socket: &Socket,
    endpoint: &Endpoint,
    command: Option<&str>,
    encoding: Option<&'static Encoding>,
) -> Result<u8, Leave> {
    if let Some(line) = command {
        ask(socket, endpoint, line, encoding)?;
        return Ok(0);
    }
    let typed = io::stdin().is_terminal();
    let show_prompt = || if typed { io::stderr().write_all(b"> ") } else { Ok(()) };
    show_prompt()?;
    for line in io::stdin().lines() {
        match line?.trim() {
            "" => {}
            "exit" => break,
            line => ask(socket, endpoint, line, encoding)?,
        }
        show_prompt()?;
    }
    Ok(0)
}

fn ask(
    socket: &Socket,
    endpoint: &Endpoint,
    line: &str,
    encoding: Option<&'static Encoding>,
) -> Result<(), Leave> {
    if line.len() > LONGEST_COMMAND {
        let why = format!("on this wire a command may have {LONGEST_COMMAND} bytes");
        return Err(Failure::Usage(why).into());
    }
    let failed = |what: String| Failure::Other(format!("{endpoint} {what}"));
    (&*socket).write_all(line.as_bytes()).map_err(|error| failed(format!("is gone: {error}")))?;
    let answer = read_from(socket).map_err(|error| failed(format!("gave no answer: {error}")))?;
    let shown = match encoding {
        None => answer,
        Some(from) => {
            let mut turn = Transcoder::to_utf8(from);
            let mut text = turn.turn(&answer);
            text.extend(turn.finish());
            text
        }
    };
    let mut stdout = io::stdout();
    stdout.write_all(&shown).and_then(|()| stdout.flush()).map_err(|error| cannot_show(&error))
}

/// Reads one answer, and gives its output.
fn read_from(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let mut answer = Vec::new();
    let mut piece = vec![0; 65_536];
    loop {
        let reading = read_answer(&answer);
        let begins = match reading {
            Reading::Whole(at) => return Ok(answer.split_off(at)),
            Reading::Wrong => return Err(invalid("it does not begin with its length")),
            Reading::Perhaps(at) => Some(at),
            Reading::Incomplete => None,
        };
        socket.set_read_timeout(begins.map(|_| QUIET))?;
        match (socket.read(&mut piece), begins) {
            (Ok(0), None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (Ok(0), Some(at)) => return Ok(answer.split_off(at)),
            (Ok(count), _) => answer.extend_from_slice(&piece[..count]),
            (Err(error), Some(at)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(answer.split_off(at));
            }
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
            (Err(error), _) => return Err(error),
        }
        if answer.len() > LONGEST_ANSWER {
            return Err(invalid("it is too long to be kept"));
        }
    }
}
