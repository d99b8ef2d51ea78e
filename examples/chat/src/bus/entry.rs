//! An entry of the stream, by which the servers of one room talk to each other.

use std::collections::HashMap;
use std::time::Instant;

use crate::room::{Id, Who};

/// One entry. It has a number of its server, so that readers recognise a second copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The server that wrote it: a random identifier for each start.
    pub server: String,
    /// The name of that server.
    pub tag: String,
    /// Counts this server's entries, from 1.
    pub number: u64,
    pub what: What,
}

/// The content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A line to all.
    Say { name: String, text: String },
    /// A line to the member `to`, who was called `shown`, at the server with the identifier `at`.
    Tell { from: Who, name: String, to: Who, shown: String, at: String, text: String },
    /// News of a member: that it has joined, say. `now` is its name from now on; none if it has left.
    News { member: Id, name: String, text: String, now: Option<String> },
    /// A line of the server itself to a member of another one: that a member is not there any more.
    Note { to: Who, at: String, text: String },
    /// The server has ended in order.
    End,
}

/// The fields of an entry, as Redis has them.
pub type Fields = HashMap<Vec<u8>, Vec<u8>>;

impl Entry {
    /// Names and values of its fields.
    pub fn to_fields(&self) -> Vec<(&'static str, String)> {
        let text = |text: &String| text.clone();
        let (kind, more) = match &self.what {
            What::Say { name, text: said } => {
                ("say", vec![("name", text(name)), ("text", text(said))])
            }
            What::Tell { from, name, to, shown, at, text: said } => (
                "tell",
                vec![
                    ("from", from.to_string()),
                    ("name", text(name)),
                    ("to", to.to_string()),
                    ("shown", text(shown)),
                    ("at", text(at)),
                    ("text", text(said)),
                ],
            ),
            What::News { member, name, text: said, now } => {
                let mut more = vec![
                    ("member", member.to_string()),
                    ("name", text(name)),
                    ("text", text(said)),
                ];
                more.extend(now.clone().map(|now| ("now", now)));
                ("news", more)
            }
            What::Note { to, at, text: said } => {
                ("note", vec![("to", to.to_string()), ("at", text(at)), ("text", text(said))])
            }
            What::End => ("end", Vec::new()),
        };
        let mut fields = vec![
            ("server", self.server.clone()),
            ("tag", self.tag.clone()),
            ("number", self.number.to_string()),
            ("kind", kind.to_owned()),
        ];
        fields.extend(more);
        fields
    }

    /// None for any other entry: every client of Redis can write to the stream. The caller has to clean the texts before
    /// they are shown.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        let text = |field: &str| {
            fields.get(field.as_bytes()).map(|bytes| super::clean(bytes)).unwrap_or_default()
        };
        let what = match &*text("kind") {
            "say" => What::Say { name: text("name"), text: text("text") },
            "tell" => What::Tell {
                from: text("from").parse().ok()?,
                name: text("name"),
                to: text("to").parse().ok()?,
                shown: text("shown"),
                at: text("at"),
                text: text("text"),
            },
            "news" => What::News {
                member: text("member").parse().ok()?,
                name: text("name"),
                text: text("text"),
                now: Some(text("now")).filter(|now| !now.is_empty()),
            },
            "note" => {
                let to = text("to").parse().ok()?;
                What::Note { to, at: text("at"), text: text("text") }
            }
            "end" => What::End,
            _ => return None,
        };
        let number = text("number").parse().ok()?;
        Some(Self { server: text("server"), tag: text("tag"), number, what })
    }
}

/// The last number of each server. Its entries arrive in the order of their numbers, except for second copies of entries
/// that it wrote again.
#[derive(Debug, Default)]
pub struct Heard {
    last: HashMap<String, (u64, Instant)>,
}

/// Servers that are remembered. Each restart is a new server, so this covers a long time.
const SERVERS: usize = 1_000;

impl Heard {
    /// Whether an entry is read for the first time.
    pub fn is_new(&mut self, server: &str, number: u64) -> bool {
        let now = Instant::now();
        if let Some((last, when)) = self.last.get_mut(server) {
            let is_new = number > *last;
            *last = number.max(*last);
            *when = now;
            return is_new;
        }
        if self.last.len() >= SERVERS {
            let oldest = self.last.iter().min_by_key(|(_, (_, when))| *when);
            if let Some(oldest) = oldest.map(|(server, _)| server.clone()) {
                self.last.remove(&oldest);
            }
        }
        self.last.insert(server.to_owned(), (number, now));
        true
    }
}
