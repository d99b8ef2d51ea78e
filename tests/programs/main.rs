//! The example programs, run as processes, as a user runs them.

mod chat;
mod clients;
mod echo;
mod program;
mod shell;
#[path = "../support/mod.rs"]
mod support;
mod upload;
mod web;
