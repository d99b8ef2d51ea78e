//! A proxy between a client and its server, which records their bytes and may change them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use test_support::connect;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

pub struct Proxy {
    pub address: String,
    heard: Arc<Mutex<[Vec<u8>; 2]>>,
}

impl Proxy {
    /// Starts a proxy for one connection. `change` gets the way of a byte, its place on that way and the byte itself, and
    /// returns the byte that is passed on.
    pub fn start(
        server: &str,
        change: impl Fn(Way, usize, u8) -> u8 + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = server.parse().unwrap();
        let heard = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
        let (log, change) = (Arc::clone(&heard), Arc::new(change));
        thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = connect(server);
            for way in [Way::ToServer, Way::ToClient] {
                let (mut from, mut to) = match way {
                    Way::ToServer => (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    Way::ToClient => (server.try_clone().unwrap(), client.try_clone().unwrap()),
                };
                let (log, change) = (Arc::clone(&log), Arc::clone(&change));
                thread::spawn(move || copy(way, &mut from, &mut to, &log, &*change));
            }
        });
        Self { address, heard }
    }

    /// Everything that went one way so far, as it was sent.
    pub fn heard(&self, way: Way) -> Vec<u8> {
        self.heard.lock().unwrap()[way as usize].clone()
    }
}

fn copy(
    way: Way,
    from: &mut TcpStream,
    to: &mut TcpStream,
    log: &Mutex<[Vec<u8>; 2]>,
    change: &dyn Fn(Way, usize, u8) -> u8,
) {
    let mut piece = [0; 4_096];
    let mut place = 0;
    while let Ok(count @ 1..) = from.read(&mut piece) {
        log.lock().unwrap()[way as usize].extend_from_slice(&piece[..count]);
        for byte in &mut piece[..count] {
            *byte = change(way, place, *byte);
            place += 1;
        }
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}
