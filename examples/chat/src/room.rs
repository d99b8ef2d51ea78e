//! The room: its members, and how a line reaches all of them.
//!
//! The thread of the speaker holds the room's lock while it puts the line into the outboxes of all others, so that
//! all members see the same order. Nothing waits under this lock: a member whose outbox is full is dropped, and the
//! operator's screen and the bus have queues of their own.
//!
//! ```text
//! speaker's thread -> lock -> outbox of each member -> its own writer
//!                          -> screen's queue        -> screen's thread
//!                          -> bus's queue           -> writer thread -> Redis -> other servers
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::Outbox;

use super::bus::{Elsewhere, Relay};
use super::hold_back::{CROWDED_BYTES, HoldBack, Watched};
use super::members::{Member, Members};
use super::name::{OPERATOR, fold, is_too_long};
use super::protocol::{Kind, Waiting, listed, quoted};
use super::screen::Screen;

/// How many bytes of lines may wait for a member. The lines that another member may say at once (`handler.rs`) are
/// fewer bytes, so they alone never fill an outbox.
pub const OUTBOX_BYTES: usize = 256 * 1024;

/// A member, by its number in the room. No number is used again before the program ends.
pub type Id = u64;

/// The author of a line or a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Member(Id),
    Operator,
}

/// The author as the bus writes it: `operator`, or the member's number.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(id) => id.fmt(f),
            Self::Operator => f.write_str(OPERATOR),
        }
    }
}

impl FromStr for Who {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == OPERATOR { Ok(Self::Operator) } else { text.parse().map(Self::Member) }
    }
}

/// The room. A clone is the same room.
#[derive(Clone)]
pub struct Room {
    state: Arc<Mutex<Members>>,
    screen: Screen,
    hold_back: Arc<HoldBack>,
    /// The bus to the other servers of this room; set once, before anyone joins.
    bus: Arc<OnceLock<Relay>>,
    /// Set when the server stops: from then on nothing is handed to the bus. Changed under the lock of `state`.
    stops: Arc<AtomicBool>,
}

impl Room {
    pub fn new(screen: Screen) -> Self {
        let (state, hold_back) = (Arc::default(), Arc::default());
        Self { state, screen, hold_back, bus: Arc::default(), stops: Arc::default() }
    }

    /// Connects the room to the bus.
    pub fn set_bus(&self, relay: Relay) {
        // This function is called once, before anything is served.
        let _ = self.bus.set(relay);
    }

    /// Makes the room hand nothing more to the bus, because the server stops.
    pub fn stop(&self) {
        let _state = self.state.lock();
        self.stops.store(true, Ordering::Relaxed);
    }

    /// The bus; `None` if there is none. An error means that the server stops, and no line can be handed to the bus.
    fn open_bus(&self) -> Result<Option<&Relay>, String> {
        match self.bus.get() {
            Some(_) if self.stops.load(Ordering::Relaxed) => Err("the server stops".to_owned()),
            bus => Ok(bus),
        }
    }

    /// Adds a member, under the wished name if that is free. `has_lines` is false for a client that has sent no newline yet.
    /// The tutorial's client never sends one.
    pub fn enter(&self, outbox: Outbox, has_lines: bool, wish: Option<&str>) -> Id {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        let (name, refusal) = match wish.map(|name| state.check_free(name, id)) {
            Some(Ok(name)) => (name, None),
            Some(Err(why)) => (state.guest_name(), Some(why)),
            None => (state.guest_name(), None),
        };
        let mut welcome = refusal.map_or(String::new(), |why| format!("* {why}\n"));
        let others = match state.all.len() {
            1 => "is 1 other".to_owned(),
            count => format!("are {count} others"),
        };
        welcome += &format!("* you are {name}; there {others}\n");
        self.announce(&mut state, id, &name, "has joined", Some(&name));
        let waiting = (!has_lines).then(Waiting::default);
        let prefix = format!("{name}: ");
        state.call(id, &name);
        state.all.insert(id, Member { name, prefix, outbox, waiting });
        self.post(&mut state, id, Kind::News, &welcome);
        id
    }

    /// Removes a member, unless it was dismissed. With `quietly` this is not announced.
    pub fn leave(&self, id: Id, quietly: bool) {
        let mut state = self.state.lock();
        if let (Some(member), false) = (state.remove(id), quietly) {
            self.announce(&mut state, id, &member.name, "has left", None);
        }
    }

    /// Whether a member is still in the room.
    pub fn has(&self, id: Id) -> bool {
        self.state.lock().all.contains_key(&id)
    }

    /// Says a line to all others.
    pub fn say(&self, from: Who, text: &str) {
        let mut state = self.state.lock();
        let Some(prefix) = state.prefix(from) else { return };
        let line = [prefix, text, "\n"].concat();
        self.spread(&mut state, Kind::Said, &line, from);
        if from != Who::Operator {
            self.screen.show(&line);
        }
        let result = match (self.open_bus(), state.name(from)) {
            (Ok(Some(bus)), Some(name)) => bus.say(from, name, text),
            (result, _) => result.map(drop),
        };
        if let Err(why) = result {
            self.refuse(&mut state, from, &why, "did not reach the other servers", text);
        }
    }

    /// Says a line to one member.
    pub fn tell(&self, from: Who, to: &str, text: &str) {
        let mut state = self.state.lock();
        let Some(name) = state.name(from).map(str::to_owned) else { return };
        let whole = format!("@{to} {text}");
        // `name@server` with this server's own name means a member here.
        let written = to;
        let (to, server) = to.split_once('@').map_or((to, None), |(to, at)| (to, Some(at)));
        if is_too_long(to) || server.is_some_and(is_too_long) {
            let why = "nobody has a name as long as that";
            return self.refuse(&mut state, from, why, "was not sent", &whole);
        }
        let elsewhere = |bus: &&Relay| server.is_some_and(|at| fold(at) != fold(bus.tag()));
        let refusal = match (self.bus.get().filter(elsewhere), state.find(to)) {
            (Some(bus), _) => match bus.find(to, server.unwrap_or_default()) {
                Ok(to) => {
                    let told = self.open_bus().and_then(|_| bus.tell(from, &name, &to, text));
                    if let Err(why) = told {
                        self.refuse(&mut state, from, &why, "was not sent", &whole);
                    }
                    None
                }
                // A server that is cut off knows the other servers' members only as they were.
                Err(why) => Some(match bus.cut_off() {
                    Some(cut_off) => format!("{why}; {cut_off}"),
                    None => why,
                }),
            },
            (None, Some(receiver)) if server.is_none() || self.bus.get().is_some() => {
                let kind = if receiver == from { Kind::Reply } else { Kind::Said };
                let line = format!("{name} -> {to}: {text}\n");
                return self.hand(&mut state, receiver, kind, &line);
            }
            _ => Some(self.says_nobody(written)),
        };
        if let Some(why) = refusal {
            self.refuse(&mut state, from, &why, "was not sent", &whole);
        }
    }

    /// Says that no member here has this name, and how to address members of this name at other servers. A private
    /// line is never sent to such a member on a guess.
    fn says_nobody(&self, name: &str) -> String {
        let nobody = format!("nobody here is called {name}");
        match &self.bus.get().map_or(Vec::new(), |bus| bus.namesakes(name))[..] {
            [] => nobody,
            others => format!("{nobody}; write @{} TEXT", others.join(" TEXT or @")),
        }
    }

    /// Renames a member.
    pub fn rename(&self, id: Id, wish: &str) {
        let mut state = self.state.lock();
        let Some(old) = state.all.get(&id).map(|member| member.name.clone()) else { return };
        let name = match state.check_free(wish, id) {
            Ok(name) if name == old => {
                let line = format!("* you are {old} already\n");
                return self.post(&mut state, id, Kind::Reply, &line);
            }
            Ok(name) => name,
            Err(why) => return self.post(&mut state, id, Kind::Reply, &format!("* {why}\n")),
        };
        state.forget_name(&old);
        state.call(id, &name);
        if let Some(member) = state.all.get_mut(&id) {
            name.clone_into(&mut member.name);
            member.prefix = format!("{name}: ");
        }
        self.announce(&mut state, id, &old, &format!("is now called {name}"), Some(&name));
        self.answer(&mut state, id, Waiting::answer);
    }

    /// Answers with the list of members.
    pub fn who(&self, asks: Who) {
        /// The most bytes of names in a list: three thousand names of ordinary length.
        const LISTED: usize = 64 * 1024;
        let mut state = self.state.lock();
        let mut names: Vec<_> = state.listed().into_iter().map(|(_, name)| name).collect();
        let elsewhere = self.bus.get().map_or_else(Elsewhere::default, Relay::members);
        names.extend(elsewhere.names);
        let mut line = match &names[..] {
            [] => "* nobody is here\n".to_owned(),
            names => format!("* {} here: {}\n", names.len(), listed(names, LISTED)),
        };
        if let Some(cut_off) = elsewhere.cut_off {
            line += &format!("* {cut_off}: their members are listed as last known\n");
            if asks == Who::Operator {
                line += &format!("* the last reason: {}\n", cut_off.why);
            }
        }
        self.hand(&mut state, asks, Kind::Reply, &line);
    }

    /// Sends a line of the server's own to one member.
    pub fn note(&self, to: Who, text: &str) {
        self.hold_back.add(text.len());
        self.hand(&mut self.state.lock(), to, Kind::Reply, &format!("* {text}\n"));
    }

    /// Ends a member's connection, for the operator.
    pub fn kick(&self, name: &str) {
        let mut state = self.state.lock();
        let Some(Who::Member(id)) = state.find(name) else {
            let nobody = match name.split_once('@').filter(|_| self.bus.get().is_some()) {
                Some((_, server)) => format!("the operator of {server} may do that"),
                None => format!("nobody here is called {name}"),
            };
            return self.screen.show(&format!("* {nobody}\n"));
        };
        self.expel(&mut state, id, "was kicked by the operator");
    }

    /// Ends a member's connection, and announces why.
    pub fn dismiss(&self, id: Id, why: &str) {
        self.expel(&mut self.state.lock(), id, why);
    }

    /// Notes that a client without lines has sent a message and now listens. If other members' lines wait for it,
    /// returns the moment at which it gets them at the latest.
    pub fn listens(&self, id: Id) -> Option<Instant> {
        let mut state = self.state.lock();
        state.all.get_mut(&id).and_then(|member| member.waiting.as_mut()).and_then(Waiting::listen)
    }

    /// Answers a client without lines that has sent nothing but its name.
    pub fn answer_at_once(&self, id: Id) {
        self.answer(&mut self.state.lock(), id, Waiting::answer);
    }

    /// Answers a client without lines that has listened for long, while nobody has said anything.
    pub fn answer_late(&self, id: Id) {
        self.answer(&mut self.state.lock(), id, Waiting::answer_late);
    }

    /// Sends a client without lines a piece of its waiting text.
    fn answer(
        &self,
        state: &mut Members,
        id: Id,
        piece: impl FnOnce(&mut Waiting) -> Option<String>,
    ) {
        let Some(member) = state.all.get_mut(&id) else { return };
        let answer = member.waiting.as_mut().and_then(piece);
        if answer.is_some_and(|answer| member.send(&answer).is_err()) {
            self.expel(state, id, STALLED);
        }
    }

    /// Notes that a client has sent a newline: it gets all waiting text, and from now on each line at once.
    pub fn has_lines(&self, id: Id) {
        let mut state = self.state.lock();
        let waiting = state.all.get_mut(&id).and_then(|member| member.waiting.take());
        if let Some(mut waiting) = waiting {
            self.post(&mut state, id, Kind::Reply, &waiting.all());
        }
    }

    /// Shows a line of another server, with its newline, to all members here.
    pub fn hear(&self, kind: Kind, line: &str) {
        self.hold_back.add(line.len());
        self.spread(&mut self.state.lock(), kind, line, Who::Operator);
        self.screen.show(line);
    }

    /// Announces news of the bus in two texts, each with its newline: one for the members, which may be empty, and one
    /// for the operator, which may say more.
    pub fn news(&self, to_members: &str, to_operator: &str) {
        if !to_members.is_empty() {
            self.spread(&mut self.state.lock(), Kind::News, to_members, Who::Operator);
        }
        self.screen.show(to_operator);
    }

    /// Shows a line of another server, with its newline, to one member here. Returns false if there is no such member.
    pub fn hear_private(&self, to: Who, kind: Kind, line: &str) -> bool {
        self.hold_back.add(line.len());
        let mut state = self.state.lock();
        let is_here = state.prefix(to).is_some();
        self.hand(&mut state, to, kind, line);
        is_here
    }

    /// The members here with their names, sorted by name.
    pub fn names(&self) -> Vec<(Id, String)> {
        self.state.lock().listed()
    }

    /// Waits until the outboxes of the members here have room for lines of other servers, at most for `most`. Returns
    /// false if they have none yet. The bus's reader calls this before each entry, and again after each false. The
    /// repetition ends in bounded time, however slow the members are: see [`HoldBack`].
    pub fn wait_for_outboxes(&self, most: Duration) -> bool {
        /// The interval at which all outboxes are checked, and not only that of the awaited member.
        const LOOK: Duration = Duration::from_millis(500);
        let until = Instant::now() + most;
        let Some(mut patience) = self.hold_back.patience.try_lock_until(until) else {
            return false;
        };
        while self.hold_back.is_due() {
            let mut outboxes = self.state.lock().watched();
            let watch = |(id, outbox): &(Id, Outbox)| Watched {
                id: *id,
                taken: outbox.sent_bytes(),
                is_crowded: outbox.waiting_bytes() > CROWDED_BYTES,
            };
            let watched: Vec<Watched> = outboxes.iter().map(watch).collect();
            let now = Instant::now();
            let Some((slow, time)) = patience.awaited(&watched, now) else {
                self.hold_back.go_on();
                break;
            };
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return false;
            }
            outboxes.retain(|(id, _)| *id == slow);
            for (_, outbox) in outboxes {
                // The room's lock is not held: members' own lines need it.
                let _ = outbox.wait_for_room(CROWDED_BYTES, time.min(left).min(LOOK));
            }
            patience.waited(now, Instant::now());
        }
        true
    }

    /// Announces a line to everyone, here and elsewhere, and on the operator's screen.
    fn announce(&self, state: &mut Members, id: Id, name: &str, news: &str, now: Option<&str>) {
        let line = format!("* {name} {news}\n");
        self.spread(state, Kind::News, &line, Who::Operator);
        self.screen.show(&line);
        if let Ok(Some(bus)) = self.open_bus() {
            bus.announce(id, name, news, now);
        }
    }

    /// Shows lines to all members here except their author. A member whose outbox is full is dropped.
    fn spread(&self, state: &mut Members, kind: Kind, line: &str, from: Who) {
        let mut stalled = Vec::new();
        for (id, member) in &mut state.all {
            if from != Who::Member(*id) && member.post(kind, line).is_err() {
                stalled.push(*id);
            }
        }
        for id in stalled {
            self.expel(state, id, STALLED);
        }
    }

    /// Ends a member's connection, and announces why. This is one more line for the others, so a member whose outbox
    /// is full is dropped in turn; the loop ends when no outbox is full.
    fn expel(&self, state: &mut Members, id: Id, why: &str) {
        let mut leaving = vec![(id, why)];
        while let Some((id, why)) = leaving.pop() {
            let Some(member) = state.remove(id) else { continue };
            let line = format!("* {} {why}\n", member.name);
            // The member gets the reason if its outbox has room. Then the close ends its handler's reads.
            let _ = member.outbox.send(format!("* you: {why}\n"));
            member.outbox.flush();
            member.outbox.close();
            for (id, member) in &mut state.all {
                if member.post(Kind::News, &line).is_err() {
                    leaving.push((*id, STALLED));
                }
            }
            self.screen.show(&line);
            if let Ok(Some(bus)) = self.open_bus() {
                bus.announce(id, &member.name, why, None);
            }
        }
    }

    fn hand(&self, state: &mut Members, to: Who, kind: Kind, line: &str) {
        match to {
            Who::Member(id) => self.post(state, id, kind, line),
            Who::Operator => self.screen.show(line),
        }
    }

    fn post(&self, state: &mut Members, id: Id, kind: Kind, line: &str) {
        if state.all.get_mut(&id).is_some_and(|member| member.post(kind, line).is_err()) {
            self.expel(state, id, STALLED);
        }
    }

    /// Tells an author that a line was not sent, or not relayed, and why. The notice quotes the beginning of the line.
    fn refuse(&self, state: &mut Members, from: Who, why: &str, what: &str, text: &str) {
        let line = format!("* {why}: this line {what}: {}\n", quoted(text));
        self.hand(state, from, Kind::Reply, &line);
    }
}

/// Why a member whose outbox is full is dropped.
const STALLED: &str = "was dropped: it does not take what is sent to it";
