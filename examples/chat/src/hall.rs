//! The hall: connections that have not said a word yet, and those that wait to be let in.
//!
//! A client that says nothing costs the room a place, and whoever wants to keep others out opens many of them. So the
//! hall has room for half of the clients, and half of those of one address; when it is full, the one that has been
//! silent for longest makes room for the next. Whoever speaks is let in, at a pace that those who are in can bear:
//! that somebody has joined is a line for each of them. Turns are in the order of the first words, and one that leaves
//! before its turn has cost nobody anything.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::{Address, Outbox};

/// How many are let in a second in the long run, and how many at once after a rest.
const PER_SECOND: f64 = 100.0;
const AT_ONCE: f64 = 200.0;
/// So many of those who wait are named to the operator.
const NAMED: usize = 20;

/// A client in the hall, by its number.
pub type Number = u64;

/// When a client may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    /// Not before so long; then it asks again.
    In(Duration),
    /// It was shown the door.
    Never,
}

/// The hall. Clones are the same one.
#[derive(Clone)]
pub struct Hall {
    state: Arc<Mutex<State>>,
}

struct State {
    /// In the order in which they came.
    silent: BTreeMap<Number, Silent>,
    next: Number,
    room: usize,
    room_of_peer: usize,
    /// Those that have spoken, in the order in which they have.
    queue: VecDeque<Number>,
    /// How many may be let in now.
    tokens: f64,
    filled: Instant,
}

struct Silent {
    address: Address,
    since: Instant,
    outbox: Outbox,
}

impl Hall {
    /// A hall before a room for so many clients, of which so many may be of one address.
    pub fn new(clients: usize, per_peer: usize) -> Self {
        let state = State {
            silent: BTreeMap::new(),
            next: 1,
            room: (clients / 2).max(1),
            room_of_peer: (per_peer / 2).max(1),
            queue: VecDeque::new(),
            tokens: AT_ONCE,
            filled: Instant::now(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A client has come. If there is no room, another one goes.
    pub fn arrive(&self, address: Address, outbox: Outbox) -> Number {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let peer = peer_of(&address);
        state.silent.insert(number, Silent { address, since: Instant::now(), outbox });
        // Those without an address come by a Unix socket: they are of this machine, and of no network.
        let crowd = peer.filter(|_| state.count(peer) > state.room_of_peer).map(Some);
        let crowd = crowd.or_else(|| (state.silent.len() > state.room).then(|| state.most()));
        if let Some(crowd) = crowd {
            state.end_oldest_of(crowd);
        }
        number
    }

    /// It is silent no more, or gone.
    pub fn leave(&self, number: Number) {
        let mut state = self.state.lock();
        state.silent.remove(&number);
        state.queue.retain(|waiting| *waiting != number);
    }

    /// Whether it is this client's turn to be let in. It has spoken.
    pub fn turn(&self, number: Number) -> Turn {
        let mut state = self.state.lock();
        let was_silent = state.silent.remove(&number).is_some();
        if !was_silent && !state.queue.contains(&number) {
            return Turn::Never;
        }
        let now = Instant::now();
        let gained = now.duration_since(state.filled).as_secs_f64() * PER_SECOND;
        state.tokens = (state.tokens + gained).min(AT_ONCE);
        state.filled = now;
        let place = state.queue.iter().position(|waiting| *waiting == number);
        let before = place.unwrap_or(state.queue.len());
        let missing = before as f64 + 1.0 - state.tokens;
        if missing <= 0.0 {
            state.tokens -= 1.0;
            place.map(|place| state.queue.remove(place));
            return Turn::Now;
        }
        if place.is_none() {
            state.queue.push_back(number);
        }
        Turn::In(Duration::from_secs_f64(missing / PER_SECOND))
    }

    /// Who is in the hall and silent, for the operator; none if nobody is.
    pub fn list(&self) -> Option<String> {
        let state = self.state.lock();
        let all = state.silent.len();
        let named = state.silent.iter().take(NAMED).map(|(number, silent)| {
            let age = silent.since.elapsed().as_secs();
            format!("#{number} {} ({age} s)", silent.address)
        });
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match all.saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let example = state.silent.values().next()?;
        let of_peer = peer_of(&example.address)
            .map_or(String::new(), |_| ", /kick #ADDRESS all of an address".to_owned());
        Some(format!(
            "{all} without a word yet: {named}{more}; /kick #NUMBER ends one{of_peer}, /kick # all"
        ))
    }

    /// Ends those that the operator means: `31`, an internet address without its port, or nothing for all. Says how many
    /// they were.
    pub fn kick(&self, which: &str) -> usize {
        let mut state = self.state.lock();
        let address: Option<IpAddr> = which.trim_matches(['[', ']']).parse().ok();
        let meant = |(number, silent): (&Number, &Silent)| {
            let is_meant = which.is_empty()
                || which.parse() == Ok(*number)
                || address.is_some() && ip_of(&silent.address) == address;
            is_meant.then_some(*number)
        };
        let meant: Vec<Number> = state.silent.iter().filter_map(meant).collect();
        meant.iter().for_each(|number| state.end(*number, "were kicked by the operator"));
        meant.len()
    }
}

impl State {
    fn count(&self, peer: Option<IpAddr>) -> usize {
        self.silent.values().filter(|silent| peer_of(&silent.address) == peer).count()
    }

    /// The peer that has most of those who are here.
    fn most(&self) -> Option<IpAddr> {
        let mut counts = HashMap::new();
        for silent in self.silent.values() {
            *counts.entry(peer_of(&silent.address)).or_insert(0) += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).and_then(|(peer, _)| peer)
    }

    fn end_oldest_of(&mut self, peer: Option<IpAddr>) {
        let mut of_peer = self.silent.iter().filter(|(_, one)| peer_of(&one.address) == peer);
        if let Some(number) = of_peer.next().map(|(number, _)| *number) {
            self.end(number, "had to make room for others: say something sooner");
        }
    }

    fn end(&mut self, number: Number, why: &str) {
        let Some(Silent { outbox, .. }) = self.silent.remove(&number) else { return };
        // It is told, if it can be; then its handler's read ends.
        let _ = outbox.send(format!("* you {why}\n"));
        outbox.flush();
        outbox.close();
    }
}

fn ip_of(address: &Address) -> Option<IpAddr> {
    // An IPv4 client of a socket for both is the same as of one for IPv4.
    address.as_inet().map(|address| address.ip().to_canonical())
}

/// Who one customer is: an address, or the network of IPv6 that is given to one.
fn peer_of(address: &Address) -> Option<IpAddr> {
    ip_of(address).map(|ip| match ip {
        IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local() => {
            IpAddr::V6((u128::from(ip) >> 64 << 64).into())
        }
        ip => ip,
    })
}
