//! The part of a server that does not depend on its types: what a handler sees as
//! [`request.server()`](crate::StreamRequest::server), and what workers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use crate::address::Address;
use crate::limits::{Gate, Limits};
use crate::live::{LiveList, LiveRequest};
use crate::shutdown::{Runs, ShutdownHandle};

/// A server, as its handlers and hooks see it: Python's `self.server`, without the types.
#[derive(Debug)]
pub struct ServerContext {
    pub(crate) runs: Arc<Runs>,
    pub(crate) live: Arc<LiveList>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) counters: Counters,
    limits: RwLock<Limits>,
    address: RwLock<Address>,
    started: Instant,
    /// This process must stay one of one thread.
    forks: bool,
    /// This process is a child that serves one request and ends.
    in_child: AtomicBool,
}

impl ServerContext {
    pub(crate) fn new(address: Address, limits: Limits, forks: bool) -> std::io::Result<Self> {
        Ok(Self {
            runs: Arc::new(Runs::new()?),
            live: Arc::default(),
            gate: Gate::new(limits.live)?,
            counters: Counters::default(),
            limits: RwLock::new(limits),
            address: RwLock::new(address),
            started: Instant::now(),
            forks,
            in_child: AtomicBool::new(false),
        })
    }

    /// From here on this process is a forked child, which serves one request.
    pub(crate) fn enter_child(&self) {
        self.in_child.store(true, Ordering::SeqCst);
    }

    /// Who reads on for a peer that has not read its answer yet.
    pub(crate) fn lingering(&self) -> Lingering {
        if crate::wait::is_parked_here() || self.in_child.load(Ordering::SeqCst) {
            Lingering::Here
        } else if self.forks {
            Lingering::Nobody
        } else {
            Lingering::Elsewhere
        }
    }

    /// Where the server listens. A server that was bound to port 0 shows its real port here.
    #[must_use]
    pub fn server_address(&self) -> Address {
        self.address.read().clone()
    }

    pub(crate) fn set_address(&self, address: Address) {
        *self.address.write() = address;
    }

    /// The limits in force for new requests.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.limits.read()
    }

    /// Changes the limits of the live server. Requests that run already keep theirs.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write() = limits;
        self.gate.set_max(limits.live);
    }

    /// The requests that are alive now, in no particular order. Takes a lock that accepting takes as
    /// well: ask at a human pace.
    #[must_use]
    pub fn live(&self) -> Vec<LiveRequest> {
        self.live.view()
    }

    /// How many requests are alive now.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Ends one live connection, by the number that [`live`](Self::live) gave it: its handler's reads
    /// and writes return at once. False if it has ended already, or has no connection of its own.
    pub fn close_live(&self, id: u64) -> bool {
        self.live.close(id)
    }

    /// The counts since the server was made.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// When the server was made.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether a drain has begun: the server takes nothing new, and a long handler should come to
    /// its end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.runs.is_draining()
    }

    /// A handle that stops the server. A handler may use it on its own server.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle::new(Arc::clone(&self.runs))
    }
}

/// Who reads on for a peer that has not read its answer yet: see `linger.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lingering {
    /// The worker: it is a coroutine, or a child that has nothing else to do.
    Here,
    /// A thread for all.
    Elsewhere,
    /// It is the parent of forked children: it must start no thread, and has no time.
    Nobody,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a server has counted since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            $(pub(crate) fn $name(&self) {
                self.$name.fetch_add(1, Ordering::Relaxed);
            })*

            fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Requests taken from the transport: connections accepted, datagrams received.
    accepted,
    /// Requests whose handler returned without an error.
    completed,
    /// Requests whose handler failed, other than in one of the ways below.
    failed,
    /// Requests whose peer went away before the handler had done with it.
    disconnected,
    /// Requests whose peer was silent for the idle limit.
    idle,
    /// Requests that a drain ended.
    stopped,
    /// Requests whose handler panicked.
    panicked,
    /// Requests that `verify_request` turned away.
    rejected,
    /// Requests that no worker could take.
    refused,
    /// Requests handed to another process.
    released,
    /// Attempts to accept that failed.
    accept_errors,
    /// Connections closed unanswered because descriptors had run out.
    shed,
}
