//! Requests as coroutines: the mixin `Green`.

mod cancelling;
mod gathered;
mod held;
mod left_behind;
mod serving;
mod shares;
mod stacks;
mod strange;
mod turns;
