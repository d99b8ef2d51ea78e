//! `delegate`: a macro by which a mixin forwards all its methods to another one.

use super::Mixin;

/// Forwards all methods of [`Mixin`] to another mixin. A new method of the trait needs a line here: without one,
/// [`Threading`](super::Threading) and [`Pool`](super::Pool) would have the trait's default, and the compiler would not warn.
macro_rules! delegate {
    ($this:ident => $to:expr) => {
        $crate::mixin::delegate::delegate! { @each $this, $to;
            fn check() -> $crate::Result<()>;
            fn prepare() -> $crate::Result<()>;
            fn serve(
                accept_loop: std::sync::Arc<dyn Fn() -> $crate::Result<()> + Send + Sync>
            ) -> $crate::Result<()>;
            fn process_request(job: $crate::mixin::Job) -> ();
            fn ready() -> bool;
            fn event_fd() -> Option<std::os::fd::BorrowedFd<'_>>;
            fn service_actions() -> ();
            fn block_on_close() -> bool;
            fn forks() -> bool;
            fn workers_accept() -> bool;
            fn figures() -> $crate::mixin::WorkerFigures;
            fn drain(deadline: std::time::Instant) -> ();
            fn force() -> ();
            fn server_close(deadline: std::time::Instant) -> ();
        }
    };
    (@each $this:ident, $to:expr; $(fn $name:ident($($arg:ident: $type:ty)?) -> $result:ty;)*) => {
        $(fn $name(&$this, $($arg: $type)?) -> $result {
            $to.$name($($arg)?)
        })*
    };
}

pub(super) use delegate;

impl<M: Mixin + ?Sized> Mixin for Box<M> {
    delegate!(self => (**self));
}
