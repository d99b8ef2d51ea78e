//! Requests as coroutines: the mixin `Green`.

mod cancelling;
mod every_wait;
mod forks;
mod gathered;
mod held;
mod idle;
mod left_behind;
mod listener;
mod many_connections;
mod many_timers;
mod of_a_thread;
mod serving;
mod shares;
mod stacks;
mod strange;
mod swapped;
mod turns;
mod two_servers;
