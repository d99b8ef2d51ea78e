//! The first version: one line of text.
//!
//! ```text
//! PROXY TCP4 192.0.2.7 198.51.100.1 49152 443\r\n      the client's address, the address that it has asked for, their ports
//! PROXY TCP6 2001:db8::7 2001:db8::1 49152 443\r\n
//! PROXY UNKNOWN anything\r\n                           no addresses: a health check, or a client that has none
//! ```
//!
//! Fields are separated by single blanks, and numbers have no leading zero, so that no two readers understand a line
//! differently. A line has at most 107 bytes. The reader must not take a byte that follows the line. So the parser says how
//! many bytes are missing at least, counted to the end of the shortest line that the bytes so far may become.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::header::{Command, Header, HeaderProgress, Version};
use super::invalid::InvalidHeader;

/// The length of the longest line, with its end: two IPv6 addresses, by the specification.
pub(super) const MAX_LINE: usize = 107;

/// The beginning of every line.
pub(super) const PREFIX: &[u8] = b"PROXY ";

/// The shortest line of all.
pub(super) const MIN_LINE: usize = b"PROXY UNKNOWN\r\n".len();

/// The words for the kind of connection. The shortest line comes first.
const KIND_WORDS: [ConnectionKind; 3] = [
    ConnectionKind { word: "UNKNOWN", shortest_address: None },
    ConnectionKind { word: "TCP4", shortest_address: Some("0.0.0.0".len()) },
    ConnectionKind { word: "TCP6", shortest_address: Some("::".len()) },
];

// The sentences of `InvalidHeader::Line`.
const NO_KIND: &str = "the kind is none of TCP4, TCP6 and UNKNOWN";
const NO_END: &str = "an address or a port is wrong";
const NOT_SIX_WORDS: &str = "it has not six words with one space between them";

/// A kind of connection.
#[derive(Clone, Copy)]
struct ConnectionKind {
    word: &'static str,
    /// The shortest length of an address of this kind. None: no addresses follow the word.
    shortest_address: Option<usize>,
}

/// Parses a line. The caller has compared the first bytes with those of a header.
pub(super) fn parse(bytes: &[u8]) -> Result<HeaderProgress, InvalidHeader> {
    // A line whose end comes later is too long, wherever it ends.
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    if let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") {
        let header = whole(&line[..end])?;
        return Ok(HeaderProgress::Whole { header: Box::new(header), length: end + 2 });
    }
    // At least one byte is missing: otherwise the end of the line would have been found above.
    let missing = missing(line)?;
    if line.len() + missing > MAX_LINE {
        return Err(InvalidHeader::LineTooLong);
    }
    Ok(HeaderProgress::Partial { missing })
}

/// Parses a line, given without its `\r\n`.
fn whole(line: &[u8]) -> Result<Header, InvalidHeader> {
    let bad = |why| InvalidHeader::Line { why };
    let rest = line.strip_prefix(PREFIX).ok_or(InvalidHeader::Unknown)?;
    // After this word the rest of the line has no meaning, and is ignored.
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return Ok(Header::new(Version::V1, Command::Proxy, None));
    }
    // `UNKNOWN` was checked first, because the rest of its line need not be text.
    let text = std::str::from_utf8(rest).map_err(|_| bad("it is not ASCII"))?;
    // Two blanks in a row make an empty field: then there are too many fields, or one is neither an address nor a port.
    let fields: Vec<&str> = text.split(' ').collect();
    let [kind, source, destination, source_port, destination_port] = fields[..] else {
        return Err(bad(NOT_SIX_WORDS));
    };
    let end = |ip: &str, number: &str| -> Result<SocketAddr, InvalidHeader> {
        let ip = match kind {
            "TCP4" => IpAddr::V4(Ipv4Addr::from_str(ip).map_err(|_| bad(NO_END))?),
            "TCP6" => IpAddr::V6(Ipv6Addr::from_str(ip).map_err(|_| bad(NO_END))?),
            _ => return Err(bad(NO_KIND)),
        };
        Ok(SocketAddr::new(ip, port(number).ok_or(bad(NO_END))?))
    };
    let ends = (end(source, source_port)?.into(), end(destination, destination_port)?.into());
    Ok(Header::new(Version::V1, Command::Proxy, Some(ends)))
}

/// A number from 0 to 65535 in plain digits: no sign, and no leading zero.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = text == "0" || !text.starts_with('0');
    if is_plain && is_short { text.parse().ok() } else { None }
}

/// How many bytes this beginning of a line needs at least to become a whole line. A reader that asks for this many
/// never reads past the end of the line.
///
/// ```text
/// "PROXY T"          TCP4 or TCP6 may follow: "CP6", then " :: :: 1 1" and the end
/// "PROXY TCP4 1.2"   ".3.4", then " 0.0.0.0 1 1" and the end
/// ".. 443\r"          the last byte of the end
/// ```
fn missing(line: &[u8]) -> Result<usize, InvalidHeader> {
    // A `\r` is the first of the two bytes that end the line.
    let (line, end) = match line.split_last() {
        Some((b'\r', line)) => (line, 1),
        _ => (line, 2),
    };
    let bad = |why| InvalidHeader::Line { why };
    let Some(rest) = line.strip_prefix(PREFIX) else {
        // The caller has found that these bytes are a part of the beginning.
        return if end == 2 { Ok(MIN_LINE - line.len()) } else { Err(InvalidHeader::Unknown) };
    };
    // A field is whole once another one follows it. The last one is still open.
    let mut fields = rest.split(|byte| *byte == b' ').peekable();
    let word = fields.next().unwrap_or_default();
    let begins = |kind: &&ConnectionKind| kind.word.as_bytes().starts_with(word);
    // `KIND_WORDS` is sorted by the length of the shortest whole line, so the first match needs the fewest bytes.
    let kind = *KIND_WORDS.iter().find(begins).ok_or(bad(NO_KIND))?;
    // The rest of the word. Then, for each field that is not there, a blank and its shortest form.
    let mut missing = kind.word.len() - word.len();
    if missing > 0 && fields.peek().is_some() {
        return Err(bad(NO_KIND));
    }
    if let Some(address) = shortest_address(word, kind) {
        for shortest in [address, address, 1, 1] {
            let Some(field) = fields.next() else {
                missing += 1 + shortest;
                continue;
            };
            missing += match fields.peek() {
                None => missing_of(field, shortest).ok_or(bad(NO_END))?,
                // Another field follows, so this one is whole.
                Some(_) if is_whole(field, shortest) => 0,
                Some(_) => return Err(bad(NO_END)),
            };
        }
        if fields.next().is_some() {
            return Err(bad(NOT_SIX_WORDS));
        }
    }
    let missing = missing + end;
    // The `\r` has come in the middle of the line.
    if end == 1 && missing > 1 { Err(bad("it ends too early")) } else { Ok(missing) }
}

/// The length of the shortest address that may follow. While the word may still become TCP4 or TCP6, this is the shorter of
/// the two.
fn shortest_address(word: &[u8], kind: ConnectionKind) -> Option<usize> {
    if b"TCP".starts_with(word) && !word.is_empty() {
        return KIND_WORDS.iter().filter_map(|kind| kind.shortest_address).min();
    }
    kind.shortest_address
}

/// Whether the field is a whole address, or a whole port.
fn is_whole(field: &[u8], shortest: usize) -> bool {
    std::str::from_utf8(field).is_ok_and(|text| match shortest {
        1 => port(text).is_some(),
        7 => Ipv4Addr::from_str(text).is_ok(),
        _ => Ipv6Addr::from_str(text).is_ok(),
    })
}

/// How many bytes the beginning of an address or a port needs at least. None if it cannot become one.
fn missing_of(field: &[u8], shortest: usize) -> Option<usize> {
    let belongs = |byte: &u8| match shortest {
        1 => byte.is_ascii_digit(),
        7 => byte.is_ascii_digit() || *byte == b'.',
        _ => byte.is_ascii_hexdigit() || *byte == b':' || *byte == b'.',
    };
    if !field.iter().all(belongs) {
        return None;
    }
    Some(match shortest {
        7 => {
            // `1.2.` lacks a digit, a dot and a digit: (3 - 2) x 2 + 1 = 3.
            let dots = field.iter().filter(|byte| **byte == b'.').count();
            let is_open = field.last().is_none_or(|last| *last == b'.');
            3_usize.checked_sub(dots)? * 2 + usize::from(is_open)
        }
        // An IPv6 address has at least two bytes, a port at least one.
        shortest => shortest.saturating_sub(field.len()),
    })
}
