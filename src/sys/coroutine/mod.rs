//! Stackful coroutines: their stacks, and the switch between them.

pub(crate) mod lent;
pub(crate) mod stack;
pub(crate) mod switch;
