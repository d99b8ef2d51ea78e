//! A name server that answers late, or not at all, and with any number of addresses.
//!
//! `chat` asks it by the system's resolver. While it is silent a resolver waits for as long as `resolv.conf` says: two and
//! a half minutes here, which is longer than anything that a case waits for. So anything that happens in this time has not
//! waited for the resolver.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::network::Network;
use crate::world::SOON;

/// The machine of the name server.
pub const NAMES: &str = "names";
/// The only name that the server knows.
pub const REDIS_NAME: &str = "redis.room.test";

/// A name server on a machine of its own. It ends when this value is dropped.
#[derive(Debug)]
pub struct Names {
    state: Arc<Mutex<State>>,
    socket: Arc<UdpSocket>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// The addresses of the name. `None` while the server is silent.
    addresses: Option<Vec<Ipv4Addr>>,
    /// The questions that wait for an answer.
    waiting: Vec<(Vec<u8>, SocketAddr)>,
    has_ended: bool,
}

/// The bytes of a question's header. The name in labels, a type and a class follow it.
const HEADER: usize = 12;
/// The longest question that is read; one of a resolver has 512 bytes at most.
const QUESTION: usize = 512;
/// The most questions that wait for an answer: a resolver asks five times.
const WAITING: usize = 1_000;

impl Names {
    /// A silent name server, which the resolvers of these machines ask.
    pub fn silent(network: &Network, hosts: &[&str]) -> Self {
        network.host(NAMES, 53);
        let address = network.address(NAMES, 53);
        let socket = network.inside(NAMES, || UdpSocket::bind(address).expect("a port for names"));
        // The thread checks this often whether it has to end.
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a short time");
        for host in hosts {
            network.resolve_by(host, address.ip());
        }
        let (state, socket) = (Arc::<Mutex<State>>::default(), Arc::new(socket));
        let (shared, asked) = (Arc::clone(&state), Arc::clone(&socket));
        let thread = std::thread::spawn(move || serve(&shared, &asked));
        Self { state, socket, thread: Some(thread) }
    }

    /// Answers from now on, also the questions that wait.
    pub fn answer(&self, addresses: &[IpAddr]) {
        let mut state = self.state();
        let of_four = |address: &IpAddr| match address {
            IpAddr::V4(address) => *address,
            IpAddr::V6(address) => panic!("{address} is not an address of this network"),
        };
        let addresses: Vec<Ipv4Addr> = addresses.iter().map(of_four).collect();
        for (question, from) in std::mem::take(&mut state.waiting) {
            reply(&self.socket, &question, from, &addresses);
        }
        state.addresses = Some(addresses);
    }

    /// Answers nothing from now on.
    pub fn fall_silent(&self) {
        self.state().addresses = None;
    }

    /// Waits until this many machines wait for an answer.
    #[track_caller]
    pub fn is_asked_by(&self, machines: usize) {
        let began = Instant::now();
        while self.state().asking().len() < machines {
            assert!(began.elapsed() < SOON, "it was asked by {:?} alone", self.state().asking());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The machines whose questions wait.
    fn asking(&self) -> HashSet<IpAddr> {
        self.waiting.iter().map(|(_, from)| from.ip()).collect()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.state().has_ended = true;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(state: &Mutex<State>, socket: &UdpSocket) {
    let mut bytes = [0; QUESTION];
    loop {
        let received = socket.recv_from(&mut bytes);
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.has_ended {
            return;
        }
        match received {
            Ok((count, from)) => match &state.addresses {
                Some(addresses) => reply(socket, &bytes[..count], from, addresses),
                None if state.waiting.len() < WAITING => {
                    state.waiting.push((bytes[..count].to_vec(), from));
                }
                None => {}
            },
            // An asker that is gone refuses its answer, which is reported here.
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::WouldBlock
                        | ErrorKind::TimedOut
                        | ErrorKind::Interrupted
                        | ErrorKind::ConnectionRefused
                ),
                "the server of names: {error}"
            ),
        }
    }
}

/// Answers a question for the name's IPv4 addresses with all of `addresses`, and any other question with none.
fn reply(socket: &UdpSocket, question: &[u8], from: SocketAddr, addresses: &[Ipv4Addr]) {
    const TYPE_A: &[u8] = &[0, 1, 0, 1];
    let Some(labels) = question.get(HEADER..) else { return };
    let Some(end) = labels.iter().position(|byte| *byte == 0).map(|at| HEADER + at + 1) else {
        return;
    };
    let Some(kind) = question.get(end..end + 4) else { return };
    let asks_for = question[HEADER..end].to_ascii_lowercase() == labels_of(REDIS_NAME);
    let addresses = if kind == TYPE_A && asks_for { addresses } else { &[] };
    // The flags say that this is an answer, that recursion is available, and that there is no error or an unknown name.
    let flags = if asks_for { [0x81, 0x80] } else { [0x81, 0x83] };
    let count = (addresses.len() as u16).to_be_bytes();
    let mut answer = [&question[..2], &flags, &[0, 1], &count, &[0; 4]].concat();
    answer.extend_from_slice(&question[HEADER..end + 4]);
    for address in addresses {
        // A pointer to the name in the question; type, class, a time to live of zero, and the length of the address.
        answer.extend_from_slice(&[0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    // The asker may have ended.
    let _ = socket.send_to(&answer, from);
}

/// A name as it is sent: each label after its length, and the empty label at the end.
fn labels_of(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
