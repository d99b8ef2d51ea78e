//! The example programs, run as processes, as a user runs them.

mod chat;
mod clients;
mod echo;
mod haproxy;
#[allow(dead_code, reason = "only its own tests are run here")]
#[path = "../../examples/common/log.rs"]
mod log;
mod program;
mod shell;
#[path = "../support/mod.rs"]
mod support;
mod unread;
mod upload;
mod web;
