//! [`RunState`]: where a server is between two runs, and [`DrainPhase`].

/// Where the server is between two runs.
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
/// `begin` fails in `Accepting`, waits for the end of `Finishing`, and fails for good once `close` has been called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RunState {
    /// No run goes on. Requests wait for the next one.
    #[default]
    Idle,
    /// A run goes on, and has loops that accept, or is about to have them.
    Accepting(RunKind),
    /// Its last loop has ended; the mixin may still run requests.
    Finishing(RunKind),
    /// The last `serve_forever` has ended, and no run has begun since.
    Over,
}

/// How long a run goes on, which also decides whether its end is the end of the stop that was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunKind {
    /// `serve_forever`: until a stop, which ends with it.
    Forever,
    /// `handle_request`: for one request. A stop that is requested meanwhile is kept for the next call.
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
    /// It stops the first `serve_forever`: the thread that serves and the one that stops it may come in any order.
    #[default]
    Kept,
    /// There has been a `serve_forever`, and the next one begins as if nothing had been requested.
    Forgotten,
}

/// How far a drain is.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum DrainPhase {
    NotBegun,
    /// `is_stopping` is true for handlers. A connection that has sent nothing is waited for still.
    FirstReads,
    /// `Limits::first_read` has passed, and nothing is waited for that has not begun.
    FirstReadsOver,
}
