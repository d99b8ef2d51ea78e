//! The wire: frames, and the messages in them.
//!
//! A frame is four bytes of length, most significant first, and a body of this length. The first byte of a body is the kind
//! of the message. After the login of a session with a secret the bodies are encrypted. The first message of each side has
//! the version in it.
//!
//! ```text
//! client  HELLO version, how it proves itself   ->
//!                                               <-  WELCOME version     server
//!         READY                                 ->
//!         RUN line, whether it has input        ->
//!                                               <-  STDOUT, STDERR      as they are printed
//!         INPUT bytes (none: its end)           ->
//!                                               <-  ROOM bytes          as the command reads its input
//!         INTERRUPT (Ctrl-C)                    ->
//!                                               <-  ENDED status, why
//! ```
//!
//! A client sends [`INPUT_WINDOW`] bytes of input, and then as many more as ROOM allows. So the server never holds
//! more than the window, and can always read the connection: an INTERRUPT does not wait behind input that the command
//! does not read. Input that arrives after the end of a command is dropped.

use std::fmt;

/// The version of this wire. A server refuses any other version, and says so in a sentence.
pub const VERSION: u8 = 1;

/// The longest body: a message of Noise holds no more.
pub const LONGEST_BODY: usize = 65_535;

/// The longest text or output of one message: a body less its kind, the two bytes of an ENDED, and the tag of the
/// encryption.
pub const LONGEST_PAYLOAD: usize = LONGEST_BODY - 3 - 16;

/// How many bytes of input may be on their way: enough for a network, and little memory for each of many clients.
pub const INPUT_WINDOW: usize = 256 * 1024;

/// The longest body before the login: a HELLO has 51 bytes, and a refusal is a sentence. This bounds the memory that
/// a client without the secret can use.
pub const LONGEST_LOGIN: usize = 512;

/// How a client proves that it may run commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By nothing on this wire. On a Unix socket the user is the proof, and with `--no-auth` there is none.
    Nothing,
    /// By the secret: a session of Noise.
    Secret,
}

/// One message, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The client's first message. `noise` is the first message of the session, empty without a secret.
    Hello { version: u8, proof: Proof, noise: Vec<u8> },
    /// The server's answer to `Hello`. `noise` is the second message of the session, empty without a secret.
    Welcome { version: u8, noise: Vec<u8> },
    /// The server refuses this client, with the reason.
    Refused(String),
    /// The client's first encrypted message, which shows that the login is not a recording.
    Ready,
    /// Runs a line, whose bytes need not be UTF-8.
    Run { line: Vec<u8>, has_input: bool },
    /// Input of the command; empty at its end.
    Input(Vec<u8>),
    /// This many more bytes of input may be sent.
    Room(u32),
    /// Ctrl-C.
    Interrupt,
    /// Output.
    Stdout(Vec<u8>),
    /// Output on stderr.
    Stderr(Vec<u8>),
    /// A line of the server about a command that is running.
    Notice(String),
    /// The command has ended.
    Ended(Ended),
}

/// How a command has ended. `why` is the reason if the server has ended it or could not start it, and empty otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub status: Status,
    pub why: String,
}

/// The status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Exited(u8),
    Signalled(u8),
    /// It was not started: `why` has the reason.
    NotStarted,
}

impl Status {
    /// The number that shells use.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => 128_u8.saturating_add(signal),
            Self::NotStarted => 127,
        }
    }
}

/// Why a peer's bytes are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The length of a frame is over the limit.
    TooLong { bytes: usize, limit: usize },
    /// An empty body.
    Empty,
    /// A kind of message that this version does not have.
    UnknownKind(u8),
    /// More input than the server has allowed.
    NoRoom,
    /// A body that does not fit its kind.
    BadBody(&'static str),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes, limit } => {
                write!(f, "a frame of {bytes} bytes, where {limit} are the most")
            }
            Self::Empty => f.write_str("an empty frame"),
            Self::UnknownKind(kind) => write!(f, "a message of the unknown kind {kind}"),
            Self::NoRoom => f.write_str("more input than there is room for"),
            Self::BadBody(kind) => write!(f, "an invalid {kind}"),
        }
    }
}

impl std::error::Error for Malformed {}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;
const READY: u8 = 4;
const RUN: u8 = 5;
const INTERRUPT: u8 = 6;
const STDOUT: u8 = 7;
const STDERR: u8 = 8;
const NOTICE: u8 = 9;
const ENDED: u8 = 10;
const RUN_WITH_INPUT: u8 = 11;
const INPUT: u8 = 12;
const ROOM: u8 = 13;

impl Message {
    /// The body of its frame.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Hello { version, proof, noise } => {
                let proof = u8::from(*proof == Proof::Secret);
                [&[HELLO, *version, proof], &noise[..]].concat()
            }
            Self::Welcome { version, noise } => [&[WELCOME, *version], &noise[..]].concat(),
            Self::Refused(text) => [&[REFUSED], text.as_bytes()].concat(),
            Self::Ready => vec![READY],
            Self::Run { line, has_input } => {
                [&[if *has_input { RUN_WITH_INPUT } else { RUN }], &line[..]].concat()
            }
            Self::Input(bytes) => [&[INPUT], &bytes[..]].concat(),
            Self::Room(bytes) => [&[ROOM][..], &bytes.to_be_bytes()].concat(),
            Self::Interrupt => vec![INTERRUPT],
            Self::Stdout(bytes) => [&[STDOUT], &bytes[..]].concat(),
            Self::Stderr(bytes) => [&[STDERR], &bytes[..]].concat(),
            Self::Notice(text) => [&[NOTICE], text.as_bytes()].concat(),
            Self::Ended(Ended { status, why }) => {
                let (kind, number) = match *status {
                    Status::Exited(code) => (0, code),
                    Status::Signalled(signal) => (1, signal),
                    Status::NotStarted => (2, 0),
                };
                [&[ENDED, kind, number], why.as_bytes()].concat()
            }
        }
    }

    /// Decodes a body.
    ///
    /// # Errors
    ///
    /// If it is not a message of this version.
    pub fn from_body(body: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = body.split_first().ok_or(Malformed::Empty)?;
        Ok(match (*kind, rest) {
            (HELLO, [version, proof, noise @ ..]) => {
                let proof = if *proof == 1 { Proof::Secret } else { Proof::Nothing };
                Self::Hello { version: *version, proof, noise: noise.to_vec() }
            }
            (HELLO, _) => return Err(Malformed::BadBody("HELLO")),
            (WELCOME, [version, noise @ ..]) => {
                Self::Welcome { version: *version, noise: noise.to_vec() }
            }
            (WELCOME, _) => return Err(Malformed::BadBody("WELCOME")),
            (REFUSED, text) => Self::Refused(read_text(text, "REFUSED")?),
            (READY, []) => Self::Ready,
            (READY, _) => return Err(Malformed::BadBody("READY")),
            (RUN | RUN_WITH_INPUT, line) => {
                Self::Run { line: line.to_vec(), has_input: *kind == RUN_WITH_INPUT }
            }
            (INPUT, bytes) => Self::Input(bytes.to_vec()),
            (ROOM, &[a, b, c, d]) => Self::Room(u32::from_be_bytes([a, b, c, d])),
            (ROOM, _) => return Err(Malformed::BadBody("ROOM")),
            (INTERRUPT, []) => Self::Interrupt,
            (INTERRUPT, _) => return Err(Malformed::BadBody("INTERRUPT")),
            (STDOUT, bytes) => Self::Stdout(bytes.to_vec()),
            (STDERR, bytes) => Self::Stderr(bytes.to_vec()),
            (NOTICE, text) => Self::Notice(read_text(text, "NOTICE")?),
            (ENDED, [kind @ 0..=2, number, why @ ..]) => {
                let status = match *kind {
                    0 => Status::Exited(*number),
                    1 => Status::Signalled(*number),
                    _ => Status::NotStarted,
                };
                Self::Ended(Ended { status, why: read_text(why, "ENDED")? })
            }
            (ENDED, _) => return Err(Malformed::BadBody("ENDED")),
            (other, _) => return Err(Malformed::UnknownKind(other)),
        })
    }
}

fn read_text(bytes: &[u8], kind: &'static str) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::BadBody(kind))
}

/// A body with its length before it. The caller keeps it within [`LONGEST_BODY`].
pub fn frame(body: &[u8]) -> Vec<u8> {
    debug_assert!(body.len() <= LONGEST_BODY, "{} bytes", body.len());
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), body].concat()
}

/// Finds the frames in bytes that arrive in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    limit: usize,
}

impl Decoder {
    /// A decoder for bodies up to this length.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }

    /// Changes the limit.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next body, if it is complete.
    ///
    /// # Errors
    ///
    /// If its length is over the limit; this is known before the body arrives.
    pub fn next_body(&mut self) -> Result<Option<Vec<u8>>, Malformed> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let bytes = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if bytes > self.limit {
            return Err(Malformed::TooLong { bytes, limit: self.limit });
        }
        if rest.len() < bytes {
            return Ok(None);
        }
        let body = rest[..bytes].to_vec();
        self.bytes.drain(..4 + bytes);
        Ok(Some(body))
    }

    /// Whether no byte of the next frame has arrived.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
