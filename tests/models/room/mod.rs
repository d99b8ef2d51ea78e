//! The protocol of the chat's room on several servers: two servers, a Redis that may lose what it has, and a few lines.
//!
//! The search visits every state that can be reached with a number of faults, in every order, and checks this:
//!
//! - Each line is shown at most once at each server, and those of one server in their order.
//! - No line is shown at a server that started after it was said.
//! - At every end, where nothing goes on by itself, each line was shown at each server that was there all the time, or
//!   its author was warned. Two kinds of servers are excused: those that the author's server had reported as gone, unless it
//!   has seen them come back and is not cut off itself; and those of which it had not heard while it kept the line, if
//!   Redis has lost something.
//! - From every state an end is reached when nothing fails any more.
//! - Nothing is missing, given up, or written twice without a cause.
//!
//! | here | in `examples/chat/src/bus` |
//! |---|---|
//! | `append_script`, `Rules::{skips_what_is_there, stops_at_a_hole, numbers_with_lines}` | `append.lua` |
//! | `beat`, `learn_last`, `rewinds` | `beat.lua`, `Writer::beat`, `Lines::redis_has` |
//! | `Stage`, `keeps_until_acknowledged`, `tells_when_late` | `lines.rs`: `settle` |
//! | `look_at`, `tells_when_gone`, `waits_for_late_comers`, `waits_from_first_beat` | `others.rs`: `awaited`; `Lines::lose` |
//! | `remembers_authors`, `forget` | `Lines::miss`, `Lines::forget` |
//! | `Heard`, `skips_known_numbers`, `tells_gaps`, `tells_first_gap` | `heard.rs`: `hear`, `acknowledgements` |
//! | `compare_numbers`, `searches`, `reads_again_when_ahead` | `place.rs`: `look`; `Heard::has_read_up_to` |
//! | `connect`, `reads_again_after_new_run` | `place.rs`: `connect`; `Store::run` |
//! | `is_old`, `skips_old_lines`, `old_by_time`, `tells_when_it_was_said`, `room_clock` | `place.rs`: `hear`; `SEEN OFFSET` in the scripts |
//! | `trim`, `trims_behind_readers` | `XTRIM MINID` in `beat.lua`, `Queue::heard` |
//! | `tells_at_stop` | `Lines::give_up` |
//!
//! The rules are the model's own words for those of the bus. The bus's machines themselves (`machines.rs`) are led along
//! the way to every state, and from there to an end, and are held to the same promise.
//!
//! Each script is one step. Time is the order of events. Patience and the 10 s without a beat may end at any moment; or
//! patience ends as soon as nothing else goes on. A clock that is behind is so far behind that all its times are
//! earlier.
//! Left out are private lines (their receiver is one server), news, the bounds of queues, names that two servers want, and
//! faults within a connection.

mod bus;
mod machines;
mod rules;
mod search;
mod servers;
mod state;
mod steps;

use machines::Machines;
use rules::{Bounds, Fault, Rules};
use search::{Found, search, search_with};

/// A member, as the bus's sources know it.
pub(crate) type Id = u64;

/// An author, as the bus's sources know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Member(Id),
    Operator,
}

impl std::fmt::Display for Who {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{self:?}")
    }
}

impl std::str::FromStr for Who {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::Member)
    }
}

/// The protocol, and how far it is searched.
struct Room {
    rules: Rules,
    bounds: Bounds,
}

const ALL: &[Fault] = &[
    Fault::AnswerLost,
    Fault::Delayed,
    Fault::TailLost,
    Fault::ClockBehind,
    Fault::Flushed,
    Fault::StreamDeleted,
    Fault::HardCap,
    Fault::CutOff,
    Fault::Killed,
    Fault::Stopped,
];

/// One fault of any kind while two lines are said.
const ONE_FAULT: Bounds = Bounds {
    lines: 2,
    faults: 1,
    kinds: ALL,
    saves: 1,
    restarts: 1,
    second_starts_late: false,
    trims: true,
    impatient: false,
};

fn holds(bounds: Bounds) -> Found {
    /// The most states that the search may visit: they take about 5 GB.
    const MOST: usize = 60_000_000;
    let found = search(&Room { rules: Rules::ALL, bounds }, MOST);
    found.unwrap_or_else(|way| panic!("{bounds:?}:\n{way}"))
}

#[test]
fn the_promise_holds_with_three_lines_and_one_fault_of_any_kind() {
    let found = holds(Bounds { lines: 3, trims: false, ..ONE_FAULT });
    assert!(found.states > 500_000 && found.ends > 1_000, "{found:?}");
}

#[test]
fn the_promise_holds_however_early_authors_lose_their_patience() {
    holds(Bounds { impatient: true, ..ONE_FAULT });
}

#[test]
fn the_promise_holds_if_the_second_server_starts_late() {
    holds(Bounds { second_starts_late: true, ..ONE_FAULT });
}

#[test]
fn the_promise_holds_if_redis_fails_twice() {
    let kinds = &[Fault::TailLost, Fault::ClockBehind, Fault::Flushed];
    holds(Bounds { faults: 2, kinds, ..ONE_FAULT });
}

#[test]
fn the_promise_holds_if_redis_fails_and_a_server_is_cut_off() {
    let kinds = &[Fault::TailLost, Fault::CutOff];
    holds(Bounds { faults: 2, kinds, ..ONE_FAULT });
}

/// The test fails, for example, if `Heard::hear` keeps no gap, `Lines::redis_has` takes no lower number, or `lose` warns
/// nobody.
#[test]
fn the_programs_own_machines_keep_the_promise_on_every_way() {
    let bounds = ONE_FAULT;
    let room = Room { rules: Rules::ALL, bounds };
    if let Err(way) = search_with(&room, 10_000_000, |way| Machines::run(&bounds, way)) {
        panic!("{way}");
    }
}

/// This takes a minute and 1 GB with `ROOM_FAULTS=2`, and much more with `ROOM_LINES=3`.
#[test]
fn the_promise_holds_as_far_as_is_asked_for() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let (lines, faults) = (number("ROOM_LINES"), number("ROOM_FAULTS"));
    if lines.is_some() || faults.is_some() {
        let (lines, faults) = (lines.unwrap_or(2), faults.unwrap_or(1));
        println!("{:?}", holds(Bounds { lines, faults, ..ONE_FAULT }));
    }
}

/// Asserts that without a rule the search finds a way to break the promise. `expected` is a part of its message.
#[track_caller]
fn breaks(without: impl FnOnce(&mut Rules), kinds: &'static [Fault], faults: u8, expected: &str) {
    let mut rules = Rules::ALL;
    without(&mut rules);
    let bounds = Bounds { kinds, faults, ..ONE_FAULT };
    let way = match search(&Room { rules, bounds }, 10_000_000) {
        Ok(found) => panic!("the rule is not needed: {found:?}"),
        Err(way) => way,
    };
    println!("{way}");
    assert!(way.contains(expected), "another fault than expected, {expected}:\n{way}");
}

const SILENT: &str = "and nobody knows";

#[test]
fn the_append_script_needs_its_rules() {
    breaks(|rules| rules.skips_what_is_there = false, ALL, 1, "AppendedTwice");
    breaks(|rules| rules.stops_at_a_hole = false, ALL, 1, "GapWithoutLoss");
    breaks(|rules| rules.numbers_with_lines = false, ALL, 1, "WithoutLoss");
}

#[test]
fn the_writer_needs_its_rules() {
    breaks(|rules| rules.keeps_until_acknowledged = false, ALL, 1, SILENT);
    breaks(|rules| rules.rewinds = false, ALL, 1, "GivenUpWithoutFault");
    breaks(|rules| rules.tells_when_gone = false, ALL, 1, SILENT);
    breaks(|rules| rules.tells_when_late = false, ALL, 1, SILENT);
    breaks(|rules| rules.tells_at_stop = false, ALL, 1, SILENT);
    breaks(|rules| rules.waits_for_late_comers = false, ALL, 1, SILENT);
    breaks(|rules| rules.waits_from_first_beat = false, ALL, 1, SILENT);
    breaks(|rules| rules.remembers_authors = false, ALL, 1, SILENT);
}

#[test]
fn the_reader_needs_its_numbers() {
    breaks(|rules| rules.skips_known_numbers = false, ALL, 1, "ShownTwice");
    breaks(|rules| rules.counts_per_start = false, ALL, 1, SILENT);
    breaks(|rules| rules.tells_gaps = false, ALL, 1, SILENT);
    breaks(|rules| rules.tells_first_gap = false, ALL, 1, SILENT);
    breaks(|rules| rules.compares_numbers = false, ALL, 1, "GivenUpWithoutFault");
}

#[test]
fn the_reader_needs_to_begin_again() {
    let clock = &[Fault::ClockBehind, Fault::Flushed];
    breaks(|rules| rules.searches = false, clock, 2, "GapWithoutLoss");
    breaks(|rules| rules.reads_again_when_ahead = false, clock, 2, "GapWithoutLoss");
    let run = &[Fault::TailLost, Fault::Flushed];
    breaks(|rules| rules.reads_again_after_new_run = false, run, 2, "GapWithoutLoss");
}

#[test]
fn old_lines_need_the_time_to_be_told_from_new_ones() {
    breaks(|rules| rules.skips_old_lines = false, ALL, 1, "OldAsNew");
    breaks(|rules| rules.old_by_time = false, ALL, 1, SILENT);
    let delayed = &[Fault::Delayed, Fault::Killed];
    breaks(|rules| rules.tells_when_it_was_said = false, delayed, 2, "OldAsNew");
    let clock = &[Fault::ClockBehind, Fault::Killed];
    breaks(|rules| rules.room_clock = false, clock, 2, "OldAsNew");
}

#[test]
fn the_stream_is_trimmed_behind_its_readers() {
    breaks(|rules| rules.trims_behind_readers = false, ALL, 1, "WithoutLoss");
}
