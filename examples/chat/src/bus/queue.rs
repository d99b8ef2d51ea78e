//! The state that the room and the three threads of the bus share: the lines of this server, the other servers, and what
//! this one has heard of them. No thread waits for Redis, or calls the room, while it holds the lock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::entry::What;
use super::ledger::Ledger;
use super::lines::{Line, Lines, Told};
use super::place::HeardUpTo;
use crate::room::Who;

/// The shared state.
pub struct Queue {
    server: String,
    tag: String,
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

pub struct State {
    pub ledger: Ledger,
    /// The reader's place and numbers, as they are announced; `None` before the reader has a place.
    heard: Option<HeardUpTo>,
    heard_is_new: bool,
    closing: bool,
    /// Whether the writer has ended.
    has_left: bool,
}

impl Queue {
    pub fn new(server: String, tag: String, most: usize, patience: Duration) -> Self {
        let ledger = Ledger::new(server.clone(), Lines::new(most, patience));
        let state =
            State { ledger, heard: None, heard_is_new: false, closing: false, has_left: false };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { server, tag, started: Instant::now(), state, changed }
    }

    /// The identifier of this server, which is new after each start.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The name of this server.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// For how long this server has been up.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Adds a line. Returns false if too many are kept already.
    pub fn push(&self, from: Option<Who>, what: What) -> bool {
        let is_added = self.state.lock().ledger.lines.say(from, what, Instant::now());
        self.changed.notify_all();
        is_added
    }

    /// Takes note of the reader's place and numbers.
    pub fn set_heard(&self, heard: HeardUpTo) {
        let mut state = self.state.lock();
        if state.heard.as_ref() != Some(&heard) {
            state.heard = Some(heard);
            state.heard_is_new = true;
            self.changed.notify_all();
        }
    }

    /// The reader's place and numbers, to be announced to a run of Redis; empty before the reader has them. If it is not the
    /// reader's run, the place is the beginning: the stream may have new entries before the reader's place, and must not be
    /// trimmed up to there.
    pub fn heard(&self, run: &str) -> String {
        let mut state = self.state.lock();
        state.heard_is_new = false;
        match &state.heard {
            None => String::new(),
            Some(heard) if heard.run == run => format!("{}{}", heard.place, heard.numbers),
            Some(heard) => format!("0-0{}", heard.numbers),
        }
    }

    /// The place and numbers, if they are new.
    pub fn new_heard(&self, run: &str) -> Option<String> {
        let is_new = self.state.lock().heard_is_new;
        is_new.then(|| self.heard(run))
    }

    /// Waits until there is a line to write, at most until `until`. If there is something new to be announced, or if the
    /// queue is closed, waits at most until `until_if_new`.
    pub fn wait_for_work(&self, until: Instant, until_if_new: Instant) {
        let mut state = self.state.lock();
        while !state.ledger.lines.is_waiting() {
            let is_new = state.heard_is_new || state.closing;
            let until = if is_new { until.min(until_if_new) } else { until };
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Calls `write` with each line that waits for Redis, until it returns false. Returns the number of the oldest line that
    /// is kept.
    pub fn waiting(&self, mut write: impl FnMut(&Line) -> bool) -> u64 {
        let state = self.state.lock();
        for line in state.ledger.lines.waiting() {
            if !write(line) {
                break;
            }
        }
        state.ledger.lines.base()
    }

    pub fn is_waiting(&self) -> bool {
        self.state.lock().ledger.lines.is_waiting()
    }

    /// Takes note of an answer of Redis: the last number that it has of this server, and what the others have heard.
    /// Returns the authors of lines that may not have arrived, or `None` if that number cannot be true.
    pub fn answered(
        &self,
        number: Option<u64>,
        heard: &HashMap<String, String>,
    ) -> Option<Vec<Told>> {
        let heard = heard.iter().map(|(id, text)| (&**id, &**text));
        let told = self.state.lock().ledger.answered(number, heard, Instant::now());
        self.changed.notify_all();
        told
    }

    /// Gives up lines whose time is over. Returns their authors.
    pub fn settle(&self) -> Vec<Told> {
        self.state.lock().ledger.settle(Instant::now())
    }

    /// Waits for `time`, or until the queue is closed.
    pub fn pause(&self, time: Duration) {
        let mut state = self.state.lock();
        let deadline = Instant::now() + time;
        // New entries wake the thread as well, and it waits again.
        while !state.closing && !self.changed.wait_until(&mut state, deadline).timed_out() {}
    }

    pub fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// The identifiers of the other servers.
    pub fn servers(&self) -> Vec<String> {
        self.state.lock().ledger.others.ids().map(str::to_owned).collect()
    }

    /// Whether the queue is closed and all lines have arrived everywhere.
    pub fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.closing && state.ledger.lines.are_done()
    }

    /// Notes that the writer has removed this server from the room.
    pub fn leave(&self) {
        self.state.lock().has_left = true;
        self.changed.notify_all();
    }

    /// Closes the queue, and waits until all lines have arrived everywhere, at most for `time`. Returns the authors of the
    /// lines that have not arrived everywhere by then.
    pub fn close(&self, time: Duration) -> Vec<Told> {
        let mut state = self.state.lock();
        state.closing = true;
        self.changed.notify_all();
        let deadline = Instant::now() + time;
        while !state.has_left && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        state.ledger.lines.give_up()
    }
}
