//! A Redis of a test's own, which is killed and started again.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use test_support::process::Process;
use test_support::{eventually, folder};

/// The data that is left when Redis is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Nothing,
    Everything,
}

pub struct Redis {
    process: Option<Process>,
    address: SocketAddr,
    folder: tempfile::TempDir,
    store: Store,
}

pub fn no_redis() -> Option<&'static str> {
    let there = Command::new("redis-server").arg("--version").output().is_ok();
    (!there).then_some("redis-server is not installed")
}

impl Redis {
    pub fn start(store: Store) -> Self {
        let mut redis = Self::at_rest(store);
        redis.restart();
        redis
    }

    /// A Redis that is not running yet.
    pub fn at_rest(store: Store) -> Self {
        Self { process: None, address: free_address(), folder: folder(), store }
    }

    /// Starts Redis at its address, with the data in its folder.
    pub fn restart(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string()]);
        command.arg("--dir").arg(self.folder.path()).args(["--save", ""]);
        if self.store == Store::Everything {
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        self.process = Some(Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped())));
        eventually("Redis answers", || {
            let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
            stream.set_read_timeout(Some(test_support::SOON)).unwrap();
            // While it loads its data it answers with an error.
            test_support::exchange(&mut stream, "PING").starts_with("+PONG")
        });
    }

    pub fn kill(&mut self) {
        let process = self.process.take().unwrap();
        process.send_signal(libc::SIGKILL);
        process.end();
    }

    pub fn send_signal(&self, signal: i32) {
        self.process.as_ref().unwrap().send_signal(signal);
    }

    /// The address of a room in it, for `--bus`.
    pub fn room(&self) -> String {
        format!("redis://{}/room", self.address)
    }

    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://{}", self.address)).unwrap();
        client.get_connection_with_timeout(test_support::SOON).unwrap()
    }
}

/// An address that nobody has. Its port is below the range from which the kernel gives ports, so that nobody gets it while
/// Redis is down.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 1_000) as u16 * 10;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
