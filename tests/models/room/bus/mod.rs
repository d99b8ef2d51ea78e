//! The parts of the chat's bus that do no I/O, from the program's own sources.

#[path = "../../../../examples/chat/src/bus/entry.rs"]
pub(super) mod entry;
#[path = "../../../../examples/chat/src/bus/heard.rs"]
pub(super) mod heard;
#[path = "../../../../examples/chat/src/bus/ledger.rs"]
pub(super) mod ledger;
#[path = "../../../../examples/chat/src/bus/lines.rs"]
pub(super) mod lines;
#[path = "../../../../examples/chat/src/bus/others.rs"]
pub(super) mod others;
#[path = "../../../../examples/chat/src/bus/place.rs"]
pub(super) mod place;

use std::time::Duration;

/// As in the program.
const BEAT: Duration = Duration::from_secs(1);
const GONE: Duration = Duration::from_secs(10);
