//! [`Figures`]: the state of a server in numbers, for operators.
//!
//! ```text
//! clients -> accept queue (kernel) -> live requests: queued -> busy workers
//!            or receive buffer        Limits::live     Pool::queue   Pool::new, max_threads, max_children
//! ```
//!
//! Figures are collected when somebody asks for them, and cost a server nothing before that. `server_context.rs` puts
//! them together: from the live list, from the mixin and the listener ([`FigureSource`]), and from the kernel.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How much of something is in use, and how much of it there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fill {
    /// In use now. It may be above `max` for a moment, or after `max` was lowered.
    pub used: u64,
    /// The most that there may be. `None`: no maximum.
    pub max: Option<u64>,
}

impl Fill {
    /// Makes a fill, for figures of your own.
    #[must_use]
    pub fn new(used: u64, max: Option<u64>) -> Self {
        Self { used, max }
    }

    /// The part in use: 0 to 1, and more while `used` is above `max`. `None` without a maximum.
    #[must_use]
    pub fn share(self) -> Option<f64> {
        let max = self.max?;
        // A maximum of zero counts as full.
        Some(if max == 0 { 1.0 } else { self.used as f64 / max as f64 })
    }
}

/// As `3 of 8`, or `3` without a maximum.
impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            Some(max) => write!(f, "{} of {max}", self.used),
            None => self.used.fmt(f),
        }
    }
}

/// The workers and the queue of a mixin now. `None` stands for a number that the mixin does not know or does not
/// have.
///
/// ```
/// use socketserver::mixin::WorkerFigures;
///
/// let mut figures = WorkerFigures::default();
/// figures.busy = Some(3);
/// figures.max_busy = Some(8);
/// # let _ = figures;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerFigures {
    /// Workers that run a request.
    pub busy: Option<usize>,
    /// Workers without a request: threads that are kept for the next one.
    pub idle: Option<usize>,
    /// Requests that wait for a worker.
    pub queued: Option<usize>,
    /// How many requests may run at once.
    pub max_busy: Option<usize>,
    /// How many requests may wait at once.
    pub max_queued: Option<usize>,
}

/// A server in numbers, at the moment of the call of [`ServerContext::figures`](crate::ServerContext::figures). Its
/// `Display` is one line. A number that comes from the kernel is `None` where the kernel does not report it.
///
/// ```
/// use socketserver::{PoolTcpServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// let server = PoolTcpServer::bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
/// let figures = server.context().figures();
/// println!("{figures}");
/// assert_eq!(figures.busy.used, 0);
/// if figures.busy.share().is_some_and(|share| share > 0.9) {
///     eprintln!("nearly all workers are busy");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Figures {
    /// Requests that are queued or running. The maximum is `Limits::live`, or the number of requests that the process
    /// has descriptors for, or that the workers of `Green` have room for, if one of these is lower. At the maximum
    /// nothing is accepted.
    pub live: Fill,
    /// Workers that run a request. The maximum is that of `Pool::new`, `Threading::max_threads` or
    /// `Forking::max_children`.
    pub busy: Fill,
    /// Workers that are kept for the next request: threads of `Pool` and `Threading`.
    pub idle: Option<u64>,
    /// Requests that were accepted and wait for a worker. The maximum is `Pool::queue`.
    pub queued: Fill,
    /// Clients that have connected and wait in the kernel to be accepted. The maximum is `request_queue_size`, as far
    /// as the system allows that (`net.core.somaxconn`). Stream sockets on Linux.
    pub accept_queue: Option<Fill>,
    /// Attempts to connect that the kernel has dropped since the listener was made, because the accept queue was full
    /// or for another cause. A client tries again after a second, and each attempt counts. TCP on Linux.
    pub accept_drops: Option<u64>,
    /// Bytes of datagrams in the kernel's receive buffer, with the kernel's own overhead. The maximum is
    /// `SocketOptions::recv_buffer_bytes`. UDP on Linux.
    pub receive_buffer: Option<Fill>,
    /// Datagrams that the kernel has dropped since the socket was made, because the receive buffer was full or the
    /// datagram was damaged. UDP on Linux.
    pub datagram_drops: Option<u64>,
    /// Open descriptors of the whole process. The maximum is its soft limit (RLIMIT_NOFILE). Linux.
    pub descriptors: Option<Fill>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} live, {} busy", self.live, self.busy)?;
        self.idle.map_or(Ok(()), |idle| write!(f, ", {idle} idle"))?;
        write!(f, ", {} queued", self.queued)?;
        let optional = [
            (self.accept_queue, "in the accept queue"),
            (self.receive_buffer, "bytes in the receive buffer"),
            (self.descriptors, "descriptors"),
        ];
        for (fill, what) in optional {
            fill.map_or(Ok(()), |fill| write!(f, ", {fill} {what}"))?;
        }
        for drops in [self.accept_drops, self.datagram_drops].into_iter().flatten() {
            write!(f, ", {drops} dropped")?;
        }
        Ok(())
    }
}

/// Figures from the parts of a server whose types the server's context does not know: the mixin and the listener. The
/// source keeps neither of them alive.
pub(crate) trait FigureSource: Send + Sync {
    /// The mixin's figures. `None`: the server is gone.
    fn workers(&self) -> Option<WorkerFigures>;
    /// The listener, for questions to the kernel about its queue. `None`: it is closed.
    fn listener(&self) -> Option<Arc<OwnedFd>>;
}

impl fmt::Debug for dyn FigureSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FigureSource")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_known_and_no_more() {
        let mut figures = Figures { live: Fill::new(3, Some(9)), ..Figures::default() };
        assert_eq!(figures.to_string(), "3 of 9 live, 0 busy, 0 queued");
        figures.idle = Some(2);
        figures.accept_queue = Some(Fill::new(1, Some(128)));
        figures.accept_drops = Some(4);
        let line = "3 of 9 live, 0 busy, 2 idle, 0 queued, 1 of 128 in the accept queue, 4 dropped";
        assert_eq!(figures.to_string(), line);
    }

    #[test]
    fn a_share_needs_a_maximum_and_none_of_it_is_all_of_it() {
        assert_eq!(Fill::new(3, Some(4)).share(), Some(0.75));
        assert_eq!(Fill::new(3, None).share(), None);
        assert_eq!(Fill::new(0, Some(0)).share(), Some(1.0));
    }
}
