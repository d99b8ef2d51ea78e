//! Bodies: how long they are, and where they end. Their content is ignored.

use std::str;

use httparse::Status as Parsed;

use super::{Refusal, Status, bad, refusal};

/// The most bytes of a body, and of its chunked form. This server has no use for a body: it discards the body, so
/// that the connection can go on.
pub const BODY_BYTES: usize = 65_536;
const ENCODED_BODY_BYTES: usize = 2 * BODY_BYTES;
/// The most bytes of the line with a chunk's size, extensions included.
const CHUNK_LINE_BYTES: usize = 256;

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
}

const TOO_LARGE: Refusal = refusal(Status::ContentTooLarge, "The body is too large.");

impl Framing {
    /// Refuses a length that is valid and too large.
    pub fn check_size(self) -> Result<(), Refusal> {
        match self {
            Self::Length(length) if length > BODY_BYTES => Err(TOO_LARGE),
            _ => Ok(()),
        }
    }
}

/// Reads the length from the headers. After an error the end of the body is unknown.
pub fn framing(
    length: Option<&[u8]>,
    coding: Option<&[u8]>,
    minor: u8,
) -> Result<Framing, Refusal> {
    match (length, coding) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => Err(bad("The length of the body is given in two ways.")),
        (None, Some(_)) if minor == 0 => Err(bad("HTTP/1.0 has no Transfer-Encoding.")),
        (None, Some(coding)) => transfer_coding(coding),
        (Some(length), None) => {
            if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                return Err(bad("The Content-Length is not a number."));
            }
            // A number too long for a `u64` is a length that is too large.
            let text = str::from_utf8(length).unwrap_or_default();
            Ok(Framing::Length(text.parse().unwrap_or(usize::MAX)))
        }
    }
}

/// Reads the value of Transfer-Encoding. `chunked` has to be the last coding: otherwise both sides cannot agree on the end
/// of the body (RFC 9112, 6.3).
fn transfer_coding(value: &[u8]) -> Result<Framing, Refusal> {
    let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).rev();
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if !codings.next().is_some_and(is_chunked) {
        return Err(bad("The last transfer coding is not 'chunked'."));
    }
    match codings.next() {
        None => Ok(Framing::Chunked),
        Some(before) if is_chunked(before) => Err(bad("The body is chunked twice.")),
        Some(_) => {
            Err(refusal(Status::NotImplemented, "Only the transfer coding 'chunked' is known."))
        }
    }
}

/// Finds the end of a body.
#[derive(Debug, Default)]
pub struct BodyReader {
    /// How many bytes have been read.
    pub at: usize,
    start: usize,
    /// The sum of the sizes of the chunks so far.
    decoded: usize,
    part: Part,
}

/// The part of the body that begins at `at`.
#[derive(Debug, Default)]
enum Part {
    /// The size of a chunk.
    Size,
    /// Bytes of the body. A chunk ends with a newline.
    Data { left: usize, chunk: bool },
    /// A line after the last chunk: a trailer, which is ignored, or the empty line at the end of the body.
    Trailer,
    #[default]
    End,
}

impl BodyReader {
    pub fn new(framing: Framing, start: usize) -> Self {
        let part = match framing {
            Framing::Length(left) => Part::Data { left, chunk: false },
            Framing::Chunked => Part::Size,
        };
        Self { at: start, start, decoded: 0, part }
    }

    /// Reads on, and returns whether the end of the body has arrived.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        loop {
            let limit = self.start + ENCODED_BODY_BYTES;
            match self.part {
                Part::End => return Ok(true),
                Part::Data { left, chunk: false } => {
                    if bytes.len() - self.at < left {
                        return Ok(false);
                    }
                    self.at += left;
                    self.part = Part::End;
                }
                Part::Data { left, chunk: true } => {
                    let rest = &bytes[self.at..];
                    let end = rest.get(left..).unwrap_or_default();
                    if !b"\r\n".starts_with(&end[..end.len().min(2)]) {
                        return Err(bad("A chunk does not end where it says."));
                    }
                    if end.len() < 2 {
                        return Ok(false);
                    }
                    self.at += left + 2;
                    self.part = Part::Size;
                }
                Part::Size | Part::Trailer => {
                    let Some(line) = self.line(bytes)? else { return Ok(false) };
                    self.at += line.len();
                    if self.at > limit {
                        return Err(TOO_LARGE);
                    }
                    self.part = self.after(line)?;
                }
            }
        }
    }

    /// The next line with its `\r\n`. A lone `\n` is refused: some servers take it for the end of a line and some do
    /// not, and such a difference lets a client smuggle requests.
    fn line<'a>(&self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
        let rest = &bytes[self.at..];
        let found = rest.iter().take(CHUNK_LINE_BYTES).position(|byte| *byte == b'\n');
        let Some(newline) = found else {
            if rest.len() >= CHUNK_LINE_BYTES {
                return Err(bad("A line between the chunks is too long."));
            }
            return Ok(None);
        };
        let line = &rest[..=newline];
        let text = line.strip_suffix(b"\r\n");
        if text.is_none_or(|text| text.contains(&b'\r')) {
            return Err(bad("A line between the chunks does not end as it should."));
        }
        Ok(Some(line))
    }

    /// The part that follows this line.
    fn after(&mut self, line: &[u8]) -> Result<Part, Refusal> {
        if matches!(self.part, Part::Trailer) {
            return Ok(if line == b"\r\n" { Part::End } else { Part::Trailer });
        }
        let malformed = bad("The size of a chunk is malformed.");
        if !line[0].is_ascii_hexdigit() {
            return Err(malformed);
        }
        let Ok(Parsed::Complete((_, size))) = httparse::parse_chunk_size(line) else {
            return Err(malformed);
        };
        let left = usize::try_from(size).unwrap_or(usize::MAX);
        self.decoded = self.decoded.saturating_add(left);
        if self.decoded > BODY_BYTES {
            return Err(TOO_LARGE);
        }
        Ok(if left == 0 { Part::Trailer } else { Part::Data { left, chunk: true } })
    }
}
