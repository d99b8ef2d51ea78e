//! Conditions and ranges of a request: what the client has already, and which part it wants (RFC 9110, 13 and 14).

use std::ops::Range;
use std::str;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protocol::{Head, Method};

/// The state of a file that a client may know.
pub struct Version {
    /// The tag, with its quotes: the file's size and its time in nanoseconds.
    pub etag: String,
    /// In whole seconds, as in HTTP; `None` for a time before 1970.
    pub modified: Option<SystemTime>,
}

impl Version {
    pub fn new(modified: Option<SystemTime>, size: u64) -> Self {
        let age = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let etag = format!("\"{:x}-{size:x}\"", age.unwrap_or(Duration::ZERO).as_nanos());
        Self { etag, modified: age.map(|age| UNIX_EPOCH + Duration::from_secs(age.as_secs())) }
    }

    /// Whether the client has this version already.
    pub fn is_known(&self, head: &Head<'_>) -> bool {
        if let Some(tags) = head.if_none_match {
            // If-None-Match decides. If-Modified-Since, where both are sent, is for servers that know no tags.
            return tags.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|tag| {
                tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes()
            });
        }
        match (head.if_modified_since.and_then(date), self.modified) {
            (Some(since), Some(modified)) => modified <= since,
            _ => false,
        }
    }

    /// Whether the client's part belongs to this version, so that a range may continue it.
    fn continues(&self, head: &Head<'_>) -> bool {
        match head.if_range {
            None => true,
            Some(tag) if tag.starts_with(b"\"") => tag == self.etag.as_bytes(),
            Some(text) => self.modified.is_some_and(|modified| date(text) == Some(modified)),
        }
    }
}

fn date(text: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(str::from_utf8(text).ok()?).ok()
}

/// The part of a file that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    Whole,
    Part(Range<u64>),
    /// The file has no such part.
    Nothing,
}

impl Span {
    /// The part that a request asks for, of a file of this size. A range that cannot be read is ignored, and so are
    /// several ranges: a server may send more than was asked for.
    pub fn new(head: &Head<'_>, version: &Version, size: u64) -> Self {
        let range = head.range.filter(|_| head.method == Method::Get && version.continues(head));
        let range = range.and_then(|range| str::from_utf8(range).ok()).and_then(split);
        match range {
            None => Self::Whole,
            // `bytes=-0` asks for no byte at all.
            Some((None, Some(0))) => Self::Nothing,
            Some((None, Some(last))) if size > 0 => Self::Part(size.saturating_sub(last)..size),
            Some((Some(first), last)) if first < size => {
                let end = last.map_or(size, |last| size.min(last.saturating_add(1)));
                Self::Part(first..end)
            }
            Some(_) => Self::Nothing,
        }
    }
}

/// The two numbers of `bytes=1-2`. One of them may be missing.
fn split(range: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| -> Option<Option<u64>> {
        if text.is_empty() {
            return Some(None);
        }
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        // A number that does not fit is larger than any file.
        digits.then(|| Some(text.parse().unwrap_or(u64::MAX)))
    };
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    let is_range = match (first, last) {
        (Some(first), Some(last)) => first <= last,
        (None, None) => false,
        _ => true,
    };
    (unit.trim().eq_ignore_ascii_case("bytes") && is_range).then_some((first, last))
}
