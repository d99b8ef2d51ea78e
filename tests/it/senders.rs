//! Attacks by the things that come with a sender's bytes: descriptors that were not asked for, names that lead to other
//! files, and forged addresses.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use socket2::SockRef;
use socketserver::mixin::Mixin;
use socketserver::transport::BindAddress;
use socketserver::{
    BaseServer, DatagramRequest, HandlerResult, Inline, Pool, SocketOptions, StreamRequest,
    Threading, UdpServer, UnixDatagramServer, UnixStreamServer, datagram_fn, stream_fn,
};

use crate::support::passed::Passed;
use crate::support::process::in_a_process;
use crate::support::{SOON, folder, has_ipv6, hear, inet, receive, serve, skip_if};

/// A handler announces that it runs, and then waits for the test: the descriptors that came with its request have to be
/// closed before that.
fn gates() -> (Sender<()>, Receiver<()>, impl Fn() + Send + Sync + 'static) {
    let ((runs, ran), (end, ends)) = (channel(), channel());
    let (runs, ends) = (Mutex::new(runs), Mutex::new(ends));
    let handle = move || {
        runs.lock().unwrap().send(()).unwrap();
        hear(&ends).unwrap();
    };
    (end, ran, handle)
}

#[test]
fn descriptors_that_come_with_a_datagram_are_not_kept() {
    fn check<M: Mixin + 'static>(mixin: M, max_packet_size: usize) {
        let folder = folder();
        let (end, ran, handle) = gates();
        let server = UnixDatagramServer::builder()
            .mixin(mixin)
            .socket_options(SocketOptions::default().max_packet_size(max_packet_size))
            .bind(
                folder.path().join("server"),
                datagram_fn(move |_request| {
                    handle();
                    Ok(())
                }),
            )
            .unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.connect(server.server_address().as_path().unwrap()).unwrap();
        // The first datagram is received alone, and the others in a batch.
        let mut passed: Vec<Passed> =
            (0..3).map(|_| Passed::with("take these\n", client.as_fd())).collect();
        let server = server.serve_in_background().unwrap();
        ran.recv_timeout(SOON).unwrap();
        passed.into_iter().for_each(Passed::are_closed);
        (0..2).for_each(|_| end.send(()).unwrap());
        (0..2).for_each(|_| ran.recv_timeout(SOON).unwrap());
        end.send(()).unwrap();
        passed = vec![Passed::with("take these\n", client.as_fd())];
        ran.recv_timeout(SOON).unwrap();
        passed.into_iter().for_each(Passed::are_closed);
        end.send(()).unwrap();
        server.stop().unwrap();
    }

    // The datagrams arrive whole, or cut off at the end.
    for max_packet_size in [65_535, 4] {
        check(Inline, max_packet_size);
        check(Pool::new(1), max_packet_size);
    }
}

#[test]
fn descriptors_that_come_over_a_connection_are_not_kept() {
    fn check<M: Mixin + 'static>(mixin: M, read: fn(&mut StreamRequest) -> HandlerResult) {
        let folder = folder();
        let (end, ran, handle) = gates();
        let serve = move |request: &mut StreamRequest| {
            read(request)?;
            handle();
            Ok(())
        };
        let path = folder.path().join("server");
        let server =
            UnixStreamServer::builder().mixin(mixin).bind(&path, stream_fn(serve)).unwrap();
        let server = server.serve_in_background().unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let passed = Passed::with("take these\n", client.as_fd());
        ran.recv_timeout(SOON).unwrap();
        passed.are_closed();
        end.send(()).unwrap();
        server.stop().unwrap();
    }

    fn by_line(request: &mut StreamRequest) -> HandlerResult {
        assert_eq!(request.next_line(&mut String::new())?, Some("take these"));
        Ok(())
    }

    fn by_chunk(request: &mut StreamRequest) -> HandlerResult {
        assert_eq!(request.chunk()?.expect("it has come").len(), 11);
        Ok(())
    }

    fn past_the_buffer(request: &mut StreamRequest) -> HandlerResult {
        Ok(request.read_exact(&mut [0; 11])?)
    }

    for read in [by_line, by_chunk, past_the_buffer] {
        check(Inline, read);
        check(Threading::new(), read);
    }
}

#[test]
fn what_nobody_reads_is_closed_with_its_connection() {
    let folder = folder();
    let path = folder.path().join("server");
    let server = UnixStreamServer::bind(&path, stream_fn(|_request| Ok(()))).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let passed = Passed::with("take these\n", client.as_fd());
    let _server = server.serve_in_background().unwrap();
    // The client stays connected, so that only the server's end is closed.
    passed.are_closed();
    drop(client);
}

/// Reports for each datagram its sender, and whether the answer was sent.
fn tell(told: Sender<(String, bool)>) -> impl Fn(&mut DatagramRequest) -> HandlerResult {
    move |request| {
        let answered = request.reply(b"yes?")?;
        Ok(told.send((String::from_utf8_lossy(request.packet()).into_owned(), answered))?)
    }
}

#[test]
fn a_sender_with_a_relative_name_gets_no_answer_and_neither_does_who_has_it_here() {
    let ended = in_a_process(
        "senders::a_sender_with_a_relative_name_gets_no_answer_and_neither_does_who_has_it_here",
        || {
            let (theirs, ours) = (folder(), folder());
            std::env::set_current_dir(theirs.path()).unwrap();
            let client = UnixDatagram::bind("notify").unwrap();
            std::env::set_current_dir(ours.path()).unwrap();
            // This socket has the same relative name as the client's, in the folder of the server.
            let neighbour = UnixDatagram::bind("notify").unwrap();
            let (told, answers) = channel();
            let path = ours.path().join("server");
            let server = UnixDatagramServer::bind(&path, datagram_fn(tell(told))).unwrap();
            let server = server.serve_in_background().unwrap();
            client.send_to(b"relative", &path).unwrap();
            assert_eq!(answers.recv_timeout(SOON).unwrap(), ("relative".to_owned(), false));
            for socket in [&client, &neighbour] {
                socket.set_nonblocking(true).unwrap();
                let nothing = socket.recv(&mut [0; 9]).unwrap_err();
                assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
            }
            // A sender with an absolute path gets an answer, and so does one with an abstract name.
            let whole = UnixDatagram::bind(ours.path().join("client")).unwrap();
            whole.send_to(b"absolute", &path).unwrap();
            assert_eq!(answers.recv_timeout(SOON).unwrap(), ("absolute".to_owned(), true));
            let name = format!("senders-{}", std::process::id());
            use std::os::linux::net::SocketAddrExt;
            let name = UnixAddr::from_abstract_name(name).unwrap();
            let no_file = UnixDatagram::bind_addr(&name).unwrap();
            no_file.send_to(b"abstract", &path).unwrap();
            assert_eq!(answers.recv_timeout(SOON).unwrap(), ("abstract".to_owned(), true));
            server.stop().unwrap();
            "done".to_owned()
        },
    );
    assert!(ended.is_none_or(|ended| ended.out == "done"));
}

#[test]
fn a_name_as_long_as_names_can_be_is_answered() {
    let folder = folder();
    let name = "x".repeat(108 - folder.path().as_os_str().len() - 1);
    let (told, answers) = channel();
    let path = folder.path().join("server");
    let server = UnixDatagramServer::bind(&path, datagram_fn(tell(told))).unwrap();
    let server = server.serve_in_background().unwrap();
    // std needs room for a NUL at the end, and the system does not.
    let client =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)
            .unwrap();
    let whole = folder.path().join(name);
    rustix::net::bind(&client, &rustix::net::SocketAddrUnix::new(&whole).unwrap()).unwrap();
    let client = UnixDatagram::from(client);
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"long", &path).unwrap();
    assert_eq!(answers.recv_timeout(SOON).unwrap(), ("long".to_owned(), true));
    assert_eq!(receive(&client).len(), 4);
    server.stop().unwrap();
}

/// An address of this machine other than the loopback's, if it has one.
fn other_own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Connecting a UDP socket sends nothing, and chooses its own address.
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

/// A server that answers everything, and a duplicate of its socket: datagrams sent by the duplicate come from the server's
/// own address.
fn answering(
    address: &str,
) -> (std::sync::Arc<dyn BaseServer>, UdpSocket, Receiver<(String, bool)>) {
    let (told, answers) = channel();
    let server = UdpServer::bind(address, datagram_fn(tell(told))).unwrap();
    let own = OwnedFd::try_clone(&server.fileno().unwrap()).unwrap();
    (std::sync::Arc::new(server), own.into(), answers)
}

#[test]
fn what_comes_from_the_servers_own_address_is_dropped() {
    let mut ways = vec![
        ("127.0.0.1:0", Ipv4Addr::LOCALHOST.into()),
        ("127.0.0.2:0", Ipv4Addr::new(127, 0, 0, 2).into()),
        ("0.0.0.0:0", Ipv4Addr::LOCALHOST.into()),
        ("0.0.0.0:0", Ipv4Addr::new(127, 0, 0, 9).into()),
    ];
    ways.extend(other_own_address().map(|ip| ("0.0.0.0:0", ip)));
    if has_ipv6() {
        ways.push(("[::1]:0", std::net::Ipv6Addr::LOCALHOST.into()));
        ways.push(("[::]:0", std::net::Ipv6Addr::LOCALHOST.into()));
        // An IPv4 address in the form that an IPv6 socket shows.
        ways.push(("[::]:0", Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()));
        let mapped = other_own_address().map(|ip| match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
            v6 => v6,
        });
        ways.extend(mapped.map(|ip| ("[::]:0", ip)));
    }
    for (address, ip) in ways {
        let (server, own, answers) = answering(address);
        let to = SocketAddr::new(ip, inet(&*server).port());
        // These are more datagrams than a batch holds, so that at least one batch has none from the client.
        (0..100).for_each(|_| assert_eq!(own.send_to(b"own", to).unwrap(), 3));
        let client = UdpSocket::bind((ip, 0)).unwrap();
        client.send_to(b"client", to).unwrap();
        own.send_to(b"own", to).unwrap();
        client.send_to(b"last", to).unwrap();
        let running = serve(&server);
        let heard: Vec<String> =
            (0..2).map(|_| answers.recv_timeout(SOON).expect("it is answered").0).collect();
        assert_eq!(heard, ["client", "last"], "{address}, from {ip}");
        server.shutdown();
        running.recv_timeout(SOON).unwrap().unwrap();
        assert_eq!(answers.try_iter().count(), 0, "{address}, from {ip}");
    }
}

#[test]
fn another_address_with_the_servers_port_is_a_client_like_others() {
    let (server, _own, answers) = answering("127.0.0.1:0");
    let port = inet(&*server).port();
    let running = serve(&server);
    let client = UdpSocket::bind(("127.0.0.2", port)).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"neighbour", ("127.0.0.1", port)).unwrap();
    assert_eq!(receive(&client).len(), 4);
    assert_eq!(answers.recv_timeout(SOON).unwrap(), ("neighbour".to_owned(), true));
    server.shutdown();
    running.recv_timeout(SOON).unwrap().unwrap();
}

/// Members of a multicast group may share address and port, and receive each other's datagrams.
#[test]
fn what_is_sent_to_a_group_is_heard_from_the_own_address_as_well() {
    let (server, own, answers) = answering("0.0.0.0:0");
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let lo = Ipv4Addr::LOCALHOST;
    let joined = own.join_multicast_v4(&group, &lo);
    let sent = joined.and_then(|()| {
        SockRef::from(&own).set_multicast_if_v4(&lo)?;
        own.send_to(b"to all", (group, inet(&*server).port()))
    });
    if skip_if(sent.err()) {
        return;
    }
    let running = serve(&server);
    assert_eq!(answers.recv_timeout(SOON).unwrap().0, "to all");
    server.shutdown();
    running.recv_timeout(SOON).unwrap().unwrap();
    // The answer to that datagram reached the server itself, and was dropped.
    assert_eq!(answers.try_iter().count(), 0);
}

/// A peer may replace its own path by a link to the server, so that answers go there.
#[test]
fn a_server_does_not_answer_itself_over_unix_sockets_either() {
    fn check(address: BindAddress) {
        let (told, answers) = channel();
        let server = UnixDatagramServer::bind(address, datagram_fn(tell(told))).unwrap();
        let own = UnixDatagram::from(OwnedFd::try_clone(&server.fileno().unwrap()).unwrap());
        let to = own.local_addr().unwrap();
        own.send_to_addr(b"own", &to).unwrap();
        UnixDatagram::unbound().unwrap().send_to_addr(b"client", &to).unwrap();
        let server = server.serve_in_background().unwrap();
        assert_eq!(answers.recv_timeout(SOON).unwrap().0, "client");
        server.stop().unwrap();
        assert_eq!(answers.try_iter().count(), 0);
    }

    let folder = folder();
    check(folder.path().join("server").into());
    check(format!("@senders-own-{}", std::process::id()).into());
}

/// Options by which a socket adds control messages to each datagram, besides the one with the datagram's destination. The
/// maker of the socket or a hook may set them.
#[cfg(target_os = "linux")]
const TOLD: [(i32, i32, i32); 15] = [
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPING, 0x7fff & !3),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1),
    (libc::SOL_SOCKET, 75, 1), // SO_RCVMARK
    (libc::SOL_SOCKET, 82, 1), // SO_RCVPRIORITY
    (libc::SOL_SOCKET, libc::SO_WIFI_STATUS, 1),
    (libc::IPPROTO_IP, libc::IP_RECVTOS, 1),
    (libc::IPPROTO_IP, libc::IP_RECVTTL, 1),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, 1),
    (libc::IPPROTO_IP, libc::IP_RETOPTS, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
];

#[test]
#[cfg(target_os = "linux")]
fn the_address_that_was_asked_is_known_whatever_else_the_socket_tells() {
    fn check(any: &str, ip: IpAddr, told: &[(i32, i32, i32)]) {
        let socket = UdpSocket::bind(any).unwrap();
        for (level, name, value) in told {
            // Not every system has all options, and those of IPv6 are for its sockets.
            let _ = crate::support::system::set_option(&socket, *level, *name, *value);
        }
        let (says, said) = channel();
        let handler = datagram_fn(move |request| Ok(says.send(request.local_address())?));
        let server = UdpServer::builder().from_fd(socket, handler).unwrap();
        let to = SocketAddr::new(ip, inet(&server).port());
        let client = UdpSocket::bind((ip, 0)).unwrap();
        (0..64).for_each(|_| assert_eq!(client.send_to(b"?", to).unwrap(), 1));
        let server = server.serve_in_background().unwrap();
        for _ in 0..64 {
            assert_eq!(said.recv_timeout(SOON).unwrap(), to.into(), "{told:?}");
        }
        server.stop().unwrap();
    }

    let mut ways = vec![("0.0.0.0:0", Ipv4Addr::new(127, 0, 0, 7).into())];
    if has_ipv6() {
        ways.push(("[::]:0", std::net::Ipv6Addr::LOCALHOST.into()));
    }
    for (any, ip) in ways {
        check(any, ip, &[]);
        for one in TOLD {
            check(any, ip, &[one]);
        }
        check(any, ip, &TOLD);
    }
}
