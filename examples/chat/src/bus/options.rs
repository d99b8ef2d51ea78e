//! The options of the bus: [`BusArguments`] on the command line, and [`BusOptions`], what they say.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use common::Failure;

use super::address::{BusAddress, VARIABLE};
use crate::name::{check_name, normal};

/// The bus, as the command line describes it.
#[derive(Args)]
pub struct BusArguments {
    /// Share the room with other servers, through a Redis that all of them reach. An address with a password belongs
    /// into --bus-file, or into CHAT_BUS in the environment: all users of this machine can see its command lines
    #[arg(long, value_name = "redis://HOST:PORT/ROOM")]
    bus: Option<String>,
    /// A file that has the address of the bus in it, redis://USER:PASSWORD@HOST:PORT/ROOM
    #[arg(long, value_name = "FILE", conflicts_with = "bus")]
    bus_file: Option<PathBuf>,
    /// The name of this server there: its members are NAME@SERVER [default: four random digits]
    #[arg(long, value_name = "SERVER", value_parser = server_name)]
    server: Option<String>,
    /// How long a line waits for a lost Redis before its sender is told, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = common::seconds)]
    bus_wait: Duration,
    /// About how many lines Redis keeps for servers that are cut off or slow. At 200 lines a second 10,000 are 50
    /// seconds; each takes some 200 bytes of Redis's memory, and its text. All servers of a room should have the same
    #[arg(long, value_name = "LINES", default_value = "10000", value_parser = common::count)]
    bus_length: usize,
    /// How many lines of this server wait for the others; at more the sender is told at once. At 200 lines a second 10,000
    /// are 50 seconds; each takes some 300 bytes of this server's memory, and its text of at most 8 KiB
    #[arg(long, value_name = "LINES", default_value = "10000", value_parser = common::count)]
    bus_queue: usize,
}

/// A bus that this server joins.
#[derive(Clone)]
pub struct BusOptions {
    pub address: BusAddress,
    /// The name of this server; none is a random one.
    pub server: Option<String>,
    /// How long a line may take to reach the others before its author is told.
    pub wait: Duration,
    /// About how many entries the stream keeps.
    pub length: usize,
    /// How many entries of this server may wait for Redis.
    pub queue: usize,
}

impl BusArguments {
    /// The bus to the other servers of the room, if there is one.
    pub fn read(&self) -> Result<Option<BusOptions>, Failure> {
        let address = BusAddress::given(self.bus.as_deref(), self.bus_file.as_deref())?;
        if let (None, Some(_)) = (&address, &self.server) {
            let why = format!(
                "--server names this one to other servers: give --bus, --bus-file or {VARIABLE}"
            );
            return Err(Failure::Usage(why));
        }
        let &Self { ref server, bus_wait: wait, bus_length: length, bus_queue: queue, .. } = self;
        Ok(address.map(|address| BusOptions {
            address,
            server: server.clone(),
            wait,
            length,
            queue,
        }))
    }
}

fn server_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| normal(text))
}
