//! Stackful coroutines: their stacks, and the switch between them.
//!
//! The workers of `Green` use them. The life of one request, on its worker's thread:
//!
//! ```text
//! StackSlab::take      a stack with its guard             stack.rs: chunk.rs (memory), guard.rs, ledger.rs (which are free)
//! Coroutine::new       the handler's closure goes on it   switch.rs
//! resume, suspend, ..  until the closure returns
//! SwitchEnd::Ended     the stack comes back
//! StackSlab::give_back it is the next one that is taken
//! ```
//!
//! All of it stays on one thread; `Rc` and raw pointers make the compiler check that. Threads share two things only:
//! the count of classic guards (`guard.rs`), because the kernel counts mappings for the process; and the actions of
//! SIGSEGV and SIGBUS (`overflow.rs`), which belong to the process as well.
//!
//! A handler that needs more than its stack touches the guard below it: the kernel raises SIGSEGV, `on_fault` runs on
//! the thread's alternate stack (`alternate_stack.rs`), says whose stack it was, and aborts the process.

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
