//! Rows 1 to 14: making a server, its socket and its options.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use socket2::SockRef;
use socketserver::{
    Address, BaseServer, ServerContext, ServerHooks, TcpServer, Turn, UdpServer,
    UnixDatagramServer, UnixStreamServer, stream_fn,
};

use crate::handlers::{Diary, Echo, OneLine, Silent};
use crate::support::{
    SOON, alone, connect, connect_any, exchange, folder, inet, open_descriptors, read_line,
    read_to_end, skip, soon,
};

const LOCAL: &str = "127.0.0.1:0";

/// What the kernel says that a server's socket is bound to.
fn getsockname(server: &impl BaseServer) -> Address {
    let fd = server.fileno().expect("an open socket");
    let name = SockRef::from(&*fd).local_addr().unwrap();
    if let Some(inet) = name.as_socket() {
        return Address::Inet(inet);
    }
    match (name.as_pathname(), name.as_abstract_namespace()) {
        (Some(path), _) => Address::Unix(path.to_owned()),
        (None, Some(name)) => Address::Abstract(name.to_owned()),
        (None, None) => Address::Unnamed,
    }
}

fn is_listening(server: &impl BaseServer) -> bool {
    SockRef::from(&*server.fileno().expect("an open socket")).is_listener().unwrap()
}

/// Whether this machine has IPv6; if not, the test is skipped.
fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        skip("there is no IPv6 here");
    }
    has
}

/// An abstract name that no other test and no other process has.
fn abstract_name(test: &str) -> String {
    format!("@ss-{}-{test}", std::process::id())
}

/// Serves one request of a client that sends a line, and gives the client the answer.
fn serve_one(server: &impl BaseServer, mut client: impl Read + Write) -> String {
    client.write_all(b"hello\n").unwrap();
    assert_eq!(server.handle_request().unwrap(), Turn::Handled);
    read_line(&mut client)
}

fn udp_client() -> UdpSocket {
    let client = UdpSocket::bind(LOCAL).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client
}

// Row 1.

#[test]
fn row_001_port_0_becomes_the_real_port_tcp() {
    let server = TcpServer::bind(LOCAL, || OneLine).unwrap();
    assert_ne!(inet(&server).port(), 0);
    assert_eq!(server.context().server_address(), server.server_address());
    assert_eq!(serve_one(&server, connect(inet(&server))), "hello\n");
}

#[test]
fn row_001_port_0_becomes_the_real_port_udp() {
    let server = UdpServer::bind(LOCAL, || OneLine).unwrap();
    assert_ne!(inet(&server).port(), 0);
    let client = udp_client();
    client.send_to(b"hello", inet(&server)).unwrap();
    assert_eq!(server.handle_request().unwrap(), Turn::Handled);
    let mut answer = [0; 16];
    let (count, from) = client.recv_from(&mut answer).unwrap();
    assert_eq!((&answer[..count], from), (&b"hello"[..], inet(&server)));
}

// Row 2.

#[test]
fn row_002_server_address_is_getsockname_inet() {
    let tcp = TcpServer::bind(LOCAL, || Silent).unwrap();
    assert_eq!(tcp.server_address(), getsockname(&tcp));
    let udp = UdpServer::bind(LOCAL, || Silent).unwrap();
    assert_eq!(udp.server_address(), getsockname(&udp));
}

#[test]
fn row_002_server_address_is_getsockname_inet6() {
    if !has_ipv6() {
        return;
    }
    let tcp = TcpServer::bind("[::1]:0", || Silent).unwrap();
    assert_eq!(tcp.server_address(), getsockname(&tcp));
    let udp = UdpServer::bind("[::1]:0", || Silent).unwrap();
    assert_eq!(udp.server_address(), getsockname(&udp));
}

#[test]
fn row_002_server_address_is_getsockname_unix() {
    let folder = folder();
    let stream = UnixStreamServer::bind(folder.path().join("s"), || Silent).unwrap();
    assert_eq!(stream.server_address(), getsockname(&stream));
    assert_eq!(stream.server_address().as_path(), Some(&*folder.path().join("s")));
    let datagram = UnixDatagramServer::bind(folder.path().join("d"), || Silent).unwrap();
    assert_eq!(datagram.server_address(), getsockname(&datagram));
}

#[test]
#[cfg(target_os = "linux")]
fn row_002_server_address_is_getsockname_abstract() {
    let (stream, datagram) = (abstract_name("002-stream"), abstract_name("002-datagram"));
    let server = UnixStreamServer::bind(&stream, || Silent).unwrap();
    assert_eq!(server.server_address(), getsockname(&server));
    assert_eq!(server.server_address().to_string(), stream);
    let server = UnixDatagramServer::bind(&datagram, || Silent).unwrap();
    assert_eq!(server.server_address(), getsockname(&server));
}

// Row 3.

#[test]
fn row_003_a_failed_bind_closes_the_socket() {
    let taken = TcpListener::bind(LOCAL).unwrap();
    let address = taken.local_addr().unwrap();
    let server = TcpServer::builder().build_unbound(address, || Silent).unwrap();
    assert!(server.fileno().is_some());
    assert!(server.server_bind().unwrap_err().is_address_in_use());
    assert!(server.fileno().is_none());
}

#[test]
fn row_003_a_failed_activation_closes_the_socket() {
    // Both may bind, because neither listens yet; then only one can.
    let first = TcpServer::builder().build_unbound(LOCAL, || Silent).unwrap();
    first.server_bind().unwrap();
    let second = TcpServer::builder().build_unbound(inet(&first), || Silent).unwrap();
    second.server_bind().unwrap();
    first.server_activate().unwrap();
    let error = second.server_activate().unwrap_err();
    assert!(error.is_address_in_use(), "{error}");
    assert!(second.fileno().is_none());
}

#[test]
#[cfg(target_os = "linux")]
fn row_003_1024_failures_leak_no_descriptor() {
    alone("checklist::construction::row_003_1024_failures_leak_no_descriptor", || {
        let taken = TcpListener::bind(LOCAL).unwrap();
        let taken = taken.local_addr().unwrap();
        let folder = folder();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let before = open_descriptors();
        for _ in 0..256 {
            assert!(TcpServer::bind(taken, || Silent).is_err());
            // An address of the documentation's, which is nobody's.
            assert!(UdpServer::bind("192.0.2.1:0", || Silent).is_err());
            assert!(UnixStreamServer::bind(&file, || Silent).is_err());
            assert!(UnixDatagramServer::bind(&file, || Silent).is_err());
        }
        assert_eq!(open_descriptors(), before);
    });
}

// Row 4.

#[test]
fn row_004_build_unbound_neither_binds_nor_listens() {
    let server = TcpServer::builder().build_unbound(LOCAL, || OneLine).unwrap();
    assert_eq!(getsockname(&server).port(), Some(0));
    assert!(!is_listening(&server));

    server.server_bind().unwrap();
    assert_ne!(getsockname(&server).port(), Some(0));
    assert_eq!(server.server_address(), getsockname(&server));
    assert!(!is_listening(&server));

    server.server_activate().unwrap();
    assert!(is_listening(&server));
    assert_eq!(serve_one(&server, connect(inet(&server))), "hello\n");
}

#[test]
fn row_004_build_unbound_makes_no_file() {
    let folder = folder();
    let path = folder.path().join("s");
    let server = UnixStreamServer::builder().build_unbound(&path, || OneLine).unwrap();
    assert!(server.fileno().is_some() && !path.exists());
    server.server_bind().unwrap();
    assert!(path.exists() && !is_listening(&server));
    server.server_activate().unwrap();
    assert_eq!(serve_one(&server, connect_any(&server.server_address())), "hello\n");
}

#[test]
fn row_004_build_unbound_datagrams() {
    let server = UdpServer::builder().build_unbound(LOCAL, || Silent).unwrap();
    assert_eq!(getsockname(&server).port(), Some(0));
    server.server_bind().unwrap();
    server.server_activate().unwrap();
    assert_eq!(server.server_address(), getsockname(&server));
    assert_ne!(inet(&server).port(), 0);
}

// Row 5.

/// Notes when the hooks of construction run, and what the socket is by then.
struct Construction {
    diary: Diary,
}

impl<R> ServerHooks<R> for Construction {
    fn before_bind(&self, socket: BorrowedFd<'_>) -> std::io::Result<()> {
        let socket = SockRef::from(&socket);
        let address = socket.local_addr()?;
        let bound = address.as_socket().is_some_and(|address| address.port() != 0);
        self.diary.note(format!("before_bind(bound: {bound})"));
        Ok(())
    }

    fn server_activated(&self, server: &ServerContext) {
        let port = server.server_address().port();
        self.diary.note(format!("server_activated(port: {})", port != Some(0)));
    }
}

#[test]
fn row_005_bind_comes_before_activate_each_once() {
    let diary = Diary::default();
    let hooks = Construction { diary: diary.clone() };
    let _server = TcpServer::builder().hooks(hooks).bind(LOCAL, || Silent).unwrap();
    assert_eq!(diary.lines(), ["before_bind(bound: false)", "server_activated(port: true)"]);
}

#[test]
fn row_005_each_hook_belongs_to_its_step() {
    let diary = Diary::default();
    let hooks = Construction { diary: diary.clone() };
    let server = TcpServer::builder().hooks(hooks).build_unbound(LOCAL, || Silent).unwrap();
    assert!(diary.lines().is_empty());
    server.server_bind().unwrap();
    assert_eq!(diary.lines(), ["before_bind(bound: false)"]);
    server.server_activate().unwrap();
    assert_eq!(diary.lines().len(), 2);
    assert!(diary.contains("server_activated(port: true)"));
}

#[test]
fn row_005_an_error_of_before_bind_is_the_binds() {
    struct Refuses;
    impl<R> ServerHooks<R> for Refuses {
        fn before_bind(&self, _socket: BorrowedFd<'_>) -> std::io::Result<()> {
            Err(std::io::Error::other("not today"))
        }
        fn server_activated(&self, _server: &ServerContext) {
            panic!("a server that is not bound is not activated");
        }
    }
    let error = TcpServer::builder().hooks(Refuses).bind(LOCAL, || Silent).unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
}

// Row 6.

fn reuses_address(server: &impl BaseServer) -> bool {
    SockRef::from(&*server.fileno().unwrap()).reuse_address().unwrap()
}

#[test]
fn row_006_reuse_address_is_on_by_default_and_can_be_off() {
    assert!(reuses_address(&TcpServer::bind(LOCAL, || Silent).unwrap()));
    let off = TcpServer::builder().allow_reuse_address(false).bind(LOCAL, || Silent).unwrap();
    assert!(!reuses_address(&off));
    // On UDP it would let two servers share a port.
    assert!(!reuses_address(&UdpServer::bind(LOCAL, || Silent).unwrap()));
}

#[test]
fn row_006_reuse_address_is_set_before_bind() {
    struct Looks(Diary);
    impl<R> ServerHooks<R> for Looks {
        fn before_bind(&self, socket: BorrowedFd<'_>) -> std::io::Result<()> {
            self.0.note(SockRef::from(&socket).reuse_address()?.to_string());
            Ok(())
        }
    }
    let diary = Diary::default();
    let _server = TcpServer::builder().hooks(Looks(diary.clone())).bind(LOCAL, || Silent).unwrap();
    assert_eq!(diary.lines(), ["true"]);
}

#[test]
fn row_006_a_restarted_server_takes_its_port_at_once() {
    let server = TcpServer::bind(LOCAL, || Silent).unwrap();
    let address = inet(&server);
    let mut client = connect(address);
    server.handle_request().unwrap();
    // The server has ended the connection first, and the client does not answer that: so it lingers.
    assert!(read_to_end(&mut client).is_empty());
    drop(server);

    let strict = TcpServer::builder().allow_reuse_address(false);
    assert!(strict.bind(address, || Silent).unwrap_err().is_address_in_use());
    assert_eq!(inet(&TcpServer::bind(address, || Silent).unwrap()), address);
}

// Row 7.

#[test]
fn row_007_reuse_port_is_off_by_default() {
    let tcp = TcpServer::bind(LOCAL, || Silent).unwrap();
    assert!(!SockRef::from(&*tcp.fileno().unwrap()).reuse_port().unwrap());
    let again = TcpServer::builder().allow_reuse_port(true).bind(inet(&tcp), || Silent);
    assert!(again.unwrap_err().is_address_in_use());

    let udp = UdpServer::bind(LOCAL, || Silent).unwrap();
    let again = UdpServer::builder().allow_reuse_port(true).bind(inet(&udp), || Silent);
    assert!(again.unwrap_err().is_address_in_use());
}

#[test]
fn row_007_with_reuse_port_two_servers_share_one_port() {
    let shared = || TcpServer::builder().allow_reuse_port(true);
    let first = shared().bind(LOCAL, || Silent).unwrap();
    let second = shared().bind(inet(&first), || Silent).unwrap();
    assert_eq!(first.server_address(), second.server_address());

    let shared = || UdpServer::builder().allow_reuse_port(true);
    let first = shared().bind(LOCAL, || Silent).unwrap();
    let second = shared().bind(inet(&first), || Silent).unwrap();
    assert_eq!(first.server_address(), second.server_address());
}

// Row 8.

#[test]
fn row_008_reuse_port_is_ignored_on_unix_sockets() {
    let folder = folder();
    let stream = UnixStreamServer::builder().allow_reuse_port(true);
    let stream = stream.bind(folder.path().join("s"), || OneLine).unwrap();
    assert_eq!(serve_one(&stream, connect_any(&stream.server_address())), "hello\n");
    let datagram = UnixDatagramServer::builder().allow_reuse_port(true);
    datagram.bind(folder.path().join("d"), || Silent).unwrap();
}

// Row 9.

#[test]
fn row_009_a_used_port_is_address_in_use() {
    let tcp = TcpServer::bind(LOCAL, || Silent).unwrap();
    let error = TcpServer::bind(inet(&tcp), || Silent).unwrap_err();
    assert!(error.is_address_in_use());
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::AddrInUse));
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot bind {}: ", inet(&tcp))), "{text}");

    let udp = UdpServer::bind(LOCAL, || Silent).unwrap();
    assert!(UdpServer::bind(inet(&udp), || Silent).unwrap_err().is_address_in_use());
}

// Row 10.

/// The length of the queue of connections that wait to be accepted, as the kernel has it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "no crate at hand reads TCP_INFO")]
fn kernels_backlog(fd: BorrowedFd<'_>) -> u32 {
    // SAFETY: a structure of numbers, for which all zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap();
    // SAFETY: the pointer and the length are those of `info`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0);
    // Of a socket that listens, this field is the maximum of its queue.
    info.tcpi_sacked
}

#[test]
#[cfg(target_os = "linux")]
fn row_010_the_backlog_is_the_systems_maximum_by_default() {
    let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let server = TcpServer::bind(LOCAL, || Silent).unwrap();
    let backlog = kernels_backlog(server.fileno().unwrap().as_fd());
    assert_eq!(backlog, most.trim().parse::<u32>().unwrap());
}

#[test]
#[cfg(target_os = "linux")]
fn row_010_the_kernel_sees_the_request_queue_size() {
    let server = TcpServer::builder().request_queue_size(7).bind(LOCAL, || Silent).unwrap();
    assert_eq!(kernels_backlog(server.fileno().unwrap().as_fd()), 7);
    // A socket that comes from elsewhere gets this server's as well.
    let listener = TcpListener::bind(LOCAL).unwrap();
    let server = TcpServer::builder().request_queue_size(9).from_fd(listener, || Silent).unwrap();
    assert_eq!(kernels_backlog(server.fileno().unwrap().as_fd()), 9);
}

#[test]
#[cfg(target_os = "linux")]
fn row_010_the_request_queue_of_a_unix_socket_is_bounded() {
    let folder = folder();
    let path = folder.path().join("s");
    let builder = UnixStreamServer::builder().request_queue_size(3);
    let _server = builder.bind(&path, || Silent).unwrap();
    let mut waiting = Vec::new();
    let full = loop {
        let kind = socket2::Type::STREAM;
        let client = socket2::Socket::new(socket2::Domain::UNIX, kind, None).unwrap();
        client.set_nonblocking(true).unwrap();
        match client.connect(&socket2::SockAddr::unix(&path).unwrap()) {
            Ok(()) => waiting.push(client),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100);
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    // Linux lets in one more than the number that listen was given.
    assert_eq!(waiting.len(), 4);
}

// Row 11.

#[test]
fn row_011_ipv6_needs_no_naming_of_the_family() {
    if !has_ipv6() {
        return;
    }
    let text = TcpServer::bind("[::1]:0", || OneLine).unwrap();
    assert!(inet(&text).is_ipv6());
    assert_eq!(serve_one(&text, connect(inet(&text))), "hello\n");
    let pair = TcpServer::bind(("::1", 0), || OneLine).unwrap();
    assert_eq!(serve_one(&pair, connect(inet(&pair))), "hello\n");
    let typed = TcpServer::bind((Ipv6Addr::LOCALHOST, 0), || OneLine).unwrap();
    assert_eq!(serve_one(&typed, connect(inet(&typed))), "hello\n");

    let udp = UdpServer::bind("[::1]:0", || OneLine).unwrap();
    let client = UdpSocket::bind("[::1]:0").unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"hello", inet(&udp)).unwrap();
    assert_eq!(udp.handle_request().unwrap(), Turn::Handled);
    assert_eq!(client.recv_from(&mut [0; 16]).unwrap(), (5, inet(&udp)));
}

#[test]
fn row_011_a_server_of_ipv6_only() {
    if !has_ipv6() {
        return;
    }
    let only = |fd: Arc<OwnedFd>| SockRef::from(&*fd).only_v6().unwrap();
    let tcp = TcpServer::builder().only_v6(true).bind("[::]:0", || OneLine).unwrap();
    assert!(only(tcp.fileno().unwrap()));
    let client = connect((Ipv6Addr::LOCALHOST, inet(&tcp).port()).into());
    assert_eq!(serve_one(&tcp, client), "hello\n");
    let udp = UdpServer::builder().only_v6(true).bind("[::]:0", || Silent).unwrap();
    assert!(only(udp.fileno().unwrap()));
}

#[test]
fn row_011_a_dual_stack_server_takes_both_and_shows_ipv4_as_ipv4() {
    if !has_ipv6() {
        return;
    }
    let (peers, seen) = channel();
    let handler = stream_fn(move |request| {
        peers.send(request.client_address().to_string())?;
        Ok(())
    });
    let server = TcpServer::builder().only_v6(false).bind("[::]:0", handler).unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        let client = connect(format!("{host}:{}", inet(&server).port()).parse().unwrap());
        assert_eq!(server.handle_request().unwrap(), Turn::Handled);
        assert_eq!(seen.recv_timeout(SOON).unwrap(), client.local_addr().unwrap().to_string());
    }
}

// Row 12.

#[test]
fn row_012_from_a_bound_tcp_listener() {
    let listener = TcpListener::bind(LOCAL).unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        TcpServer::builder().timeout(Duration::ZERO).from_fd(listener, || OneLine).unwrap();
    assert_eq!((inet(&server), getsockname(&server)), (address, address.into()));
    // It came in blocking mode, in which an accept would now wait.
    let server = Arc::new(server);
    let looks = Arc::clone(&server);
    let turn = soon("a look at an empty queue", move || looks.handle_request());
    assert_eq!(turn.unwrap(), Turn::TimedOut);
    let mut client = connect(address);
    client.write_all(b"hello\n").unwrap();
    crate::support::eventually("the request is taken", || {
        server.handle_request().unwrap() == Turn::Handled
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
    assert_eq!(server.handle_request().unwrap(), Turn::Handled);
    assert_eq!(client.recv_from(&mut [0; 16]).unwrap(), (5, address));
}

#[test]
fn row_012_from_a_bound_unix_listener() {
    let folder = folder();
    let path = folder.path().join("s");
    let listener = unix::UnixListener::bind(&path).unwrap();
    let builder = UnixStreamServer::builder().unlink_on_close(true);
    let server = builder.from_fd(listener, || OneLine).unwrap();
    assert_eq!(server.server_address(), Address::Unix(path.clone()));
    assert_eq!(serve_one(&server, connect_any(&server.server_address())), "hello\n");
    drop(server);
    // The file was not of this server's making.
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
    assert_eq!(server.handle_request().unwrap(), Turn::Handled);
    assert_eq!(client.recv(&mut [0; 16]).unwrap(), 5);
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
    // One of a pair has no name either, and has its peer.
    let (ours, theirs) = unix::UnixDatagram::pair().unwrap();
    let server = UnixDatagramServer::builder().from_fd(ours, || Silent).unwrap();
    theirs.send(b"hello").unwrap();
    assert_eq!(server.handle_request().unwrap(), Turn::Handled);
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

// Row 13.

#[allow(unsafe_code, reason = "std sets the flag and does not show it")]
fn is_close_on_exec(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
    assert_ne!(flags, -1);
    flags & libc::FD_CLOEXEC != 0
}

#[test]
fn row_013_listeners_are_close_on_exec() {
    let folder = folder();
    let servers: [Box<dyn BaseServer>; 4] = [
        Box::new(TcpServer::bind(LOCAL, || Silent).unwrap()),
        Box::new(UdpServer::bind(LOCAL, || Silent).unwrap()),
        Box::new(UnixStreamServer::bind(folder.path().join("s"), || Silent).unwrap()),
        Box::new(UnixDatagramServer::bind(folder.path().join("d"), || Silent).unwrap()),
    ];
    for server in servers {
        let fd = server.fileno().unwrap();
        assert!(is_close_on_exec(fd.as_fd()), "{}", server.server_address());
    }
}

#[test]
fn row_013_accepted_connections_are_close_on_exec() {
    let folder = folder();
    let (flags, seen) = channel();
    let handler = move || {
        let flags = flags.clone();
        stream_fn(move |request| {
            flags.send(is_close_on_exec(request.fileno().unwrap()))?;
            Ok(())
        })
    };
    let tcp = TcpServer::bind(LOCAL, handler.clone()).unwrap();
    let unix = UnixStreamServer::bind(folder.path().join("s"), handler).unwrap();
    let servers: [&dyn BaseServer; 2] = [&tcp, &unix];
    for server in servers {
        let _client = connect_any(&server.server_address());
        assert_eq!(server.handle_request().unwrap(), Turn::Handled);
        assert!(seen.recv_timeout(SOON).unwrap(), "{}", server.server_address());
    }
}

// Row 14.

/// A socket file that nobody listens at, as a server leaves it that was killed.
fn leave_stale(path: &Path) {
    drop(unix::UnixListener::bind(path).unwrap());
    assert!(fs::symlink_metadata(path).unwrap().file_type().is_socket());
}

#[test]
fn row_014_the_path_stays_by_default() {
    let folder = folder();
    let (stream, datagram) = (folder.path().join("s"), folder.path().join("d"));
    let server = UnixStreamServer::bind(&stream, || Silent).unwrap();
    server.server_close();
    drop(server);
    drop(UnixDatagramServer::bind(&datagram, || Silent).unwrap());
    assert!(stream.exists() && datagram.exists());
}

#[test]
fn row_014_unlink_on_close_removes_the_path() {
    let folder = folder();
    let (stream, datagram) = (folder.path().join("s"), folder.path().join("d"));
    let server = UnixStreamServer::builder().unlink_on_close(true);
    let server = server.bind(&stream, || Silent).unwrap();
    assert!(stream.exists());
    server.server_close();
    assert!(!stream.exists());
    let server = UnixDatagramServer::builder().unlink_on_close(true);
    drop(server.bind(&datagram, || Silent).unwrap());
    assert!(!datagram.exists());
}

#[test]
fn row_014_unlink_on_close_leaves_what_is_somebody_elses() {
    let folder = folder();
    let path = folder.path().join("s");
    let server = UnixStreamServer::builder().unlink_on_close(true);
    let server = server.bind(&path, || Silent).unwrap();
    fs::remove_file(&path).unwrap();
    let other = unix::UnixListener::bind(&path).unwrap();
    server.server_close();
    assert!(path.exists());
    drop(other);
    // And when it is gone altogether, that is no trouble.
    let server = UnixStreamServer::builder().unlink_on_close(true);
    let server = server.bind(&path, || Silent).unwrap();
    fs::remove_file(&path).unwrap();
    server.server_close();
}

#[test]
fn row_014_a_closing_server_leaves_its_successors_path() {
    let folder = folder();
    let path = folder.path().join("s");
    let restart = |path: &Path| {
        let mut served = 0;
        while served < 200 {
            let server = UnixStreamServer::builder().unlink_on_close(true);
            match server.bind(path, || Silent) {
                Ok(_server) => {
                    unix::UnixStream::connect(path).expect("a live server has its path");
                    served += 1;
                }
                Err(error) => assert!(error.is_address_in_use(), "{error}"),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| restart(&path));
        scope.spawn(|| restart(&path));
    });
}

#[test]
fn row_014_a_stale_path_is_replaced() {
    let folder = folder();
    let path = folder.path().join("s");
    leave_stale(&path);
    let server = UnixStreamServer::bind(&path, || OneLine).unwrap();
    assert_eq!(serve_one(&server, connect_any(&server.server_address())), "hello\n");
    drop(server);
    // One that a server of the other kind has left is as stale.
    let server = UnixDatagramServer::bind(&path, || Silent).unwrap();
    drop(server);
    UnixStreamServer::bind(&path, || Silent).unwrap();
}

#[test]
fn row_014_replacing_can_be_forbidden() {
    let folder = folder();
    let path = folder.path().join("s");
    leave_stale(&path);
    let before = fs::symlink_metadata(&path).unwrap().ino();
    let server = UnixStreamServer::builder().replace_stale(false);
    assert!(server.bind(&path, || Silent).unwrap_err().is_address_in_use());
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before);
}

#[test]
fn row_014_a_live_stream_server_is_not_replaced() {
    let folder = folder();
    let path = folder.path().join("s");
    // The probes of the others are connections too, which the live server would meet first.
    let live = UnixStreamServer::bind(&path, || Echo).unwrap().serve_in_background().unwrap();
    assert!(UnixStreamServer::bind(&path, || Silent).unwrap_err().is_address_in_use());
    assert!(UnixDatagramServer::bind(&path, || Silent).unwrap_err().is_address_in_use());
    assert_eq!(exchange(&mut *connect_any(&live.server_address()), "hello"), "hello\n");
}

#[test]
fn row_014_a_live_datagram_server_is_not_replaced() {
    let folder = folder();
    let path = folder.path().join("d");
    let live = UnixDatagramServer::bind(&path, || OneLine).unwrap();
    assert!(UnixDatagramServer::bind(&path, || Silent).unwrap_err().is_address_in_use());
    assert!(UnixStreamServer::bind(&path, || Silent).unwrap_err().is_address_in_use());
    let client = unix::UnixDatagram::bind(folder.path().join("c")).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"hello", &path).unwrap();
    assert_eq!(live.handle_request().unwrap(), Turn::Handled);
    assert_eq!(client.recv(&mut [0; 16]).unwrap(), 5);
}

#[test]
fn row_014_a_server_with_a_full_queue_is_alive() {
    let folder = folder();
    let path = folder.path().join("s");
    let busy = UnixStreamServer::builder().request_queue_size(0);
    let _busy = busy.bind(&path, || Silent).unwrap();
    let _fills = unix::UnixStream::connect(&path).unwrap();
    let other = path.clone();
    let bind = soon("an answer about a busy server", move || {
        UnixStreamServer::bind(other, || Silent).map(drop)
    });
    assert!(bind.unwrap_err().is_address_in_use());
    assert!(path.exists());
}

#[test]
fn row_014_of_servers_that_start_at_once_one_wins() {
    // Ten times, because the moment between bind and listen is short.
    for _ in 0..10 {
        let folder = folder();
        let path = folder.path().join("s");
        leave_stale(&path);
        let start = Barrier::new(8);
        let bind = || {
            start.wait();
            UnixStreamServer::bind(&path, || OneLine)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut winners = Vec::new();
        for result in results {
            match result {
                Ok(server) => winners.push(server),
                Err(error) => assert!(error.is_address_in_use(), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        // The losers have knocked to see whether somebody is there, and gone.
        let server = winners.pop().unwrap().serve_in_background().unwrap();
        assert_eq!(exchange(&mut *connect_any(&server.server_address()), "hello"), "hello\n");
    }
}

#[test]
fn row_014_anything_but_a_socket_is_never_removed() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let sub = folder.path().join("folder");
    fs::create_dir(&sub).unwrap();
    // A link is not what it points to.
    let (stale, link) = (folder.path().join("stale"), folder.path().join("link"));
    leave_stale(&stale);
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    for path in [&file, &sub, &link] {
        let error = UnixStreamServer::bind(path, || Silent).unwrap_err();
        assert!(error.is_address_in_use(), "{error}");
        let error = UnixDatagramServer::bind(path, || Silent).unwrap_err();
        assert!(error.is_address_in_use(), "{error}");
    }
    for path in [&file, &sub] {
        let error = UnixStreamServer::bind(path, || Silent).unwrap_err();
        assert!(error.to_string().contains("is no socket"), "{error}");
    }
    // Nor is it said that another server listens there.
    let error = UnixStreamServer::bind(&link, || Silent).unwrap_err();
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::AlreadyExists), "{error}");
    assert!(error.to_string().contains("is a link, and is not replaced"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(sub.is_dir() && stale.exists());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_unix_server_does_not_make_a_file_of_an_internet_address() {
    let address = "127.0.0.1:9000";
    for error in [
        UnixStreamServer::bind(address, || Silent).unwrap_err(),
        UnixDatagramServer::bind(address, || Silent).unwrap_err(),
    ] {
        assert!(
            error.is_bad_address() && error.to_string().contains("./127.0.0.1:9000"),
            "{error}"
        );
    }
    assert!(!Path::new(address).exists());
}

#[test]
fn row_014_the_mode_is_applied() {
    let folder = folder();
    // Narrower and wider than any usual umask leaves it.
    for mode in [0o600, 0o666] {
        let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = folder.path().join(format!("s{mode:o}"));
        let _stream = UnixStreamServer::builder().unix_mode(mode).bind(&path, || Silent).unwrap();
        assert_eq!(mode_of(&path), mode);
        let path = folder.path().join(format!("d{mode:o}"));
        let _datagram =
            UnixDatagramServer::builder().unix_mode(mode).bind(&path, || Silent).unwrap();
        assert_eq!(mode_of(&path), mode);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn row_014_abstract_names_have_no_file_and_go_with_their_server() {
    use std::os::linux::net::SocketAddrExt;
    let name = abstract_name("014");
    let server = UnixStreamServer::bind(&name, || OneLine).unwrap();
    assert!(!Path::new(&name).exists());
    assert!(UnixStreamServer::bind(&name, || Silent).unwrap_err().is_address_in_use());
    let address = unix::SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
    let client = unix::UnixStream::connect_addr(&address).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(serve_one(&server, client), "hello\n");
    drop(server);
    UnixStreamServer::bind(&name, || Silent).unwrap();
}

#[test]
fn row_014_a_path_that_is_too_long_is_refused_in_words() {
    let folder = folder();
    let long = folder.path().join("x".repeat(200));
    let error = UnixStreamServer::bind(&long, || Silent).unwrap_err();
    assert!(error.to_string().contains("too long for a Unix socket"), "{error}");
}
