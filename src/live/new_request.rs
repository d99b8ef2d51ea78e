//! [`NewRequest`]: the values that a request enters the list with, and how it gets its entry.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Entry;
use super::by_proxy::ByProxy;
use super::clear::ClearCounters;
use super::counters::RequestCounters;
use crate::address::Address;
use crate::limits::Limits;
use crate::peer_fault::RequestId;

/// A request that is accepted and not run yet. See [`Entry`] for its parts.
pub(super) struct NewRequest {
    pub(super) owner: RequestId,
    pub(super) peer: Address,
    pub(super) by_proxy: Option<Box<ByProxy>>,
    pub(super) handler: &'static str,
    pub(super) accepted: Instant,
    pub(super) in_accept_queue: Option<Duration>,
    /// None for a datagram.
    pub(super) connection: Option<Arc<OwnedFd>>,
}

impl NewRequest {
    /// Its entry.
    pub(super) fn entry(
        self,
        limits: Arc<Limits>,
        counters: RequestCounters,
        clear: ClearCounters,
    ) -> Entry {
        let Self { owner, peer, by_proxy, handler, accepted, in_accept_queue, connection } = self;
        Entry {
            owner,
            peer,
            by_proxy,
            handler,
            accepted,
            in_accept_queue,
            counters,
            limits,
            preface: AtomicU64::new(0),
            seen: Mutex::new(None),
            is_lent: AtomicBool::new(false),
            cut: AtomicU8::new(0),
            clear,
            wrapped: AtomicBool::new(false),
            waits_to_write: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            rare: OnceLock::new(),
            lost: AtomicU8::new(0),
            has_connection: connection.is_some(),
            connection: Mutex::new(connection),
            process: AtomicI32::new(0),
        }
    }

    /// Its entry, in the memory of the last entry of the same slot, which nobody holds any more.
    pub(super) fn replace(self, last: &mut Entry, new_limits: &Arc<Limits>) {
        let new = self;
        // All of them by name, so that none is forgotten.
        let Entry {
            owner,
            peer,
            by_proxy,
            handler,
            accepted,
            in_accept_queue,
            counters,
            limits,
            preface,
            seen,
            is_lent,
            cut,
            clear,
            wrapped,
            waits_to_write,
            stopped,
            ended,
            rare,
            lost,
            connection,
            has_connection,
            process,
        } = last;
        (*owner, *peer, *by_proxy) = (new.owner, new.peer, new.by_proxy);
        (*handler, *accepted) = (new.handler, new.accepted);
        *in_accept_queue = new.in_accept_queue;
        counters.renew();
        clear.renew();
        // Mostly they are the same.
        if !Arc::ptr_eq(limits, new_limits) {
            *limits = Arc::clone(new_limits);
        }
        *preface.get_mut() = 0;
        *seen.get_mut() = None;
        for flag in [is_lent, wrapped, waits_to_write, stopped, ended] {
            *flag.get_mut() = false;
        }
        (*cut.get_mut(), *lost.get_mut(), *process.get_mut()) = (0, 0, 0);
        *rare = OnceLock::new();
        *has_connection = new.connection.is_some();
        *connection.get_mut() = new.connection;
    }
}

/// A slot of the list without a request.
#[derive(Debug)]
pub(super) struct FreeSlot {
    pub(super) slot: usize,
    /// The entry of its last request, kept for the next one, which then allocates nothing, and does not change the
    /// reference counts of limits and row. Under `Forking` this saves three written pages, each of which the child
    /// would have to copy.
    pub(super) last: Option<Arc<Entry>>,
}

/// How many slots keep the entry of their last request: some 500 KiB.
const KEPT: usize = 1_024;

impl FreeSlot {
    /// A slot that a request has left.
    pub(super) fn of(slot: usize, last: Option<Arc<Entry>>) -> Self {
        Self { slot, last: last.filter(|last| slot < KEPT && !last.is_large()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LiveList;
    use super::super::tests::request;
    use super::*;
    use crate::live::{Activity, Cut, Step};
    use crate::timed_out::Timeout;
    use std::io::ErrorKind;
    use std::net::Shutdown;

    #[test]
    fn nothing_of_a_request_is_left_to_the_next_one_in_its_place() {
        let accepted = Instant::now();
        let new = || NewRequest {
            owner: RequestId { server: 1, request: 2 },
            peer: Address::Unnamed,
            by_proxy: None,
            handler: "Test",
            accepted,
            in_accept_queue: None,
            connection: None,
        };
        let limits = Arc::new(Limits::default().read(Duration::from_secs(7)));
        let counters = || RequestCounters::new(None, 0);
        let fresh = new().entry(Arc::clone(&limits), counters(), ClearCounters::new(None, 0));

        let earlier = NewRequest {
            owner: RequestId { server: 1, request: 1 },
            peer: "127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap().into(),
            by_proxy: Some(Box::new(ByProxy::new(None, 0))),
            handler: "Other",
            in_accept_queue: Some(Duration::from_secs(1)),
            connection: Some(Arc::new(std::fs::File::open("/dev/null").unwrap().into())),
            ..new()
        };
        let clear = ClearCounters::new(None, 0);
        let mut entry = earlier.entry(Arc::default(), counters(), clear);
        entry.set_activity(Activity::Sending);
        entry.add_bytes_in(5);
        entry.add_bytes_out(5);
        entry.begin_clear();
        entry.begin_preface();
        entry.begin_step(Step::End);
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
        new().replace(&mut entry, &limits);
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
