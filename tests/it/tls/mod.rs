//! TLS: the handler does not change.

pub mod client;
mod echo;
mod ends;
mod names;
