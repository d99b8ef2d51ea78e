//! Entries on their way to the other servers, kept until Redis has confirmed them, and a while longer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::entry::{Entry, What};
use crate::room::Who;

/// How long, and how many, confirmed entries are kept: a Redis that is killed may have confirmed entries that other servers
/// have not read and that are not on its disk.
const RECENT: Duration = Duration::from_secs(30);
const RECENT_ENTRIES: usize = 1_000;

/// The queue between the room, which never waits, and the thread that writes.
pub struct Queue {
    server: String,
    tag: String,
    /// How long an entry waits for Redis before it is given up and its author is told.
    patience: Duration,
    /// Entries that may wait for a lost Redis.
    most: usize,
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
    pub fn new(server: String, tag: String, patience: Duration, most: usize) -> Self {
        Self { server, tag, patience, most, state: Mutex::default(), changed: Condvar::new() }
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Adds an entry. False if too many wait already.
    pub fn push(&self, from: Option<Who>, what: What) -> bool {
        let mut state = self.state.lock();
        if state.pending.len() >= self.most {
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

    /// The next entries to be written, at most `most`, in their order. Waits for the first one, at most for `time`.
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
            // An entry that was given up meanwhile is no longer there.
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

    /// Redis has lost confirmed entries: all that are still kept are written again. Readers recognise second copies by
    /// their numbers.
    pub fn write_again(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        while let Some((when, entry)) = state.recent.pop_back() {
            if now.duration_since(when) <= RECENT {
                state.pending.push_front(Pending { entry, from: None, since: now });
            }
        }
    }

    /// Gives up entries that have waited for too long. Returns their authors.
    pub fn give_up(&self) -> Vec<Who> {
        let mut state = self.state.lock();
        let mut told = Vec::new();
        while state.pending.front().is_some_and(|front| front.since.elapsed() > self.patience) {
            told.extend(state.pending.pop_front().and_then(|pending| pending.from));
        }
        told
    }

    /// Waits for `time`, or until the queue is closed.
    pub fn pause(&self, time: Duration) {
        let mut state = self.state.lock();
        if !state.closing {
            let deadline = Instant::now() + time;
            // New entries wake it as well.
            while !state.closing && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        }
    }

    pub fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// Closes the queue, and waits until it is written, at most for `time`. Returns how many entries are not.
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
