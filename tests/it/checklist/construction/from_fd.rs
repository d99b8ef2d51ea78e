//! Row 12: servers of sockets that exist already.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net as unix;
use std::sync::Arc;
use std::time::Duration;

use socketserver::monitor::AcceptOutcome;
use socketserver::{
    Address, SocketOptions, TcpServer, UdpServer, UnixDatagramServer, UnixStreamServer,
};

use super::{LOCAL, getsockname, serve_one};
use crate::handlers::{OneLine, Silent};
use crate::support::{
    SOON, connect, connect_any, folder, inet, read_line, receive, receive_from, soon, udp_client,
};

#[test]
fn row_012_from_a_bound_tcp_listener() {
    let listener = TcpListener::bind(LOCAL).unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        TcpServer::builder().timeout(Duration::ZERO).from_fd(listener, || OneLine).unwrap();
    assert_eq!((inet(&server), getsockname(&server)), (address, address.into()));
    // The socket came in blocking mode, in which an accept would now wait.
    let server = Arc::new(server);
    let looks = Arc::clone(&server);
    let turn = soon("a look at an empty queue", move || looks.handle_request());
    assert_eq!(turn.unwrap(), AcceptOutcome::TimedOut);
    let mut client = connect(address);
    client.write_all(b"hello\n").unwrap();
    crate::support::eventually("the request is taken", || {
        server.handle_request().unwrap() == AcceptOutcome::Handled
    });
    assert_eq!(read_line(&mut client), "hello\n");
}

#[test]
fn row_012_from_a_bound_udp_socket() {
    let socket = UdpSocket::bind(LOCAL).unwrap();
    let address = socket.local_addr().unwrap();
    let server = UdpServer::builder().from_fd(socket, || OneLine).unwrap();
    assert_eq!(inet(&server), address);
    let client = udp_client();
    client.send_to(b"hello", address).unwrap();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(receive_from(&client), (b"hello".to_vec(), address));
}

#[test]
fn row_012_from_a_bound_unix_listener() {
    let folder = folder();
    let path = folder.path().join("s");
    let listener = unix::UnixListener::bind(&path).unwrap();
    let builder =
        UnixStreamServer::builder().socket_options(SocketOptions::default().unlink_on_close(true));
    let server = builder.from_fd(listener, || OneLine).unwrap();
    assert_eq!(server.server_address(), Address::Unix(path.clone()));
    assert_eq!(serve_one(&server, connect_any(&server.server_address())), "hello\n");
    drop(server);
    // This server did not create the file.
    assert!(path.exists());
}

#[test]
fn row_012_from_a_bound_unix_datagram_socket() {
    let folder = folder();
    let socket = unix::UnixDatagram::bind(folder.path().join("d")).unwrap();
    let server = UnixDatagramServer::builder().from_fd(socket, || OneLine).unwrap();
    assert_eq!(server.server_address(), Address::Unix(folder.path().join("d")));
    let client = unix::UnixDatagram::bind(folder.path().join("c")).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"hello", folder.path().join("d")).unwrap();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(receive(&client).len(), 5);
}

#[test]
fn row_012_a_socket_of_the_wrong_kind_is_refused_in_words() {
    let folder = folder();
    let tcp = || OwnedFd::from(TcpListener::bind(LOCAL).unwrap());
    let udp = || OwnedFd::from(UdpSocket::bind(LOCAL).unwrap());
    let pair = || OwnedFd::from(unix::UnixStream::pair().unwrap().0);
    let unbound = || OwnedFd::from(unix::UnixDatagram::unbound().unwrap());
    let refused = |result: Option<socketserver::Error>, words: &str| {
        let text = result.expect("an error").to_string();
        assert!(text.starts_with("cannot serve on descriptor "), "{text}");
        assert!(text.ends_with(words), "{text}");
    };
    for wrong in [udp(), pair(), unbound()] {
        let made = TcpServer::builder().from_fd(wrong, || Silent);
        refused(made.err(), ": it is not a TCP socket");
    }
    for wrong in [tcp(), pair(), unbound()] {
        let made = UdpServer::builder().from_fd(wrong, || Silent);
        refused(made.err(), ": it is not a UDP socket");
    }
    for wrong in [tcp(), udp(), unbound()] {
        let made = UnixStreamServer::builder().from_fd(wrong, || Silent);
        refused(made.err(), ": it is not a Unix stream socket");
    }
    for wrong in [tcp(), udp(), pair()] {
        let made = UnixDatagramServer::builder().from_fd(wrong, || Silent);
        refused(made.err(), ": it is not a Unix datagram socket");
    }
    let file = fs::File::create(folder.path().join("file")).unwrap();
    let made = TcpServer::builder().from_fd(file, || Silent);
    assert!(made.unwrap_err().to_string().starts_with("cannot serve on descriptor "));
}

#[test]
fn row_012_an_unbound_tcp_socket_gets_a_port_that_the_server_knows() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let server = TcpServer::builder().from_fd(socket, || OneLine).unwrap();
    assert_eq!(getsockname(&server), server.server_address());
    assert_ne!(inet(&server).port(), 0);
    let client = connect((Ipv4Addr::LOCALHOST, inet(&server).port()).into());
    assert_eq!(serve_one(&server, client), "hello\n");
}

#[test]
fn row_012_a_datagram_socket_that_nobody_can_send_to_is_refused() {
    let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    let over_udp = UdpServer::builder().from_fd(unbound, || Silent).map(drop);
    let unbound = unix::UnixDatagram::unbound().unwrap();
    let over_unix = UnixDatagramServer::builder().from_fd(unbound, || Silent).map(drop);
    for made in [over_udp, over_unix] {
        let text = made.unwrap_err().to_string();
        assert!(text.ends_with(": it is bound to no address; bind it first"), "{text}");
    }
    // A socket of a pair has no name either, but it has its peer.
    let (ours, theirs) = unix::UnixDatagram::pair().unwrap();
    let server = UnixDatagramServer::builder().from_fd(ours, || Silent).unwrap();
    theirs.send(b"hello").unwrap();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
}

#[test]
#[cfg(target_os = "linux")]
fn row_012_a_socket_of_another_family_is_refused_in_words() {
    let netlink = socket2::Domain::from(libc::AF_NETLINK);
    let socket = socket2::Socket::new(netlink, socket2::Type::DGRAM, None).unwrap();
    let error = UdpServer::builder().from_fd(socket, || Silent).unwrap_err().to_string();
    assert!(error.ends_with(": it is not a UDP socket"), "{error}");
    let vsock = socket2::Domain::from(libc::AF_VSOCK);
    match socket2::Socket::new(vsock, socket2::Type::STREAM, None) {
        Ok(socket) => {
            let error = TcpServer::builder().from_fd(socket, || Silent).unwrap_err().to_string();
            assert!(error.ends_with(": it is not a TCP socket"), "{error}");
        }
        Err(error) => crate::support::skip(&format!("no vsock here: {error}")),
    }
}

#[test]
fn row_012_a_connection_cannot_become_a_listener() {
    let listener = TcpListener::bind(LOCAL).unwrap();
    let client = connect(listener.local_addr().unwrap());
    let error = TcpServer::builder().from_fd(client, || Silent).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen at "), "{error}");
}
