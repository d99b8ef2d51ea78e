//! [`FigureParts`]: where a server's context gets the figures of the parts whose types it does not know.
//!
//! Any thread may ask at any time, even while the server is being dropped: a reference is upgraded only for the length
//! of one call. If it has become the last one by then, the thread that has asked drops the part.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use super::Core;
use crate::figures::{FigureSource, WorkerFigures};
use crate::mixin::Mixin;
use crate::transport::Transport;

/// The server's mixin and its listener. Weak: the context, which has this, is a part of the core.
pub(super) struct FigureParts<T: Transport, M> {
    /// The core, whose transport knows the listener.
    pub(super) core: Weak<Core<T>>,
    /// The mixin, which knows the workers and their queue.
    pub(super) mixin: Weak<M>,
}

impl<T: Transport, M: Mixin> FigureSource for FigureParts<T, M> {
    fn workers(&self) -> Option<WorkerFigures> {
        self.mixin.upgrade().map(|mixin| mixin.figures())
    }

    fn listener(&self) -> Option<Arc<OwnedFd>> {
        // The transport's own descriptor, not a copy: `Server::fileno` lends the same one to the program.
        self.core.upgrade()?.transport.fileno()
    }
}
