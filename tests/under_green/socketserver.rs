//! The library as its tests see it here. It has the same names, but `Green` runs behind those of `Threading` and of the
//! servers without a mixin in their name.
//!
//! A test of `tests/it` whose handler blocks its thread, or that is about the threads of `Threading` themselves, is
//! ignored here, by `cfg_attr(under_green, ignore = "why")`; `tests/it/checklist/README.md` lists them.

#![allow(missing_docs, reason = "the library's own documentation has them")]

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use library::mixin::{Job, Mixin, WhenFull, WorkerFigures};
use library::transport::{Tcp, Udp, UnixDatagram, UnixStream};

pub use library::*;

/// `Green`, with the setters of `Threading`.
#[derive(Debug, Default)]
pub struct Threading {
    green: Green,
}

impl Threading {
    /// A mixin with as many workers as there are processors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of workers, at most 64. The tests that count on a limit of requests are ignored.
    #[must_use]
    pub fn max_threads(mut self, max: usize) -> Self {
        self.green = self.green.workers(max.min(64));
        self
    }

    /// Sets the size of a handler's stack, within what a debug build needs and a test may take.
    #[must_use]
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.green = self.green.stack_bytes(bytes.clamp(256 << 10, 1 << 20));
        self
    }
}

/// Setters of which `Green` has no counterpart. The tests that are about them are ignored: here they only compile.
impl Threading {
    #[must_use]
    pub fn keep(self, _time: Duration) -> Self {
        self
    }

    #[must_use]
    pub fn daemon_threads(self, _daemon: bool) -> Self {
        self
    }

    #[must_use]
    pub fn when_full(self, _when_full: WhenFull) -> Self {
        self
    }

    #[must_use]
    pub fn block_on_close(self, _block: bool) -> Self {
        self
    }

    #[must_use]
    pub fn thread_name(self, _name: impl Into<String>) -> Self {
        self
    }

    #[must_use]
    pub fn on_thread_start(self, _hook: impl Fn() + Send + Sync + 'static) -> Self {
        self
    }

    #[must_use]
    pub fn on_thread_stop(self, _hook: impl Fn() + Send + Sync + 'static) -> Self {
        self
    }
}

impl Mixin for Threading {
    fn check(&self) -> Result<()> {
        self.green.check()
    }

    fn serve(&self, accept_loop: Arc<dyn Fn() -> Result<()> + Send + Sync>) -> Result<()> {
        self.green.serve(accept_loop)
    }

    fn process_request(&self, job: Job) {
        self.green.process_request(job);
    }

    fn ready(&self) -> bool {
        self.green.ready()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.green.event_fd()
    }

    fn service_actions(&self) {
        self.green.service_actions();
    }

    fn block_on_close(&self) -> bool {
        self.green.block_on_close()
    }

    fn workers_accept(&self) -> bool {
        self.green.workers_accept()
    }

    fn figures(&self) -> WorkerFigures {
        self.green.figures()
    }

    fn drain(&self, deadline: Instant) {
        self.green.drain(deadline);
    }

    fn force(&self) {
        self.green.force();
    }

    fn server_close(&self, deadline: Instant) {
        self.green.server_close(deadline);
    }
}

pub type TcpServer = Server<Tcp, Threading>;
pub type UdpServer = Server<Udp, Threading>;
pub type UnixStreamServer = Server<UnixStream, Threading>;
pub type UnixDatagramServer = Server<UnixDatagram, Threading>;
pub type ThreadingTcpServer = Server<Tcp, Threading>;
pub type ThreadingUdpServer = Server<Udp, Threading>;
pub type ThreadingUnixStreamServer = Server<UnixStream, Threading>;
pub type ThreadingUnixDatagramServer = Server<UnixDatagram, Threading>;

/// The documents that show servers and handlers: their blocks are compiled and run with `Green`, but for those that
/// `build.rs` leaves out.
pub mod documents {
    #[doc = include_str!(concat!(env!("OUT_DIR"), "/guide.md"))]
    pub mod guide {}
    #[doc = include_str!(concat!(env!("OUT_DIR"), "/porting.md"))]
    pub mod porting {}
    #[doc = include_str!(concat!(env!("OUT_DIR"), "/README.md"))]
    pub mod readme {}
}
