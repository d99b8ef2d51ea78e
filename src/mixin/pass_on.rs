//! `pass_on`: a mixin whose methods are those of another one.

use super::Mixin;

/// Forwards all methods of [`Mixin`] to another mixin.
macro_rules! pass_on {
    ($this:ident => $to:expr) => {
        fn check(&$this) -> $crate::Result<()> {
            $to.check()
        }

        fn prepare(&$this) -> $crate::Result<()> {
            $to.prepare()
        }

        fn serve(
            &$this,
            accept_loop: std::sync::Arc<dyn Fn() -> $crate::Result<()> + Send + Sync>,
        ) -> $crate::Result<()> {
            $to.serve(accept_loop)
        }

        fn process_request(&$this, job: $crate::mixin::Job) {
            $to.process_request(job);
        }

        fn ready(&$this) -> bool {
            $to.ready()
        }

        fn event_fd(&$this) -> Option<std::os::fd::BorrowedFd<'_>> {
            $to.event_fd()
        }

        fn service_actions(&$this) {
            $to.service_actions();
        }

        fn block_on_close(&$this) -> bool {
            $to.block_on_close()
        }

        fn forks(&$this) -> bool {
            $to.forks()
        }

        fn workers_accept(&$this) -> bool {
            $to.workers_accept()
        }

        fn figures(&$this) -> $crate::mixin::WorkerFigures {
            $to.figures()
        }

        fn drain(&$this, deadline: std::time::Instant) {
            $to.drain(deadline);
        }

        fn force(&$this) {
            $to.force();
        }

        fn server_close(&$this, deadline: std::time::Instant) {
            $to.server_close(deadline);
        }
    };
}

pub(super) use pass_on;

impl<M: Mixin + ?Sized> Mixin for Box<M> {
    pass_on!(self => (**self));
}
