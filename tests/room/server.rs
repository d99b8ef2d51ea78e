//! A server of the room on a machine of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::machine::Machine;
use crate::needs;
use crate::network::Network;
use crate::world::SOON;

/// A server, which may be down.
#[derive(Debug)]
pub struct Server {
    network: Arc<Network>,
    /// The machine.
    pub host: String,
    /// The name for `--server`.
    pub name: String,
    /// The address for `--bus`.
    pub bus: String,
    /// More options of `chat serve`.
    pub options: Vec<String>,
    machine: Option<Machine>,
    /// When it was started the last time.
    pub started: Instant,
    /// How often it has listened so far.
    starts: usize,
}

impl Server {
    /// A server that is not running yet.
    pub fn at_rest(network: &Arc<Network>, host: &str, bus: &str, options: &[String]) -> Self {
        Self {
            network: Arc::clone(network),
            host: host.to_owned(),
            name: host.to_owned(),
            bus: bus.to_owned(),
            options: options.to_vec(),
            machine: None,
            started: Instant::now(),
            starts: 0,
        }
    }

    /// Starts the server, and does not wait until it listens.
    pub fn start(&mut self) {
        let mut command = self.network.command(&self.host, needs::chat());
        let address = self.network.address(&self.host, 8000).to_string();
        command.args(["serve", "--bind", &address, "--pace", "0", "--server", &self.name]);
        command.args(&self.options).args(["--bus", &self.bus]);
        let log = self.network.folder().join(format!("{}.log", self.host));
        self.started = Instant::now();
        self.machine = Some(Machine::start(command, log));
    }

    /// Waits until it listens.
    ///
    /// # Panics
    ///
    /// If it ends first, or takes too long.
    #[track_caller]
    pub fn listens(&mut self) {
        let began = Instant::now();
        let starts = |said: &str| said.matches("listening on").count();
        let before = self.starts;
        while starts(&self.said()) <= before {
            let ended = self.machine().ended();
            let late = began.elapsed() > SOON;
            assert!(!late && ended.is_none(), "{}: {ended:?}: {}", self.host, self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.starts = before + 1;
    }

    /// Its process.
    ///
    /// # Panics
    ///
    /// If it was not started.
    pub fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("the server was started")
    }

    /// Whether it was started, and not ended by this harness.
    pub fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.machine().kill();
        self.machine = None;
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        let machine = self.machine();
        machine.terminate();
        machine.end_within(SOON);
        self.machine = None;
    }

    /// All that it has printed.
    pub fn said(&self) -> String {
        self.machine.as_ref().map(Machine::said).unwrap_or_default()
    }
}
