//! [`RunState`]: whether a server runs, accepts, or has run; and [`DrainPhase`].

/// The progress of a server's runs.
///
/// | from | by | to |
/// |---|---|---|
/// | `Idle`, `Over` | `begin(kind)` | `Accepting(kind)` |
/// | `Accepting(OneRequest)` | `report_stop` | `Accepting(StopReported)` |
/// | `Accepting(kind)` | `leave_loop` of the last loop after a requested stop, or `end` | `Finishing(kind)` |
/// | `Finishing(Forever)` | `end` | `Over` |
/// | `Finishing(OneRequest)`, `Finishing(StopReported)` | `end` | `Idle` |
/// | `Accepting(_)`, `Finishing(_)` | `enter_process`, in a forked child | `Idle` |
///
/// Only `begin` leads to `Accepting`. Loops exist only in that state, except for the last one, which may just be
/// leaving. A run of `serve_forever` leaves `Over` behind, by which a handler that outlives the run knows that nothing
/// is accepted any more; a `handle_request` leaves `Idle`, because the next one follows.
///
/// `begin` fails in `Accepting`, waits for the end of `Finishing`, and fails for good once `close` has been called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RunState {
    /// No run goes on. Requests wait for the next run.
    #[default]
    Idle,
    /// A run goes on. It has loops that accept, or is about to have them.
    Accepting(RunKind),
    /// The last loop of the run has ended; the mixin may still run requests.
    Finishing(RunKind),
    /// The last `serve_forever` has ended, and no run has begun since.
    Over,
}

/// How long a run goes on. This also decides whether the end of the run ends the requested stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunKind {
    /// `serve_forever`: goes on until a stop, and that stop ends with the run.
    Forever,
    /// `handle_request`: goes on for one request. A stop that is requested meanwhile is kept for the next call.
    OneRequest,
    /// A `handle_request` that has reported the stop to its caller. The stop ends with it.
    StopReported,
}

impl RunState {
    /// Whether a run goes on whose last loop has not ended.
    pub(super) fn is_accepting(self) -> bool {
        matches!(self, Self::Accepting(_))
    }

    /// The run that goes on, if there is one.
    pub(super) fn kind(self) -> Option<RunKind> {
        match self {
            Self::Accepting(kind) | Self::Finishing(kind) => Some(kind),
            Self::Idle | Self::Over => None,
        }
    }
}

/// A stop that is requested while no run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StopBetweenRuns {
    /// The stop is kept for the first `serve_forever`: the thread that serves and the thread that stops it may come in
    /// any order.
    #[default]
    Kept,
    /// The stop is forgotten: there has been a `serve_forever`, and the next one begins as if nothing had been
    /// requested.
    Forgotten,
}

/// The progress of a drain. The phases are numbered in the order of time: a drain that is begun twice (by a signal and
/// by a close, say) keeps the later phase.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum DrainPhase {
    NotBegun,
    /// `is_stopping` is true for handlers. The drain still waits for a connection that has sent nothing.
    FirstReads,
    /// `Limits::first_read` has passed. The drain waits only for requests that have begun.
    FirstReadsOver,
}
