//! A stack: the pieces of what runs on it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// One piece of a coroutine.
pub(crate) type Piece = Box<dyn FnOnce() -> Then>;

/// How a piece ends.
pub(crate) enum Then {
    Suspend,
    /// Goes on with the next piece, or the body.
    GoOn,
}

/// The pieces before the body, which is the last.
#[derive(Clone, Default)]
pub(crate) struct SlabStack {
    pub(crate) pieces: Rc<RefCell<VecDeque<Piece>>>,
}

impl SlabStack {
    pub(crate) fn with(self, piece: impl FnOnce() -> Then + 'static) -> Self {
        self.pieces.borrow_mut().push_back(Box::new(piece));
        self
    }
}
