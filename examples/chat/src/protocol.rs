//! The wire: what members send, cut into messages; what a message means; and what is sent to members
//! that know of no lines.
//!
//! A message is a line of UTF-8, ended by `\n`. The document's clients send none: until its first
//! newline a client is taken for one of them, and a message of its is what comes until it is silent for
//! [`SILENCE`]. Such a client reads once for each message of its own, at most [`ANSWER_BYTES`], and then
//! asks its user; so it is sent exactly one piece for each, when others have said something: see [`Waiting`].

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::characters::{is_unsafe, without_runs};

/// Bytes of a line at most, without its newline: a page and a half of text. What is longer is no chat.
pub const LINE_BYTES: usize = 8 * 1024;
/// What the document's clients read at once.
pub const ANSWER_BYTES: usize = 1024;
/// Without a byte for so long, a client that sends no newlines has said what it had to say. Longer than
/// the pieces of one message are apart, shorter than its user notices.
pub const SILENCE: Duration = Duration::from_millis(200);
/// What is kept for a client that cannot take it before it speaks: some hundreds of lines.
pub const WAITING_BYTES: usize = 64 * 1024;
/// What every member is told at the end of the server. Nobody else can say it: the lines of others have a name in front.
pub const GOODBYE: &str = "* the server stops; goodbye";

/// What a member sends, as it comes, cut into messages.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// Up to here everything is in a message that was taken.
    start: usize,
    /// From there up to here there is no newline.
    searched: usize,
    has_lines: bool,
}

/// A message is longer than [`LINE_BYTES`]. What follows it cannot be told apart from the rest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a line may have {LINE_BYTES} bytes")
    }
}

impl std::error::Error for TooLong {}

impl Incoming {
    /// Takes what has come. The messages in it are then taken by [`next_line`](Self::next_line), all of
    /// them before more comes, so that never more than one message and one receive are kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message that is complete by its newline.
    pub fn next_line(&mut self) -> Result<Option<String>, TooLong> {
        let found = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = found.map(|at| self.searched + at) else {
            self.searched = self.bytes.len();
            // One more may be the `\r` of an ending.
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

    /// The message that ends because nothing more comes: after a silence, or at the end of the input.
    pub fn rest(&mut self) -> Result<Option<String>, TooLong> {
        let bytes = self.bytes.split_off(self.start);
        *self = Self { has_lines: self.has_lines, ..Self::default() };
        if bytes.len() > LINE_BYTES {
            return Err(TooLong);
        }
        Ok((!bytes.is_empty()).then(|| clean(&bytes)))
    }

    /// Whether no more is to be taken before what is there: a client that waits to be let in may send on.
    pub fn is_full(&self) -> bool {
        self.bytes.len() - self.start > LINE_BYTES
    }

    /// Whether a newline has come.
    pub fn has_lines(&self) -> bool {
        self.has_lines
    }

    /// Whether a silence would end a message.
    pub fn awaits_silence(&self) -> bool {
        !self.has_lines && self.start < self.bytes.len()
    }
}

/// Text that can be shown on any terminal: what is not UTF-8 is replaced, and so is every character that
/// controls a terminal or turns the direction of text; and no run of empty places is long enough for what follows
/// to pass for a line of somebody else.
pub fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let replace = |character| match character {
        '\t' => ' ',
        character if is_unsafe(character) => char::REPLACEMENT_CHARACTER,
        character => character,
    };
    // A control character of one byte becomes one of three: the line stays within its limit.
    let shown: String = text.chars().map(replace).collect();
    shorten(without_runs(&shown))
}

fn shorten(mut text: String) -> String {
    text.truncate(boundary(&text, LINE_BYTES));
    text
}

/// The last boundary of characters that is not behind `at`.
fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Nothing: an empty line.
    Nothing,
    /// A line for everyone.
    Say(String),
    /// `@name text`: for one.
    Tell { to: String, text: String },
    /// `/nick name`
    Nick(String),
    /// `/who`
    Who,
    /// `/kick name`, the operator's.
    Kick(String),
    /// `/quit`
    Quit,
    /// Something else that begins with a slash, or one of these without what belongs to it.
    Unknown(String),
}

impl Message {
    /// What a text means. One that begins with a slash and is no command begins with two.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_end();
        // Also by the wide blank of an East Asian keyboard.
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

/// Names in a line. There may be more of them than an outbox holds: those of other servers are as many as these say.
pub fn listed(names: &[String]) -> String {
    /// A thousand names of ordinary length, thrice.
    const BYTES: usize = 64 * 1024;
    let mut bytes = 0;
    let shown = names.iter().take_while(|name| {
        bytes += name.len() + 2;
        bytes <= BYTES
    });
    let shown = shown.count();
    let rest = names.len() - shown;
    let more = if rest > 0 { format!(", and {rest} more") } else { String::new() };
    names[..shown].join(", ") + &more
}

/// What a line is to a client that knows of no lines, which stops listening when it is sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody else has said it: that is what the client listens for when it has spoken.
    Said,
    /// The server's answer to what the client has asked it for.
    Reply,
    /// Joins and leaves, say: they come with the next that was said.
    News,
}

/// What waits for a client that knows of no lines. It listens from when it has spoken until it is sent something, and
/// that is what others say then: neither its own words, which it knows, nor news alone.
#[derive(Debug, Default)]
pub struct Waiting {
    /// With their newlines; of the first one a part may have been sent.
    lines: VecDeque<(Kind, String)>,
    bytes: usize,
    left_out: usize,
    /// Since when it listens.
    listens: Option<Instant>,
}

impl Waiting {
    /// A client that has said something that it has not been answered yet will have waited for this long when it is
    /// sent what was said before it spoke. Until then it is more likely to be sent an answer with it.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// The client has spoken. Gives when it is to be sent what waits already, if there is anything.
    pub fn listen(&mut self) -> Option<Instant> {
        let since = *self.listens.get_or_insert_with(Instant::now);
        self.lines.iter().any(|(kind, _)| *kind == Kind::Said).then(|| since + Self::PATIENCE)
    }

    /// Adds a line, with its newline. The oldest go when there are too many. Gives the piece that the client is to be sent
    /// at once, if it has listened for that.
    pub fn push(&mut self, kind: Kind, line: &str) -> Option<String> {
        let answers = self.listens.is_some() && kind != Kind::News;
        self.bytes += line.len();
        let line = (kind, line.to_owned());
        let overtakes = answers && self.bytes > ANSWER_BYTES;
        if overtakes {
            // What it listens for comes before what has waited, if both are too much for one piece.
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

    /// The next piece: as many whole lines as one read of the client takes, or a part of a long one.
    /// Without the last newline, because the client adds its own. It does not listen after that.
    pub fn answer(&mut self) -> Option<String> {
        self.piece(0)
    }

    /// A piece with so many lines before those that have waited, of which at least a part goes with it.
    fn piece(&mut self, before: usize) -> Option<String> {
        // Of the first line that has waited a part may go, so that it does not wait for ever behind the answers.
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
                // What is empty would be no answer.
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

    /// What waits, if the client has listened for too long.
    pub fn answer_late(&mut self) -> Option<String> {
        let waited = self.listens.is_some_and(|since| since.elapsed() >= Self::PATIENCE);
        if waited { self.answer() } else { None }
    }

    /// Everything, for a client that has turned out to know lines.
    pub fn all(&mut self) -> String {
        self.bytes = 0;
        self.lines.drain(..).map(|(_, line)| line).collect()
    }
}
