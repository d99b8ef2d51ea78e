//! The scripts, and what a server does with their answers.

use super::Room;
use super::state::{
    Announcement, Batch, Heard, IDS, Id, Line, Server, Stage, State, StreamEntry, Trouble, View,
    other_place,
};

impl Room {
    /// Where a reader keeps what it has heard of a server.
    fn key(&self, id: Id) -> Id {
        if self.rules.counts_per_start { id } else { id & !1 }
    }

    pub(super) fn connect(&self, state: &mut State, id: Id) -> bool {
        let (run, clock_behind, last) = (state.run, state.clock_behind, state.data.last);
        let server = &mut state.servers[id];
        if !server.is_up || server.cut_off || server.connected {
            return false;
        }
        server.connected = true;
        server.clock_behind = clock_behind && !self.rules.room_clock;
        if server.run == 0 && !self.rules.old_by_time {
            for (heard, number) in server.heard.iter_mut().zip(last) {
                *heard = Heard { number, begun: true, ..Heard::default() };
            }
        }
        if server.run != run && (self.rules.reads_again_after_new_run || server.run == 0) {
            server.place = 0;
        }
        server.run = run;
        self.beat(state, id);
        true
    }

    /// The announce script, and the look at the announcements.
    pub(super) fn beat(&self, state: &mut State, id: Id) -> bool {
        if !state.servers[id].connected {
            return false;
        }
        let namesake = id ^ 1;
        if state.data.announced[namesake].is_there && !state.stale.has(namesake) {
            return false;
        }
        state.stale.remove(id);
        let server = &mut state.servers[id];
        server.joined = true;
        server.follows |= state.data.stream().iter().all(|entry| entry.id <= server.place);
        let Server { follows, place, heard, .. } = *server;
        state.data.announced[id] = Announcement { is_there: true, follows, place, heard };
        if state.data.top < server.place && self.rules.reads_again_when_ahead {
            server.place = 0;
        }
        self.learn_last(state, id, state.data.last[id]);
        self.compare_numbers(state, id);
        for other in other_place(id) {
            self.look_at(state, id, other);
        }
        true
    }

    /// Compares a reader that has read all entries with the numbers that Redis knows. If some are missing, the reader
    /// reads all entries once more, because others may have come before its place; after that the numbers are a gap.
    fn compare_numbers(&self, state: &mut State, id: Id) {
        let server = &mut state.servers[id];
        let place = server.place;
        if !self.rules.compares_numbers || state.data.stream().iter().any(|entry| entry.id > place)
        {
            return;
        }
        let lacks = |other: &Id| {
            *other != id && server.heard[self.key(*other)].number < state.data.last[*other]
        };
        let lacking: Vec<Id> = (0..IDS).filter(lacks).collect();
        let has_searched = std::mem::replace(&mut server.searches, !lacking.is_empty());
        if !has_searched && !lacking.is_empty() && self.rules.searches {
            server.place = 0;
            return;
        }
        server.searches = false;
        for other in lacking {
            let heard = &mut state.servers[id].heard[self.key(other)];
            let (is_first, last) = (heard.number == 0, state.data.last[other]);
            if if is_first { self.rules.tells_first_gap } else { self.rules.tells_gaps } {
                (heard.number + 1..=last).for_each(|number| heard.missed.add(number.into()));
            }
            let before = std::mem::replace(&mut heard.number, last);
            for number in before + 1..=last {
                needs_loss(state, id, u8::try_from(other).expect("few servers"), number);
            }
        }
    }

    fn look_at(&self, state: &mut State, id: Id, other: Id) {
        let announced = state.data.announced[other];
        let (start, stale) = (state.servers[other].start, state.stale.has(other));
        let view = &mut state.servers[id].views[other];
        let before = *view;
        let is_awaited = announced.follows || self.rules.waits_from_first_beat;
        match before {
            View::Live if stale => *view = View::Gone,
            View::Unknown if announced.is_there && !stale && !is_awaited => *view = View::Seen,
            View::Unknown | View::Seen | View::Gone
                if announced.is_there && !stale && is_awaited =>
            {
                *view = View::Live;
            }
            _ => {}
        }
        let (rules, after) = (self.rules, *view);
        for line in state.lines_of(id).filter(|line| line.stage != Stage::Forgotten) {
            let comes = before == View::Unknown && after == View::Live;
            if comes && line.said > start && rules.waits_for_late_comers {
                line.expects.add(other);
            }
            let heard = announced.heard[self.key(id)];
            let misses = announced.is_there && heard.missed.has(line.number.into());
            if misses && line.said > start && (rules.remembers_authors || line.expects.has(other)) {
                line.told = true;
            }
            if announced.is_there && line.expects.has(other) && line.number <= heard.number {
                line.expects.remove(other);
                // The line was appended, even if the answer was lost.
                line.stage = Stage::Appended;
            }
            if after == View::Gone && line.expects.has(other) {
                line.told |= rules.tells_when_gone;
                line.expects.remove(other);
            }
        }
    }

    /// A writer learns the last number that Redis has of it.
    pub(super) fn learn_last(&self, state: &mut State, id: Id, last: u8) {
        let rules = self.rules;
        for line in state.lines_of(id) {
            match line.stage {
                Stage::Queued if line.number <= last => {
                    let keeps = rules.keeps_until_acknowledged;
                    line.stage = if keeps { Stage::Appended } else { Stage::Forgotten };
                }
                Stage::Appended if line.number > last && rules.rewinds => {
                    line.stage = Stage::Queued;
                }
                _ => {}
            }
        }
    }

    /// Appends what follows the last number, and answers the last number.
    pub(super) fn append_script(&self, state: &mut State, batch: Batch) -> u8 {
        let from = usize::from(batch.from);
        for number in batch.numbers.iter() {
            let last = usize::from(state.data.last[from]);
            if number <= last && self.rules.skips_what_is_there {
                continue;
            }
            let follows = number == last + 1 || number == usize::from(batch.base);
            if !follows && self.rules.stops_at_a_hole {
                break;
            }
            let line = state
                .lines()
                .iter()
                .position(|line| line.author == batch.from && usize::from(line.number) == number);
            let line = u8::try_from(line.expect("it was said")).expect("few lines");
            let said = state.lines[usize::from(line)].said;
            // A line that carries its age at the moment of sending seems no older when the batch arrives.
            let late = if self.rules.tells_when_it_was_said { 0 } else { state.now - batch.sent };
            if state.data.stream().iter().any(|entry| entry.line == line) {
                state.trouble = Some(Trouble::AppendedTwice { line });
            }
            let above =
                if state.clock_behind { state.data.top } else { state.data.top.max(state.highest) };
            state.highest = state.highest.max(above + 1);
            state.data.push(StreamEntry {
                id: above + 1,
                line,
                said: said + late,
                clock_behind: state.clock_behind && !self.rules.room_clock,
            });
            state.data.last[from] = u8::try_from(number).expect("few lines");
        }
        state.data.last[from]
    }

    /// A reader takes the next entry.
    pub(super) fn read(&self, state: &mut State, id: Id) -> bool {
        let server = &mut state.servers[id];
        if !server.connected || !server.joined {
            return false;
        }
        let next = state.data.stream().iter().find(|entry| entry.id > server.place).copied();
        let Some(entry) = next else { return false };
        server.place = entry.id;
        let line = state.lines[usize::from(entry.line)];
        if usize::from(line.author) == id {
            // A server does not read its own lines.
            self.read(state, id);
            return true;
        }
        let is_old = is_old(server, &entry);
        let heard = &mut server.heard[self.key(line.author.into())];
        let number = line.number;
        if number <= heard.number && self.rules.skips_known_numbers {
            return true;
        }
        let is_first = heard.number == 0;
        let gap = heard.number + 1..number;
        let is_old = is_old && !heard.begun && self.rules.skips_old_lines && self.rules.old_by_time;
        heard.number = number;
        if is_old {
            return true;
        }
        heard.begun = true;
        if if is_first { self.rules.tells_first_gap } else { self.rules.tells_gaps } {
            gap.clone().for_each(|number| heard.missed.add(number.into()));
        }
        let start = server.start;
        show(state, id, entry.line, start);
        for number in gap {
            needs_loss(state, id, line.author, number);
        }
        true
    }
}

/// Notes trouble if this server lacks a line that was not lost, and that still waits for this server.
fn needs_loss(state: &mut State, id: Id, author: u8, number: u8) {
    let missing = |line: &Line| line.author == author && line.number == number;
    let index = state.lines().iter().position(missing).expect("it was said");
    let line = &state.lines[index];
    if line.expects.has(id) && !line.told && !line.hole && !line.shown.has(id) {
        let line = u8::try_from(index).expect("few lines");
        state.trouble = Some(Trouble::GapWithoutLoss { line, at: entry_at(id) });
    }
}

fn entry_at(id: Id) -> u8 {
    u8::try_from(id).expect("few servers")
}

/// Whether a line was said before this server's start, as far as the clocks tell.
fn is_old(server: &Server, entry: &StreamEntry) -> bool {
    match (entry.clock_behind, server.clock_behind) {
        (true, false) => true,
        (false, true) => false,
        _ => entry.said < server.start,
    }
}

fn show(state: &mut State, id: Id, index: u8, start: u8) {
    let at = entry_at(id);
    let line = state.lines[usize::from(index)];
    let later = state.lines().iter().any(|other| {
        other.author == line.author && other.number > line.number && other.shown.has(id)
    });
    if line.shown.has(id) {
        state.trouble = Some(Trouble::ShownTwice { line: index, at });
    } else if later {
        state.trouble = Some(Trouble::OutOfOrder { line: index, at });
    } else if line.said < start {
        state.trouble = Some(Trouble::OldAsNew { line: index, at });
    }
    state.lines[usize::from(index)].shown.add(id);
}
