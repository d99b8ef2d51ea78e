//! The room: who is in it, and how a line reaches all of them.
//!
//! Whoever says something holds the room's lock while the line is put into the outboxes of all others, and
//! so everyone sees the same order. Nothing waits in there: an outbox that is full costs its member the
//! place, and the operator's screen and the bus have queues of their own.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use socketserver::{Outbox, OutboxError};

use super::bus::Relay;
use super::name::{OPERATOR, check_name, fold, is_too_long, looks, normal};
use super::protocol::{Kind, Waiting, listed};
use super::screen::Screen;

/// A member, by its number in the room.
pub type Id = u64;

/// Who has said something, or asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Member(Id),
    Operator,
}

/// The room. Clones are the same one.
#[derive(Clone)]
pub struct Room {
    state: Arc<Mutex<State>>,
    screen: Screen,
    /// The way to the other servers of this room; set once, before anybody is in.
    bus: Arc<OnceLock<Relay>>,
}

#[derive(Default)]
struct State {
    members: HashMap<Id, Member>,
    /// By their folded names.
    names: HashMap<String, Id>,
    /// By what their names look like.
    looks: HashMap<String, Id>,
    next: Id,
}

struct Member {
    name: String,
    /// `name: `, which stands before every line.
    prefix: String,
    outbox: Outbox,
    /// For a client that knows of no lines: what it will be told when it has spoken.
    waiting: Option<Waiting>,
}

impl Member {
    /// Sends it a line, with its newline.
    fn post(&mut self, kind: Kind, line: &str) -> Result<(), OutboxError> {
        match &mut self.waiting {
            Some(waiting) => match waiting.push(kind, line) {
                Some(answer) => self.send(&answer),
                None => Ok(()),
            },
            None => self.send(line),
        }
    }

    fn send(&self, text: &str) -> Result<(), OutboxError> {
        match self.outbox.send(text) {
            // It is gone, and its own handler lets it leave.
            Err(OutboxError::Closed) => Ok(()),
            result => result,
        }
    }
}

impl Room {
    pub fn new(screen: Screen) -> Self {
        Self { state: Arc::default(), screen, bus: Arc::default() }
    }

    /// Joins the room to those of other servers.
    pub fn set_bus(&self, relay: Relay) {
        // There is one call, before anything is served.
        let _ = self.bus.set(relay);
    }

    /// Lets a member in, under the name that it wishes if that is possible. `has_lines`: whether it knows
    /// of lines, or is one of the document's clients.
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
        let others = match state.members.len() {
            1 => "is 1 other".to_owned(),
            count => format!("are {count} others"),
        };
        welcome += &format!("* you are {name}; there {others}\n");
        self.announce(&mut state, &name, "has joined");
        let waiting = (!has_lines).then(Waiting::default);
        let prefix = format!("{name}: ");
        state.call(id, &name);
        state.members.insert(id, Member { name, prefix, outbox, waiting });
        self.post(&mut state, id, Kind::News, &welcome);
        id
    }

    /// A member leaves, if it has not been shown the door. `quietly`: there is nobody to tell.
    pub fn leave(&self, id: Id, quietly: bool) {
        let mut state = self.state.lock();
        if let (Some(member), false) = (state.remove(id), quietly) {
            self.announce(&mut state, &member.name, "has left");
        }
    }

    /// Whether a member has not been shown the door.
    pub fn has(&self, id: Id) -> bool {
        self.state.lock().members.contains_key(&id)
    }

    /// A line for everyone else.
    pub fn say(&self, from: Who, text: &str) {
        let mut state = self.state.lock();
        let Some(prefix) = state.prefix(from) else { return };
        let line = [prefix, text, "\n"].concat();
        self.spread(&mut state, Kind::Said, &line, from);
        if from != Who::Operator {
            self.screen.show(&line);
        }
        self.relay(&mut state, from, |bus, name| bus.say(from, name, text));
    }

    /// A line for one.
    pub fn tell(&self, from: Who, to: &str, text: &str) {
        let mut state = self.state.lock();
        let Some(name) = state.name(from).map(str::to_owned) else { return };
        // One's own server may be named, and need not be.
        let written = to;
        let (to, server) = to.split_once('@').map_or((to, None), |(to, at)| (to, Some(at)));
        if is_too_long(to) || server.is_some_and(is_too_long) {
            let line = "* nobody has a name as long as that\n";
            return self.hand(&mut state, from, Kind::Reply, line);
        }
        let elsewhere = |bus: &&Relay| server.is_some_and(|at| fold(at) != fold(bus.tag()));
        let refusal = match (self.bus.get().filter(elsewhere), state.find(to)) {
            (Some(bus), _) => bus.tell(from, &name, to, server.unwrap_or_default(), text).err(),
            (None, Some(receiver)) if server.is_none() || self.bus.get().is_some() => {
                let kind = if receiver == from { Kind::Reply } else { Kind::Said };
                let line = format!("{name} -> {to}: {text}\n");
                return self.hand(&mut state, receiver, kind, &line);
            }
            _ => Some(self.says_nobody(written)),
        };
        if let Some(why) = refusal {
            self.hand(&mut state, from, Kind::Reply, &format!("* {why}\n"));
        }
    }

    /// That nobody here has a name; and how those are written who have it elsewhere. What is for one alone is not sent
    /// to somebody who only happens to be called so.
    fn says_nobody(&self, name: &str) -> String {
        let nobody = format!("nobody here is called {name}");
        match &self.bus.get().map_or(Vec::new(), |bus| bus.namesakes(name))[..] {
            [] => nobody,
            others => format!("{nobody}; write @{} TEXT", others.join(" TEXT or @")),
        }
    }

    /// Calls a member by another name.
    pub fn rename(&self, id: Id, wish: &str) {
        let mut state = self.state.lock();
        let Some(old) = state.members.get(&id).map(|member| member.name.clone()) else { return };
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
        if let Some(member) = state.members.get_mut(&id) {
            name.clone_into(&mut member.name);
            member.prefix = format!("{name}: ");
        }
        self.announce(&mut state, &old, &format!("is now called {name}"));
        self.answer(&mut state, id, Waiting::answer);
    }

    /// Answers who is there.
    pub fn who(&self, asks: Who) {
        let mut state = self.state.lock();
        let mut names = state.names_sorted();
        let elsewhere = self.bus.get().map_or(Vec::new(), Relay::members);
        names.extend(elsewhere);
        let line = match &names[..] {
            [] => "* nobody is here\n".to_owned(),
            names => format!("* {} here: {}\n", names.len(), listed(names)),
        };
        self.hand(&mut state, asks, Kind::Reply, &line);
    }

    /// A word for one alone, from the server itself.
    pub fn note(&self, to: Who, text: &str) {
        self.hand(&mut self.state.lock(), to, Kind::Reply, &format!("* {text}\n"));
    }

    /// The operator's way to end a member.
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

    /// Ends a member with a reason, which everyone is told.
    pub fn dismiss(&self, id: Id, why: &str) {
        self.expel(&mut self.state.lock(), id, why);
    }

    /// A client that knows of no lines has spoken, and listens. Gives when it is to be sent what waits for it already.
    pub fn listens(&self, id: Id) -> Option<Instant> {
        let mut state = self.state.lock();
        state
            .members
            .get_mut(&id)
            .and_then(|member| member.waiting.as_mut())
            .and_then(Waiting::listen)
    }

    /// A client that knows of no lines has asked for nothing but a name.
    pub fn answer_at_once(&self, id: Id) {
        self.answer(&mut self.state.lock(), id, Waiting::answer);
    }

    /// A client that knows of no lines has listened for long, and nobody has said anything.
    pub fn answer_late(&self, id: Id) {
        self.answer(&mut self.state.lock(), id, Waiting::answer_late);
    }

    /// Sends a client that knows of no lines a piece of what waits for it.
    fn answer(
        &self,
        state: &mut State,
        id: Id,
        piece: impl FnOnce(&mut Waiting) -> Option<String>,
    ) {
        let Some(member) = state.members.get_mut(&id) else { return };
        let answer = member.waiting.as_mut().and_then(piece);
        if answer.is_some_and(|answer| member.send(&answer).is_err()) {
            self.expel(state, id, STALLED);
        }
    }

    /// A client has turned out to know of lines: it gets everything, and from now on at once.
    pub fn has_lines(&self, id: Id) {
        let mut state = self.state.lock();
        let waiting = state.members.get_mut(&id).and_then(|member| member.waiting.take());
        if let Some(mut waiting) = waiting {
            self.post(&mut state, id, Kind::Reply, &waiting.all());
        }
    }

    /// A line of another server's, for everyone here; with its newline.
    pub fn hear(&self, kind: Kind, line: &str) {
        self.spread(&mut self.state.lock(), kind, line, Who::Operator);
        self.screen.show(line);
    }

    /// News of the bus, of which the operator is told more than the members; each with its newline.
    pub fn news(&self, to_members: &str, to_operator: &str) {
        self.spread(&mut self.state.lock(), Kind::News, to_members, Who::Operator);
        self.screen.show(to_operator);
    }

    /// A line of another server's, for one who is here; with its newline. False: there is no such one.
    pub fn hear_private(&self, to: &str, kind: Kind, line: &str) -> bool {
        let mut state = self.state.lock();
        let receiver = state.find(to);
        if let Some(receiver) = receiver {
            self.hand(&mut state, receiver, kind, line);
        }
        receiver.is_some()
    }

    /// Who is here, in order.
    pub fn names(&self) -> Vec<String> {
        self.state.lock().names_sorted()
    }

    /// To everyone, here and elsewhere, and on the operator's screen.
    fn announce(&self, state: &mut State, name: &str, news: &str) {
        let line = format!("* {name} {news}\n");
        self.spread(state, Kind::News, &line, Who::Operator);
        self.screen.show(&line);
        if let Some(bus) = self.bus.get() {
            bus.announce(name, news);
        }
    }

    /// To everyone here but the one it is from. Who has no room for it is dropped, which is news for the others; so
    /// it goes on until all who are left have had all of it.
    fn spread(&self, state: &mut State, kind: Kind, line: &str, from: Who) {
        let mut stalled = Vec::new();
        for (id, member) in &mut state.members {
            if from != Who::Member(*id) && member.post(kind, line).is_err() {
                stalled.push(*id);
            }
        }
        for id in stalled {
            self.expel(state, id, STALLED);
        }
    }

    fn expel(&self, state: &mut State, id: Id, why: &str) {
        let mut leaving = vec![(id, why)];
        while let Some((id, why)) = leaving.pop() {
            let Some(member) = state.remove(id) else { continue };
            let line = format!("* {} {why}\n", member.name);
            // It is told, if there is room for it; then its handler's reads end.
            let _ = member.outbox.send(format!("* you: {why}\n"));
            member.outbox.flush();
            member.outbox.close();
            for (id, member) in &mut state.members {
                if member.post(Kind::News, &line).is_err() {
                    leaving.push((*id, STALLED));
                }
            }
            self.screen.show(&line);
            if let Some(bus) = self.bus.get() {
                bus.announce(&member.name, why);
            }
        }
    }

    fn hand(&self, state: &mut State, to: Who, kind: Kind, line: &str) {
        match to {
            Who::Member(id) => self.post(state, id, kind, line),
            Who::Operator => self.screen.show(line),
        }
    }

    fn post(&self, state: &mut State, id: Id, kind: Kind, line: &str) {
        if state.members.get_mut(&id).is_some_and(|member| member.post(kind, line).is_err()) {
            self.expel(state, id, STALLED);
        }
    }

    /// Hands something to the bus; tells the one it is from, if the bus does not take it.
    fn relay(
        &self,
        state: &mut State,
        from: Who,
        hand_over: impl FnOnce(&Relay, &str) -> Result<(), String>,
    ) {
        let (Some(bus), Some(name)) = (self.bus.get(), state.name(from)) else { return };
        if let Err(why) = hand_over(bus, name) {
            self.hand(state, from, Kind::Reply, &format!("* {why}\n"));
        }
    }
}

/// Why a member whose outbox is full has to go.
const STALLED: &str = "was dropped: it does not take what is sent to it";

impl State {
    fn remove(&mut self, id: Id) -> Option<Member> {
        let member = self.members.remove(&id)?;
        self.forget_name(&member.name);
        Some(member)
    }

    fn call(&mut self, id: Id, name: &str) {
        self.names.insert(fold(name), id);
        self.looks.extend(looks(name).map(|look| (look, id)));
    }

    fn forget_name(&mut self, name: &str) {
        self.names.remove(&fold(name));
        for look in looks(name) {
            self.looks.remove(&look);
        }
    }

    /// None: it has been shown the door, and what it had sent before may not be heard without its name.
    fn prefix(&self, who: Who) -> Option<&str> {
        match who {
            Who::Member(id) => self.members.get(&id).map(|member| &*member.prefix),
            Who::Operator => Some("operator: "),
        }
    }

    fn name(&self, who: Who) -> Option<&str> {
        self.prefix(who).map(|prefix| prefix.trim_end_matches(": "))
    }

    fn find(&self, name: &str) -> Option<Who> {
        if is_too_long(name) {
            return None;
        }
        let folded = fold(name);
        if folded == OPERATOR {
            return Some(Who::Operator);
        }
        self.names.get(&folded).map(|id| Who::Member(*id))
    }

    /// The name as it would be kept, if a member may be called so.
    fn check_free(&self, wish: &str, id: Id) -> Result<String, String> {
        check_name(wish)?;
        let name = normal(wish);
        if self.names.get(&fold(&name)).is_some_and(|owner| *owner != id) {
            return Err(format!("the name {name} is taken"));
        }
        let like = looks(&name).into_iter().find_map(|look| self.looks.get(&look));
        match like.filter(|owner| **owner != id).and_then(|owner| self.members.get(owner)) {
            Some(other) => {
                Err(format!("the name {name} looks like {}, which is taken", other.name))
            }
            None => Ok(name),
        }
    }

    fn guest_name(&self) -> String {
        // No more than the members can be taken.
        let mut names = (self.next..).map(|number| format!("guest-{number}"));
        names.find(|name| self.check_free(name, self.next).is_ok()).unwrap_or_default()
    }

    fn names_sorted(&self) -> Vec<String> {
        let mut names: Vec<_> = self.members.values().map(|member| member.name.clone()).collect();
        names.sort_unstable();
        names
    }
}
