//! The arguments of the hooks that report: a [`Failure`] of a request, an [`AcceptFailure`] of the listener.
//!
//! Both live for one call of a hook, and borrow all that they have. Their `Display` is the text of the default report;
//! `report` is the default itself, with its exceptions, and `print` writes in any case. So a hook that adds to the default
//! need not know its rules.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use super::error_owner::ErrorOwner;
use crate::address::Address;
use crate::console::Console;
use crate::error::{HandlerError, chain};
use crate::events::Fault;
use crate::server_context::ServerContext;
use crate::transport::AcceptAction;

/// The step in which a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The hook `verify_request`.
    Verify,
    /// The start of a worker.
    Start,
    /// The transport's `make_request`.
    Make,
    /// The hook `wrap_request`.
    Wrap,
    /// The closure that makes the handler, or the handler's `setup`.
    Setup,
    /// The handler's `handle`.
    Handle,
    /// The handler's `finish`, or its drop.
    Finish,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verify => "verify_request",
            Self::Start => "starting a worker",
            Self::Make => "make_request",
            Self::Wrap => "wrap_request",
            Self::Setup => "setup",
            Self::Handle => "handle",
            Self::Finish => "finish",
        })
    }
}

/// A request that failed: the error, the step and the client. The argument of
/// [`handle_error`](crate::ServerHooks::handle_error). Its `Display` is the text of the default report.
pub struct Failure<'a> {
    pub(super) phase: Phase,
    /// The error that the program's code has returned, or a [`Panicked`](crate::hooks::Panicked).
    pub(super) error: &'a HandlerError,
    /// Decides whether the error comes from the request's own peer.
    pub(super) owner: ErrorOwner,
    /// The client: the one that a proxy has named, if it has named one by now; otherwise the peer.
    pub(super) client_address: &'a Address,
    /// The type name of the handler, known also for a request that failed before its handler was made.
    pub(super) handler: &'static str,
    /// Whether a subscriber of the facade `tracing` has taken the failure.
    pub(super) is_traced: bool,
}

impl Failure<'_> {
    /// The step in which the request failed.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The error itself. A panic is a [`Panicked`](crate::hooks::Panicked).
    #[must_use]
    pub fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &**self.error
    }

    /// The client of the request.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        self.client_address
    }

    /// The type name of the handler.
    #[must_use]
    pub fn handler(&self) -> &'static str {
        self.handler
    }

    /// Whether the request's own peer has gone away. Only errors of this request's own reads and writes count, not
    /// those of another connection that the handler uses. See [`PeerFault`](crate::request::PeerFault).
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        self.owner.is_disconnect(self.error())
    }

    /// Whether the failure is an everyday event, which [`report`](Self::report) does not print: the peer has gone away,
    /// has sent bytes that cannot be decoded, or has not completed its handshake. A line above its limit
    /// ([`LineTooLong`](crate::request::LineTooLong)) and a time limit ([`TimedOut`](crate::request::TimedOut)) are the
    /// peer's fault, but are printed (except in a handshake), because the limit may be too low.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let error = self.error();
        self.is_disconnect()
            || self.owner.is_garbled(error)
            // This condition is about the steps before the handler: the peer was too slow for the handshake, say, or sent
            // no valid PROXY header. Scanners cause many such failures, so a report of each would tell nothing new.
            || (self.phase == Phase::Wrap && self.owner.is_peers(error))
    }

    /// The side that caused the failure, as far as the error shows.
    #[must_use]
    pub fn fault(&self) -> Fault {
        // A request that could not be started failed by the system's error, not by its peer.
        if self.phase == Phase::Start {
            return Fault::Resource;
        }
        if self.owner.is_peers(self.error()) { Fault::Peer } else { Fault::Handler }
    }

    /// The default of [`handle_error`](crate::ServerHooks::handle_error): [`print`](Self::print), unless the failure
    /// [is quiet](Self::is_quiet) or a subscriber has taken it (`Builder::tracing`).
    pub fn report(&self) {
        if !self.is_quiet() && !self.is_traced {
            self.print();
        }
    }

    /// Writes the report to stderr: one block in one write, so that the blocks of several
    /// threads do not mix. It never waits for a reader: see [`Console`].
    pub fn print(&self) {
        Console::Stderr.tell(&format!("{RULE}\n{self}\n{RULE}\n"));
    }
}

/// The rule above and below a report, as long as that of Python's `handle_error`.
const RULE: &str = "----------------------------------------";

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client_address, phase, handler, .. } = self;
        match phase {
            // No code of the program has failed.
            Phase::Start => writeln!(f, "no worker for {client_address} (handler {handler}):")?,
            _ => writeln!(f, "{phase} failed for {client_address} (handler {handler}):")?,
        }
        f.write_str(&chain(self.error()))
    }
}

impl fmt::Debug for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

/// An error of accept and what the server does about it. The argument of
/// [`accept_error`](crate::ServerHooks::accept_error). Its `Display` is the text of the default report.
pub struct AcceptFailure<'a> {
    pub(super) error: &'a io::Error,
    /// The transport's decision.
    pub(super) action: AcceptAction,
    pub(super) server: &'a ServerContext,
    /// How often in a row resources have run out in this loop since it last accepted. Zero for a client that was
    /// skipped by a worker or a close.
    pub(super) in_a_row: u64,
    /// The length of the pause. Zero: the loop goes on at once.
    pub(super) pause: Duration,
    /// Whether a report is due. The loop's backoff decides that, and counts this report as made.
    pub(super) is_first_or_due: bool,
    /// Whether a subscriber of the facade `tracing` has taken the failure.
    pub(super) is_traced: bool,
}

impl AcceptFailure<'_> {
    /// The error.
    #[must_use]
    pub fn error(&self) -> &io::Error {
        self.error
    }

    /// The reaction of the server.
    #[must_use]
    pub fn action(&self) -> AcceptAction {
        self.action
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        self.server
    }

    /// How many times in a row resources have run out, including this failure if it is such a shortage.
    #[must_use]
    pub fn in_a_row(&self) -> u64 {
        self.in_a_row
    }

    /// How long the loop pauses now.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Whether it is time for a report. True for the first failure of a loop, and then again ten seconds after the
    /// last report that was due. Each `handle_request` counts as a new loop. False for an error that is skipped
    /// without a pause: such an error has cost one client, and is only counted.
    #[must_use]
    pub fn is_first_or_due(&self) -> bool {
        self.is_first_or_due
    }

    /// The default of [`accept_error`](crate::ServerHooks::accept_error): [`print`](Self::print), if a report [is
    /// due](Self::is_first_or_due) and no subscriber has taken the failure (`Builder::tracing`).
    pub fn report(&self) {
        if self.is_first_or_due && !self.is_traced {
            self.print();
        }
    }

    /// Writes one line to stderr, even when descriptors have run out. It never waits for a reader: see [`Console`].
    pub fn print(&self) {
        Console::Stderr.tell(&format!("{self}\n"));
    }
}

impl fmt::Display for AcceptFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, which names what to look at: the address, the system's error, and how long clients wait.
        let address = self.server.server_address();
        write!(f, "cannot accept at {address}: {}; trying again in {:?}", self.error, self.pause)?;
        if self.in_a_row > 1 {
            write!(f, " ({} times in a row)", self.in_a_row)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AcceptFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcceptFailure({self})")
    }
}
