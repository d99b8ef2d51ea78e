//! The memory of all listings that are being made or wait to be sent. It bounds the cost of clients that ask for
//! listings and do not read them, whatever their number.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The bytes of all listings together: enough for about a hundred full pages that nobody reads, or for forty first pages that
/// are being made.
const BYTES: usize = 64 * 1024 * 1024;

/// The bytes of one address's listings, so that other addresses get theirs.
const BYTES_OF_ONE: usize = BYTES / 4;

/// How long a request waits for memory before it is answered with 503.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many bytes are in use.
#[derive(Default)]
pub struct Budget {
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Default)]
struct Used {
    all: usize,
    /// The bytes of each address that uses any.
    of_one: HashMap<Peer, usize>,
}

/// An address, or for IPv6 the network of one customer. All peers on Unix sockets count as one.
type Peer = Option<IpAddr>;

/// A part of the budget, given back when it is dropped.
pub struct Share<'a> {
    budget: &'a Budget,
    peer: Peer,
    bytes: usize,
}

impl Budget {
    /// Takes `bytes` of the budget. Returns `None` if they do not become free in time. A request for more than the whole
    /// budget succeeds when nothing else is in use.
    pub fn take(&self, bytes: usize, peer: Option<IpAddr>) -> Option<Share<'_>> {
        let peer = peer.map(network);
        let until = Instant::now() + PATIENCE;
        let mut used = self.used.lock();
        while !used.has_room(bytes, peer) {
            if self.freed.wait_until(&mut used, until).timed_out() && !used.has_room(bytes, peer) {
                return None;
            }
        }
        used.add(bytes, peer);
        Some(Share { budget: self, peer, bytes })
    }

    fn give_back(&self, bytes: usize, peer: Peer) {
        let mut used = self.used.lock();
        used.all -= bytes;
        if let Some(of_one) = used.of_one.get_mut(&peer) {
            *of_one -= bytes;
            if *of_one == 0 {
                used.of_one.remove(&peer);
            }
        }
        self.freed.notify_all();
    }
}

impl Used {
    fn has_room(&self, bytes: usize, peer: Peer) -> bool {
        let of_one = self.of_one.get(&peer).copied().unwrap_or(0);
        let fits = |used: usize, most: usize| used == 0 || used + bytes <= most;
        fits(self.all, BYTES) && fits(of_one, BYTES_OF_ONE)
    }

    fn add(&mut self, bytes: usize, peer: Peer) {
        self.all += bytes;
        *self.of_one.entry(peer).or_default() += bytes;
    }
}

impl Share<'_> {
    /// Corrects the share to the size of the finished page. A page that is larger than estimated does not wait; later
    /// pages do.
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.used.lock().add(bytes - self.bytes, self.peer);
        } else {
            self.budget.give_back(self.bytes - bytes, self.peer);
        }
        self.bytes = bytes;
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes, self.peer);
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) if !six.is_loopback() && !six.is_unicast_link_local() => {
            IpAddr::V6((u128::from(six) >> 64 << 64).into())
        }
        address => address,
    }
}
