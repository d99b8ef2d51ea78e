//! [`RunPhase`]: how far a server is on its way from its bind to its end.
//!
//! The phase is for programs and operators. The loops use the state of `shutdown/run_state.rs`, which distinguishes more:
//! the phase `Bound`, for example, is that of a server before its first run and of one between two runs.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// How far a server is on its way from its bind to its end, for the hook
/// [`run_phase`](crate::ServerHooks::run_phase), for observers
/// ([`PhaseReached`](crate::monitor::ServerEvent::PhaseReached)) and for
/// [`ServerContext::run_phase`](crate::ServerContext::run_phase).
///
/// | phase | new clients | lasts, at most | its own hook and event |
/// |---|---|---|---|
/// | `Bound` | wait in the accept queue | until a run begins | [`server_activated`](crate::ServerHooks::server_activated) |
/// | `Ready` | are served | until a stop | [`ready`](crate::ServerHooks::ready), [`Ready`](crate::monitor::ServerEvent::Ready) |
/// | `LameDuck` | are served | [`Limits::lame_duck`](field@crate::Limits::lame_duck) | [`stopping`](crate::ServerHooks::stopping), [`Stopping`](crate::monitor::ServerEvent::Stopping) |
/// | `Closed` | are refused; those in the accept queue are served | a moment | |
/// | `Draining` | are refused | [`Limits::drain`](field@crate::Limits::drain) | |
/// | `Forced` | are refused | 75 ms | |
/// | `Ended` | are refused | | |
///
/// The phases come in this order, and each is reported once; `Forced` is left out if nothing had to be forced. A
/// phase's own hook comes first, and `run_phase` after it. If a stop begins while the hook `ready` still runs,
/// `LameDuck` may be reported before the hook `stopping` has returned. A phase may last no time at all.
///
/// A server that stops accepting without being closed (by [`shutdown`](crate::Server::shutdown) alone) is `Bound` again when
/// its run has ended, and `Ready` with the next one. [`handle_request`](crate::Server::handle_request) changes no phase.
/// A close that waits for nothing ends with `Draining`; see [`server_close_within`](crate::Server::server_close_within).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum RunPhase {
    /// The server listens, and nothing is served yet.
    Bound,
    /// The server serves.
    Ready,
    /// The server is about to close and says so ([`is_ready`](crate::ServerContext::is_ready) is false), and still
    /// serves. A balancer that asks for its health then sends clients elsewhere before they would be refused.
    LameDuck,
    /// The server accepts nothing more, and its listener is closed.
    Closed,
    /// Running requests have until the end of the grace period.
    Draining,
    /// The grace period is over, and the connections of requests that were left are shut down.
    Forced,
    /// The close has ended everything, and is about to return its report.
    Ended,
}

impl RunPhase {
    /// All phases, in the order of their numbers: a cell holds a number, and `get` looks the phase up here. A test
    /// checks the order.
    const ALL: [Self; 7] = [
        Self::Bound,
        Self::Ready,
        Self::LameDuck,
        Self::Closed,
        Self::Draining,
        Self::Forced,
        Self::Ended,
    ];
}

impl fmt::Display for RunPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bound => "bound",
            Self::Ready => "ready",
            Self::LameDuck => "lame duck",
            Self::Closed => "closed to new clients",
            Self::Draining => "draining",
            Self::Forced => "forced",
            Self::Ended => "ended",
        })
    }
}

/// The phase of a server. A signal's action may read it. It changes under the lock of the server's `PhaseQueue` alone, so
/// that the reports have the order of the changes; a reader sees the newest one, which may not be reported yet.
#[derive(Debug, Default)]
pub(crate) struct PhaseCell(AtomicU8);

impl PhaseCell {
    /// The phase now.
    pub(crate) fn get(&self) -> RunPhase {
        RunPhase::ALL[usize::from(self.0.load(Ordering::SeqCst))]
    }

    /// Goes on to a phase. Returns false if this phase, or a later one, has been reached before.
    pub(crate) fn advance(&self, to: RunPhase) -> bool {
        // One atomic step compares and stores: of two threads that reach the same phase, only one gets true.
        self.0.fetch_max(to as u8, Ordering::SeqCst) < to as u8
    }

    /// Goes back to `Bound` at the end of a run, unless the server is closing. Returns whether the phase was `Ready`.
    pub(crate) fn go_back(&self) -> bool {
        let (ready, bound) = (RunPhase::Ready as u8, RunPhase::Bound as u8);
        // A close may be going on, and has then reached a later phase, which stays.
        self.0.compare_exchange(ready, bound, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_is_reached_once_and_in_order() {
        for (number, phase) in RunPhase::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(phase as u8), number);
        }
        let cell = PhaseCell::default();
        assert!(cell.get() == RunPhase::Bound && !cell.advance(RunPhase::Bound));
        assert!(cell.advance(RunPhase::Ready) && cell.go_back() && cell.advance(RunPhase::Ready));
        assert!(cell.advance(RunPhase::Draining) && !cell.advance(RunPhase::Closed));
        assert!(!cell.go_back());
        assert_eq!(cell.get(), RunPhase::Draining);
    }
}
