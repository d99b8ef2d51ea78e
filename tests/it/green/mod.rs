//! Requests as coroutines: the mixin `Green`.

mod serving;
