//! Requests as coroutines: the mixin `Green`.

mod cancelling;
mod every_wait;
mod gathered;
mod held;
mod left_behind;
mod listener;
mod many_timers;
mod of_a_thread;
mod serving;
mod shares;
mod stacks;
mod strange;
mod swapped;
mod turns;
