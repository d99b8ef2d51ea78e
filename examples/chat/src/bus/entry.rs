//! An entry of the stream, by which the servers of one room talk to each other.

use std::collections::HashMap;
use std::time::Instant;

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
    /// A line to `to` at the server `at`.
    Tell { name: String, to: String, at: String, text: String },
    /// News, of a join, say.
    News { name: String, text: String },
    /// A line of the server itself to a member of another one: that there is no member of a name.
    Note { to: String, at: String, text: String },
    /// The server has ended in order.
    End,
}

/// The fields of an entry, as Redis has them.
pub type Fields = HashMap<Vec<u8>, Vec<u8>>;

impl Entry {
    /// Names and values of its fields.
    pub fn to_fields(&self) -> Vec<(&'static str, String)> {
        let empty = String::new();
        let (kind, name, to, at, text) = match &self.what {
            What::Say { name, text } => ("say", name, &empty, &empty, text),
            What::Tell { name, to, at, text } => ("tell", name, to, at, text),
            What::News { name, text } => ("news", name, &empty, &empty, text),
            What::Note { to, at, text } => ("note", &empty, to, at, text),
            What::End => ("end", &empty, &empty, &empty, &empty),
        };
        let mut fields = vec![
            ("server", self.server.clone()),
            ("tag", self.tag.clone()),
            ("number", self.number.to_string()),
            ("kind", kind.to_owned()),
        ];
        let optional = [("name", name), ("to", to), ("at", at), ("text", text)];
        fields.extend(
            optional
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(field, value)| (field, value.clone())),
        );
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
                name: text("name"),
                to: text("to"),
                at: text("at"),
                text: text("text"),
            },
            "news" => What::News { name: text("name"), text: text("text") },
            "note" => What::Note { to: text("to"), at: text("at"), text: text("text") },
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
