//! Stackful coroutines: their stacks, and the switch between them.

mod alternate_stack;
mod chunk;
mod guard;
mod ledger;
pub(crate) mod overflow;
pub(crate) mod prefetch;
pub(crate) mod stack;
pub(crate) mod switch;

#[cfg(test)]
pub(crate) use guard::FORCED_BOUND;
pub(crate) use guard::stack_bound;
