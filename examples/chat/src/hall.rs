//! The hall: connections that have sent nothing yet, and those that wait to join the room.
//!
//! A silent connection counts in `--max-clients`, so an attacker with many of them could keep others out. The hall
//! therefore holds at most half of all clients, and half of the clients that one address may have. When it is full, the
//! address with the most silent connections loses its oldest one; of several such addresses, the one whose oldest came
//! first. So a client that has just come is not ended in place of one that has been silent for longer.
//!
//! Clients that have sent a word join in the order of their first words, and at a bounded rate, because each join is a
//! line for every member. A client that leaves before it joins is not announced.
//!
//! ```text
//! connect -> silent -- first word --> speaking -- its turn --> the room
//!              |
//!              +-- hall full, /kick #, or --first-word is over: ended
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::{Address, Outbox};

/// How many clients join in a second in the long run, and how many at once after a pause.
const PER_SECOND: f64 = 100.0;
const AT_ONCE: f64 = 200.0;
/// How many silent clients the operator's list names.
const NAMED: usize = 20;

/// A client in the hall, by its number.
pub type Number = u64;

/// When a client may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    /// Not before this time has passed. Then the client asks again.
    In(Duration),
    /// Never: its connection was ended in the hall.
    Never,
}

/// The hall. A clone is the same hall.
#[derive(Clone)]
pub struct Hall {
    state: Arc<Mutex<State>>,
}

struct State {
    /// Silent clients, in the order of their connections.
    silent: BTreeMap<Number, Silent>,
    next: Number,
    room: usize,
    room_of_peer: usize,
    /// Clients that have sent a word, in the order of these words.
    queue: VecDeque<Number>,
    /// How many clients may join now, as counted at the moment `filled`.
    tokens: f64,
    filled: Instant,
}

struct Silent {
    address: Address,
    since: Instant,
    outbox: Outbox,
}

impl Hall {
    /// The hall of a server with these limits for all clients and for those of one address.
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

    /// Adds a client. If the hall is full, ends the oldest silent client of the address that has the most of them. That
    /// is never the new client, unless it is the only one.
    pub fn arrive(&self, address: Address, outbox: Outbox) -> Number {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let peer = peer_of(&address);
        state.silent.insert(number, Silent { address, since: Instant::now(), outbox });
        // Clients of a Unix socket have no address, and so no limit per address.
        let crowd = peer.filter(|_| state.count(peer) > state.room_of_peer).map(Some);
        let crowd = crowd.or_else(|| (state.silent.len() > state.room).then(|| state.most()));
        if let Some(crowd) = crowd {
            state.end_oldest_of(crowd);
        }
        number
    }

    /// Removes a client from the hall.
    pub fn leave(&self, number: Number) {
        let mut state = self.state.lock();
        state.silent.remove(&number);
        state.queue.retain(|waiting| *waiting != number);
    }

    /// Whether a client that has sent its first word may join.
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

    /// The silent clients as a line for the operator. `None` if there are none.
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

    /// Ends silent clients: the client with this number, those of this internet address, or all if `which` is empty.
    /// Returns how many it has ended.
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

    /// The address that has the most silent clients; of several, the one whose oldest has been silent for longest.
    fn most(&self) -> Option<IpAddr> {
        // For each address its count, and the number of its oldest client.
        let mut counts = HashMap::new();
        for (number, silent) in &self.silent {
            counts.entry(peer_of(&silent.address)).or_insert((0, Reverse(*number))).0 += 1;
        }
        counts.into_iter().max_by_key(|(_, order)| *order).and_then(|(peer, _)| peer)
    }

    fn end_oldest_of(&mut self, peer: Option<IpAddr>) {
        let mut of_peer = self.silent.iter().filter(|(_, one)| peer_of(&one.address) == peer);
        if let Some(number) = of_peer.next().map(|(number, _)| *number) {
            self.end(number, "had to make room for others: say something sooner");
        }
    }

    fn end(&mut self, number: Number, why: &str) {
        let Some(Silent { outbox, .. }) = self.silent.remove(&number) else { return };
        // The client gets the reason if its outbox has room. Then the close ends its handler's read.
        let _ = outbox.send(format!("* you {why}\n"));
        outbox.flush();
        outbox.close();
    }
}

fn ip_of(address: &Address) -> Option<IpAddr> {
    // An IPv4 client of a socket for both families has a mapped address.
    address.as_inet().map(|address| address.ip().to_canonical())
}

/// The address that stands for one customer: an IPv4 address, or the IPv6 network that a customer gets.
fn peer_of(address: &Address) -> Option<IpAddr> {
    ip_of(address).map(|ip| match ip {
        IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local() => {
            IpAddr::V6((u128::from(ip) >> 64 << 64).into())
        }
        ip => ip,
    })
}
