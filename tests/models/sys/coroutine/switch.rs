//! A coroutine without a stack: each resume runs one of its pieces, and the last its body.

use super::stack::{SlabStack, Then};

pub(crate) struct Coroutine {
    stack: SlabStack,
    body: Option<Box<dyn FnOnce()>>,
}

pub(crate) enum SwitchEnd {
    Suspended,
    Ended(SlabStack),
}

impl Coroutine {
    pub(crate) fn new(stack: SlabStack, _label: &str, body: impl FnOnce() + 'static) -> Self {
        Self { stack, body: Some(Box::new(body)) }
    }

    pub(crate) fn resume(&mut self) -> SwitchEnd {
        loop {
            let piece = self.stack.pieces.borrow_mut().pop_front();
            match piece.map(|piece| piece()) {
                Some(Then::Suspend) => return SwitchEnd::Suspended,
                Some(Then::GoOn) => {}
                None => break,
            }
        }
        let body = self.body.take().expect("a coroutine that has ended is not resumed");
        body();
        SwitchEnd::Ended(self.stack.clone())
    }
}
