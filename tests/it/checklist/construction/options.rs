//! Rows 6 to 11 and 13: the options of the listening socket.

use std::fs;
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::channel;

use socket2::SockRef;
use socketserver::monitor::AcceptOutcome;
use socketserver::{
    BaseServer, ServerHooks, SocketOptions, TcpServer, UdpServer, UnixDatagramServer,
    UnixStreamServer, stream_fn,
};

use super::{LOCAL, has_ipv6, serve_one};
use crate::checklist::one_of_each_transport;
use crate::handlers::{Diary, OneLine, Silent};
use crate::support::{SOON, connect, connect_any, folder, inet, read_to_end, receive_from};

fn reuses_address(server: &impl BaseServer) -> bool {
    SockRef::from(&*server.fileno().unwrap()).reuse_address().unwrap()
}

#[test]
fn row_006_reuse_address_is_on_by_default_and_can_be_off() {
    assert!(reuses_address(&TcpServer::bind(LOCAL, || Silent).unwrap()));
    let off = TcpServer::builder()
        .socket_options(SocketOptions::default().allow_reuse_address(false))
        .bind(LOCAL, || Silent)
        .unwrap();
    assert!(!reuses_address(&off));
    // On UDP the option would let two servers share a port.
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
    // The server ends the connection first, so that the server's end of it still occupies the port.
    assert!(read_to_end(&mut client).is_empty());
    drop(server);

    let strict =
        TcpServer::builder().socket_options(SocketOptions::default().allow_reuse_address(false));
    assert!(strict.bind(address, || Silent).unwrap_err().is_address_in_use());
    assert_eq!(inet(&TcpServer::bind(address, || Silent).unwrap()), address);
}

#[test]
fn row_007_reuse_port_is_off_by_default() {
    let tcp = TcpServer::bind(LOCAL, || Silent).unwrap();
    assert!(!SockRef::from(&*tcp.fileno().unwrap()).reuse_port().unwrap());
    let again = TcpServer::builder()
        .socket_options(SocketOptions::default().allow_reuse_port(true))
        .bind(inet(&tcp), || Silent);
    assert!(again.unwrap_err().is_address_in_use());

    let udp = UdpServer::bind(LOCAL, || Silent).unwrap();
    let again = UdpServer::builder()
        .socket_options(SocketOptions::default().allow_reuse_port(true))
        .bind(inet(&udp), || Silent);
    assert!(again.unwrap_err().is_address_in_use());
}

#[test]
fn row_007_with_reuse_port_two_servers_share_one_port() {
    let shared =
        || TcpServer::builder().socket_options(SocketOptions::default().allow_reuse_port(true));
    let first = shared().bind(LOCAL, || Silent).unwrap();
    let second = shared().bind(inet(&first), || Silent).unwrap();
    assert_eq!(first.server_address(), second.server_address());

    let shared =
        || UdpServer::builder().socket_options(SocketOptions::default().allow_reuse_port(true));
    let first = shared().bind(LOCAL, || Silent).unwrap();
    let second = shared().bind(inet(&first), || Silent).unwrap();
    assert_eq!(first.server_address(), second.server_address());
}

#[test]
fn row_008_reuse_port_is_ignored_on_unix_sockets() {
    let folder = folder();
    let stream =
        UnixStreamServer::builder().socket_options(SocketOptions::default().allow_reuse_port(true));
    let stream = stream.bind(folder.path().join("s"), || OneLine).unwrap();
    assert_eq!(serve_one(&stream, connect_any(&stream.server_address())), "hello\n");
    let datagram = UnixDatagramServer::builder()
        .socket_options(SocketOptions::default().allow_reuse_port(true));
    datagram.bind(folder.path().join("d"), || Silent).unwrap();
}

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
    // For a socket that listens, this field is the maximum of its queue.
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
    let server = TcpServer::builder()
        .socket_options(SocketOptions::default().request_queue_size(7))
        .bind(LOCAL, || Silent)
        .unwrap();
    assert_eq!(kernels_backlog(server.fileno().unwrap().as_fd()), 7);
    // A socket that comes from elsewhere gets this server's maximum as well.
    let listener = TcpListener::bind(LOCAL).unwrap();
    let server = TcpServer::builder()
        .socket_options(SocketOptions::default().request_queue_size(9))
        .from_fd(listener, || Silent)
        .unwrap();
    assert_eq!(kernels_backlog(server.fileno().unwrap().as_fd()), 9);
}

#[test]
#[cfg(target_os = "linux")]
fn row_010_the_request_queue_of_a_unix_socket_is_bounded() {
    let folder = folder();
    let path = folder.path().join("s");
    let builder =
        UnixStreamServer::builder().socket_options(SocketOptions::default().request_queue_size(3));
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
    assert_eq!(udp.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(receive_from(&client), (b"hello".to_vec(), inet(&udp)));
}

#[test]
fn row_011_a_server_of_ipv6_only() {
    if !has_ipv6() {
        return;
    }
    let only = |fd: Arc<OwnedFd>| SockRef::from(&*fd).only_v6().unwrap();
    let tcp = TcpServer::builder()
        .socket_options(SocketOptions::default().only_v6(true))
        .bind("[::]:0", || OneLine)
        .unwrap();
    assert!(only(tcp.fileno().unwrap()));
    let client = connect((Ipv6Addr::LOCALHOST, inet(&tcp).port()).into());
    assert_eq!(serve_one(&tcp, client), "hello\n");
    let udp = UdpServer::builder()
        .socket_options(SocketOptions::default().only_v6(true))
        .bind("[::]:0", || Silent)
        .unwrap();
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
    let server = TcpServer::builder()
        .socket_options(SocketOptions::default().only_v6(false))
        .bind("[::]:0", handler)
        .unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        let client = connect(format!("{host}:{}", inet(&server).port()).parse().unwrap());
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
        assert_eq!(seen.recv_timeout(SOON).unwrap(), client.local_addr().unwrap().to_string());
    }
}

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
    for server in one_of_each_transport(folder.path()) {
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
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
        assert!(seen.recv_timeout(SOON).unwrap(), "{}", server.server_address());
    }
}
