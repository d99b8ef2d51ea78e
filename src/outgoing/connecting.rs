//! Connecting: to the first of several addresses that answers, within one deadline.
//!
//! The addresses of a name are tried one after the other: the next one a quarter of a second later, or at once if one
//! has failed. Earlier attempts go on, and the first to succeed wins. So an address that never answers costs a
//! quarter of a second, and not the whole time.
//!
//! ```text
//! 0 ms     [2001:db8::1]:80   connect ................................................  dropped
//! 250 ms   192.0.2.1:80       connect ... refused
//! 270 ms   192.0.2.2:80       connect ...... connected: taken
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::Error;
use crate::wait::{self, Interest, Waiting};
use crate::write_stall::earlier;

/// The time between two attempts (RFC 8305 recommends it).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The most attempts at once, so that a name with many addresses takes few descriptors.
const MAX_ATTEMPTS: usize = 4;

/// The pauses while the accept queue of a Unix socket is full: the system does not say when there is room.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A connected socket in blocking mode, and the address that it is connected to.
pub(super) type Connected = (Socket, Address);

/// Looks the address up and connects. The error names the operation, the address and the cause.
pub(super) fn connect(to: &BindAddress, timeout: Duration) -> io::Result<Connected> {
    let until = Instant::now().checked_add(timeout);
    if to.is_unix() {
        let address = to.to_unix().map_err(of_address)?;
        // There is one address, which answers at once: no second attempt is needed.
        return to_unix(&address, until)
            .map(|socket| (socket, address.clone()))
            .map_err(|error| cannot("connect to", &address, timeout, error));
    }
    let addresses = look_up(to, until, timeout)?;
    to_first(&addresses, until).map_err(|Failed { address, error }| {
        // If the program has given a name, the message also says the address.
        let name = to.to_string();
        let object = if name == address.to_string() { name } else { format!("{name} ({address})") };
        cannot("connect to", object, timeout, error)
    })
}

/// An error with a kind for the program and a sentence for the operator.
///
/// `timeout` is the time that the caller had: the sentence names it if this side has given up. The system's own
/// ETIMEDOUT has an errno, and keeps its text.
fn cannot(
    operation: &'static str,
    object: impl std::fmt::Display,
    timeout: Duration,
    error: io::Error,
) -> io::Error {
    let kind = error.kind();
    let is_over = kind == io::ErrorKind::TimedOut && error.raw_os_error().is_none();
    let why =
        if is_over { io::Error::new(kind, format!("no answer within {timeout:?}")) } else { error };
    io::Error::new(kind, Error::io(operation, object, why))
}

/// An address that cannot be understood, or whose host cannot be found.
fn of_address(error: Error) -> io::Error {
    io::Error::new(error.io_kind().unwrap_or(io::ErrorKind::InvalidInput), error)
}

/// Returns the addresses of a name in the system's order, but with the two versions of IP in turn.
///
/// An address in numbers is not looked up. At `until` a coroutine stops waiting for the look-up; a plain thread cannot
/// stop.
fn look_up(
    to: &BindAddress,
    until: Option<Instant>,
    timeout: Duration,
) -> io::Result<Vec<SocketAddr>> {
    // An address in numbers takes no time, and so no thread.
    if !to.is_looked_up() {
        return to.to_inet().map_err(of_address);
    }
    let name = to.clone();
    // None: the time is over. The look-up goes on, on its thread, and its result is dropped.
    let found = wait::look_up_until(move || name.to_inet(), until)?;
    let in_vain = || cannot("look up", to, timeout, io::ErrorKind::TimedOut.into());
    Ok(in_turn(found.ok_or_else(in_vain)?.map_err(of_address)?))
}

/// Keeps the first address first, and then takes the two versions of IP in turn. So if one version leads nowhere from
/// this machine, the second attempt is by the other one.
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv4) else { return addresses };
    let (one, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [one.next(), other.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

/// The address for the error's text, and why the connection failed.
#[derive(Debug)]
struct Failed {
    address: SocketAddr,
    error: io::Error,
}

/// Connects to the first of the addresses that answers. The error is that of the first address that failed; or, once the
/// time is over, `TimedOut` with an address that was still waited for. If `addresses` is empty, it is `AddrNotAvailable`.
fn to_first(addresses: &[SocketAddr], until: Option<Instant>) -> Result<Connected, Failed> {
    let mut rest = addresses.iter().copied();
    let mut attempts = Attempts { under_way: Vec::new(), failed: None, next: Instant::now() };
    // Without an address there is nothing to try, and nothing that the error could name.
    let Some(&first) = addresses.first() else {
        let nowhere = ([0, 0, 0, 0], 0).into();
        return Err(Failed { address: nowhere, error: io::ErrorKind::AddrNotAvailable.into() });
    };
    loop {
        // The last look comes after the deadline, so that a connection that succeeds at that moment counts.
        let over = until.is_some_and(|until| Instant::now() >= until);
        if let Some((socket, address)) = attempts.take_connected() {
            let ready = socket.set_nonblocking(false).map(|()| (socket, address.into()));
            return ready.map_err(|error| Failed { address, error });
        }
        let under_way = &attempts.under_way;
        if over {
            // The address of an attempt that still goes on: one that has refused would not explain the timeout.
            let address = under_way.first().map_or(first, |(_, address)| *address);
            return Err(Failed { address, error: io::ErrorKind::TimedOut.into() });
        }
        let may_begin = under_way.len() < MAX_ATTEMPTS && rest.len() > 0;
        if may_begin && (under_way.is_empty() || Instant::now() >= attempts.next) {
            if let Some(address) = rest.next() {
                attempts.begin(address);
            }
            continue;
        }
        if under_way.is_empty() {
            // `failed` is set, because every address was tried.
            return Err(attempts.failed.unwrap_or_else(|| Failed {
                address: first,
                error: io::ErrorKind::AddrNotAvailable.into(),
            }));
        }
        let fds = under_way.iter().map(|(socket, _)| socket.as_fd());
        let room = |fd| Waiting { fd, interest: Interest::Write, slot: None };
        let waiting: Vec<_> = fds.map(room).collect();
        let look = earlier(until, may_begin.then_some(attempts.next));
        // Usually a drain has cut the request off. The attempts end with this return.
        if let Err(error) = wait::any(&waiting, look) {
            return Err(Failed { address: under_way[0].1, error });
        }
    }
}

/// The attempts of one connect. Their sockets close with it.
struct Attempts {
    /// The attempts that have neither connected nor failed, the oldest first.
    under_way: Vec<(Socket, SocketAddr)>,
    /// The first failure, which is reported: usually that of the address which the system prefers.
    failed: Option<Failed>,
    /// When the next attempt may begin.
    next: Instant,
}

impl Attempts {
    /// Begins one more attempt. The next attempt then has to wait for its turn, unless this one has failed at once.
    fn begin(&mut self, address: SocketAddr) {
        match begin(address) {
            Ok(socket) => {
                self.under_way.push((socket, address));
                self.next = Instant::now() + ATTEMPT_DELAY;
            }
            Err(error) => drop(self.failed.get_or_insert(Failed { address, error })),
        }
    }

    /// Checks each attempt. The first that has connected wins, and those that have failed leave the list.
    fn take_connected(&mut self) -> Option<(Socket, SocketAddr)> {
        let mut at = 0;
        while let Some((socket, address)) = self.under_way.get(at) {
            match has_connected(socket) {
                Ok(true) => return Some(self.under_way.remove(at)),
                Ok(false) => at += 1,
                Err(error) => {
                    self.failed.get_or_insert(Failed { address: *address, error });
                    self.under_way.remove(at);
                    // The next address need not wait for its turn.
                    self.next = Instant::now();
                }
            }
        }
        None
    }
}

/// Begins an attempt, without waiting.
///
/// The socket does not block until it is connected. An error here is one of the address itself (no route, say), or
/// of this process (no descriptor).
fn begin(address: SocketAddr) -> io::Result<Socket> {
    // `Socket::new` sets close-on-exec: a program that a handler starts does not inherit the socket.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        // The usual answer of TCP. Over loopback it may have connected already.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        // connect(2) goes on after a signal, as after EINPROGRESS.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        done => done?,
    }
    Ok(socket)
}

/// Whether the attempt has succeeded; false while it goes on.
///
/// This never waits. An error is that of the attempt, and is returned once.
fn has_connected(socket: &Socket) -> io::Result<bool> {
    // SO_ERROR reports a failure once, and clears it.
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // getpeername(2) fails with ENOTCONN until the handshake is over.
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Connects to a Unix socket, which succeeds or fails at once, unless its accept queue is full.
///
/// The caller gets a socket in blocking mode. The time is checked after each try, so a zero timeout still makes one try.
fn to_unix(address: &Address, until: Option<Instant>) -> io::Result<Socket> {
    let name = address.to_socket()?;
    let mut pause = FIRST_RETRY_PAUSE;
    loop {
        // A new socket for each try, because POSIX does not define the state of a socket whose connect has failed.
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&name) {
            Ok(()) => {
                socket.set_nonblocking(false)?;
                return Ok(socket);
            }
            // EAGAIN: the queue is full. unix(7) has no event for room in it, hence the pauses.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        if until.is_some_and(|until| now >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        wait::any(&[], earlier(until, now.checked_add(pause)))?;
        pause = (pause * 2).min(LONGEST_RETRY_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// An address that never answers, because its accept queue is full; and the sockets that keep it full.
    fn deaf() -> (SocketAddr, Socket, Vec<Socket>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        loop {
            let attempt = begin(address).unwrap();
            // Over loopback a connect that has room in the queue succeeds at once or soon.
            std::thread::sleep(Duration::from_millis(50));
            let connected = has_connected(&attempt).unwrap();
            queued.push(attempt);
            if !connected {
                return (address, listener, queued);
            }
        }
    }

    /// An address at which nothing listens.
    fn refusing() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn within(time: Duration) -> Option<Instant> {
        Instant::now().checked_add(time)
    }

    #[test]
    fn an_address_without_an_answer_and_one_that_refuses_do_not_keep_the_next_one_from_being_tried()
    {
        let (deaf, _listener, _queued) = deaf();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let good_at = good.local_addr().unwrap();
        let addresses = [deaf, refusing(), deaf, good_at];
        let began = Instant::now();
        let (socket, address) =
            to_first(&addresses, within(Duration::from_secs(20))).expect("it connects");
        assert_eq!((address, began.elapsed() >= ATTEMPT_DELAY), (good_at.into(), true));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(good_at));
    }

    #[test]
    fn the_error_is_of_the_first_address_that_failed_or_says_that_the_time_is_over() {
        let refused = to_first(&[refusing(), refusing()], None).expect_err("nothing listens");
        assert_eq!(refused.error.kind(), io::ErrorKind::ConnectionRefused);
        let (deaf, _listener, _queued) = deaf();
        let time = Duration::from_millis(300);
        let began = Instant::now();
        let late = to_first(&[refused.address, deaf], within(time)).expect_err("no answer");
        assert_eq!((late.error.kind(), late.address), (io::ErrorKind::TimedOut, deaf));
        assert!(began.elapsed() >= time);
    }

    #[test]
    fn without_an_address_there_is_an_error_also_when_the_time_is_over() {
        for until in [None, within(Duration::ZERO)] {
            let failed = to_first(&[], until).expect_err("there is nothing to try");
            assert_eq!(failed.error.kind(), io::ErrorKind::AddrNotAvailable);
        }
    }

    #[test]
    fn the_versions_of_ip_are_tried_in_turn_beginning_with_the_systems_first() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let sorted = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        assert_eq!(in_turn(sorted), parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
        assert_eq!(in_turn(Vec::new()), []);
    }
}
