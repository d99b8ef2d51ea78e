//! Answers as bytes, put into a buffer that serves for all of a connection's.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protocol::Status;

pub const HTML: &str = "text/html; charset=utf-8";

/// What an answer says about the connection that it goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It stays open, as HTTP/1.1 has it without a word.
    Stays,
    /// It stays open, and a client of HTTP/1.0 has to be told.
    StaysOpenly,
    Closes,
}

/// An answer whose head is being written.
pub struct Answer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Answer<'a> {
    /// Begins with what every answer has.
    pub fn new(
        out: &'a mut Vec<u8>,
        clock: &Clock,
        status: Status,
        connection: Connection,
    ) -> Self {
        for part in ["HTTP/1.1 ", status.text(), "\r\nDate: ", &clock.date, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(match connection {
            Connection::Stays => b"",
            Connection::StaysOpenly => b"Connection: keep-alive\r\n",
            Connection::Closes => b"Connection: close\r\n",
        });
        Self { out }
    }

    pub fn field(self, name: &str, value: impl Display) -> Self {
        // Nothing fails that is written to memory.
        let _ = write!(self.out, "{name}: {value}\r\n");
        self
    }

    /// Ends the head. The body follows, and is not sent to who asked for the head alone.
    pub fn end(self) -> &'a mut Vec<u8> {
        self.out.extend_from_slice(b"\r\n");
        self.out
    }

    /// Ends the head, and adds a body unless only the head was asked for.
    pub fn body(self, kind: &str, body: &[u8], head_only: bool) {
        let out = self.field("Content-Type", kind).field("Content-Length", body.len()).end();
        if !head_only {
            out.extend_from_slice(body);
        }
    }
}

/// The Date of answers, written anew once a second.
#[derive(Default)]
pub struct Clock {
    second: Option<u64>,
    pub date: String,
}

impl Clock {
    /// Looks at the time, and says whether the date is another one.
    pub fn tick(&mut self) -> bool {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        if self.second == Some(second) {
            return false;
        }
        self.second = Some(second);
        self.date = http_date(now).unwrap_or_default();
        true
    }
}

/// A time as HTTP writes it; none before 1970 and after 9999, which files may claim to be from.
pub fn http_date(time: SystemTime) -> Option<String> {
    /// The first second of the year 10000.
    const END: u64 = 253_402_300_800;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds < END).then(|| httpdate::fmt_http_date(time))
}

/// A page that says what is wrong.
pub fn error_page(status: Status, why: &str, about: &str) -> String {
    let (status, why) = (status.text(), escape(why));
    let about = match about {
        "" => String::new(),
        about => format!("<p><code>{}</code></p>\n", escape(about)),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{status}</title>\n\
         <style>:root{{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}}\
         body{{max-width:40rem;margin:4rem auto;padding:0 1rem}}\
         code{{overflow-wrap:anywhere}}</style>\n\
         <h1>{status}</h1>\n<p>{why}</p>\n{about}</html>\n"
    )
}

/// Text as HTML, and without what a terminal, or a reader's eye, would take for something else: control
/// characters and those that turn the direction of writing become pictures or �.
pub fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            '\'' => html += "&#39;",
            '\0'..='\x1f' => {
                // The pictures of control characters stand in their order.
                html.push(char::from_u32(0x2400 + u32::from(letter)).unwrap_or('\u{fffd}'));
            }
            '\x7f' => html.push('\u{2421}'),
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => html.push('\u{fffd}'),
            _ => html.push(letter),
        }
    }
    html
}
