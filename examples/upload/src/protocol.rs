//! The wire: frames of a kind (one byte), a length (four bytes, the highest first) and a payload.
//!
//! ```text
//! client                                     server
//! Hello {version}                            Hello {version}
//! Put {path, size, fingerprint, resume}
//!   with resume:                             Have {offset, whole}; Working..; Digest
//!   From {offset}
//! Data.. ; End {digest} or Abort             Done {path} or Refused {code, text}
//! Folder {path}                              Done {path} or Refused {code, text}
//! ```
//!
//! - Every `Put` gets exactly one `Done` or `Refused`. A refusal may arrive before all of the file has been
//!   sent: the client then sends `Abort`, and goes on with its next file.
//! - The digest of the whole is sent at the end, so that a file is read only once. The part of a broken upload
//!   is found by path, size and `fingerprint`, the digest of the first bytes; both sides then compute the digest of the
//!   part, to see whether it is the beginning of this file. `Have` with `whole` offers a stored file of the same name and
//!   size.
//! - `From` is the offered offset, if the digests agree, and otherwise zero: another offer then follows.
//!   The last offer is the empty one, with the digest of no bytes, and is always accepted. (In version 1 the first offer
//!   that is not of a whole file was the last one, and the file followed after a zero.)
//! - Both sides send `Working` while they compute, so that the other one waits.
//!
//! The first byte of a connection is never a `p`: the tutorial's client begins with that.

use std::fmt;
use std::io::{self, Read};

/// The current version, in the client's `Hello`. A server answers with its client's version.
pub const VERSION: u16 = 2;
/// The oldest version that a server speaks as well.
pub const OLDEST: u16 = 1;
/// How many partial files a server offers: both sides read each.
pub const OFFERS: usize = 4;
const MAGIC: &[u8] = b"upload";

/// The most bytes of a file in one frame: each connection that sends a file holds this much. Measured over loopback
/// to memory, in MiB/s: 64 KiB 490, 256 KiB 570, 1 MiB 630.
pub const DATA_BYTES: usize = 1024 * 1024;
/// The most bytes of any other frame: a path of 32 components of 255 bytes fits.
pub const CONTROL_BYTES: usize = 16 * 1024;
/// The most components of a path.
pub const DEPTH: usize = 32;
/// The length of the header of a frame.
pub const HEADER_BYTES: usize = 5;
/// How many bytes of a file its fingerprint digests.
pub const FINGERPRINT_BYTES: usize = 64 * 1024;

/// A BLAKE3 digest.
pub type Digest = [u8; 32];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello {
        version: u16,
    },
    Put(Put),
    Have {
        offset: u64,
        whole: bool,
    },
    Working,
    Digest(Digest),
    From(u64),
    /// The header alone: this many bytes of the file follow.
    Data(usize),
    End(Digest),
    Abort,
    /// Makes a folder, which may stay empty.
    Folder {
        path: Vec<Vec<u8>>,
    },
    Done {
        path: Vec<Vec<u8>>,
    },
    Refused(Refusal),
}

/// A file that a client is about to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Its folders and its name, as received and not checked yet.
    pub path: Vec<Vec<u8>>,
    pub size: u64,
    pub fingerprint: Digest,
    pub resume: bool,
}

/// Why a file was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// The reason in words, without control characters.
    pub text: String,
}

/// The kind of a refusal, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A frame that is invalid or not expected.
    Protocol = 1,
    /// The server stores no file with such a path.
    Name = 2,
    /// A file of that name exists, and `--conflict` keeps it.
    Exists = 3,
    /// The file is larger than `--max-file`.
    TooLarge = 4,
    /// All files together would exceed `--max-total`.
    TooMuch = 5,
    /// The disk is full.
    NoSpace = 6,
    /// The digest is wrong.
    BadDigest = 7,
    /// The client was silent for too long.
    Idle = 8,
    /// The disk or the folder fails.
    Storage = 9,
    /// The client has withdrawn the file.
    Withdrawn = 10,
}

impl Refusal {
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A peer's text: control characters are escaped.
        self.text.chars().try_for_each(|c| match c {
            '"' | '\'' | '\\' => write!(f, "{c}"),
            c => write!(f, "{}", c.escape_debug()),
        })
    }
}

impl std::error::Error for Refusal {}

/// A path as text that is safe on a terminal.
pub fn shown(path: &[Vec<u8>]) -> String {
    let names: Vec<_> = path.iter().map(|name| String::from_utf8_lossy(name)).collect();
    format!("{:?}", names.join("/"))
}

/// The header of a `Data` frame.
pub fn data_header(length: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [b'D', length[0], length[1], length[2], length[3]]
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let kind = match self {
            Self::Hello { version } => {
                payload.extend_from_slice(MAGIC);
                payload.extend_from_slice(&version.to_be_bytes());
                b'H'
            }
            Self::Put(put) => {
                payload.push(u8::from(put.resume));
                payload.extend_from_slice(&put.size.to_be_bytes());
                payload.extend_from_slice(&put.fingerprint);
                encode_path(&put.path, &mut payload);
                b'P'
            }
            Self::Have { offset, whole } => {
                payload.push(u8::from(*whole));
                payload.extend_from_slice(&offset.to_be_bytes());
                b'O'
            }
            Self::Working => b'W',
            Self::Digest(digest) => {
                payload.extend_from_slice(digest);
                b'G'
            }
            Self::From(offset) => {
                payload.extend_from_slice(&offset.to_be_bytes());
                b'F'
            }
            Self::Data(length) => return data_header(*length).to_vec(),
            Self::End(digest) => {
                payload.extend_from_slice(digest);
                b'E'
            }
            Self::Abort => b'A',
            Self::Folder { path } => {
                encode_path(path, &mut payload);
                b'M'
            }
            Self::Done { path } => {
                encode_path(path, &mut payload);
                b'K'
            }
            Self::Refused(refusal) => {
                payload.push(refusal.code as u8);
                payload.extend_from_slice(shortened(&refusal.text).as_bytes());
                b'R'
            }
        };
        let mut frame = data_header(payload.len()).to_vec();
        frame[0] = kind;
        frame.append(&mut payload);
        frame
    }

    /// Reads a message. Returns `None` at the end of the input. The caller reads the bytes after a `Data`.
    ///
    /// # Errors
    ///
    /// `InvalidData` for an invalid message, `UnexpectedEof` for an end in the middle of one, and errors of
    /// the connection.
    pub fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        let first = loop {
            match input.read(&mut header) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        input.read_exact(&mut header[first..])?;
        let kind = header[0];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if kind == b'D' {
            return if (1..=DATA_BYTES).contains(&length) {
                Ok(Some(Self::Data(length)))
            } else {
                Err(malformed("a piece of a file has an impossible length"))
            };
        }
        if length > CONTROL_BYTES {
            return Err(malformed("a message is too long"));
        }
        let mut payload = vec![0; length];
        input.read_exact(&mut payload)?;
        Self::decode(kind, &payload).map(Some)
    }

    fn decode(kind: u8, payload: &[u8]) -> io::Result<Self> {
        let mut rest = Payload(payload);
        let message = match kind {
            b'H' => {
                if rest.take(MAGIC.len())? != MAGIC {
                    return Err(malformed("that is another protocol"));
                }
                Self::Hello { version: u16::from_be_bytes(rest.array()?) }
            }
            b'P' => {
                let resume = rest.flag()?;
                let size = u64::from_be_bytes(rest.array()?);
                let fingerprint = rest.array()?;
                Self::Put(Put { path: rest.path()?, size, fingerprint, resume })
            }
            b'O' => {
                let whole = rest.flag()?;
                Self::Have { offset: u64::from_be_bytes(rest.array()?), whole }
            }
            b'W' => Self::Working,
            b'G' => Self::Digest(rest.array()?),
            b'F' => Self::From(u64::from_be_bytes(rest.array()?)),
            b'E' => Self::End(rest.array()?),
            b'A' => Self::Abort,
            b'M' => Self::Folder { path: rest.path()? },
            b'K' => Self::Done { path: rest.path()? },
            b'R' => {
                let code = Code::try_from(rest.array::<1>()?[0])?;
                let text = String::from_utf8_lossy(rest.take(rest.0.len())?).into_owned();
                Self::Refused(Refusal { code, text })
            }
            _ => return Err(malformed("a message is of no known kind")),
        };
        if rest.0.is_empty() { Ok(message) } else { Err(malformed("a message goes on too long")) }
    }
}

impl TryFrom<u8> for Code {
    type Error = io::Error;

    fn try_from(byte: u8) -> io::Result<Self> {
        Ok(match byte {
            1 => Self::Protocol,
            2 => Self::Name,
            3 => Self::Exists,
            4 => Self::TooLarge,
            5 => Self::TooMuch,
            6 => Self::NoSpace,
            7 => Self::BadDigest,
            8 => Self::Idle,
            9 => Self::Storage,
            10 => Self::Withdrawn,
            _ => return Err(malformed("a refusal is of no known kind")),
        })
    }
}

fn encode_path(path: &[Vec<u8>], payload: &mut Vec<u8>) {
    for name in path {
        // A name that is too long is not shortened: the server refuses it by its length.
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        payload.extend_from_slice(&length.to_be_bytes());
        payload.extend_from_slice(&name[..usize::from(length)]);
    }
}

/// The text, cut to the length that a message may have.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(CONTROL_BYTES - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The unread rest of a message's payload.
struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        if count > self.0.len() {
            return Err(malformed("a message is too short"));
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn flag(&mut self) -> io::Result<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(malformed("a yes or no in a message is neither")),
        }
    }

    fn path(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut path = Vec::new();
        while !self.0.is_empty() {
            if path.len() == DEPTH {
                return Err(malformed("a path has too many folders"));
            }
            let length = u16::from_be_bytes(self.array()?);
            path.push(self.take(usize::from(length))?.to_vec());
        }
        Ok(path)
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
