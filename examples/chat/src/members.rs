//! The members of the room, by their numbers, by their names, and by the looks of their names.

use std::collections::HashMap;

use socketserver::Outbox;
use socketserver::request::OutboxError;

use super::hold_back::WATCHED_BYTES;
use super::name::{OPERATOR, check_name, fold, is_too_long, looks, normal};
use super::protocol::{Kind, Waiting};
use super::room::{Id, Who};

/// The members.
#[derive(Default)]
pub struct Members {
    pub all: HashMap<Id, Member>,
    /// Members by their folded names.
    names: HashMap<String, Id>,
    /// Members by the looks of their names: names that look alike have a look in common.
    looks: HashMap<String, Id>,
    pub next: Id,
}

/// A member.
pub struct Member {
    pub name: String,
    /// The beginning of each of its lines: `name: `.
    pub prefix: String,
    pub outbox: Outbox,
    /// The text that waits for a client without lines (`protocol.rs`); `None` for a client that sends newlines.
    pub waiting: Option<Waiting>,
}

impl Member {
    /// Sends the member a line that ends with its newline. If the member is a client without lines, keeps the line until
    /// the client may be sent something.
    pub fn post(&mut self, kind: Kind, line: &str) -> Result<(), OutboxError> {
        match &mut self.waiting {
            Some(waiting) => match waiting.push(kind, line) {
                Some(answer) => self.send(&answer),
                None => Ok(()),
            },
            None => self.send(line),
        }
    }

    pub fn send(&self, text: &str) -> Result<(), OutboxError> {
        match self.outbox.send(text) {
            // The connection is gone, and its own handler leaves the room.
            Err(OutboxError::Closed) => Ok(()),
            result => result,
        }
    }
}

impl Members {
    pub fn remove(&mut self, id: Id) -> Option<Member> {
        let member = self.all.remove(&id)?;
        self.forget_name(&member.name);
        Some(member)
    }

    pub fn call(&mut self, id: Id, name: &str) {
        self.names.insert(fold(name), id);
        self.looks.extend(looks(name).map(|look| (look, id)));
    }

    pub fn forget_name(&mut self, name: &str) {
        self.names.remove(&fold(name));
        for look in looks(name) {
            self.looks.remove(&look);
        }
    }

    /// The beginning of the author's lines. `None` if the author is not in the room any more: lines that arrive from it
    /// are then ignored.
    pub fn prefix(&self, who: Who) -> Option<&str> {
        match who {
            Who::Member(id) => self.all.get(&id).map(|member| &*member.prefix),
            Who::Operator => Some("operator: "),
        }
    }

    pub fn name(&self, who: Who) -> Option<&str> {
        self.prefix(who).map(|prefix| prefix.trim_end_matches(": "))
    }

    pub fn find(&self, name: &str) -> Option<Who> {
        if is_too_long(name) {
            return None;
        }
        let folded = fold(name);
        if folded == OPERATOR {
            return Some(Who::Operator);
        }
        self.names.get(&folded).map(|id| Who::Member(*id))
    }

    /// The name in its stored form, if a member may have it.
    pub fn check_free(&self, wish: &str, id: Id) -> Result<String, String> {
        check_name(wish)?;
        let name = normal(wish);
        if self.names.get(&fold(&name)).is_some_and(|owner| *owner != id) {
            return Err(format!("the name {name} is taken"));
        }
        let like = looks(&name).into_iter().find_map(|look| self.looks.get(&look));
        match like.filter(|owner| **owner != id).and_then(|owner| self.all.get(owner)) {
            Some(other) => {
                Err(format!("the name {name} looks like {}, which is taken", other.name))
            }
            None => Ok(name),
        }
    }

    pub fn guest_name(&self) -> String {
        // The search ends: at most as many of these names are taken as there are members.
        let mut names = (self.next..).map(|number| format!("guest-{number}"));
        names.find(|name| self.check_free(name, self.next).is_ok()).unwrap_or_default()
    }

    /// Members whose outboxes hold more than [`WATCHED_BYTES`], which is rare for a member that reads.
    pub fn watched(&self) -> Vec<(Id, Outbox)> {
        let waits = |one: &Member| one.outbox.waiting_bytes() > WATCHED_BYTES;
        let watched = self.all.iter().filter(|(_, one)| waits(one));
        watched.map(|(id, one)| (*id, one.outbox.clone())).collect()
    }

    /// The members with their names, in the order of the names.
    pub fn listed(&self) -> Vec<(Id, String)> {
        let mut names: Vec<_> = self.all.iter().map(|(id, one)| (*id, one.name.clone())).collect();
        names.sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
        names
    }
}
