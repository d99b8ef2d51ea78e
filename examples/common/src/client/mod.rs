//! The client's side: a connection to an [`Endpoint`], in the clear or with TLS, or a datagram socket.

mod connection;
mod session;
mod tls;
mod trouble;
mod verifier;

use std::io::{self, Read, Write};
use std::net::{Shutdown, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use socketserver::Address;
use socketserver::transport::BindAddress;

use crate::{Endpoint, Failure, KEEPALIVE};

pub use connection::Connection;
pub use tls::ClientTls;
pub use trouble::of_handshake as why_no_session;

use session::Session;

/// How long a client waits for a connection, and for each read and write of its handshake.
const CONNECT: Duration = Duration::from_secs(10);

/// Opens a connection to a server, with TLS if the options say so. The failure advises the user.
pub fn open(endpoint: &Endpoint, tls: &ClientTls) -> Result<Connection, Failure> {
    if !tls.tls {
        return connect(endpoint).map(Connection::clear);
    }
    if endpoint.is_datagram() {
        let why = format!("{endpoint} is for datagrams, and TLS needs a connection");
        return Err(Failure::Usage(why));
    }
    // The files that the options name are read first: their faults have nothing to do with the server.
    let session = tls.session(endpoint)?;
    let socket = connect(endpoint)?;
    socket.set_read_timeout(Some(CONNECT))?;
    socket.set_write_timeout(Some(CONNECT))?;
    let session = Session::begin(socket, session).map_err(|error| {
        let why = trouble::of_handshake(&error);
        Failure::Other(format!("cannot connect to {endpoint} with TLS: {why}"))
    })?;
    let connection = Connection::tls(session);
    connection.set_read_timeout(None)?;
    connection.set_write_timeout(None)?;
    Ok(connection)
}

/// Opens a socket to a server. The failure advises the user.
pub fn connect(endpoint: &Endpoint) -> Result<Socket, Failure> {
    try_connect(endpoint).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                "; is the server running? start it with `serve`"
            }
            _ => "",
        };
        Failure::Other(format!("cannot connect to {endpoint}: {error}{advice}"))
    })
}

fn try_connect(endpoint: &Endpoint) -> io::Result<Socket> {
    let kind = if endpoint.is_datagram() { Type::DGRAM } else { Type::STREAM };
    let addresses: Vec<SockAddr> = match endpoint {
        Endpoint::Tcp(text) | Endpoint::Udp(text) => {
            text.to_socket_addrs()?.map(SockAddr::from).collect()
        }
        Endpoint::Unix(text) | Endpoint::Unixgram(text) => vec![unix_address(text)?],
    };
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    for address in addresses {
        let socket = Socket::new(Domain::from(i32::from(address.family())), kind, None)?;
        if matches!(endpoint, Endpoint::Unixgram(_)) {
            // A Unix datagram client needs an address for the answer. For an empty name the kernel chooses one
            // (Linux).
            socket.bind(&SockAddr::unix("")?)?;
        }
        let connected = match endpoint {
            Endpoint::Tcp(_) => {
                // Without keepalive, a client that waits for its server would wait for a dead machine for ever.
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                socket.connect_timeout(&address, CONNECT)
            }
            _ => socket.connect(&address),
        };
        match connected {
            Ok(()) => {
                if matches!(endpoint, Endpoint::Tcp(_)) {
                    // With Nagle's algorithm each small message would wait until the previous one is acknowledged,
                    // and the peer may delay that by up to 40 ms.
                    socket.set_tcp_nodelay(true)?;
                }
                return Ok(socket);
            }
            Err(error) => result = Err(error),
        }
    }
    result
}

fn unix_address(text: &str) -> io::Result<SockAddr> {
    match BindAddress::from(text).to_unix().map_err(io::Error::other)? {
        Address::Abstract(name) => {
            use std::os::unix::ffi::OsStrExt;
            SockAddr::unix(std::ffi::OsStr::from_bytes(&[b"\0", &name[..]].concat()))
        }
        _ => SockAddr::unix(text),
    }
}

/// Writes bytes of a server to stdout, as they are.
pub fn show(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let shown = stdout.write_all(bytes).and_then(|()| stdout.flush());
    shown.map_err(|error| Failure::of_stdout(&error))
}

/// The failure for a connection that broke.
pub fn broke(endpoint: &Endpoint, error: &io::Error) -> Failure {
    Failure::Other(format!("the connection to {endpoint} broke: {error}"))
}

/// Copies stdin to the connection and the connection to stdout, until the server ends the connection. At the end of
/// stdin the client ends its own direction, and the server may still answer.
pub fn copy_both_ways(connection: &Connection, endpoint: &Endpoint) -> Result<(), Failure> {
    let sending = connection.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        let mut stdin = io::stdin().lock();
        while let Ok(count) = stdin.read(&mut buffer) {
            if count == 0 || (&sending).write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // The shutdown fails if the server is gone already.
        let _ = sending.shutdown(Shutdown::Write);
    });
    let result = show_all(connection, endpoint);
    // The other thread may still wait for stdin, so it does not end the connection. This shutdown fails if the server is
    // gone already.
    let _ = connection.shutdown(Shutdown::Both);
    result
}

fn show_all(mut connection: &Connection, endpoint: &Endpoint) -> Result<(), Failure> {
    let mut buffer = [0; 8192];
    loop {
        let count = connection.read(&mut buffer).map_err(|error| broke(endpoint, &error))?;
        if count == 0 {
            return Ok(());
        }
        show(&buffer[..count])?;
    }
}

/// How long to wait for the answer to a datagram.
const ANSWER: Duration = Duration::from_secs(5);

/// Sends one datagram and returns the answer.
pub fn ask(socket: &Socket, endpoint: &Endpoint, packet: &[u8]) -> Result<Vec<u8>, Failure> {
    let cannot = |what: &str, error: io::Error| {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return Failure::Other(format!(
                "no answer from {endpoint} within {} s; is the server running?",
                ANSWER.as_secs()
            ));
        }
        Failure::Other(format!("cannot {what} {endpoint}: {error}; is the server running?"))
    };
    socket.set_read_timeout(Some(ANSWER))?;
    socket.send(packet).map_err(|error| cannot("send to", error))?;
    let mut answer = vec![0; 65_536];
    let count = (&*socket).read(&mut answer).map_err(|error| cannot("receive from", error))?;
    answer.truncate(count);
    Ok(answer)
}
