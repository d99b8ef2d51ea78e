//! An entry of the stream, by which the servers of one room talk to each other.

use std::collections::HashMap;

use crate::protocol::{clean, clean_name, quoted};
use crate::room::{Id, Who};

/// One entry. Its server has numbered it, so that readers recognise a second copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The server that wrote the entry: a random identifier for each start.
    pub server: String,
    /// The name of that server.
    pub tag: String,
    /// Counts this server's entries, from 1.
    pub number: u64,
    /// When the entry was made, in ms of the room's clock.
    pub said: u64,
    pub what: What,
}

/// The content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A line to all.
    Say { name: String, text: String },
    /// A line to the member `to`, who was called `shown`, at the server with the identifier `at`, which is called `tag`.
    /// `tag` is not written: that server knows its own name.
    Tell { from: Who, name: String, to: Who, shown: String, at: String, tag: String, text: String },
    /// News of a member: that it has joined, for example. `now` is its name from now on; `None` if it has left.
    News { member: Id, name: String, text: String, now: Option<String> },
    /// A line of the server itself to a member of another server, whose private line it could not deliver.
    Note { to: Who, at: String, text: String },
    /// The server has ended in order. `heard` has its last acknowledgements.
    End { heard: String },
}

/// The largest number of an entry: Redis's scripts cannot count further.
const NUMBERS: u64 = 1 << 53;

/// The fields of an entry, as Redis has them.
pub type Fields = HashMap<Vec<u8>, Vec<u8>>;

impl What {
    /// The names and values of the entry's fields in the stream, for a server of this name.
    pub fn to_fields(&self, tag: &str) -> Vec<(&'static str, String)> {
        let text = |text: &String| text.clone();
        let (kind, more) = match self {
            Self::Say { name, text: said } => {
                ("say", vec![("name", text(name)), ("text", text(said))])
            }
            Self::Tell { from, name, to, shown, at, text: said, .. } => (
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
            Self::News { member, name, text: said, now } => {
                let mut more = vec![
                    ("member", member.to_string()),
                    ("name", text(name)),
                    ("text", text(said)),
                ];
                more.extend(now.clone().map(|now| ("now", now)));
                ("news", more)
            }
            Self::Note { to, at, text: said } => {
                ("note", vec![("to", to.to_string()), ("at", text(at)), ("text", text(said))])
            }
            Self::End { heard } => ("end", vec![("heard", text(heard))]),
        };
        let mut fields = vec![("tag", tag.to_owned()), ("kind", kind.to_owned())];
        fields.extend(more);
        fields
    }

    /// The one server that the entry is for; `None` if it is for all.
    pub fn at(&self) -> Option<&str> {
        match self {
            Self::Tell { at, .. } | Self::Note { at, .. } => Some(at),
            _ => None,
        }
    }

    /// The line in the form in which its author can send it again, shortened.
    pub fn quote(&self) -> String {
        match self {
            Self::Say { text, .. } => quoted(text),
            Self::Tell { shown, tag, text, .. } => quoted(&format!("@{shown}@{tag} {text}")),
            _ => String::new(),
        }
    }
}

impl Entry {
    /// Reads an entry. Returns `None` if the fields are not those of an entry: every client of Redis can write to the
    /// stream. The texts are cleaned, so that they can be shown.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        let text = |field: &str| {
            fields.get(field.as_bytes()).map(|bytes| clean(bytes)).unwrap_or_default()
        };
        let name = |field: &str| {
            fields.get(field.as_bytes()).map(|bytes| clean_name(bytes)).unwrap_or_default()
        };
        let what = match &*text("kind") {
            "say" => What::Say { name: name("name"), text: text("text") },
            "tell" => What::Tell {
                from: text("from").parse().ok()?,
                name: name("name"),
                to: text("to").parse().ok()?,
                shown: name("shown"),
                at: text("at"),
                tag: String::new(),
                text: text("text"),
            },
            "news" => What::News {
                member: text("member").parse().ok()?,
                name: name("name"),
                text: text("text"),
                now: Some(name("now")).filter(|now| !now.is_empty()),
            },
            "note" => {
                let to = text("to").parse().ok()?;
                What::Note { to, at: text("at"), text: text("text") }
            }
            "end" => What::End { heard: text("heard") },
            _ => return None,
        };
        let number = text("number").parse().ok().filter(|number| *number <= NUMBERS)?;
        let said = text("said").parse().ok()?;
        Some(Self { server: text("server"), tag: name("tag"), number, said, what })
    }
}
