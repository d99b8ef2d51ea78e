//! The live list: every request from its acceptance to its close, with its peer, its age and its activity.
//!
//! A drain uses it to end the idle requests and to force the remaining ones. `ServerContext::live` shows it to
//! operators. The idle reaper and the limits per peer use it too.
//!
//! Each server has one list, in its context. Its lock is held for one request at a time, or for one pass over all of
//! them. Under this lock nothing waits, no code of the user runs, and each system call returns at once: a drain shuts
//! down sockets and notifies tokens, and the reaper asks how many bytes a socket has moved. The locks inside an entry are
//! taken under this lock, never the other way round.
//!
//! ```text
//! accept loop        enter: a number, a slot, the limits in force; counts the peer     -> Registration, in the Ticket
//! the worker         Entry: activity and bytes, without the lock
//! drain, operators,  find entries, under the lock, and end them: a Cut, then a shutdown of the socket
//! idle reaper
//! drop of the Ticket leave: Entry::end, the slot is free, counts the peer off; the last one wakes the drain
//! ```
//!
//! Under `Forking` the entry stays in the parent's list while a child serves the request, so that the limits count it.
//! The child has a copy of the list as it was at the fork, which is not kept up to date. It writes the values that the
//! parent has to know (bytes, activity, the client) into rows of common memory: `shared_row.rs`.

mod arrival;
mod causes;
mod clear_counters;
mod counters;
mod entry;
mod handshakes;
mod idle_check;
mod linked_connections;
mod live_request;
mod peer_key;
mod progress;
mod proxied_client;
mod shared_row;
mod slots;
mod split_activity;
mod stop_events;
mod token_buckets;

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::address::Address;
use crate::events::Limit;
use crate::limits::Limits;
use crate::peer_fault::RequestId;
use crate::proxy_protocol::Header;

use arrival::{Arrival, FreeSlot};
pub(crate) use counters::CountStep;
pub(crate) use entry::Entry;
pub(crate) use handshakes::Handshakes;
pub(crate) use idle_check::SHORTEST_REAPED;
pub(crate) use linked_connections::LinkedConnection;
pub use live_request::{Activity, Cut, LiveRequest};
use peer_key::PeerKey;
pub(crate) use progress::Progress;
use proxied_client::ProxiedClient;
pub(crate) use slots::PeerIs;
use slots::Slots;
pub(crate) use stop_events::StopEvents;
use token_buckets::TokenBuckets;

/// The list itself: a slab. Entering and leaving cost one lock and no search. The request's number and its limits are
/// under the same lock.
#[derive(Debug)]
pub(crate) struct LiveList {
    /// The number of this list within the process. With a request's own number it makes a [`RequestId`], which tells
    /// errors of this server's requests from those of other servers' requests.
    number: u64,
    /// The requests, and the limits that the next one gets.
    slots: Mutex<Slots>,
    /// Notified when the last request leaves; only a drain waits for it.
    emptied: Condvar,
}

/// How many lists there have been. A request's number is unique only within its list.
static LISTS: AtomicU64 = AtomicU64::new(0);

impl LiveList {
    /// An empty list. Until [`set_budget`](Self::set_budget) is called, descriptors limit nothing.
    pub(crate) fn new(limits: Limits) -> Self {
        let limits = Arc::new(limits);
        let mut slots = Slots { limits, budget: usize::MAX, ..Slots::default() };
        slots.limit_rates();
        slots.limit_peers();
        let number = LISTS.fetch_add(1, Ordering::Relaxed);
        Self { number, slots: Mutex::new(slots), emptied: Condvar::new() }
    }

    /// Prepares the list for requests that children serve: it maps memory for their counters that parent and children
    /// have in common. Called once, when the server is made. The memory is for [`MAX_ROWS`](slots::MAX_ROWS) requests,
    /// and all later forks share it.
    ///
    /// # Errors
    ///
    /// If the memory cannot be mapped.
    pub(crate) fn for_children(self) -> io::Result<Self> {
        self.slots.lock().map_rows()?;
        Ok(self)
    }

    /// Makes this the list of a forked child that becomes a server of its own (a prefork worker): forgets the requests,
    /// which belong to the parent, and closes this process's copies of their connections. The child's own children get
    /// counters of their own. A child of `Forking`, which serves one request, does not call this.
    ///
    /// # Errors
    ///
    /// If there is no memory for those counters. The requests are then not forgotten.
    pub(crate) fn enter_process(&self) -> io::Result<()> {
        let mut slots = self.slots.lock();
        // The rows come first, because this may fail. The parent's rows stay mapped for as long as an entry has one.
        if slots.rows.is_some() {
            slots.map_rows()?;
        }
        // The parent serves these requests. A connection that stays open here would keep its peer waiting after the
        // parent has closed its own copy.
        for entry in slots.entries.drain(..).flatten() {
            entry.forget_connection();
        }
        slots.free.clear();
        // The counted requests of each peer are the parent's too.
        if let Some(peers) = &mut slots.peers {
            peers.counts.clear();
        }
        Ok(())
    }

    /// The limits that the next request gets.
    pub(crate) fn limits(&self) -> Limits {
        *self.slots.lock().limits
    }

    /// Sets the limits of requests that enter from here on, and the maximum for one peer. A peer's requests that are
    /// alive already count towards this maximum.
    pub(crate) fn set_limits(&self, limits: Arc<Limits>) {
        let mut slots = self.slots.lock();
        slots.limits = limits;
        // With the same rate the buckets stay as they are.
        if slots.rates.as_ref().map(TokenBuckets::rate) != slots.limits.peer_rate {
            slots.limit_rates();
        }
        // The limit for each peer may have changed, or be gone. If it is lower now, a peer's live requests beyond
        // it go on, and only its new requests are refused.
        slots.limit_peers();
    }

    /// Sets the number of requests that there are descriptors for: with few of them, one peer's share has to be smaller as
    /// well. Returns the maximum for one peer, if there is one.
    pub(crate) fn set_budget(&self, budget: usize) -> Option<usize> {
        let mut slots = self.slots.lock();
        slots.budget = budget;
        slots.limit_peers()
    }

    /// Enters a request. [`leave`](Self::leave) takes it off the list.
    ///
    /// The thread that accepts calls this for each request, before the mixin gets it. It takes the lock once, and
    /// allocates nothing if the slot's last entry can be used again. The list is not bounded here: the gate holds
    /// requests back before they are accepted.
    pub(crate) fn enter(
        &self,
        peer: Address,
        peer_is: PeerIs,
        handler: &'static str,
        accepted: Instant,
        connection: Option<Arc<OwnedFd>>,
        in_accept_queue: Option<Duration>,
    ) -> Registration {
        let mut slots = self.slots.lock();
        // A request beyond its peer's limit enters the list like any other, and is refused later. The peer is counted
        // under the lock that gives the number, so that the counts are those of the list at this moment.
        let beyond = match peer_is {
            PeerIs::Client => slots.count_peer(&peer, accepted),
            // A proxy is not counted. Its client is, once the header has named it.
            PeerIs::Proxy => None,
        };
        // Numbers begin with one, and are never used again.
        slots.entered += 1;
        let owner = RequestId { server: self.number, request: slots.entered };
        let free = slots.take_free();
        let slot = free.slot;
        let proxied_client = (peer_is == PeerIs::Proxy)
            .then(|| Box::new(ProxiedClient::new(slots.clients.as_ref(), slot)));
        let arrival = Arrival { owner, peer, proxied_client, handler, accepted, in_accept_queue };
        let entry = slots.entry(free, arrival, connection);
        slots.entries[slot] = Some(Arc::clone(&entry));
        Registration { entry, slot, beyond }
    }

    /// Counts the client of a proxied request, once the proxy has named it. Returns the limit for one peer that the request
    /// exceeds, if any. The worker calls this once, when it has read the header; under `Forking` that is the child.
    ///
    /// Works under the lock: when the limits change, all peers are counted anew, and this comes either before or
    /// after that.
    pub(crate) fn name_client(&self, entry: &Entry, header: Header, now: Instant) -> Option<Limit> {
        let mut slots = self.slots.lock();
        // The client is named first: under `Forking` the count below includes this request's own row.
        entry.name_client(header);
        let proxied_client = entry.arrival.proxied_client.as_ref()?;
        let client = proxied_client.client()?;
        if !proxied_client.is_common() {
            return slots.count_peer(client, now);
        }
        // In a child the list is a copy, so it does not know the clients of the other children. The shared rows do.
        slots.admit_peer(PeerKey::of(client)?, now, |peers| proxied_client.count() > peers.max)
    }

    /// Takes a request off the list: it is over, and its connection is closed unless others have a copy. Wakes a drain
    /// if this was the last request. Called by the drop of the request's ticket, on any thread.
    pub(crate) fn leave(&self, registration: &Registration) {
        // Others may hold the entry a little longer, and must not keep the connection open with it. This is done
        // without the list's lock, because the close of a descriptor is a system call.
        registration.entry.end();
        let mut slots = self.slots.lock();
        let own = |entry: &mut Arc<Entry>| Arc::ptr_eq(entry, &registration.entry);
        let slot = slots.entries.get_mut(registration.slot);
        // `None`: this request belongs to the parent. Its handler called `fork` and has returned in both processes.
        let Some(last) = slot.and_then(|slot| slot.take_if(own)) else { return };
        // From here on another request may have the slot, and the entry's memory when this registration is dropped.
        slots.free.push(FreeSlot::of(registration.slot, last));
        // The request is counted off by the address that is known now. It was counted by the same address: when it entered
        // or was named, or when `set_limits` counted all requests anew.
        if let (Some(peers), Some(key)) =
            (&mut slots.peers, registration.entry.counted_address().and_then(PeerKey::of))
        {
            peers.count_off(key);
        }
        if slots.len() == 0 {
            self.emptied.notify_all();
        }
    }

    /// How many requests have entered so far.
    pub(crate) fn entered(&self) -> u64 {
        self.slots.lock().entered
    }

    /// The requests as operators see them. The lock is held while the lines are made, so accepting waits for it.
    pub(crate) fn view(&self) -> Vec<LiveRequest> {
        self.slots.lock().live().map(|entry| entry.view()).collect()
    }

    /// How many requests are alive.
    pub(crate) fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// How many requests run, and how many wait for a worker. Goes through all requests.
    pub(crate) fn running_and_queued(&self) -> (usize, usize) {
        let slots = self.slots.lock();
        let queued = slots.live().filter(|it| it.activity() == Activity::Queued).count();
        (slots.len() - queued, queued)
    }

    /// How many bytes the live requests have received and sent so far. Goes through all requests.
    #[cfg(feature = "metrics")]
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let slots = self.slots.lock();
        let bytes = slots.live().map(|entry| entry.bytes());
        bytes.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Ends one connection, for `close_live`. Returns false if there is no such request, or nothing to end. A request
    /// that leaves at the same moment may be reported as ended here.
    pub(crate) fn close(&self, id: u64) -> bool {
        // The lock is not held here: to end a connection may take a system call, or a signal to a child.
        self.find(id).is_some_and(|entry| entry.close())
    }

    /// The request with this number, if it is alive. This is a search, because a number says nothing about the slot:
    /// only operators and the watch over held workers ask for it.
    pub(crate) fn find(&self, id: u64) -> Option<Arc<Entry>> {
        self.slots.lock().live().find(|entry| entry.id() == id).cloned()
    }

    /// Ends the waits for the beginning of a request; a wait for the first request of a connection only when first
    /// reads are over. Bytes that have already come are still read. A drain calls it twice: when it begins, and when
    /// `Limits::first_read` has passed. A wait that begins after the call sees the drain itself: see `entry/ending.rs`.
    pub(crate) fn end_input_of_idle(&self, first_reads: FirstReads) {
        for entry in self.slots.lock().live() {
            if entry.may_be_ended(first_reads) {
                entry.shut_down(Cut::Drained, Shutdown::Read);
            }
        }
    }

    /// Notifies the stop tokens: the server drains. Called when a drain begins. A token that is made later sees the
    /// drain itself.
    pub(crate) fn tell_of_stop(&self) {
        for entry in self.slots.lock().live() {
            entry.tell_of_stop();
        }
    }

    /// Ends every connection. Reads and writes that wait return at once. Called at the deadline of a drain. A handler that
    /// computes, or waits for something else, goes on.
    pub(crate) fn force(&self) {
        for entry in self.slots.lock().live() {
            entry.shut_down(Cut::Forced, Shutdown::Both);
        }
    }

    /// Waits until the list is empty or the deadline has passed. Returns true if it is empty. This is the only wait in
    /// this folder. A thread that serves a request must not call this, because it would wait for itself.
    pub(crate) fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut slots = self.slots.lock();
        // When the deadline passes, the last request may leave at that very moment: so the length decides.
        self.emptied.wait_while_until(&mut slots, |slots| slots.len() > 0, deadline);
        slots.len() == 0
    }
}

/// Whether a drain waits for the first request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstReads {
    /// `Limits::first_read` has not passed: the peer may be about to send.
    Awaited,
    /// `Limits::first_read` has passed, or this drain does not wait for it: connections that have sent nothing are ended
    /// too.
    Over,
}

/// A request's slot in the list. The request's ticket has it, and gives it to [`LiveList::leave`] when it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    /// The request's entry, shared with the list, with threads that end the request, and with its stop tokens, which
    /// may outlive it.
    pub(crate) entry: Arc<Entry>,
    /// The index in `Slots::entries`. After `leave` another request may have the same index, so `leave` compares the
    /// entries.
    slot: usize,
    /// The limit for one peer that this request exceeds, if any: the request is then refused.
    pub(crate) beyond: Option<Limit>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A request of a list, with both ends of its connection.
    pub(super) fn request(list: &LiveList) -> (Registration, UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd = Arc::new(OwnedFd::from(ours.try_clone().unwrap()));
        let (peer, now) = (Address::Unnamed, Instant::now());
        let registration = list.enter(peer, PeerIs::Client, "Test", now, Some(fd), None);
        (registration, ours, theirs)
    }

    #[test]
    fn a_request_from_before_a_fork_frees_no_slot() {
        let list = LiveList::new(Limits::default());
        let (early, ..) = request(&list);
        list.enter_process().unwrap();
        list.leave(&early);
        assert_eq!(list.len(), 0);

        let (earlier, ..) = request(&list);
        list.enter_process().unwrap();
        let (own, ..) = request(&list);
        list.leave(&earlier);
        assert_eq!((list.len(), list.view()[0].id), (1, own.entry.id()));
        list.leave(&own);
        assert!(list.wait_until_empty(Instant::now()));
    }

    #[test]
    fn what_cannot_be_closed_is_not_marked_as_closed() {
        let list = LiveList::new(Limits::default());
        let (peer, now) = (Address::Unnamed, Instant::now());
        let datagram = list.enter(peer, PeerIs::Client, "Test", now, None, None);
        assert!(!list.close(datagram.entry.id()));
        assert_eq!(datagram.entry.cut(), None, "its own error explains its end");
        let (stream, ..) = request(&list);
        assert!(list.close(stream.entry.id()));
        assert_eq!(stream.entry.cut(), Some(Cut::Closed));
    }
}
