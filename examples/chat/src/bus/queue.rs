//! What is on its way to the other servers: kept until Redis has confirmed it, and a while longer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::entry::{Entry, What};
use crate::room::Who;

/// Entries that may wait for a lost Redis: a lively conversation of minutes.
const PENDING: usize = 1_000;
/// For so long, and for so many entries, what is confirmed is kept: a Redis that is killed may have
/// confirmed what another server has not read yet, and what its disk does not have.
const RECENT: Duration = Duration::from_secs(30);
const RECENT_ENTRIES: usize = 1_000;

/// The queue between the room, which never waits, and the thread that writes.
pub struct Queue {
    server: String,
    tag: String,
    /// How long an entry waits for Redis before it is given up and whoever said it is told.
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Pending>,
    recent: VecDeque<(Instant, Entry)>,
    last_number: u64,
    closing: bool,
}

struct Pending {
    entry: Entry,
    from: Option<Who>,
    since: Instant,
}

impl Queue {
    pub fn new(server: String, tag: String, patience: Duration) -> Self {
        Self { server, tag, patience, state: Mutex::default(), changed: Condvar::new() }
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Takes an entry. False: too many wait already.
    pub fn push(&self, from: Option<Who>, what: What) -> bool {
        let mut state = self.state.lock();
        if state.pending.len() >= PENDING {
            return false;
        }
        state.last_number += 1;
        let number = state.last_number;
        let entry = Entry { server: self.server.clone(), tag: self.tag.clone(), number, what };
        state.pending.push_back(Pending { entry, from, since: Instant::now() });
        self.changed.notify_all();
        true
    }

    /// Whether entries wait to be written.
    pub fn is_waiting(&self) -> bool {
        !self.state.lock().pending.is_empty()
    }

    /// The next entries to be written, at most `most`, in their order. Waits for one, for `time` at most.
    pub fn next(&self, most: usize, time: Duration) -> Vec<Entry> {
        let mut state = self.state.lock();
        if state.pending.is_empty() && !state.closing {
            self.changed.wait_for(&mut state, time);
        }
        state.pending.iter().take(most).map(|pending| pending.entry.clone()).collect()
    }

    /// These have been written.
    pub fn confirm(&self, written: Vec<Entry>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        for entry in written {
            // One that was given up meanwhile is not there any more.
            if state.pending.front().is_some_and(|front| front.entry.number == entry.number) {
                state.pending.pop_front();
            }
            state.recent.push_back((now, entry));
        }
        while state.recent.len() > RECENT_ENTRIES
            || state.recent.front().is_some_and(|(when, _)| now.duration_since(*when) > RECENT)
        {
            state.recent.pop_front();
        }
        self.changed.notify_all();
    }

    /// Redis has lost what it had confirmed: all of it that is still known is written once more. Who has
    /// heard it knows its numbers.
    pub fn write_again(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        while let Some((when, entry)) = state.recent.pop_back() {
            if now.duration_since(when) <= RECENT {
                state.pending.push_front(Pending { entry, from: None, since: now });
            }
        }
    }

    /// Gives up what has waited for too long. Says who is to be told.
    pub fn give_up(&self) -> Vec<Who> {
        let mut state = self.state.lock();
        let mut told = Vec::new();
        while state.pending.front().is_some_and(|front| front.since.elapsed() > self.patience) {
            told.extend(state.pending.pop_front().and_then(|pending| pending.from));
        }
        told
    }

    /// Waits for `time`, or until the end is near.
    pub fn pause(&self, time: Duration) {
        let mut state = self.state.lock();
        if !state.closing {
            let deadline = Instant::now() + time;
            // Entries that come meanwhile wake it as well.
            while !state.closing && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        }
    }

    pub fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// Nothing more will be said. Waits until everything is written, for `time` at most; says how much is
    /// not.
    pub fn close(&self, time: Duration) -> usize {
        let mut state = self.state.lock();
        state.closing = true;
        self.changed.notify_all();
        let deadline = Instant::now() + time;
        while !state.pending.is_empty()
            && !self.changed.wait_until(&mut state, deadline).timed_out()
        {}
        state.pending.len()
    }
}
