//! The type of a file, for the browser that shows it: by its name, and by its first bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str;

use mime_guess::Mime;

/// How many bytes of a file are read: as many as browsers search for a page's own charset (the HTML standard's
/// "prescan a byte stream").
const LOOKED_AT: usize = 1024;

/// The headers that describe a file.
pub struct Media {
    /// The Content-Type.
    pub kind: String,
    /// The Content-Encoding of a compressed file; the type is then that of its content.
    pub coding: Option<&'static str>,
}

/// Extensions of source files that the table of types takes for something else: TypeScript for television, for
/// example. Binary files with these extensions keep the type of the table.
const SOURCES: [&str; 21] = [
    "ac", "bat", "csh", "cu", "dart", "latex", "man", "mts", "org", "php", "pl", "pm", "pot",
    "scm", "sh", "sql", "srt", "tcl", "tex", "texi", "ts",
];

impl Media {
    /// Finds the type of a file that is about to be sent.
    pub fn new(path: &Path, file: &File) -> io::Result<Self> {
        let guess = mime_guess::from_path(path).first();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        let is_packed = extension == "svgz";
        let may_be_text = guess.as_ref().is_none_or(|guess| {
            guess.type_() == "text"
                || matches!(guess.subtype().as_str(), "javascript" | "json" | "octet-stream")
                || SOURCES.iter().any(|source| extension == *source)
        });
        if !may_be_text && !is_packed {
            return Ok(Self {
                kind: guess.map_or_else(binary, |guess| guess.to_string()),
                coding: None,
            });
        }
        let mut room = [0; LOOKED_AT];
        let head = first_bytes(file, &mut room)?;
        if is_packed {
            let kind = guess.map_or_else(binary, |guess| guess.to_string());
            // Without gzip's first two bytes the file is not compressed, even if its name says so.
            return Ok(Self { kind, coding: head.starts_with(b"\x1f\x8b").then_some("gzip") });
        }
        Ok(Self { kind: text_type(guess, head), coding: None })
    }
}

fn binary() -> String {
    mime_guess::mime::APPLICATION_OCTET_STREAM.to_string()
}

/// The type of a file that may be text, by its beginning.
fn text_type(guess: Option<Mime>, head: &[u8]) -> String {
    let guess = match guess {
        Some(guess) if is_shown_as_itself(&guess) => guess,
        guess if !is_text(head) => return guess.map_or_else(binary, |guess| guess.to_string()),
        // With another type, browsers would save the text instead of showing it.
        _ => mime_guess::mime::TEXT_PLAIN,
    };
    // A charset in the header would override the file's own and the browser's guess.
    if declares_charset(&guess, head) || !is_utf8(head) {
        guess.to_string()
    } else {
        format!("{guess}; charset=utf-8")
    }
}

/// Whether browsers show text of this type.
fn is_shown_as_itself(guess: &Mime) -> bool {
    match (guess.type_().as_str(), guess.subtype().as_str()) {
        ("text", subtype) => matches!(
            subtype,
            "plain"
                | "html"
                | "css"
                | "javascript"
                | "xml"
                | "csv"
                | "calendar"
                | "vtt"
                | "x-vcard"
        ),
        (_, subtype) => matches!(subtype, "javascript" | "json"),
    }
}

/// Whether a file begins as text: UTF-8 without control characters that no text has.
fn is_text(head: &[u8]) -> bool {
    let is_control = |byte: &u8| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31 | 127);
    is_utf8(head) && !head.iter().any(is_control)
}

/// Whether the beginning of a file is UTF-8. If the file may go on, the last character may be incomplete.
fn is_utf8(head: &[u8]) -> bool {
    str::from_utf8(head)
        .map_or_else(|error| error.error_len().is_none() && head.len() == LOOKED_AT, |_| true)
}

/// Whether a file declares its own encoding, in the way of its type.
fn declares_charset(kind: &Mime, head: &[u8]) -> bool {
    let head = head.to_ascii_lowercase();
    match kind.subtype().as_str() {
        // Browsers look in a tag of this name, and not in a comment.
        "html" => {
            let page = without_comments(&head);
            let mut tags = page.split(|byte| *byte == b'<').skip(1);
            tags.any(|tag| tag.starts_with(b"meta") && assigns(tag, b"charset"))
        }
        "xml" => head.starts_with(b"<?xml") && assigns(&head, b"encoding"),
        "css" => head.starts_with(b"@charset"),
        _ => false,
    }
}

fn without_comments(page: &[u8]) -> Vec<u8> {
    let mut rest = page;
    let mut found = Vec::with_capacity(page.len());
    while let Some(start) = find(rest, b"<!--") {
        found.extend_from_slice(&rest[..start]);
        let comment = &rest[start + 4..];
        rest = find(comment, b"-->").map_or(&[], |end| &comment[end + 3..]);
    }
    found.extend_from_slice(rest);
    found
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Whether an attribute of this name gets a value in these bytes.
fn assigns(bytes: &[u8], word: &[u8]) -> bool {
    let after = find(bytes, word).map(|at| bytes[at + word.len()..].trim_ascii_start());
    after.is_some_and(|after| after.starts_with(b"="))
}

/// Reads the beginning of a file into a buffer.
fn first_bytes<'a>(file: &File, room: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while filled < room.len() {
        match file.read_at(&mut room[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&room[..filled])
}
