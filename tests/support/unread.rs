//! Servers whose stdout and stderr belong to the test, which may leave them unread.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::{SOON, eventually, system};

/// A server that is ended with the test, also with one that panics.
#[derive(Debug)]
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Sends SIGTERM and waits for the end; `what` names the server in a failure.
    pub fn stop(mut self, what: &str) {
        system::send_signal(self.0.id(), libc::SIGTERM);
        let began = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < SOON, "{what} does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Connects to an abstract address as soon as a server listens there.
pub fn connect(at: &str) -> UnixStream {
    let address = SocketAddr::from_abstract_name(at).unwrap();
    eventually("it listens", || UnixStream::connect_addr(&address).is_ok());
    let stream = UnixStream::connect_addr(&address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}
