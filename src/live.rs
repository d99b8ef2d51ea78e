//! The live list: every request between its acceptance and its close, who it is with, since when, and
//! what it does now. Draining and forcing need it, and so does an operator who asks what hangs.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, Shutdown};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::address::Address;
use crate::limits::Limits;

/// What a live request does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// Accepted, and not yet run: it waits for a worker.
    Queued,
    /// Its handler runs, and does not wait for its peer.
    Running,
    /// Its handler waits for the beginning of a request; nothing of one has come yet.
    Idle,
    /// Its handler waits for more of what its peer has begun to send.
    Receiving,
    /// Its handler waits for its peer to take what it sends.
    Sending,
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "waiting for a worker",
            Self::Running => "running",
            Self::Idle => "waiting for its peer's next request",
            Self::Receiving => "receiving",
            Self::Sending => "sending",
        })
    }
}

/// One live request, as it was at the moment of asking.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveRequest {
    /// Its number, unique within the server.
    pub id: u64,
    /// Who it is with.
    pub client_address: Address,
    /// How long ago it was accepted.
    pub age: Duration,
    /// The type name of its handler.
    pub handler: &'static str,
    /// What it does.
    pub activity: Activity,
    /// Bytes received from the peer so far.
    pub bytes_in: u64,
    /// Bytes sent to the peer so far.
    pub bytes_out: u64,
}

impl fmt::Display for LiveRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client_address, handler, activity, age, .. } = self;
        write!(f, "{client_address}: {handler}, {activity}, {:.1} s old", age.as_secs_f64())?;
        write!(f, ", {} bytes in, {} bytes out", self.bytes_in, self.bytes_out)
    }
}

/// Why a connection was ended from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// By a drain, between two requests.
    Drained = 1,
    /// By a drain, at its deadline.
    Forced = 2,
    /// By an operator.
    Closed = 3,
}

/// A request's own line in the list. The worker writes it, everyone else reads.
#[derive(Debug)]
pub(crate) struct Entry {
    id: u64,
    peer: Address,
    handler: &'static str,
    accepted: Instant,
    activity: AtomicU8,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Why the connection has been ended from this side, as a [`Cut`]; zero if it has not been. The end
    /// of input that its handler then sees is not the peer's, and must not be taken for the end of what
    /// the peer had to say.
    cut: AtomicU8,
    /// The connection, for those who have to wake or end it from outside; shared ownership, so that
    /// it cannot be closed, and its number taken by another one, while they do.
    connection: Mutex<Option<Arc<OwnedFd>>>,
    /// There has been one: datagrams have none, and are spared the lock.
    has_connection: bool,
}

impl Entry {
    pub(crate) fn client_address(&self) -> &Address {
        &self.peer
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn handler(&self) -> &'static str {
        self.handler
    }

    /// Ordered with the flag that a drain has begun: either the drain sees that this request is idle
    /// and wakes it, or the request, which looks at the flag after saying so, sees the drain.
    pub(crate) fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::SeqCst);
    }

    /// For what only the list shows: no other thread decides anything by it.
    pub(crate) fn show_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    pub(crate) fn activity(&self) -> Activity {
        match self.activity.load(Ordering::SeqCst) {
            0 => Activity::Queued,
            1 => Activity::Running,
            2 => Activity::Idle,
            3 => Activity::Receiving,
            _ => Activity::Sending,
        }
    }

    // One writer, so that a load and a store are enough.
    pub(crate) fn add_bytes_in(&self, count: usize) {
        self.bytes_in
            .store(self.bytes_in.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_bytes_out(&self, count: usize) {
        self.bytes_out
            .store(self.bytes_out.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
    }

    fn view(&self) -> LiveRequest {
        LiveRequest {
            id: self.id,
            client_address: self.peer.clone(),
            age: self.accepted.elapsed(),
            handler: self.handler,
            activity: self.activity(),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// Why the connection was ended from this side, if it was.
    pub(crate) fn cut(&self) -> Option<Cut> {
        match self.cut.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Cut::Drained),
            2 => Some(Cut::Forced),
            _ => Some(Cut::Closed),
        }
    }

    pub(crate) fn age(&self) -> Duration {
        self.accepted.elapsed()
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }

    pub(crate) fn shut_down(&self, why: Cut, how: Shutdown) {
        self.cut.store(why as u8, Ordering::SeqCst);
        if let Some(fd) = &*self.connection.lock() {
            // The only failure is that the peer has ended it already.
            let _ = socket2::SockRef::from(&**fd).shutdown(how);
        }
    }

    /// Ends the wait for the beginning of a request, if that is what it does. A signal's handler may call
    /// it: whoever holds the lock ends the connection anyway, or lets go of it.
    pub(crate) fn end_input_if_idle(&self) {
        if self.activity() != Activity::Idle {
            return;
        }
        self.cut.store(Cut::Drained as u8, Ordering::SeqCst);
        if let Some(connection) = self.connection.try_lock() {
            if let Some(fd) = &*connection {
                let _ = socket2::SockRef::from(&**fd).shutdown(Shutdown::Read);
            }
        }
    }

    /// Lets go of the connection: another process has it now.
    pub(crate) fn forget_connection(&self) {
        if !self.has_connection {
            return;
        }
        self.connection.lock().take();
    }
}

/// The list itself: a slab, so that entering and leaving cost one lock and no search. What else a request
/// gets when it enters, its number and its limits, is under the same lock.
#[derive(Debug)]
pub(crate) struct LiveList {
    slots: Mutex<Slots>,
    emptied: Condvar,
}

#[derive(Debug)]
struct Slots {
    entries: Vec<Option<Arc<Entry>>>,
    free: Vec<usize>,
    /// How many have ever entered; the number of the last one.
    entered: u64,
    /// For those that enter from now on.
    limits: Arc<Limits>,
    /// How many are alive for each peer; kept only while there is a limit on it.
    peers: Option<Peers>,
}

#[derive(Debug)]
struct Peers {
    max: usize,
    counts: HashMap<IpAddr, usize>,
}

/// What counts as one peer: an IPv4 address, or an IPv6 network of 64 bits.
fn peer_key(address: &Address) -> Option<IpAddr> {
    match address.ip()? {
        IpAddr::V6(ip) => {
            let network = ip.to_bits() & !u128::from(u64::MAX);
            Some(IpAddr::V6(Ipv6Addr::from_bits(network)))
        }
        v4 => Some(v4),
    }
}

impl Slots {
    fn live(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().flatten()
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
    }
}

impl LiveList {
    pub(crate) fn new(limits: Limits) -> Self {
        let (entries, free, limits) = (Vec::new(), Vec::new(), Arc::new(limits));
        let slots = Slots { entries, free, entered: 0, limits: Arc::clone(&limits), peers: None };
        let list = Self { slots: Mutex::new(slots), emptied: Condvar::new() };
        list.set_limits(limits);
        list
    }

    pub(crate) fn limits(&self) -> Limits {
        *self.slots.lock().limits
    }

    /// Limits those that enter from here on, and the requests of one peer, if that is less than all may
    /// have; those that are alive count.
    pub(crate) fn set_limits(&self, limits: Arc<Limits>) {
        let mut slots = self.slots.lock();
        let (max, live) = (limits.per_peer, limits.live);
        let mut counts = HashMap::new();
        if max < live {
            for key in slots.live().filter_map(|entry| peer_key(&entry.peer)) {
                *counts.entry(key).or_default() += 1;
            }
        }
        slots.peers = (max < live).then_some(Peers { max, counts });
        slots.limits = limits;
    }

    /// Enters a request, which is to [`leave`](Self::leave).
    pub(crate) fn enter(
        &self,
        peer: Address,
        handler: &'static str,
        accepted: Instant,
        connection: Option<Arc<OwnedFd>>,
    ) -> Place {
        let mut slots = self.slots.lock();
        let mut too_many = false;
        if let (Some(peers), Some(key)) = (&mut slots.peers, peer_key(&peer)) {
            let count = peers.counts.entry(key).or_default();
            *count += 1;
            too_many = *count > peers.max;
        }
        slots.entered += 1;
        let entry = Arc::new(Entry {
            id: slots.entered,
            peer,
            handler,
            accepted,
            activity: AtomicU8::new(Activity::Queued as u8),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            cut: AtomicU8::new(0),
            has_connection: connection.is_some(),
            connection: Mutex::new(connection),
        });
        let slot = slots.free.pop().unwrap_or(slots.entries.len());
        if slot == slots.entries.len() {
            slots.entries.push(None);
        }
        slots.entries[slot] = Some(Arc::clone(&entry));
        Place { entry, slot, limits: Arc::clone(&slots.limits), too_many }
    }

    pub(crate) fn leave(&self, place: &Place) {
        // Others may hold the entry a little longer, and must not hold the connection.
        place.entry.forget_connection();
        let mut slots = self.slots.lock();
        slots.entries[place.slot] = None;
        slots.free.push(place.slot);
        if let (Some(peers), Some(key)) = (&mut slots.peers, peer_key(&place.entry.peer)) {
            if let Some(count) = peers.counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    peers.counts.remove(&key);
                }
            }
        }
        if slots.is_empty() {
            self.emptied.notify_all();
        }
    }

    /// How many requests have entered so far.
    pub(crate) fn entered(&self) -> u64 {
        self.slots.lock().entered
    }

    pub(crate) fn view(&self) -> Vec<LiveRequest> {
        self.slots.lock().live().map(|entry| entry.view()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        let slots = self.slots.lock();
        slots.entries.len() - slots.free.len()
    }

    /// Ends one connection from outside. False if there is no such request, or nothing to end.
    pub(crate) fn close(&self, id: u64) -> bool {
        let found = self.slots.lock().live().find(|entry| entry.id == id).cloned();
        let Some(entry) = found else { return false };
        entry.shut_down(Cut::Closed, Shutdown::Both);
        entry.connection.lock().is_some()
    }

    /// Ends the wait of those that wait for the beginning of a request. What a peer has sent already is
    /// still read before.
    pub(crate) fn end_input_of_idle(&self) {
        for entry in self.slots.lock().live() {
            if entry.activity() == Activity::Idle {
                entry.shut_down(Cut::Drained, Shutdown::Read);
            }
        }
    }

    /// Ends every connection: reads and writes that wait return at once.
    pub(crate) fn force(&self) {
        for entry in self.slots.lock().live() {
            entry.shut_down(Cut::Forced, Shutdown::Both);
        }
    }

    /// Waits until the list is empty or the deadline has passed. Says whether it is empty.
    pub(crate) fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut slots = self.slots.lock();
        while !slots.is_empty() {
            if self.emptied.wait_until(&mut slots, deadline).timed_out() {
                return slots.is_empty();
            }
        }
        true
    }
}

/// A request's place in the list, and what it was given there.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) entry: Arc<Entry>,
    slot: usize,
    /// They hold for it to its end.
    pub(crate) limits: Arc<Limits>,
    /// Its peer has more requests than it may, this one included.
    pub(crate) too_many: bool,
}
