//! The end of the room: before connections end, authors learn which of their lines were not relayed.
//!
//! ```text
//! signal, /quit, control socket, handover
//!   -> the hook `stopping` of the first server that closes:
//!        the room hands nothing more to the bus, and says so to those who go on talking
//!        the bus waits until all servers have its lines, at most 2 s; then authors learn which lines did not arrive
//!   -> connections end, each with a goodbye
//!   -> the screen, which shows all of that
//! ```
//!
//! The hooks of other servers in the same process wait until the first hook is done. A second signal ends the process at
//! once.

use std::sync::OnceLock;

use common::Failure;
use parking_lot::Mutex;

use super::bus::Bus;
use super::room::Room;

/// The end of a room.
pub struct Stop {
    room: Room,
    /// Set when the program is ready, if there is a bus.
    bus: OnceLock<Bus>,
    /// How the bus has ended. Locked while it ends, so that other threads wait for its end.
    ended: Mutex<Option<Result<(), Failure>>>,
}

impl Stop {
    pub fn new(room: &Room) -> Self {
        Self { room: room.clone(), bus: OnceLock::new(), ended: Mutex::default() }
    }

    /// Sets the bus that [`end_bus`](Self::end_bus) ends.
    pub fn set_bus(&self, bus: Bus) {
        // This function is called once.
        let _ = self.bus.set(bus);
    }

    /// Ends the bus, or waits until another thread has done that.
    pub fn end_bus(&self) {
        self.ended.lock().get_or_insert_with(|| {
            self.room.stop();
            self.bus.get().map_or(Ok(()), Bus::close)
        });
    }

    /// Returns how the bus has ended. Ends the bus if no server has closed.
    pub fn result(&self) -> Result<(), Failure> {
        self.end_bus();
        self.ended.lock().take().unwrap_or(Ok(()))
    }
}
