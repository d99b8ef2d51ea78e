//! [`Arrival`]: the values that a request enters the list with, and how it gets its entry.
//!
//! A server under load makes and drops thousands of entries a second. So a slot keeps the entry of its last request
//! ([`FreeSlot`]), and the next request takes over the memory of that entry, if nobody holds it any more:
//!
//! ```text
//! enter    a free slot -> its last entry is held by nobody  -> replace: every part is new, the memory is the same
//!                      -> it is held, or there is none      -> entry: new memory
//! leave    the entry goes back with the slot, unless it is large
//! ```
//!
//! Stop tokens and outboxes may hold an entry for long, and the last request's worker holds it for a moment after `leave`.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Entry;
use super::clear_counters::ClearCounters;
use super::counters::RequestCounters;
use super::entry::Marks;
use super::proxied_client::ProxiedClient;
use crate::address::Address;
use crate::limits::Limits;
use crate::peer_fault::RequestId;

/// A request as it enters the list. None of these values changes before the request leaves.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The number of the request, and that of its list.
    pub(super) owner: RequestId,
    /// The other end of the connection: the client, or a proxy.
    pub(super) peer: Address,
    /// The client, if the peer is a proxy: see `proxied_client.rs`. `None` in the usual case.
    pub(super) proxied_client: Option<Box<ProxiedClient>>,
    /// The type name of the request's handler, for messages and the list.
    pub(super) handler: &'static str,
    /// When the request was taken from the transport; its age counts from here.
    pub(super) accepted: Instant,
    /// How long the request waited in the kernel's accept queue, if the server measures that.
    pub(super) in_accept_queue: Option<Duration>,
}

impl Arrival {
    /// Makes the request's entry, in new memory. `connection` is `None` for a datagram. `counters` and `clear` are
    /// those of the request's slot.
    pub(super) fn entry(
        self,
        connection: Option<Arc<OwnedFd>>,
        limits: Arc<Limits>,
        counters: RequestCounters,
        clear: ClearCounters,
    ) -> Entry {
        Entry {
            arrival: self,
            counters,
            limits,
            clear,
            marks: Marks { has_connection: connection.is_some().into(), ..Marks::default() },
            connection: Mutex::new(connection),
        }
    }

    /// Makes the request's entry in the memory of `last`, the last entry of the same slot, which nobody holds any more.
    /// The entry keeps the rows of its slot in common memory, which are cleared.
    pub(super) fn replace(
        self,
        last: &mut Entry,
        new_connection: Option<Arc<OwnedFd>>,
        new_limits: &Arc<Limits>,
    ) {
        // All fields by name, so that none is forgotten.
        let Entry { arrival, counters, limits, clear, marks, connection } = last;
        *arrival = self;
        counters.renew();
        clear.renew();
        // Usually the limits are the same as before. Then their reference count, which all requests share, is not
        // written to.
        if !Arc::ptr_eq(limits, new_limits) {
            *limits = Arc::clone(new_limits);
        }
        *marks = Marks { has_connection: new_connection.is_some().into(), ..Marks::default() };
        *connection.get_mut() = new_connection;
    }
}

/// A slot of the list without a request. `slot` is its place in `Slots::entries`.
#[derive(Debug)]
pub(super) struct FreeSlot {
    pub(super) slot: usize,
    /// The entry of the slot's last request, kept for the next request, which then allocates nothing, and leaves the
    /// reference counts of limits and row alone. Under `Forking` this saves three written pages, each of which would be
    /// copied for the child.
    pub(super) last: Option<Arc<Entry>>,
}

/// How many slots keep the entry of their last request: some 500 KiB. A server that has once had more requests at once does
/// not keep that memory for ever.
const KEPT_ENTRIES: usize = 1_024;

impl FreeSlot {
    /// A slot that a request has left, with the entry of that request.
    pub(super) fn of(slot: usize, last: Arc<Entry>) -> Self {
        Self { slot, last: Some(last).filter(|last| slot < KEPT_ENTRIES && !last.is_large()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LiveList;
    use super::super::tests::request;
    use super::*;
    use crate::live::{Activity, CountStep, Cut};
    use crate::timed_out::Timeout;
    use std::io::ErrorKind;
    use std::net::Shutdown;

    #[test]
    fn nothing_of_a_request_is_left_to_the_next_one_in_its_place() {
        let accepted = Instant::now();
        let new = || Arrival {
            owner: RequestId { server: 1, request: 2 },
            peer: Address::Unnamed,
            proxied_client: None,
            handler: "Test",
            accepted,
            in_accept_queue: None,
        };
        let limits = Arc::new(Limits::default().read(Duration::from_secs(7)));
        let counters = || RequestCounters::new(None, 0);
        let clear = || ClearCounters::new(None, 0);
        let fresh = new().entry(None, Arc::clone(&limits), counters(), clear());

        let earlier = Arrival {
            owner: RequestId { server: 1, request: 1 },
            peer: "127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap().into(),
            proxied_client: Some(Box::new(ProxiedClient::new(None, 0))),
            handler: "Other",
            in_accept_queue: Some(Duration::from_secs(1)),
            ..new()
        };
        let connection = Some(Arc::new(std::fs::File::open("/dev/null").unwrap().into()));
        let mut entry = earlier.entry(connection, Arc::default(), counters(), clear());
        entry.set_activity(Activity::Sending);
        entry.add_bytes_in(5);
        entry.add_bytes_out(5);
        entry.begin_clear();
        entry.begin_preface();
        entry.begin_step(CountStep::End);
        entry.note_limit(Timeout::Read);
        entry.note_loss(ErrorKind::ConnectionReset);
        entry.lend();
        entry.set_wrapped();
        entry.begin_write_wait();
        entry.stop();
        entry.stop_events(|| false).unwrap();
        entry.shut_down(Cut::Forced, Shutdown::Both);
        entry.hand_over(1);
        entry.end();
        new().replace(&mut entry, None, &limits);
        assert_eq!(format!("{entry:?}"), format!("{fresh:?}"));
    }

    #[test]
    fn the_next_request_of_a_slot_takes_the_memory_that_nobody_holds() {
        let list = LiveList::new(Limits::default());
        let (first, ..) = request(&list);
        let place = Arc::as_ptr(&first.entry);
        list.leave(&first);
        let (second, ..) = request(&list);
        assert_ne!(Arc::as_ptr(&second.entry), place, "the first is still held");
        let place = Arc::as_ptr(&second.entry);
        list.leave(&second);
        drop(second);
        let (third, ..) = request(&list);
        assert_eq!((Arc::as_ptr(&third.entry), third.entry.id()), (place, 3));
    }
}
