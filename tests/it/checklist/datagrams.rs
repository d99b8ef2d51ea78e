//! Datagrams, UDP and Unix: rows 91 to 97.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use socketserver::hooks::{Fault, Phase};
use socketserver::mixin::Mixin;
use socketserver::transport::Udp;
use socketserver::{
    Address, DatagramRequest, DatagramRequestHandler, HandlerResult, Inline, Pool, Server,
    SocketOptions, Threading, UdpServer, UnixDatagramServer, datagram_fn,
};

use crate::handlers::{Crash, Echo};
use crate::reports::{Report, reports};
#[cfg(target_os = "linux")]
use crate::support::system::send_without_checksums;
use crate::support::{SOON, eventually, folder, inet, receive, receive_text};

/// A client that receives only from the server's own address.
fn client_of(server: SocketAddr) -> UdpSocket {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, 0).into(),
    };
    let client = UdpSocket::bind(any).unwrap();
    client.connect(server).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client
}

fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).unwrap();
    receive(client)
}

/// Runs a check under every mixin. Replies leave by different ways in the loop and in threads.
macro_rules! under_every_mixin {
    ($check:ident) => {
        $check(Inline);
        $check(Threading::new());
        $check(Pool::new(2));
    };
}

#[test]
fn row_091_a_request_is_the_packet_and_the_way_back_to_its_sender() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let handler = datagram_fn(|request| {
            let mut read = Vec::new();
            request.read_to_end(&mut read)?;
            assert_eq!(read, request.packet(), "what is read is the packet");
            let (client, local) = (request.client_address(), request.local_address());
            // These writes are gathered into one datagram.
            write!(request, "{} from ", String::from_utf8(read)?)?;
            write!(request, "{client} to {local}")?;
            Ok(())
        });
        let server = UdpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        let clients: Vec<UdpSocket> = (0..3).map(|_| client_of(inet(&*server))).collect();
        for client in &clients {
            client.send(b"mail").unwrap();
        }
        for client in &clients {
            let me = client.local_addr().unwrap();
            let expected = format!("mail from {me} to {}", inet(&*server));
            assert_eq!(String::from_utf8(receive(client)).unwrap(), expected);
        }
    }

    under_every_mixin!(check);
}

#[test]
fn row_091_every_reply_is_a_datagram_of_its_own() {
    let handler = datagram_fn(|request| {
        assert!(request.reply(b"one")?);
        // Long replies do not overtake short ones, although the two leave by different ways.
        assert!(request.reply(&[b'2'; 4_000])?);
        Ok(request.write_all(b"three")?)
    });
    let server = UdpServer::bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let client = client_of(inet(&*server));
    assert_eq!(ask(&client, b"?"), b"one");
    assert_eq!(receive(&client), [b'2'; 4_000]);
    assert_eq!(receive(&client), b"three");
}

/// Two clients send before the server looks, so that it receives one batch. Each gets its own datagrams back, in order
/// and separate, whether or not neighbours are of the same length.
fn a_batch_is_echoed(server: UdpServer) {
    let sent = ["aa", "bb", "cc", "longer", "dd", "", "", "ee", "ff"];
    let address = match inet(&server) {
        SocketAddr::V4(any) => (Ipv4Addr::LOCALHOST, any.port()).into(),
        SocketAddr::V6(any) => (Ipv6Addr::LOCALHOST, any.port()).into(),
    };
    let clients = [client_of(address), client_of(address)];
    for client in [&clients[0], &clients[1], &clients[0]] {
        for packet in sent {
            client.send(packet.as_bytes()).unwrap();
        }
    }
    let _server = server.serve_in_background().unwrap();
    for (client, times) in [(&clients[0], 2), (&clients[1], 1)] {
        for packet in sent.repeat(times) {
            assert_eq!(receive(client), packet.as_bytes());
        }
    }
}

#[test]
fn row_091_a_burst_of_replies_is_cut_into_its_datagrams() {
    for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
        a_batch_is_echoed(UdpServer::bind(address, || Echo).unwrap());
    }
}

#[test]
fn row_091_however_many_replies_there_are_and_however_long_they_arrive_as_they_are() {
    // The replies are more than a burst may have, and together longer than a burst may be. Some are longer than a packet of
    // Ethernet, and some too long to be gathered at all. They come in runs of the same length.
    let runs = [(0, 3), (1, 70), (1_500, 5), (2_048, 35), (2_049, 2), (7, 1), (0, 1), (300, 64)];
    let handler = datagram_fn(move |request| {
        for (run, (len, times)) in runs.iter().enumerate() {
            for _ in 0..*times {
                request.reply(&vec![run as u8; *len])?;
            }
        }
        Ok(())
    });
    let server = UdpServer::bind("[::]:0", handler).unwrap();
    let port = inet(&server).port();
    // One client comes over IPv6, and one over IPv4 to the same socket.
    let ways = [client_of((Ipv6Addr::LOCALHOST, port).into()), {
        client_of((Ipv4Addr::LOCALHOST, port).into())
    }];
    for client in &ways {
        socket2::SockRef::from(client).set_recv_buffer_size(4 << 20).unwrap();
        // While the second datagram waits, the server gathers its replies to the first.
        client.send(b"?").unwrap();
    }
    let _server = server.serve_in_background().unwrap();
    for client in &ways {
        for (run, (len, times)) in runs.iter().enumerate() {
            for _ in 0..*times {
                assert_eq!(receive(client), vec![run as u8; *len]);
            }
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn row_091_replies_leave_one_by_one_where_bursts_are_refused() {
    let server = UdpServer::bind("127.0.0.1:0", || Echo).unwrap();
    // The kernel then refuses to cut bursts.
    send_without_checksums(&server.fileno().unwrap());
    a_batch_is_echoed(server);
}

/// Answers with the length of the packet and whether its end is missing.
fn length(request: &mut DatagramRequest) -> HandlerResult {
    write!(request, "{} {}", request.packet().len(), request.truncated())?;
    Ok(())
}

#[test]
fn row_092_the_longest_datagram_is_taken_whole_by_default() {
    let server = UdpServer::bind("127.0.0.1:0", datagram_fn(length)).unwrap();
    let server = server.serve_in_background().unwrap();
    let client = client_of(inet(&*server));
    // More than Python's 8,192, and as much as UDP carries over IPv4.
    assert_eq!(ask(&client, &[b'a'; 9_000]), b"9000 false");
    assert_eq!(ask(&client, &[b'a'; 65_507]), b"65507 false");
}

#[test]
fn row_092_a_longer_datagram_is_dispatched_and_known_to_be_truncated() {
    let folder = folder();
    let path = folder.path().join("server");
    let udp = UdpServer::builder()
        .socket_options(SocketOptions::default().max_packet_size(100))
        .bind("127.0.0.1:0", datagram_fn(length));
    let udp = udp.unwrap().serve_in_background().unwrap();
    let client = client_of(inet(&*udp));
    assert_eq!(ask(&client, &[b'a'; 100]), b"100 false");
    assert_eq!(ask(&client, &[b'a'; 101]), b"100 true");
    assert_eq!(ask(&client, &[b'a'; 40_000]), b"100 true");
    assert_eq!(ask(&client, &[b'a'; 99]), b"99 false");

    let unix =
        UnixDatagramServer::builder().socket_options(SocketOptions::default().max_packet_size(100));
    let unix =
        unix.bind(path.as_path(), datagram_fn(length)).unwrap().serve_in_background().unwrap();
    let client = UnixDatagram::bind(folder.path().join("client")).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.connect(&path).unwrap();
    for (sent, expected) in [(100, "100 false"), (101, "100 true")] {
        client.send(&vec![b'a'; sent]).unwrap();
        assert_eq!(receive_text(&client), expected);
    }
    drop(unix);
}

#[test]
fn row_093_an_empty_datagram_is_dispatched() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let server =
            UdpServer::builder().mixin(mixin).bind("127.0.0.1:0", datagram_fn(length)).unwrap();
        let server = server.serve_in_background().unwrap();
        assert_eq!(ask(&client_of(inet(&*server)), b""), b"0 false");
    }

    under_every_mixin!(check);
}

/// Obeys the packet.
struct Obeys;

impl DatagramRequestHandler for Obeys {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        match request.packet() {
            b"say nothing" => {}
            b"say little" => {
                request.reply(b"")?;
            }
            b"fail halfway" => {
                request.write_all(b"half an ans")?;
                return Err("half an answer".into());
            }
            b"panic halfway" => {
                request.write_all(b"half an ans")?;
                panic!("half an answer");
            }
            b"fail after a reply" => {
                request.reply(b"replied")?;
                request.write_all(b"half an ans")?;
                return Err("half an answer".into());
            }
            other => {
                let text = other.to_vec();
                request.write_all(&text)?;
            }
        }
        Ok(())
    }
}

fn obedient<M: Mixin + 'static>(
    mixin: M,
) -> (socketserver::BackgroundServer<Udp, M>, Receiver<Report>) {
    let (reports, reported) = reports();
    let server =
        UdpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", || Obeys).unwrap();
    (server.serve_in_background().unwrap(), reported)
}

/// Sends a question without an answer, and shows that there is none: the first reply to arrive is that to a second
/// question, sent after the request of the first has ended.
fn sends_nothing<M: Mixin>(server: &Server<Udp, M>, client: &UdpSocket, question: &[u8]) {
    let ended = || {
        let counts = server.context().counts();
        counts.completed + counts.failed + counts.panicked
    };
    let before = ended();
    client.send(question).unwrap();
    eventually("it has ended", || ended() == before + 1 && server.context().live_count() == 0);
    assert_eq!(ask(client, b"hello"), b"hello");
    eventually("that has ended too", || ended() == before + 2);
}

#[test]
fn row_094_nothing_replied_is_nothing_sent() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (server, _reported) = obedient(mixin);
        let client = client_of(inet(&*server));
        sends_nothing(&server, &client, b"say nothing");
    }

    under_every_mixin!(check);
}

#[test]
fn row_094_an_empty_reply_is_sent_if_it_is_asked_for() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (server, _reported) = obedient(mixin);
        assert_eq!(ask(&client_of(inet(&*server)), b"say little"), b"");
    }

    under_every_mixin!(check);
}

#[test]
fn row_095_what_a_failed_handler_has_written_is_not_sent() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (server, reported) = obedient(mixin);
        let client = client_of(inet(&*server));
        for question in [&b"fail halfway"[..], b"panic halfway"] {
            sends_nothing(&server, &client, question);
            let report = reported.recv_timeout(SOON).unwrap();
            assert_eq!((report.phase, report.fault), (Phase::Handle, Fault::Handler));
            assert!(report.error.ends_with("half an answer"), "{}", report.error);
        }
    }

    under_every_mixin!(check);
}

#[test]
fn row_095_what_it_has_replied_before_is() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (server, reported) = obedient(mixin);
        let client = client_of(inet(&*server));
        assert_eq!(ask(&client, b"fail after a reply"), b"replied");
        assert_eq!(reported.recv_timeout(SOON).unwrap().error, "half an answer");
        assert_eq!(ask(&client, b"hello"), b"hello");
    }

    under_every_mixin!(check);
}

#[test]
fn row_096_a_unix_client_without_a_name_is_handled_and_cannot_be_answered() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let folder = folder();
        let path = folder.path().join("server");
        let (tell, told) = channel();
        let (reports, reported) = reports();
        let handler = datagram_fn(move |request| {
            let _ = tell.send((request.client_address(), request.reply(b"answer")?));
            // A written answer goes nowhere either, and that is no error.
            Ok(request.write_all(b"and more")?)
        });
        let server = UnixDatagramServer::builder()
            .mixin(mixin)
            .hooks(reports)
            .bind(path.as_path(), handler)
            .unwrap();
        let server = server.serve_in_background().unwrap();

        let nameless = UnixDatagram::unbound().unwrap();
        nameless.send_to(b"who am I?", &path).unwrap();
        assert_eq!(told.recv_timeout(SOON).unwrap(), (Address::Unnamed, false));

        let name = folder.path().join("client");
        let named = UnixDatagram::bind(&name).unwrap();
        named.set_read_timeout(Some(SOON)).unwrap();
        named.send_to(b"and I?", &path).unwrap();
        assert_eq!(told.recv_timeout(SOON).unwrap(), (Address::Unix(name), true));
        assert_eq!(receive(&named), b"answer");

        eventually("both have ended", || server.context().counts().completed == 2);
        assert!(reported.try_recv().is_err());
    }

    under_every_mixin!(check);
}

#[test]
fn row_097_the_servers_socket_survives_every_request() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (reports, reported) = reports();
        let server =
            UdpServer::builder().mixin(mixin).hooks(reports).bind("127.0.0.1:0", || Crash).unwrap();
        let socket = server.fileno().unwrap();
        let server = server.serve_in_background().unwrap();
        let client = client_of(inet(&*server));
        for _ in 0..20 {
            client.send(b"!").unwrap();
            reported.recv_timeout(SOON).unwrap();
        }
        assert!(Arc::ptr_eq(&server.fileno().unwrap(), &socket), "it is the same one");
        let bound = socket2::SockRef::from(&*socket).local_addr().unwrap();
        assert_eq!(bound.as_socket(), Some(inet(&*server)));
    }

    under_every_mixin!(check);
}

/// Answers with as many bytes as the packet says, by `reply` or, if it begins with a `w`, by `write`.
fn long_answer(request: &mut DatagramRequest) -> HandlerResult {
    let text = std::str::from_utf8(request.packet())?.to_owned();
    match text.strip_prefix('w') {
        Some(count) => request.write_all(&vec![b'a'; count.parse()?])?,
        None => {
            request.reply(&vec![b'a'; text.parse()?])?;
        }
    }
    Ok(())
}

/// Asks a server for an answer of `longest` bytes, and for one byte more.
fn too_long<M: Mixin + 'static>(mixin: M, address: &str, longest: usize) {
    let (reports, reported) = reports();
    let server = UdpServer::builder().mixin(mixin).hooks(reports);
    let server = server.bind(address, datagram_fn(long_answer)).unwrap();
    let server = server.serve_in_background().unwrap();
    let client = client_of(inet(&*server));
    let too_long = longest + 1;
    for (question, phase) in
        [(too_long.to_string(), Phase::Handle), (format!("w{too_long}"), Phase::Finish)]
    {
        client.send(question.as_bytes()).unwrap();
        let report = reported.recv_timeout(SOON).unwrap();
        assert_eq!((report.phase, report.errno), (phase, Some(libc::EMSGSIZE)), "{report:?}");
        // The server lives, and sends an answer of the longest possible length.
        assert_eq!(ask(&client, longest.to_string().as_bytes()).len(), longest);
        assert_eq!(ask(&client, format!("w{longest}").as_bytes()).len(), longest);
    }
}

#[test]
fn row_097_a_reply_that_is_too_long_is_an_error_of_its_own_request_only() {
    fn check<M: Mixin + 'static>(mixin: M) {
        too_long(mixin, "127.0.0.1:0", 65_507);
    }

    under_every_mixin!(check);
}

#[test]
fn row_097_over_ipv6_a_reply_may_be_twenty_bytes_longer() {
    if let Err(error) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        let strict = std::env::var_os("SOCKETSERVER_NO_SKIP").is_some_and(|set| set == "1");
        assert!(!strict, "no IPv6: {error}");
        println!("skipped: no IPv6: {error}");
        return;
    }
    too_long(Inline, "[::1]:0", 65_527);
    too_long(Threading::new(), "[::1]:0", 65_527);
}

#[test]
fn row_097_a_unix_reply_that_is_too_long_is_an_error_as_well() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let folder = folder();
        let path = folder.path().join("server");
        let (reports, reported) = reports();
        let server = UnixDatagramServer::builder()
            .mixin(mixin)
            .hooks(reports)
            .socket_options(SocketOptions::default().send_buffer_bytes(8_192))
            .bind(path.as_path(), datagram_fn(long_answer))
            .unwrap();
        let _serving = server.serve_in_background().unwrap();
        let client = UnixDatagram::bind(folder.path().join("client")).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.connect(&path).unwrap();

        client.send(b"1000000").unwrap();
        let report = reported.recv_timeout(SOON).unwrap();
        assert_eq!((report.phase, report.errno), (Phase::Handle, Some(libc::EMSGSIZE)));
        client.send(b"1000").unwrap();
        assert_eq!(receive(&client).len(), 1_000);
    }

    under_every_mixin!(check);
}

#[test]
fn row_097_a_client_that_has_gone_does_not_harm_the_others() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let server = UdpServer::builder().mixin(mixin).bind("127.0.0.1:0", || Echo).unwrap();
        let server = server.serve_in_background().unwrap();
        for _ in 0..10 {
            // The answer meets a closed port, and the system tells the server so.
            client_of(inet(&*server)).send(b"good-bye").unwrap();
        }
        let client = client_of(inet(&*server));
        assert_eq!(ask(&client, b"hello"), b"hello");
        eventually("all are counted", || server.context().counts().completed == 11);
        assert_eq!(server.context().counts().failed, 0);
    }

    under_every_mixin!(check);
}
