//! The tests of a room once more, with a room whose members are coroutines of two threads.

use std::net::SocketAddr;

use super::{Member, operator_hears, operator_sees};
use test_support::process::Process;

#[path = "attacks.rs"]
mod attacks;
#[path = "document.rs"]
mod document;
#[path = "room.rs"]
mod room;

/// A room under `green`, where the test does not choose the mixin itself.
fn open_room(options: &[&str]) -> (Process, SocketAddr) {
    let green: &[&str] = match options.contains(&"--mixin") {
        true => &[],
        false => &["--mixin", "green", "--workers", "2"],
    };
    super::open_room(&[green, options].concat())
}
