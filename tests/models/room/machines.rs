//! The bus's own machines (`ledger.rs` with `lines.rs` and `others.rs`; `place.rs` with `heard.rs`) on the ways that the
//! search has found. All that stands between them is played: the scripts, and the loops of reader and writer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Who;
use super::bus::entry::What;
use super::bus::heard::Number;
use super::bus::ledger::Ledger;
use super::bus::lines::{Lines, Told};
use super::bus::place::{HeardUpTo, Place, Seen};
use super::rules::Bounds;
use super::state::{IDS, Id, other_place};
use super::steps::{Answer, NAMES, Step};

/// The authors' patience. A way on which it does not end takes less time.
const PATIENCE: Duration = Duration::from_secs(100_000);
/// A little longer than a server keeps a line that has arrived.
const KEPT: Duration = Duration::from_secs(301);
/// The time between two looks of a server. Ten seconds without a beat are several looks.
const LOOKS: Duration = Duration::from_secs(2);
const LOOKS_UNTIL_GONE: usize = 7;

/// A server: the machines, and the variables of its two threads.
struct Server {
    ledger: Ledger,
    place: Place,
    start: u64,
    cut_off: bool,
    connected: bool,
    joined: bool,
    /// The numbers that it has heard; `None` before it follows.
    heard: Option<HeardUpTo>,
    beats: u64,
}

#[derive(Clone)]
struct StreamEntry {
    id: u64,
    from: Id,
    number: u64,
    said: u64,
    line: usize,
}

/// The data of Redis, which it loses together.
#[derive(Clone, Default)]
struct Data {
    stream: Vec<StreamEntry>,
    top: u64,
    last: HashMap<String, u64>,
    servers: HashMap<String, String>,
    heard: HashMap<String, String>,
    places: HashMap<String, u64>,
}

/// Lines on their way, with their authors' server and the oldest number that this server keeps.
struct Batch {
    from: Id,
    base: u64,
    entries: Vec<(u64, u64, usize)>,
}

#[derive(Default)]
struct Line {
    author: Id,
    said: u64,
    told: bool,
    shown: [bool; IDS],
    gone: [bool; IDS],
    /// The servers that the author's server did not know of while it kept the line.
    unknown: [bool; IDS],
    forgotten: bool,
}

/// The room on several servers.
pub(super) struct Machines {
    zero: Instant,
    /// The time of the room, in milliseconds.
    now: u64,
    servers: [Option<Server>; IDS],
    stopped: [bool; IDS],
    silent: [bool; IDS],
    lines: Vec<Line>,
    data: Data,
    saved: Data,
    delayed: Option<Batch>,
    run: u64,
    clock_behind: bool,
    highest: u64,
    disturbed: bool,
    /// Whether the stream has lost entries, and kept the numbers.
    has_hole: bool,
}

/// The identifier of the entry with this number.
fn entry_id(number: u64) -> String {
    format!("0-{number}")
}

fn number_of(id: &str) -> u64 {
    id.strip_prefix("0-").and_then(|number| number.parse().ok()).expect("an identifier of here")
}

impl Machines {
    /// Takes a way, lets all go on to its end, and checks whether the promise was kept.
    pub(super) fn run(bounds: &Bounds, way: &[Step]) -> Result<(), String> {
        let mut machines = Self {
            zero: Instant::now(),
            now: 100_000,
            servers: Default::default(),
            stopped: [false; IDS],
            silent: [false; IDS],
            lines: Vec::new(),
            data: Data::default(),
            saved: Data::default(),
            delayed: None,
            run: 1,
            clock_behind: false,
            highest: 0,
            disturbed: false,
            has_hole: false,
        };
        machines.start(0);
        if !bounds.second_starts_late {
            machines.start(2);
        }
        for step in way {
            machines.now += 1;
            machines.take(*step)?;
        }
        machines.go_on()?;
        machines.check(true)
    }

    fn instant(&self) -> Instant {
        self.zero + Duration::from_millis(self.now)
    }

    fn start(&mut self, id: Id) {
        self.now += 1;
        self.servers[id] = Some(Server {
            ledger: Ledger::new(NAMES[id].to_owned(), Lines::new(1_000, PATIENCE)),
            place: Place::default(),
            start: self.now,
            cut_off: false,
            connected: false,
            joined: false,
            heard: None,
            beats: 0,
        });
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Say(id) => self.say(id),
            Step::Connect(id) => self.connect(id),
            Step::Beat(id) => self.beat(id),
            Step::Append(id, answer) => self.append(id, answer),
            Step::DelayedArrives => {
                if let Some(batch) = self.delayed.take() {
                    self.append_script(&batch);
                }
            }
            Step::Read(id) => return self.read(id),
            Step::GiveUp(line) => self.lose_patience(Some(self.lines[line].author)),
            Step::Forget(line) => self.forget(self.lines[line].author),
            Step::Stale(id) => self.silent[id] = true,
            Step::Trim => self.trim(),
            Step::Save => self.saved = self.data.clone(),
            Step::TailLost { clock_behind } => {
                self.data = self.saved.clone();
                self.clock_behind = clock_behind;
                self.run += 1;
                self.delayed = None;
                self.disturbed = true;
                self.servers.iter_mut().flatten().for_each(|server| server.connected = false);
            }
            Step::Flushed => {
                self.data = Data::default();
                self.disturbed = true;
            }
            Step::StreamDeleted => {
                (self.data.stream, self.data.top) = (Vec::new(), 0);
                (self.disturbed, self.has_hole) = (true, true);
            }
            Step::HardCap => {
                if !self.data.stream.is_empty() {
                    self.data.stream.remove(0);
                }
                (self.disturbed, self.has_hole) = (true, true);
            }
            Step::CutOff(id) => self.server(id, |server| {
                (server.cut_off, server.connected) = (true, false);
            }),
            Step::Mend(id) => self.server(id, |server| server.cut_off = false),
            Step::Kill(id) => self.servers[id] = None,
            Step::Stop(id) => self.stop(id),
            Step::Start(id) => self.start(id),
        }
        Ok(())
    }

    fn server(&mut self, id: Id, with: impl FnOnce(&mut Server)) {
        if let Some(server) = &mut self.servers[id] {
            with(server);
        }
    }

    /// The server, if it is connected.
    fn connected(&mut self, id: Id) -> Option<&mut Server> {
        self.servers[id].as_mut().filter(|server| server.connected)
    }

    fn tell(&mut self, told: Vec<Told>) {
        for Told { to, .. } in told {
            if let Who::Member(line) = to {
                self.lines[usize::try_from(line).expect("few lines")].told = true;
            }
        }
    }

    fn say(&mut self, id: Id) {
        let (index, now) = (self.lines.len(), self.instant());
        let Some(server) = &mut self.servers[id] else { return };
        let mut line = Line { author: id, said: self.now, ..Line::default() };
        for other in other_place(id) {
            let others = &server.ledger.others;
            line.gone[other] = others.get(NAMES[other]).is_some()
                && !others.there().any(|there| there.id == NAMES[other]);
        }
        let from = Who::Member(u64::try_from(index).expect("few lines"));
        assert!(
            server.ledger.lines.say(
                Some(from),
                What::Say { name: String::new(), text: String::new() },
                now
            ),
            "there is room for a line"
        );
        self.lines.push(line);
    }

    fn connect(&mut self, id: Id) {
        let (run, mut seen) = (self.run.to_string(), self.seen());
        let uptime = |server: &Server| Duration::from_millis(seen.time - server.start);
        let Some(server) = &mut self.servers[id] else { return };
        if server.cut_off || server.connected {
            return;
        }
        server.connected = true;
        let uptime = uptime(server);
        // Identifiers are small numbers here, and no times: with this offset all entries of the stream are later.
        seen.offset = seen.time;
        server.place.connect(&run, &seen, uptime);
        // The first beat has no acknowledgements yet.
        self.beat(id);
        self.beat(id);
    }

    /// A look of the reader and a beat of the writer.
    fn beat(&mut self, id: Id) {
        let held = self.data.servers.contains_key(NAMES[id ^ 1]) && !self.silent[id ^ 1];
        if self.connected(id).is_none() || held {
            return;
        }
        self.data.servers.remove(NAMES[id ^ 1]);
        self.silent[id] = false;
        let server = self.servers[id].as_ref();
        let knows = |other: Id| {
            server.is_some_and(|server| {
                server.ledger.others.there().any(|there| there.id == NAMES[other])
            })
        };
        let waits_for_gone =
            other_place(id).into_iter().any(|other| self.silent[other] && knows(other));
        for _ in 0..if waits_for_gone { LOOKS_UNTIL_GONE } else { 1 } {
            self.look(id);
            if waits_for_gone {
                self.now += u64::try_from(LOOKS.as_millis()).expect("seconds");
                // Servers that are there announce themselves in this time.
                other_place(id).into_iter().for_each(|other| self.announce(other));
            }
        }
        let instant = self.instant();
        let Some(server) = self.servers[id].as_mut() else { return };
        server.joined = true;
        self.announce(id);
        let Some(server) = self.servers[id].as_mut() else { return };
        if let Some(heard) = &server.heard {
            // A place in another run does not count, as in `Queue::heard`.
            let is_here = heard.run == self.run.to_string();
            let place = if is_here { &*heard.place } else { "0-0" };
            self.data.places.insert(NAMES[id].to_owned(), number_of(place));
            self.data.heard.insert(NAMES[id].to_owned(), format!("{place}{}", heard.numbers));
        }
        let last = self.data.last.get(NAMES[id]).copied().unwrap_or(0);
        self.answered(id, last, instant);
        self.acknowledge(id);
    }

    /// The record of a server that is connected.
    fn announce(&mut self, id: Id) {
        let now = self.now;
        let Some(server) = self.connected(id).filter(|server| server.joined) else { return };
        server.beats += 1;
        let (beats, uptime) = (server.beats, now - server.start);
        let shown = format!("{now} {beats} 0 {uptime} {}", NAMES[id]);
        self.data.servers.insert(NAMES[id].to_owned(), shown);
    }

    fn answered(&mut self, id: Id, last: u64, now: Instant) {
        let Some(server) = self.servers[id].as_mut() else { return };
        let heard = self.data.heard.iter().map(|(id, text)| (&**id, &**text));
        let told = server.ledger.answered(Some(last), heard, now);
        self.tell(told.unwrap_or_else(|| panic!("{} has not said {last} lines", NAMES[id])));
        self.look_for_forgotten(id);
    }

    /// The answer of the script `look`.
    fn seen(&self) -> Seen {
        let Data { last, servers, .. } = self.data.clone();
        let (end, holder) = (entry_id(self.data.top), String::new());
        Seen { time: self.now, offset: 0, end, last, servers, holder }
    }

    /// Looks as `Reader::look` does.
    fn look(&mut self, id: Id) {
        let (now, mut seen) = (self.instant(), self.seen());
        seen.servers.remove(NAMES[id]);
        seen.last.remove(NAMES[id]);
        let Some(server) = self.servers[id].as_mut() else { return };
        let (_, told) = server.ledger.look(&seen.servers, seen.time, now);
        server.place.look(&seen);
        self.tell(told);
    }

    /// Acknowledges as `Reader::acknowledge` does.
    fn acknowledge(&mut self, id: Id) {
        let Some(server) = self.servers[id].as_mut() else { return };
        let known: Vec<String> = server.ledger.others.ids().map(str::to_owned).collect();
        server.heard = server.place.heard(known.iter().map(|id| &**id));
    }

    fn append(&mut self, id: Id, answer: Answer) {
        let zero = self.zero;
        let Some(server) = self.connected(id).filter(|server| server.joined) else { return };
        let base = server.ledger.lines.base();
        let entries = server.ledger.lines.waiting().map(|line| {
            let said = line.said.duration_since(zero).as_millis();
            (line.number, u64::try_from(said).expect("some seconds"))
        });
        let entries: Vec<_> = entries.collect();
        let own = |index: usize| self.lines[index].author == id;
        let indexes: Vec<usize> = (0..self.lines.len()).filter(|index| own(*index)).collect();
        let entries = entries.into_iter().map(|(number, said)| {
            (number, said, indexes[usize::try_from(number).expect("few lines") - 1])
        });
        let batch = Batch { from: id, base, entries: entries.collect() };
        let now = self.instant();
        match answer {
            Answer::BatchIsDelayed => self.delayed = Some(batch),
            _ => self.append_script(&batch),
        }
        if answer == Answer::Arrives {
            let last = self.data.last.get(NAMES[id]).copied().unwrap_or(0);
            self.answered(id, last, now);
        } else {
            self.server(id, |server| server.connected = false);
        }
    }

    fn append_script(&mut self, batch: &Batch) {
        let mut last = self.data.last.get(NAMES[batch.from]).copied().unwrap_or(0);
        for &(number, said, line) in &batch.entries {
            if number <= last {
                continue;
            }
            if number != last + 1 && number != batch.base {
                break;
            }
            let above =
                if self.clock_behind { self.data.top } else { self.data.top.max(self.highest) };
            self.data.top = above + 1;
            self.highest = self.highest.max(self.data.top);
            let (id, from) = (self.data.top, batch.from);
            self.data.stream.push(StreamEntry { id, from, number, said, line });
            last = number;
        }
        self.data.last.insert(NAMES[batch.from].to_owned(), last);
    }

    fn read(&mut self, id: Id) -> Result<(), String> {
        let instant = self.instant();
        let Some(server) =
            self.servers[id].as_mut().filter(|server| server.connected && server.joined)
        else {
            return Ok(());
        };
        let place = |server: &Server| number_of(server.place.at());
        if self.data.stream.iter().all(|entry| entry.id <= place(server)) {
            server.place.nothing_follows();
        }
        while let Some(entry) = self.data.stream.iter().find(|entry| entry.id > place(server)) {
            let is_own = entry.from == id;
            let news =
                (!is_own).then(|| server.place.hear(NAMES[entry.from], entry.number, entry.said));
            server.place.pass(entry_id(entry.id));
            let Some((news, is_history)) = news else { continue };
            if news == Number::Again || is_history {
                break;
            }
            server.ledger.others.meet(NAMES[entry.from], NAMES[entry.from], instant);
            let index = entry.line;
            let author = self.lines[index].author;
            let later =
                self.lines[index + 1..].iter().any(|line| line.author == author && line.shown[id]);
            let line = &mut self.lines[index];
            let started = server.start;
            let at = NAMES[id];
            if std::mem::replace(&mut line.shown[id], true) {
                return Err(format!("line {} is shown twice at {at}", index + 1));
            }
            if later {
                return Err(format!("line {} is shown at {at} after a later one", index + 1));
            }
            if line.said < started {
                return Err(format!("line {} is shown at {at}, which started later", index + 1));
            }
            break;
        }
        self.acknowledge(id);
        Ok(())
    }

    fn trim(&mut self) {
        let there = (0..IDS).filter(|id| !self.silent[*id]);
        let there = there.filter(|id| self.data.servers.contains_key(NAMES[*id]));
        let places = there.filter_map(|id| self.data.places.get(NAMES[id]));
        if let Some(lowest) = places.min().copied() {
            self.data.stream.retain(|entry| entry.id >= lowest);
            (self.disturbed, self.has_hole) = (true, true);
        }
    }

    /// Lets more than this time pass, in which the servers that are connected announce themselves each second.
    fn pass(&mut self, time: Duration) {
        self.now += u64::try_from(time.as_millis()).expect("seconds") + 1;
        (0..IDS).for_each(|id| self.announce(id));
    }

    /// Lets patience end for one server, or for all.
    fn lose_patience(&mut self, only: Option<Id>) {
        self.pass(PATIENCE);
        let now = self.instant();
        for id in (0..IDS).filter(|id| only.is_none_or(|only| only == *id)) {
            let told =
                self.servers[id].as_mut().map_or(Vec::new(), |server| server.ledger.settle(now));
            self.tell(told);
        }
    }

    /// Lets so much time pass that a server forgets the lines that have arrived.
    fn forget(&mut self, id: Id) {
        self.beat(id);
        self.pass(KEPT);
        let now = self.instant();
        let told = self.servers[id].as_mut().map_or(Vec::new(), |server| server.ledger.settle(now));
        self.tell(told);
        self.look_for_forgotten(id);
    }

    /// Takes note of the lines that a server keeps no longer, and of the servers that it did not know until then.
    fn look_for_forgotten(&mut self, id: Id) {
        let Some(server) = self.servers[id].as_mut() else { return };
        let base = server.ledger.lines.base();
        let own = self.lines.iter_mut().filter(|line| line.author == id);
        for (line, number) in own.zip(1..) {
            if number < base && !std::mem::replace(&mut line.forgotten, true) {
                for other in other_place(id) {
                    line.unknown[other] = server.ledger.others.get(NAMES[other]).is_none();
                }
            }
        }
    }

    fn stop(&mut self, id: Id) {
        let Some(mut server) = self.servers[id].take() else { return };
        let told = server.ledger.lines.give_up();
        self.tell(told);
        let kept = self.lines.iter_mut().filter(|line| line.author == id && !line.forgotten);
        for line in kept {
            line.forgotten = true;
            for other in other_place(id) {
                line.unknown[other] |= server.ledger.others.get(NAMES[other]).is_none();
            }
        }
        self.stopped[id] = true;
        if server.connected && server.joined {
            for hash in [&mut self.data.servers, &mut self.data.heard] {
                hash.remove(NAMES[id]);
            }
            self.data.last.remove(NAMES[id]);
            self.data.places.remove(NAMES[id]);
            self.silent[id] = true;
        }
    }

    /// Lets everything go on: nothing fails any more, and time passes.
    fn go_on(&mut self) -> Result<(), String> {
        for round in 0..12 {
            if round == 8 {
                // Nobody's patience is needed for a line that Redis has lost with its number.
                self.check(false)?;
                self.lose_patience(None);
            }
            self.take(Step::DelayedArrives)?;
            for id in 0..IDS {
                self.now += u64::try_from(LOOKS.as_millis()).expect("seconds") / 4;
                self.silent[id] |= self.servers[id].as_ref().is_none_or(|server| server.cut_off);
                self.connect(id);
                self.beat(id);
                self.append(id, Answer::Arrives);
                for _ in 0..=2 * self.data.stream.len() {
                    self.read(id)?;
                }
            }
        }
        Ok(())
    }

    /// Checks that each line was shown, or that its author was warned. While patience has not ended, this is so where all
    /// are connected and the stream has no hole.
    fn check(&self, has_ended: bool) -> Result<(), String> {
        for (index, line) in self.lines.iter().enumerate() {
            let author_is_there = self.servers[line.author].is_some() || self.stopped[line.author];
            let is_connected =
                |id: Id| self.servers[id].as_ref().is_some_and(|server| server.connected);
            let must_be_done = |reader| {
                has_ended || !self.has_hole && is_connected(line.author) && is_connected(reader)
            };
            if line.told || !author_is_there {
                continue;
            }
            for reader in other_place(line.author) {
                let Some(server) = &self.servers[reader] else { continue };
                let is_lost = self.disturbed || !server.connected;
                let author = self.servers[line.author].as_ref();
                let is_back = author.is_some_and(|author| {
                    author.connected
                        && author.ledger.others.there().any(|there| there.id == NAMES[reader])
                        && !line.forgotten
                });
                let unknown = line.unknown[reader]
                    || author.is_some_and(|author| {
                        author.ledger.others.get(NAMES[reader]).is_none() && !line.forgotten
                    });
                let excused = line.gone[reader] && !is_back || unknown && is_lost;
                if server.start < line.said
                    && !excused
                    && !line.shown[reader]
                    && must_be_done(reader)
                {
                    let at = NAMES[reader];
                    return Err(format!(
                        "line {} was not shown at {at}, and nobody knows",
                        index + 1
                    ));
                }
            }
        }
        Ok(())
    }
}
