//! recv(2) and send(2) as the C library has them.

pub(super) use libc::{recv, send};
