//! The wire: how members' bytes are cut into messages, what a message means, and what the server sends to a client
//! without lines.
//!
//! A message is a line of UTF-8, ended by `\n`. The tutorial's clients send no newline. So until its first newline a
//! client counts as one of them, and the bytes before a silence of [`SILENCE`] are a message. After each of its messages
//! such a client reads once, at most [`ANSWER_BYTES`], and then asks its user. So the server sends exactly one piece for
//! each message of the client, when others have said something: see [`Waiting`].

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use unicode_normalization::char::is_combining_mark;

use super::characters::{is_invisible, is_joiner, is_unsafe, without_runs};
use super::name::NAME_BYTES;

/// The most bytes of a line, without its newline: a page and a half of text.
pub const LINE_BYTES: usize = 8 * 1024;
/// How many bytes the tutorial's clients read at once.
pub const ANSWER_BYTES: usize = 1024;
/// The silence that ends a message of a client without lines: longer than the gaps between the pieces of one message,
/// shorter than its user notices.
pub const SILENCE: Duration = Duration::from_millis(200);
/// How many bytes may wait for a client without lines until its next message: a few hundred lines.
pub const WAITING_BYTES: usize = 64 * 1024;
/// The last line of a server that stops. No member can say it, because members' lines begin with a name.
pub const GOODBYE: &str = "* the server stops; goodbye";

/// Cuts the bytes of a member into messages.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// The bytes up to here belong to messages that were returned.
    start: usize,
    /// Between `start` and here there is no newline.
    searched: usize,
    has_lines: bool,
}

/// The error for a message longer than [`LINE_BYTES`]. Its end is unknown, and so is the beginning of the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a line may have {LINE_BYTES} bytes")
    }
}

impl std::error::Error for TooLong {}

impl Incoming {
    /// Adds received bytes. The caller then takes all messages by [`next_line`](Self::next_line) before it adds more, so
    /// that at most one message and the bytes of one receive are kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message that ends with a newline.
    pub fn next_line(&mut self) -> Result<Option<String>, TooLong> {
        let found = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = found.map(|at| self.searched + at) else {
            self.searched = self.bytes.len();
            // One byte more may be the `\r` before the newline.
            let too_long = self.searched - self.start > LINE_BYTES + 1;
            return if too_long { Err(TooLong) } else { Ok(None) };
        };
        self.has_lines = true;
        let line = &self.bytes[self.start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > LINE_BYTES {
            return Err(TooLong);
        }
        let text = clean(line);
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(text))
    }

    /// The message that ends without a newline: after a silence, or at the end of the input.
    pub fn rest(&mut self) -> Result<Option<String>, TooLong> {
        let bytes = self.bytes.split_off(self.start);
        *self = Self { has_lines: self.has_lines, ..Self::default() };
        if bytes.len() > LINE_BYTES {
            return Err(TooLong);
        }
        Ok((!bytes.is_empty()).then(|| clean(&bytes)))
    }

    /// Whether the caller has to stop receiving, because a client that waits to join goes on sending.
    pub fn is_full(&self) -> bool {
        self.bytes.len() - self.start > LINE_BYTES
    }

    /// Whether a newline has arrived.
    pub fn has_lines(&self) -> bool {
        self.has_lines
    }

    /// Whether a silence would end a message.
    pub fn awaits_silence(&self) -> bool {
        !self.has_lines && self.start < self.bytes.len()
    }
}

/// Text that is safe on any terminal: bytes that are not UTF-8 are replaced, and so are characters that control a terminal
/// or change the direction of text. Runs of blanks are shortened, so that the text after them cannot pass for another
/// member's line.
pub fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let replace = |character| match character {
        '\t' => ' ',
        character if is_unsafe(character) => char::REPLACEMENT_CHARACTER,
        character => character,
    };
    // A control character of one byte becomes a character of three: the line is cut to its limit.
    let shown: String = text.chars().map(replace).collect();
    shorten(without_runs(&shown))
}

/// Cleans a name that another program has written, as [`clean`] does, and cuts it to the longest name that a member can
/// have.
pub fn clean_name(bytes: &[u8]) -> String {
    let mut name = clean(bytes);
    name.truncate(boundary(&name, NAME_BYTES));
    name
}

fn shorten(mut text: String) -> String {
    text.truncate(boundary(&text, LINE_BYTES));
    text
}

/// The beginning of a line in quotation marks, for the notice that says what has become of the line: enough to
/// recognise it.
pub fn quoted(text: &str) -> String {
    /// A row of a terminal, less the words around the quotation.
    const CHARACTERS: usize = 60;
    let text = clean(text.as_bytes());
    let Some((end, next)) = text.char_indices().nth(CHARACTERS) else {
        return format!("\"{text}\"");
    };
    // Marks and joiners stay with the character before them.
    let belongs = |one: char| is_combining_mark(one) || is_invisible(one);
    let (mut end, mut next) = (end, next);
    for (at, last) in text[..end].char_indices().rev() {
        if !belongs(next) && !is_joiner(last) {
            break;
        }
        (end, next) = (at, last);
    }
    format!("\"{}..\"", text[..end].trim_end())
}

/// The last boundary of characters up to `at`.
fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The meaning of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Nothing: an empty line.
    Nothing,
    /// A line to all.
    Say(String),
    /// `@name text`: a line to one member.
    Tell { to: String, text: String },
    /// `/nick name`
    Nick(String),
    /// `/who`
    Who,
    /// `/kick name`, which only the operator may use.
    Kick(String),
    /// `/quit`
    Quit,
    /// Another word that begins with a slash, or a command without its argument.
    Unknown(String),
}

impl Message {
    /// Reads a text. If it begins with two slashes, it is a line that begins with one slash.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_end();
        // The wide blank of an East Asian keyboard separates words too.
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim_start();
        match (word, rest) {
            ("", "") => Self::Nothing,
            ("/who", "") => Self::Who,
            ("/quit", "") => Self::Quit,
            ("/nick", name) if is_one_word(name) => Self::Nick(name.to_owned()),
            ("/kick", name) if is_one_word(name) => Self::Kick(name.to_owned()),
            _ if text.starts_with("//") => Self::Say(text[1..].to_owned()),
            _ if text.starts_with('/') => Self::Unknown(word.to_owned()),
            _ => match word.strip_prefix('@') {
                Some(to) if !to.is_empty() && !rest.is_empty() => {
                    Self::Tell { to: to.to_owned(), text: rest.to_owned() }
                }
                _ => Self::Say(text.to_owned()),
            },
        }
    }
}

fn is_one_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

/// Joins names to a list. Names after the first `most` bytes are only counted: other servers may announce more names than
/// an outbox holds.
pub fn listed(names: &[String], most: usize) -> String {
    let mut bytes = 0;
    let shown = names.iter().take_while(|name| {
        bytes += name.len() + 2;
        bytes <= most
    });
    let shown = shown.count();
    let rest = names.len() - shown;
    let more = if rest > 0 { format!(", and {rest} more") } else { String::new() };
    names[..shown].join(", ") + &more
}

/// The kind of a line, for a client without lines. Such a client stops listening when it is sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another member's line: the client listens for this after its own message.
    Said,
    /// The server's answer to a question of the client, or a notice for this client alone.
    Reply,
    /// News, such as joins and leaves: sent together with the next line of another member.
    News,
}

/// The text that waits for a client without lines. The client listens from its own message until it is sent a piece. A
/// line of another member, or the server's answer to a question, causes a piece; news alone does not.
#[derive(Debug, Default)]
pub struct Waiting {
    /// The waiting lines, with their newlines. A part of the first line may have been sent.
    lines: VecDeque<(Kind, String)>,
    bytes: usize,
    left_out: usize,
    /// The moment at which the client began to listen.
    listens: Option<Instant>,
}

impl Waiting {
    /// How long a client listens before it is sent lines that were said before its message. An answer that arrives
    /// within this time is sent together with them.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Notes that the client has sent a message and now listens. If other members' lines wait for it, returns the moment
    /// at which it gets them at the latest.
    pub fn listen(&mut self) -> Option<Instant> {
        let since = *self.listens.get_or_insert_with(Instant::now);
        self.lines.iter().any(|(kind, _)| *kind == Kind::Said).then(|| since + Self::PATIENCE)
    }

    /// Adds a line, with its newline, and drops the oldest lines if there are too many. Returns the piece to send at once,
    /// if the client listens for a line of this kind.
    pub fn push(&mut self, kind: Kind, line: &str) -> Option<String> {
        let answers = self.listens.is_some() && kind != Kind::News;
        self.bytes += line.len();
        let line = (kind, line.to_owned());
        let overtakes = answers && self.bytes > ANSWER_BYTES;
        if overtakes {
            // The line that the client listens for comes first, if one piece is too short for this line and those before it.
            self.lines.push_front(line);
        } else {
            self.lines.push_back(line);
        }
        while self.bytes > WAITING_BYTES && self.lines.len() > 1 {
            let oldest = if answers { self.lines.remove(1) } else { self.lines.pop_front() };
            if let Some((_, oldest)) = oldest {
                self.bytes -= oldest.len();
                self.left_out += 1;
            }
        }
        if answers { self.piece(if overtakes { 1 } else { 0 }) } else { None }
    }

    /// The next piece: as many whole lines as one read of the client takes, or a part of a long line. It has no
    /// newline at its end, because the client adds its own. The client then no longer listens.
    pub fn answer(&mut self) -> Option<String> {
        self.piece(0)
    }

    /// Takes a piece as [`answer`](Self::answer) does. If the first `before` lines have overtaken others, at least a part
    /// of the line after them goes along.
    fn piece(&mut self, before: usize) -> Option<String> {
        // After so many whole lines the next one is cut to fit, so that it does not wait for ever behind answers.
        let first = (before > 0).then_some(before + usize::from(self.left_out > 0));
        self.listens = None;
        if self.left_out > 0 {
            let note = format!("* {} older lines were left out\n", self.left_out);
            self.left_out = 0;
            self.bytes += note.len();
            self.lines.push_front((Kind::News, note));
        }
        let (mut answer, mut taken) = (String::new(), 0);
        while let Some((_, line)) = self.lines.front_mut() {
            let room = ANSWER_BYTES - answer.len();
            if line.len() <= room {
                answer.push_str(line);
                self.bytes -= line.len();
                self.lines.pop_front();
                taken += 1;
            } else {
                // An empty piece would not be an answer.
                if answer.trim_end().is_empty() || first == Some(taken) {
                    let rest = line.split_off(boundary(line, room));
                    answer += &std::mem::replace(line, rest);
                    self.bytes = self.lines.iter().map(|(_, line)| line.len()).sum();
                }
                break;
            }
        }
        if answer.ends_with('\n') {
            answer.pop();
        }
        (!answer.is_empty()).then_some(answer)
    }

    /// The waiting text, if the client has listened for too long.
    pub fn answer_late(&mut self) -> Option<String> {
        let waited = self.listens.is_some_and(|since| since.elapsed() >= Self::PATIENCE);
        if waited { self.answer() } else { None }
    }

    /// All waiting text, for a client that turns out to send newlines.
    pub fn all(&mut self) -> String {
        self.bytes = 0;
        self.lines.drain(..).map(|(_, line)| line).collect()
    }
}
