//! Answers as bytes, appended to the buffer of their connection.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protocol::Status;

pub const HTML: &str = "text/html; charset=utf-8";

/// The fate of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It stays open, which in HTTP/1.1 is the default.
    Stays,
    /// It stays open. A client of HTTP/1.0 has to be told so.
    StaysOpenly,
    Closes,
}

/// An answer whose head is being written.
pub struct Answer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Answer<'a> {
    /// Begins an answer with the lines that every answer has.
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
        // Writing to memory cannot fail.
        let _ = write!(self.out, "{name}: {value}\r\n");
        self
    }

    /// Ends the head. The caller sends the body, except after HEAD.
    pub fn end(self) -> &'a mut Vec<u8> {
        self.out.extend_from_slice(b"\r\n");
        self.out
    }

    /// Ends the head, and adds the body, except after HEAD.
    pub fn body(self, kind: &str, body: &[u8], head_only: bool) {
        let out = self.field("Content-Type", kind).field("Content-Length", body.len()).end();
        if !head_only {
            out.extend_from_slice(body);
        }
    }
}

/// The Date of answers, formatted once a second.
#[derive(Default)]
pub struct Clock {
    second: Option<u64>,
    pub date: String,
}

impl Clock {
    /// Reads the clock, and says whether the date has changed.
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

/// A time as HTTP writes it. `None` before 1970 and after 9999: files may have such times.
pub fn http_date(time: SystemTime) -> Option<String> {
    /// The first second of the year 10000.
    const END: u64 = 253_402_300_800;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds < END).then(|| httpdate::fmt_http_date(time))
}

/// A page that explains an error.
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

/// Text as HTML. Characters that would deceive a terminal or a reader are replaced: control characters and those that
/// change the direction of writing become pictures or �.
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
                // Unicode has pictures of the control characters in the same order.
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
