//! The client's session: it logs in, and runs one command after the other.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use common::Endpoint;
use encoding_rs::Encoding;
use rustix::event::PollFlags;
use socket2::Socket;

use crate::interrupts::Interrupts;
use crate::prompt::{Session, Waited, show};
use crate::protocol::{
    Decoder, Ended, INPUT_WINDOW, LONGEST_BODY, LONGEST_LOGIN, LONGEST_PAYLOAD, Message, Proof,
    VERSION, frame,
};
use crate::ready::wait_for;
use crate::run::Printed;
use crate::screen::{Screen, printable, say};
use crate::seal::{Beginning, Seal};
use crate::secret;
use common::Failure;

/// Why a client ends before its time.
pub enum Leave {
    /// With a message to the user.
    Failed(Failure),
    /// Without a message, with this status: the user asked for it, or the reader of stdout has gone.
    Silent(u8),
}

impl<E: Into<Failure>> From<E> for Leave {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The status of a program that Ctrl-C has ended, as shells show it.
pub const INTERRUPTED: u8 = 130;

/// The status of a program that SIGPIPE has ended, as shells show it.
const BROKEN_PIPE: u8 = 141;

/// How long a login may take: longer than `penalty::DELAY`.
const LOGIN: Duration = Duration::from_secs(15);

/// If a server ends a login sooner than this, it has refused the connection: a failed login lasts for
/// `penalty::DELAY`.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A session with a server.
pub struct Client {
    server: String,
    socket: Socket,
    decoder: Decoder,
    seal: Seal,
    interrupts: Interrupts,
    /// Whether Ctrl-C was pressed while the last command ran.
    interrupted: bool,
    encoding: Option<&'static Encoding>,
}

impl Client {
    /// Logs in, with the secret if its file is given.
    pub fn log_in(
        socket: Socket,
        endpoint: &Endpoint,
        secret_file: Option<&Path>,
        encoding: Option<&'static Encoding>,
    ) -> Result<Self, Leave> {
        let mut client = Self {
            server: endpoint.to_string(),
            socket,
            decoder: Decoder::new(LONGEST_LOGIN),
            seal: Seal::Open,
            interrupts: Interrupts::new()?,
            interrupted: false,
            encoding,
        };
        client.socket.set_read_timeout(Some(LOGIN))?;
        client.socket.set_write_timeout(Some(LOGIN))?;
        client.greet(secret_file)?;
        client.socket.set_read_timeout(None)?;
        client.socket.set_write_timeout(None)?;
        client.decoder.set_limit(LONGEST_BODY);
        // From here on Ctrl-C goes to the command.
        client.interrupts.hear()?;
        Ok(client)
    }

    fn greet(&mut self, secret_file: Option<&Path>) -> Result<(), Leave> {
        let secret = secret_file.map(secret::read).transpose()?;
        let begun = secret.as_ref().map(Beginning::new).transpose().map_err(io::Error::other)?;
        let (proof, session, noise) = match begun {
            Some((session, noise)) => (Proof::Secret, Some(session), noise),
            None => (Proof::Nothing, None, Vec::new()),
        };
        let server = self.server.clone();
        let failed = |why: &str| Leave::Failed(Failure::Other(format!("{server} {why}")));
        let other_secret = match secret_file {
            Some(path) => {
                format!("does not have the secret in {}: copy the server's", path.display())
            }
            None => "ended the connection during the login".to_owned(),
        };
        let asked = Instant::now();
        self.send(&Message::Hello { version: VERSION, proof, noise })?;
        match (self.receive()?, session) {
            (Some(Message::Welcome { version: VERSION, .. }), None) => {}
            (Some(Message::Welcome { version: VERSION, noise }), Some(session)) => {
                self.seal = session.finish(&noise).map_err(|_| failed(&other_secret))?;
            }
            (Some(Message::Refused(why)), _) => {
                return Err(failed(&format!("refuses: {}", printable(&why))));
            }
            (Some(_), _) => {
                return Err(failed("speaks another protocol: is it a server of this program?"));
            }
            // After a wrong secret the server delays the end, so an early end has another reason.
            (None, _) if asked.elapsed() < AT_ONCE => {
                return Err(failed(
                    "ended the connection at once: it has too many clients, or stops",
                ));
            }
            (None, _) => return Err(failed(&other_secret)),
        }
        self.send(&Message::Ready)
    }

    /// Runs one command, shows its output, and returns how it ended. With `input` this process's stdin is the
    /// command's. The first Ctrl-C ends the command, the second one the client.
    pub fn run(&mut self, line: &[u8], input: bool) -> Result<Ended, Leave> {
        if line.len() > LONGEST_PAYLOAD {
            let why =
                format!("a command may have {LONGEST_PAYLOAD} bytes, and this has {}", line.len());
            return Err(Failure::Other(why).into());
        }
        self.send(&Message::Run { line: line.to_vec(), has_input: input })?;
        // How much of stdin may be sent now; `None` after its end, and without input.
        let mut room = input.then_some(INPUT_WINDOW);
        let stdin = io::stdin();
        let mut screen = Screen::new(self.encoding);
        self.interrupted = false;
        loop {
            if let Some(ended) = self.show_answers(&mut screen, &mut room)? {
                return Ok(ended);
            }
            let to_show = screen.waits_for();
            let heard = to_show.is_none().then(|| self.socket.as_fd());
            let fed = room.filter(|room| *room > 0).map(|_| stdin.as_fd());
            let [interrupt, answer, shows, input] = wait_for(
                [
                    Some((self.interrupts.as_fd(), PollFlags::IN)),
                    heard.map(|socket| (socket, PollFlags::IN)),
                    to_show.map(|fd| (fd, PollFlags::OUT)),
                    fed.map(|fd| (fd, PollFlags::IN)),
                ],
                None,
            )?
            .map(|ready| !ready.is_empty());
            if interrupt {
                self.interrupts.take();
                if self.interrupted {
                    return Err(Leave::Silent(INTERRUPTED));
                }
                self.interrupted = true;
                self.send(&Message::Interrupt)?;
            }
            if answer && !self.hear()? {
                return Err(self.failed("ended the connection before the command had ended"));
            }
            if input {
                room = self.feed(room.unwrap_or(0))?;
            }
            if shows {
                screen.print_piece().map_err(|error| cannot_show(&error))?;
            }
        }
    }

    /// Shows the messages that have come, for as long as the screen takes them. Adds to `room` the further input that the
    /// server allows. Returns the end of the command, if that has come.
    fn show_answers(
        &mut self,
        screen: &mut Screen,
        room: &mut Option<usize>,
    ) -> Result<Option<Ended>, Leave> {
        while screen.is_free() {
            match self.next_message()? {
                Some(Message::Stdout(bytes)) => screen.show(Printed::Stdout, &bytes),
                Some(Message::Stderr(bytes)) => screen.show(Printed::Stderr, &bytes),
                Some(Message::Notice(text)) => say(&printable(&text)),
                Some(Message::Room(more)) => {
                    let more = usize::try_from(more).unwrap_or(usize::MAX);
                    *room = room.map(|room| room.saturating_add(more));
                }
                Some(Message::Ended(ended)) => {
                    screen.finish().map_err(|error| cannot_show(&error))?;
                    return Ok(Some(ended));
                }
                Some(_) => {
                    return Err(self.failed("sent a message that does not answer a command"));
                }
                None => break,
            }
        }
        Ok(None)
    }

    /// Sends bytes of stdin, as many as the server allows. Returns how many it still allows, or `None` at the end of
    /// stdin.
    fn feed(&mut self, room: usize) -> Result<Option<usize>, Leave> {
        let mut piece = vec![0; room.min(LONGEST_PAYLOAD)];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut piece));
        let count = match read {
            Ok(count) => count,
            // Another process may have made stdin non-blocking, and read the bytes.
            Err(rustix::io::Errno::AGAIN) => return Ok(Some(room)),
            Err(error) => {
                let error = io::Error::from(error);
                return Err(Failure::Other(format!("cannot read stdin: {error}")).into());
            }
        };
        piece.truncate(count);
        self.send(&Message::Input(piece))?;
        Ok((count > 0).then_some(room - count))
    }

    fn failed(&self, why: &str) -> Leave {
        Failure::Other(format!("{} {why}", self.server)).into()
    }

    fn broken(&self, error: &io::Error) -> Leave {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "does not answer".to_owned(),
            _ => format!("is gone: {error}"),
        };
        self.failed(&why)
    }

    fn send(&mut self, message: &Message) -> Result<(), Leave> {
        let sealed = self.seal.close(message.body()).map_err(io::Error::other)?;
        (&self.socket).write_all(&frame(&sealed)).map_err(|error| self.broken(&error))
    }

    /// Receives bytes. Returns false at the end.
    fn hear(&mut self) -> Result<bool, Leave> {
        let mut bytes = [0; 65_536];
        let count = (&self.socket).read(&mut bytes).map_err(|error| self.broken(&error))?;
        self.decoder.push(&bytes[..count]);
        Ok(count > 0)
    }

    fn next_message(&mut self) -> Result<Option<Message>, Leave> {
        let body = self.decoder.next_body();
        let Some(body) = body.map_err(|error| self.failed(&format!("sent {error}")))? else {
            return Ok(None);
        };
        let body = self.seal.open(body);
        let body =
            body.map_err(|_| self.failed("sent bytes that do not belong to this session"))?;
        let message = Message::from_body(&body);
        message.map(Some).map_err(|error| self.failed(&format!("sent {error}")))
    }

    fn receive(&mut self) -> Result<Option<Message>, Leave> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(Some(message));
            }
            if !self.hear()? {
                return Ok(None);
            }
        }
    }
}

impl Session for Client {
    fn run_line(&mut self, line: &[u8]) -> Result<u8, Leave> {
        Ok(show(&self.run(line, false)?))
    }

    fn was_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Waits for input, and watches the connection at the same time.
    fn wait_for_input(&mut self, input: BorrowedFd<'_>) -> Result<Waited, Leave> {
        loop {
            let [interrupt, server, ready] = wait_for(
                [
                    Some((self.interrupts.as_fd(), PollFlags::IN)),
                    Some((self.socket.as_fd(), PollFlags::IN)),
                    Some((input, PollFlags::IN)),
                ],
                None,
            )?
            .map(|ready| !ready.is_empty());
            if interrupt {
                self.interrupts.take();
                return Ok(Waited::Interrupt);
            }
            if server && !self.hear()? {
                return Err(self.failed("ended the connection"));
            }
            if ready {
                return Ok(Waited::Input);
            }
        }
    }
}

/// How the client ends if it cannot show output. A closed stdout is no failure: the reader has gone, as in `| head`.
pub fn cannot_show(error: &io::Error) -> Leave {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Leave::Silent(BROKEN_PIPE),
        _ => Failure::Other(format!("cannot show the output: {error}")).into(),
    }
}
