//! recv(2) and send(2) as the C library has them.
//!
//! They are points of cancellation by pthread_cancel(3). That costs a few instructions and has no effect, because nobody
//! cancels a thread of Rust's.

pub(super) use libc::{recv, send};
