//! [`Slots`]: the entries of a live list, and everything else that its lock guards.
//!
//! Invariant when unlocked: a slot is in `free` or has an entry, never both, and `peers` has counted each listed entry whose
//! client is known and has a key. (Under `Forking` with a proxy the children count: see `proxied_client.rs`.)
//!
//! A slot goes round: the list hands it to a request with [`take_free`](Slots::take_free), together with the entry of
//! its last request; `LiveList::leave` puts both back. Only `take_free` under `Forking` searches, in a short list.
//! Between two bursts of requests nothing is given back to the system: the list stays as long as it ever was.
//!
//! The number of a slot is also the number of its rows in the memory that children share. The parent clears a row
//! before the fork, the one child that serves the request writes to it, and the parent reads it. Only the parent uses
//! the number again, and not before it has reaped the child. So a row has one writer at a time. (Only the state of a
//! handshake has two: see the table in `clear_counters.rs`.)

use std::collections::{HashMap, hash_map};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::arrival::{Arrival, FreeSlot};
use super::clear_counters::{ClearCounters, ClearRows};
use super::counters::{RequestCounters, Rows};
use super::entry::Entry;
use super::peer_key::PeerKey;
use super::proxied_client::ClientRows;
use super::token_buckets::TokenBuckets;
use crate::address::Address;
use crate::events::Limit;
use crate::limits::Limits;

/// How many children can show their counters: more than any server forks. Only written pages take memory.
pub(super) const MAX_ROWS: usize = 4_096;

/// How many slots have memory from the beginning, if children serve: a list that grows is moved to other pages, which
/// the next child has to copy.
const INITIAL_SLOTS: usize = 16;

/// Everything that the lock of the list guards.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// A slot is free while it is `None`. The list never shrinks: it is as long as the highest number of requests
    /// that were ever alive at once.
    pub(super) entries: Vec<Option<Arc<Entry>>>,
    /// The free slots; all slots, while no request is alive. [`take_free`](Self::take_free) chooses one.
    pub(super) free: Vec<FreeSlot>,
    /// How many requests have ever entered. The last request has this number.
    pub(super) entered: u64,
    /// The limits of requests that enter from now on. Each entry has a reference to the limits under which it entered.
    pub(super) limits: Arc<Limits>,
    /// How many requests there are descriptors for, whatever `limits` says.
    pub(super) budget: usize,
    /// How many requests each peer has. Kept only while there is a limit on that number.
    pub(super) peers: Option<Peers>,
    /// How often each peer has connected lately. Kept only while there is a limit on that.
    pub(super) rates: Option<TokenBuckets>,
    /// The counters of each slot's request, if children serve the requests.
    pub(super) rows: Option<Arc<Rows>>,
    /// For each slot's request, the client behind a proxy, if children serve the requests. The first row belongs to no
    /// slot.
    pub(super) clients: Option<Arc<ClientRows>>,
    /// The counters of each slot's encrypted connection, if children serve the requests. The first row belongs to no
    /// slot.
    pub(super) clear: Option<Arc<ClearRows>>,
}

/// The role of a connection's peer, which decides how the limits per peer count it: at once, or when its client is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerIs {
    /// The client itself.
    Client,
    /// A proxy, which will name its client.
    Proxy,
}

/// How many live requests each peer has. A peer without live requests is not in the map, so the map is never larger
/// than the list.
#[derive(Debug)]
pub(super) struct Peers {
    /// `Limits::per_peer`, where it is lower than `Limits::live`.
    pub(super) max: usize,
    /// The number of requests of each peer. Peers over Unix sockets have no key and are not counted.
    pub(super) counts: HashMap<PeerKey, usize>,
}

impl Peers {
    /// Counts off a request of this peer, which has left the list. A peer without another request is forgotten.
    pub(super) fn count_off(&mut self, peer: PeerKey) {
        if let hash_map::Entry::Occupied(mut count) = self.counts.entry(peer) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Slots {
    /// The requests that are alive, in the order of their slots.
    pub(super) fn live(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().flatten()
    }

    /// Maps memory that children share with this process: when the server is made, and anew in a child that becomes a
    /// server of its own.
    ///
    /// # Errors
    ///
    /// If the memory cannot be mapped.
    pub(super) fn map_rows(&mut self) -> io::Result<()> {
        // Reserved now, and not while requests come: see `INITIAL_SLOTS` and `take_free`.
        self.entries.reserve(INITIAL_SLOTS);
        self.free.reserve(INITIAL_SLOTS);
        self.rows = Some(Arc::new(Rows::new(MAX_ROWS)?));
        self.clients = Some(Arc::new(ClientRows::new(MAX_ROWS + 1)?));
        self.clear = Some(Arc::new(ClearRows::new(MAX_ROWS + 1)?));
        self.rates = self.limits.peer_rate.map(TokenBuckets::common).transpose()?;
        Ok(())
    }

    /// Sets up the buckets of `Limits::peer_rate`, or removes them if there is no such limit. Every peer begins with a
    /// full bucket. If children serve, they take tokens from the same table; children that were forked earlier go on with
    /// the table and the rate of that time.
    pub(super) fn limit_rates(&mut self) {
        let have_children = self.rows.is_some();
        self.rates = self.limits.peer_rate.map(|rate| {
            let common = have_children.then(|| TokenBuckets::common(rate).ok()).flatten();
            // Without memory for a new table the parent at least counts the peers that it knows.
            common.unwrap_or_else(|| TokenBuckets::new(rate))
        });
    }

    /// Takes a slot for the next request: the last one freed, whose memory is still in the processor's cache. If
    /// children serve, it takes the lowest one: the entries in use then lie together, and a parent that forks again and
    /// again writes to fewer pages.
    pub(super) fn take_free(&mut self) -> FreeSlot {
        let free = match &self.rows {
            None => self.free.pop(),
            // This is a search, but the list is short: it is no longer than the highest number of children.
            Some(_) => {
                let first = (0..self.free.len()).min_by_key(|at| self.free[*at].slot);
                first.map(|at| self.free.swap_remove(at))
            }
        };
        free.unwrap_or_else(|| {
            self.entries.push(None);
            FreeSlot { slot: self.entries.len() - 1, last: None }
        })
    }

    /// How many requests are alive.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The entry of a new request, in a slot that was free. The caller puts it into the slot.
    pub(super) fn entry(
        &self,
        FreeSlot { slot, last }: FreeSlot,
        arrival: Arrival,
        connection: Option<Arc<OwnedFd>>,
    ) -> Arc<Entry> {
        if let Some(mut last) = last {
            // Others may hold the entry a little longer than the list: the request's own worker, and stop tokens.
            // `get_mut` succeeds only with the last reference, and no thread can take another one now: the list's own
            // reference is here.
            if let Some(place) = Arc::get_mut(&mut last) {
                arrival.replace(place, connection, &self.limits);
                return last;
            }
        }
        // The slot is also the row of the shared counters.
        let counters = RequestCounters::new(self.rows.as_ref(), slot);
        let clear = ClearCounters::new(self.clear.as_ref(), slot);
        Arc::new(arrival.entry(connection, Arc::clone(&self.limits), counters, clear))
    }

    /// Begins to count the requests of each peer, if `per_peer` is lower than `live`: otherwise no request can exceed it,
    /// and the map would cost time for nothing. Returns the maximum for one peer, if requests are counted.
    pub(super) fn limit_peers(&mut self) -> Option<usize> {
        let max = self.limits.per_peer_within(self.budget);
        let mut counts = HashMap::new();
        // The requests are counted anew from the list, which is right whatever was counted before.
        if max.is_some() {
            let counted = |entry: &Arc<Entry>| entry.counted_address().and_then(PeerKey::of);
            for key in self.live().filter_map(counted) {
                *counts.entry(key).or_default() += 1;
            }
        }
        self.peers = max.map(|max| Peers { max, counts });
        max
    }

    /// Counts one more request of a peer. Returns the limit that the request exceeds, if any.
    pub(super) fn count_peer(&mut self, peer: &Address, now: Instant) -> Option<Limit> {
        if self.peers.is_none() && self.rates.is_none() {
            return None;
        }
        // Peers over Unix sockets are all of this machine, and no limit holds for them.
        let key = PeerKey::of(peer)?;
        // A request that is refused is counted like any other, and `leave` takes it away again.
        self.admit_peer(key, now, |peers| {
            let count = peers.counts.entry(key).or_default();
            *count += 1;
            *count > peers.max
        })
    }

    /// Checks a further request of a peer against both limits for one peer. Returns the limit that the request exceeds, if
    /// any; if it exceeds both, the limit on the number of requests. `is_one_too_many` is called only if there is that
    /// limit.
    pub(super) fn admit_peer(
        &mut self,
        key: PeerKey,
        now: Instant,
        is_one_too_many: impl FnOnce(&mut Peers) -> bool,
    ) -> Option<Limit> {
        // Both limits are checked, so that a request that one of them refuses counts for the other too. The rate needs no
        // `leave`: a token comes back with time.
        let is_too_fast = self.rates.as_ref().is_some_and(|rates| !rates.admit(key, now));
        let is_one_too_many = self.peers.as_mut().is_some_and(is_one_too_many);
        match (is_one_too_many, is_too_fast) {
            (true, _) => Some(Limit::PerPeer),
            (false, true) => Some(Limit::PeerRate),
            (false, false) => None,
        }
    }
}
