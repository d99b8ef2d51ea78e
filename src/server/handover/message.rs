//! The messages of a handover, as bytes.
//!
//! ```text
//! message   "skho"  version: 1 byte  kind: 1 byte  length: 2 bytes   payload, `length` bytes
//! 1 hello   successor:    nothing
//! 2 sockets predecessor:  more: 1 byte (1: another such message follows)  count: 2 bytes   `count` sockets
//! 3 ready   successor:    process: 4 bytes  count: 2 bytes   the numbers of the sockets that it has taken, 2 bytes each
//! 4 release predecessor:  nothing
//! 5 refuse  predecessor:  the reason, UTF-8
//!
//! socket    kind: 1 byte  flags: 1 byte  device: 8 bytes  inode: 8 bytes   asked address  bound address  activated
//! address   "i" | "u" | "a" | "n": 1 byte  length: 2 bytes   `length` bytes: IP:PORT, path, abstract name, nothing
//! activated "n" | "=": 1 byte  length: 2 bytes   `length` bytes: nothing, NUMBER:NAME among the service manager's sockets
//! ```
//!
//! The order of the messages is in `ask_predecessor.rs` (the beginning) and `coordinator.rs` (the end).
//!
//! Numbers are little-endian. The descriptors of a message with `count` sockets come with its first byte, in their
//! order. The length of a message bounds everything in it. A reader takes nothing for granted: an unknown version,
//! kind, flag or address is an error. So is a byte too many: two versions of a program that do not understand each other
//! find that out before a socket is lost. The predecessor then goes on.
//!
//! The format is this crate's own, and not a library's: two builds of a program that are years apart have to agree on it.

use std::io;

use crate::address::Address;
use crate::transport::predecessor_sockets::SocketDescription;
use crate::transport::{ActivatedAs, DescribedFile, SocketKind};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The first bytes of each message. Any other program at the other end begins with something else.
const MAGIC: [u8; 4] = *b"skho";

/// The version of the protocol, which both sides have to speak. From the first release on it changes with every change
/// of the messages: the upgrade to another version then takes one restart without a handover.
pub(super) const VERSION: u8 = 1;

/// The bytes before the payload. They never change, so that each version can name the other one.
pub(super) const HEADER_BYTES: usize = 8;

/// The longest payload of a message.
pub(super) const MAX_PAYLOAD_BYTES: usize = u16::MAX as usize;

/// A message of either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HandoverMessage {
    /// The successor is there, and asks for the sockets.
    Hello,
    /// All sockets of the predecessor; with `more` a part of them, and another such message follows.
    Sockets { sockets: Vec<Socket>, more: bool },
    /// The successor serves. It has taken the sockets with these numbers, and has closed its copies of all others.
    Ready { process: u32, taken: Vec<u16> },
    /// The predecessor accepts no more: the sockets are the successor's.
    Release,
    /// The successor must not serve, for this reason.
    Refuse(String),
}

/// A socket of the predecessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) description: SocketDescription,
    /// Whether this is the socket at which successors ask. At most one is.
    pub(super) is_coordinator: bool,
}

/// A flag: only the process that describes the socket has it.
const ALONE: u8 = 1;
/// A flag: the predecessor has to remove the socket's file.
const REMOVES_FILE: u8 = 2;
/// A flag: successors ask at the socket.
const IS_COORDINATOR: u8 = 4;

/// The device and inode of a socket without a file: no file has the inode zero.
const NO_FILE: (u64, u64) = (0, 0);

impl HandoverMessage {
    /// The whole message as bytes. A reason that is too long is cut off. The other parts fit, because their sender bounds
    /// them: at most `SOCKETS_PER_MESSAGE` sockets, and at most one number for each socket that was received.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let kind = match self {
            Self::Hello => 1,
            Self::Sockets { sockets, more } => {
                payload.push(u8::from(*more));
                payload.extend(length(sockets.len()));
                sockets.iter().for_each(|socket| socket.encode(&mut payload));
                2
            }
            Self::Ready { process, taken } => {
                payload.extend(process.to_le_bytes());
                payload.extend(length(taken.len()));
                taken.iter().for_each(|number| payload.extend(number.to_le_bytes()));
                3
            }
            Self::Release => 4,
            Self::Refuse(why) => {
                payload.extend(why.bytes().take(MAX_PAYLOAD_BYTES));
                5
            }
        };
        [&MAGIC[..], &[VERSION, kind], &length(payload.len()), &payload].concat()
    }

    /// Reads the first message of `bytes`, and returns its length too; `None` if the message is not whole yet.
    ///
    /// # Errors
    ///
    /// If the bytes are not a message of this protocol and version.
    pub(super) fn decode(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        // Refused as soon as one byte is wrong: another program may never send the eight bytes of a header.
        let begins = bytes.len().min(MAGIC.len());
        if bytes[..begins] != MAGIC[..begins] {
            return Err(nonsense("what it sends is no message of a handover"));
        }
        if bytes.get(4).is_some_and(|version| *version != VERSION) {
            let text = format!("it speaks version {} of the protocol, and not {VERSION}", bytes[4]);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let Some(header) = bytes.get(..HEADER_BYTES) else { return Ok(None) };
        let end = HEADER_BYTES + usize::from(u16::from_le_bytes([header[6], header[7]]));
        let Some(payload) = bytes.get(HEADER_BYTES..end) else { return Ok(None) };
        let mut rest = Reader { rest: payload };
        let message = Self::read(header[5], &mut rest).filter(|_| rest.rest.is_empty());
        match message {
            Some(message) => Ok(Some((message, end))),
            None => Err(nonsense("it sends a message that cannot be understood")),
        }
    }

    /// Reads the payload of a message of this kind; `None` if it cannot be understood. `decode` refuses a message that
    /// leaves bytes unread.
    fn read(kind: u8, payload: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            1 => Self::Hello,
            2 => {
                let more = match payload.u8()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                // Collected one by one: a count that is too high fails at the end of the payload, and reserves nothing.
                let sockets = (0..payload.u16()?).map(|_| Socket::read(payload));
                Self::Sockets { sockets: sockets.collect::<Option<_>>()?, more }
            }
            3 => {
                let process = u32::from_le_bytes(payload.array()?);
                let taken = (0..payload.u16()?).map(|_| payload.u16()).collect::<Option<_>>()?;
                Self::Ready { process, taken }
            }
            4 => Self::Release,
            5 => Self::Refuse(String::from_utf8(std::mem::take(&mut payload.rest).into()).ok()?),
            _ => return None,
        })
    }
}

/// The error for bytes that are not a message of this protocol.
pub(super) fn nonsense(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A length as it is sent. It fits, because the sender bounds all lengths.
fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes()
}

impl Socket {
    /// Appends the description of the socket. The descriptors are passed with the message, in the same order.
    fn encode(&self, into: &mut Vec<u8>) {
        let SocketDescription { kind, asked, activated, bound, file, alone } = &self.description;
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let removes_file = file.is_some_and(|file| file.removed_at_close);
        let flags = flag(*alone, ALONE)
            | flag(removes_file, REMOVES_FILE)
            | flag(self.is_coordinator, IS_COORDINATOR);
        let (device, inode) = file.map_or(NO_FILE, |file| file.identity);
        // Zero for a kind that is never passed: the other side would refuse it.
        let number = SOCKET_KINDS.iter().position(|it| it == kind).map_or(0, |at| at as u8 + 1);
        into.extend([number, flags]);
        into.extend(device.to_le_bytes());
        into.extend(inode.to_le_bytes());
        encode_address(asked, into);
        encode_address(bound, into);
        match activated {
            None => encode_tagged(b'n', &[], into),
            Some(ActivatedAs { number, name }) => {
                encode_tagged(b'=', format!("{number}:{name}").as_bytes(), into);
            }
        }
    }

    /// Reads a description that [`encode`](Self::encode) has written; `None` if the bytes are something else.
    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let kind = *SOCKET_KINDS.get(usize::from(from.u8()?).checked_sub(1)?)?;
        let flags = from.u8()?;
        // A flag of a later version changes the meaning of the rest.
        if flags & !(ALONE | REMOVES_FILE | IS_COORDINATOR) != 0 {
            return None;
        }
        let identity = (u64::from_le_bytes(from.array()?), u64::from_le_bytes(from.array()?));
        let (asked, bound, activated) = (from.address()?, from.address()?, from.activated()?);
        let (alone, is_coordinator) = (flags & ALONE != 0, flags & IS_COORDINATOR != 0);
        let removed_at_close = flags & REMOVES_FILE != 0;
        let file = (identity != NO_FILE).then_some(DescribedFile { identity, removed_at_close });
        let description = SocketDescription { kind, asked, activated, bound, file, alone };
        Some(Self { description, is_coordinator })
    }
}

/// The kinds of sockets that are passed. The number of a kind in a message is its place here, from one on.
const SOCKET_KINDS: [SocketKind; 4] = [
    SocketKind::TcpListener,
    SocketKind::UdpSocket,
    SocketKind::UnixListener,
    SocketKind::UnixDatagram,
];

/// Appends an address in the form that [`Reader::address`] reads. An address of a foreign transport is written as
/// unnamed: such a socket is never passed.
fn encode_address(address: &Address, into: &mut Vec<u8>) {
    match address {
        Address::Inet(inet) => encode_tagged(b'i', inet.to_string().as_bytes(), into),
        Address::Unix(path) => encode_tagged(b'u', path.as_os_str().as_bytes(), into),
        Address::Abstract(name) => encode_tagged(b'a', name, into),
        Address::Unnamed | Address::Other(_) => encode_tagged(b'n', &[], into),
    }
}

/// Appends a tag and bytes of any length: the form of an address, and of a name.
fn encode_tagged(tag: u8, bytes: &[u8], into: &mut Vec<u8>) {
    into.push(tag);
    into.extend(length(bytes.len()));
    into.extend(bytes);
}

/// Reads the parts of a payload, one after the other. Each method returns `None` if the payload ends too early or has
/// other bytes there.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (first, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// A byte that says the kind, and the bytes of the value.
    fn tagged(&mut self) -> Option<(u8, &[u8])> {
        let tag = self.u8()?;
        let len = usize::from(self.u16()?);
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some((tag, bytes))
    }

    /// The name of a socket of the service manager; `Some(None)` if the socket is not one of those.
    fn activated(&mut self) -> Option<Option<ActivatedAs>> {
        let (tag, bytes) = self.tagged()?;
        let text = std::str::from_utf8(bytes).ok()?;
        Some(match tag {
            b'n' if text.is_empty() => None,
            b'=' => {
                let (number, name) = text.split_once(':')?;
                Some(ActivatedAs { number: number.parse().ok()?, name: name.to_owned() })
            }
            _ => return None,
        })
    }

    /// An address of a kind that sockets are bound to.
    fn address(&mut self) -> Option<Address> {
        let (tag, bytes) = self.tagged()?;
        Some(match tag {
            b'i' => Address::Inet(std::str::from_utf8(bytes).ok()?.parse().ok()?),
            b'u' => Address::Unix(OsStr::from_bytes(bytes).into()),
            b'a' => Address::Abstract(bytes.to_owned()),
            b'n' if bytes.is_empty() => Address::Unnamed,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(kind: SocketKind, asked: &str, bound: Address) -> Socket {
        let asked = Address::Inet(asked.parse().unwrap());
        let activated = Some(ActivatedAs { number: 3, name: "http".into() });
        let description = SocketDescription {
            kind,
            asked,
            activated,
            bound,
            file: (kind != SocketKind::UdpSocket).then_some(DescribedFile {
                identity: (1, u64::MAX),
                removed_at_close: kind == SocketKind::UnixListener,
            }),
            alone: true,
        };
        Socket { description, is_coordinator: false }
    }

    fn every_message() -> Vec<HandoverMessage> {
        let sockets = vec![
            socket(
                SocketKind::TcpListener,
                "127.0.0.1:0",
                Address::Inet("[fe80::1%2]:80".parse().unwrap()),
            ),
            socket(SocketKind::UnixListener, "1.2.3.4:5", Address::Unix("/run/\n x".into())),
            Socket {
                is_coordinator: true,
                ..socket(SocketKind::UnixDatagram, "[::]:0", Address::Abstract(vec![0, 255]))
            },
            socket(SocketKind::UdpSocket, "1.2.3.4:5", Address::Unnamed),
        ];
        vec![
            HandoverMessage::Hello,
            HandoverMessage::Sockets { sockets: sockets.clone(), more: false },
            HandoverMessage::Sockets { sockets: Vec::new(), more: true },
            HandoverMessage::Ready { process: 70_000, taken: vec![0, 3, u16::MAX] },
            HandoverMessage::Release,
            HandoverMessage::Refuse("because".into()),
        ]
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_not_before_it_is_whole() {
        for message in every_message() {
            let bytes = message.encode();
            for len in 0..bytes.len() {
                assert_eq!(
                    HandoverMessage::decode(&bytes[..len]).unwrap(),
                    None,
                    "{message:?} {len}"
                );
            }
            let two = [&bytes[..], &bytes].concat();
            assert_eq!(HandoverMessage::decode(&two).unwrap(), Some((message, bytes.len())));
        }
    }

    #[test]
    fn changed_bytes_are_another_message_or_an_error_and_no_panic() {
        for message in every_message() {
            let bytes = message.encode();
            for at in 0..bytes.len() {
                for value in [0, 1, 2, 5, 127, 128, 255, bytes[at].wrapping_add(1)] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    let _ = HandoverMessage::decode(&changed);
                }
            }
        }
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"\0\0\0\0", b"skhp", b"skho\x02"] {
            assert!(HandoverMessage::decode(other).is_err());
        }
    }

    #[test]
    fn a_payload_with_bytes_behind_its_end_is_refused() {
        let mut bytes = HandoverMessage::Hello.encode();
        bytes[6] = 1;
        bytes.push(0);
        assert!(HandoverMessage::decode(&bytes).is_err());
    }
}
