//! The reader's place in the stream, and what it has read up to there.
//!
//! ```text
//! first connection --> before its start --> the end that it found: from now on it tells what it has heard
//!
//! another run of Redis, or the end is before the place --------------------> the beginning, once more
//! at the end, and Redis has larger numbers than were read --> the beginning, once more --> they are a gap
//! ```
//!
//! Reading again is harmless: a second copy of a line is recognised by its number.

use std::collections::HashMap;
use std::time::Duration;

use super::heard::{Gap, Heard, Number};

/// The place before the first entry of a stream.
const BEGINNING: &str = "0-0";
/// How long before its start a server begins to read the stream, in ms: the identifiers of entries are the times of
/// their writing.
const BEFORE: u64 = 5_000;

/// The result of a look at the room, in which the stream and the numbers are of the same moment.
#[derive(Clone)]
pub struct Seen {
    /// The room's time, in ms, and how far it is ahead of Redis's own, which the stream's identifiers have.
    pub time: u64,
    pub offset: u64,
    /// The last identifier of the stream.
    pub end: String,
    /// The last number of each server.
    pub last: HashMap<String, u64>,
    /// The servers' announcements.
    pub servers: HashMap<String, String>,
    /// The server that has the name of this one; empty if none has it.
    pub holder: String,
}

/// The place and the numbers, as they are announced.
#[derive(Clone, PartialEq, Eq)]
pub struct HeardUpTo {
    /// The run of Redis, and the place in its stream.
    pub run: String,
    pub place: String,
    /// The acknowledgements.
    pub numbers: String,
}

#[derive(Default)]
pub struct Place {
    heard: Heard,
    /// When this server started, by the room's clock in ms.
    start: u64,
    /// The last entry that was read. `None` until Redis was reached for the first time.
    at: Option<String>,
    /// The run of Redis in which that entry was read.
    run: String,
    /// The end of the stream at the last look.
    end: String,
    /// The end of the stream, and the numbers of the lines up to it, when this server first looked; `None` once it has
    /// read up to there.
    first: Option<(String, HashMap<String, u64>)>,
    /// Whether this server has announced what it has heard.
    follows: bool,
    /// Whether lines are missing, and the stream is read once more.
    searches: bool,
}

impl Place {
    /// Begins a connection to a run of Redis with this look. `uptime` is how long this server has been up.
    pub fn connect(&mut self, run: &str, seen: &Seen, uptime: Duration) {
        // A Redis that hides its run may have been restarted each time.
        if self.at.is_some() && self.run == run && !run.is_empty() {
            return;
        }
        run.clone_into(&mut self.run);
        self.start = seen.time.saturating_sub(uptime.as_millis() as u64);
        // Another Redis, or the same one after a restart, may not have all that was read. Lines that are read twice are
        // recognised.
        let before = self.start.saturating_sub(seen.offset).saturating_sub(BEFORE);
        let before = format!("{before}-0");
        self.at = Some(match &self.at {
            Some(_) => BEGINNING.to_owned(),
            None if order(&seen.end) < order(&before) => seen.end.clone(),
            None => before,
        });
        if !self.follows {
            self.first = Some((seen.end.clone(), seen.last.clone()));
        }
    }

    /// Compares the stream with what was read of it. Returns the lines that are missing, by their servers.
    pub fn look(&mut self, seen: &Seen) -> Vec<(String, Gap)> {
        self.end.clone_from(&seen.end);
        let Some(at) = &self.at else { return Vec::new() };
        let numbers = || seen.last.iter().map(|(id, last)| (&**id, *last));
        if let Some((end, _)) = &self.first {
            // The stream has lost its last entries.
            if order(end).max(order(at)) > order(&seen.end) {
                self.first = Some((seen.end.clone(), seen.last.clone()));
            }
        } else if order(at) > order(&seen.end) {
            // The stream has lost its last entries, and what is written now may come before the place.
            if at != BEGINNING {
                self.at = Some(BEGINNING.to_owned());
            }
        } else if order(at) == order(&seen.end) {
            if self.heard.is_up_to(numbers()) {
                self.searches = false;
            } else if !std::mem::replace(&mut self.searches, true) {
                self.at = Some(BEGINNING.to_owned());
            } else {
                self.searches = false;
                let gaps = self.heard.has_read_up_to(numbers()).into_iter();
                return gaps.map(|(id, gap)| (id.to_owned(), gap)).collect();
            }
        }
        Vec::new()
    }

    /// The entry after which the next ones are read.
    pub fn at(&self) -> &str {
        self.at.as_deref().unwrap_or(BEGINNING)
    }

    /// Notes that this entry was read, and that its content has been heard.
    pub fn pass(&mut self, id: String) {
        self.at = Some(id);
    }

    /// Notes that nothing was read: the entries up to the end that was seen last are gone.
    pub fn nothing_follows(&mut self) {
        if order(self.at()) < order(&self.end) {
            self.at = Some(self.end.clone());
        }
    }

    /// Notes that a line of another server was read, which was said at a time of the room's clock in ms. Returns also
    /// whether it was said before this server started.
    pub fn hear(&mut self, server: &str, number: u64, said: u64) -> (Number, bool) {
        (self.heard.hear(server, number), said < self.start)
    }

    /// The numbers of these servers' lines that were heard, as they are announced. `None` until this server has read up
    /// to the end that it found.
    pub fn heard<'a>(&mut self, servers: impl IntoIterator<Item = &'a str>) -> Option<HeardUpTo> {
        let at = self.at.as_deref()?;
        if let Some((_, last)) = self.first.take_if(|(end, _)| order(end) <= order(at)) {
            self.heard.has_read_up_to(last.iter().map(|(id, last)| (&**id, *last)));
        }
        if self.first.is_some() {
            return None;
        }
        self.follows = true;
        let numbers = self.heard.acknowledgements(servers);
        Some(HeardUpTo { run: self.run.clone(), place: at.to_owned(), numbers })
    }
}

/// An identifier as two growing numbers: milliseconds, and a counter within them.
fn order(id: &str) -> Option<(u64, u64)> {
    let (time, number) = id.split_once('-')?;
    Some((time.parse().ok()?, number.parse().ok()?))
}
