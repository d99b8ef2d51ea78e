//! The servers, Redis, and the lines, as small as the protocol allows.

use super::rules::Bounds;

/// Two places for servers, and in each place two starts of the same name, one after the other.
pub(super) const IDS: usize = 4;
pub(super) const LINES: usize = 3;
/// More entries than are appended even without the check of numbers.
const ENTRIES: usize = 8;

/// A server's identifier: `2 * place + start`. The members of a server are one here.
pub(super) type Id = usize;

pub(super) fn other_place(id: Id) -> [Id; 2] {
    let place = 1 - id / 2;
    [2 * place, 2 * place + 1]
}

/// A set of identifiers, or of numbers of lines.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Set(u8);

impl Set {
    pub(super) fn has(self, one: usize) -> bool {
        self.0 & (1 << one) != 0
    }

    pub(super) fn add(&mut self, one: usize) {
        self.0 |= 1 << one;
    }

    pub(super) fn remove(&mut self, one: usize) {
        self.0 &= !(1 << one);
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |one| self.has(*one))
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    #[default]
    Queued,
    /// The writer believes that Redis has the line.
    Appended,
    /// The line is not kept any more: it was given up, or all servers have acknowledged it some time ago.
    Forgotten,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub(super) author: u8,
    pub(super) number: u8,
    /// When it was said, as [`State::now`] counts.
    pub(super) said: u8,
    pub(super) stage: Stage,
    /// The servers whose acknowledgement it waits for.
    pub(super) expects: Set,
    pub(super) told: bool,
    pub(super) shown: Set,
    /// The servers that the author's server had already reported as gone when the line was said.
    pub(super) gone: Set,
    /// The servers that the author's server did not know of while it kept the line.
    pub(super) unknown: Set,
    /// Whether the stream has lost it, and kept the numbers.
    pub(super) hole: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) enum View {
    #[default]
    Unknown,
    /// It has announced itself, and is not waited for yet.
    Seen,
    Live,
    Gone,
}

/// A reader's knowledge of the lines of a server.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Heard {
    /// The last number that the reader has seen.
    pub(super) number: u8,
    /// The lower numbers that the reader did not see.
    pub(super) missed: Set,
    /// Whether a line was shown: what follows is not old.
    pub(super) begun: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) is_up: bool,
    /// Whether it has ended in order, and its authors were warned.
    pub(super) stopped: bool,
    pub(super) start: u8,
    pub(super) cut_off: bool,
    pub(super) connected: bool,
    /// Whether it has announced itself.
    pub(super) joined: bool,
    /// The run of Redis that it has seen last.
    pub(super) run: u8,
    pub(super) place: u8,
    /// Whether numbers are missing, and it reads the stream once more.
    pub(super) searches: bool,
    /// Whether it has read up to the end of the stream.
    pub(super) follows: bool,
    /// Whether it knows its own start by the clock that is behind.
    pub(super) clock_behind: bool,
    pub(super) heard: [Heard; IDS],
    pub(super) views: [View; IDS],
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct StreamEntry {
    pub(super) id: u8,
    pub(super) line: u8,
    /// When the line was said, as this entry tells.
    pub(super) said: u8,
    pub(super) clock_behind: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Announcement {
    pub(super) is_there: bool,
    pub(super) follows: bool,
    pub(super) place: u8,
    pub(super) heard: [Heard; IDS],
}

/// The data of Redis, which it loses together.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Data {
    stream: [StreamEntry; ENTRIES],
    length: u8,
    /// The last identifier that the stream gave.
    pub(super) top: u8,
    pub(super) last: [u8; IDS],
    pub(super) announced: [Announcement; IDS],
}

impl Data {
    pub(super) fn stream(&self) -> &[StreamEntry] {
        &self.stream[..self.length.into()]
    }

    pub(super) fn push(&mut self, entry: StreamEntry) {
        self.stream[usize::from(self.length)] = entry;
        self.length += 1;
        self.top = entry.id;
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(&StreamEntry) -> bool) {
        let kept: Vec<_> = self.stream().iter().filter(|entry| keeps(entry)).copied().collect();
        self.stream = [StreamEntry::default(); ENTRIES];
        self.stream[..kept.len()].copy_from_slice(&kept);
        self.length = u8::try_from(kept.len()).expect("not more than before");
    }

    pub(super) fn delete_stream(&mut self) {
        self.retain(|_| false);
        self.top = 0;
    }
}

/// A batch whose writer has given it up, and that Redis may still get.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Batch {
    pub(super) from: u8,
    pub(super) base: u8,
    pub(super) numbers: Set,
    /// When it was sent.
    pub(super) sent: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) lines: [Line; LINES],
    pub(super) said: u8,
    pub(super) servers: [Server; IDS],
    /// The servers whose last beat is older than the time after which one is gone.
    pub(super) stale: Set,
    pub(super) delayed: Option<Batch>,
    pub(super) data: Data,
    pub(super) saved: Data,
    pub(super) run: u8,
    pub(super) clock_behind: bool,
    /// The highest identifier that any stream gave: a right clock gives higher ones.
    pub(super) highest: u8,
    /// Counts what was said and what was started: the time.
    pub(super) now: u8,
    pub(super) faults: u8,
    pub(super) saves: u8,
    pub(super) restarts: u8,
    /// Whether Redis has lost something that was not read.
    pub(super) disturbed: bool,
    /// Something that has happened and must not.
    pub(super) trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Trouble {
    ShownTwice { line: u8, at: u8 },
    OutOfOrder { line: u8, at: u8 },
    OldAsNew { line: u8, at: u8 },
    GapWithoutLoss { line: u8, at: u8 },
    GivenUpWithoutFault { line: u8 },
    AppendedTwice { line: u8 },
}

impl State {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let mut state = Self {
            lines: Default::default(),
            said: 0,
            servers: Default::default(),
            stale: Set::default(),
            delayed: None,
            data: Data::default(),
            saved: Data::default(),
            run: 1,
            clock_behind: false,
            highest: 0,
            now: 0,
            faults: bounds.faults,
            saves: bounds.saves,
            restarts: bounds.restarts,
            disturbed: false,
            trouble: None,
        };
        state.start(0);
        if !bounds.second_starts_late {
            state.start(2);
        }
        state
    }

    pub(super) fn start(&mut self, id: Id) {
        self.now += 1;
        self.servers[id] = Server { is_up: true, start: self.now, ..Server::default() };
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.lines[..self.said.into()]
    }

    pub(super) fn lines_of(&mut self, id: Id) -> impl Iterator<Item = &mut Line> {
        let said = self.said.into();
        self.lines[..said].iter_mut().filter(move |line| usize::from(line.author) == id)
    }

    pub(super) fn line_of(&mut self, id: Id, number: usize) -> Option<&mut Line> {
        self.lines_of(id).find(|line| usize::from(line.number) == number)
    }

    /// The highest number that the server's writer believes to be appended.
    pub(super) fn believed(&self, id: Id) -> u8 {
        let own = self.lines().iter().filter(|line| usize::from(line.author) == id);
        own.filter(|line| line.stage != Stage::Queued).map(|line| line.number).max().unwrap_or(0)
    }

    /// Clears all that cannot matter any more, so that states that differ only in that are one.
    pub(super) fn forget_what_cannot_matter(&mut self) {
        if self.faults == 0 {
            self.saved = Data::default();
            self.saves = 0;
        }
        let up: Vec<Id> = (0..IDS).filter(|id| self.servers[*id].is_up).collect();
        let servers = self.servers;
        for line in &mut self.lines[..self.said.into()] {
            let author = &servers[usize::from(line.author)];
            let needs_nobody = line.told || !(author.is_up || author.stopped);
            for id in 0..IDS {
                if needs_nobody || !up.contains(&id) || line.shown.has(id) {
                    line.gone.remove(id);
                    line.unknown.remove(id);
                }
                if !up.contains(&id) {
                    line.shown.remove(id);
                }
            }
            line.hole &= line.stage != Stage::Forgotten;
        }
        for id in 0..IDS {
            for data in [&mut self.data, &mut self.saved] {
                // No other server looks there.
                data.announced[id].heard[id] = Heard::default();
                data.announced[id].heard[id ^ 1] = Heard::default();
            }
        }
        self.rank_places();
    }

    /// Replaces identifiers of entries by their ranks: they are only compared.
    fn rank_places(&mut self) {
        let mut used = 0_u64;
        self.each_place(|place| used |= 1 << *place);
        used |= 1;
        let rank = |place: u8| (used & ((1_u64 << place) - 1)).count_ones();
        self.each_place(|place| *place = u8::try_from(rank(*place)).expect("few places"));
    }

    fn each_place(&mut self, mut with: impl FnMut(&mut u8)) {
        for data in [&mut self.data, &mut self.saved] {
            data.stream[..data.length.into()].iter_mut().for_each(|entry| with(&mut entry.id));
            with(&mut data.top);
            data.announced.iter_mut().for_each(|announced| with(&mut announced.place));
        }
        self.servers.iter_mut().for_each(|server| with(&mut server.place));
        with(&mut self.highest);
    }
}
