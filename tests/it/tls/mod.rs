//! TLS: the handler does not change.

mod bad_clients;
pub mod client;
mod crowds;
mod echo;
mod ends;
mod halves;
mod interrupted;
mod matrix;
mod names;
mod outboxes;
mod refusals;
mod renewal;
mod tools;
