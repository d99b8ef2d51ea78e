//! Headers that are wrong, cut short, late or missing, and connections from elsewhere: closed at once, quietly, each with
//! its reason.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::hooks::Rejected;
use socketserver::mixin::Mixin;
use socketserver::monitor::{Activity, CloseReason};
use socketserver::proxy_protocol::ProxyProtocol;
use socketserver::{
    HandlerResult, Inline, Limits, Pool, ServerHooks, StreamRequest, Threading, ThreadingTcpServer,
    stream_fn,
};

use super::{Behind, HOUR, Told, V1, behind, patient, trusting, v2, who};
use crate::support::{SOON, StopOnPanic, connect, eventually, inet, read_line, read_to_end};

const MOMENT: Duration = Duration::from_millis(50);

/// Whether the connection has ended without a byte, in order or by a reset.
fn ends_empty(client: &mut TcpStream) -> bool {
    let mut answer = Vec::new();
    let ended = client.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", answer.escape_ascii());
    ended.map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true)
}

/// Fails unless a connection ends for this reason, and the hook receives this cause.
fn fails<M: Mixin>(
    behind: &Behind<M>,
    reason: CloseReason,
    cause: &str,
    act: impl Fn(&mut TcpStream),
) {
    let before = behind.told.ended(reason);
    let mut client = behind.connect();
    act(&mut client);
    assert!(ends_empty(&mut client), "{cause}");
    let failure = behind.failures.recv_timeout(SOON).unwrap();
    assert!(failure.contains(cause), "{failure}");
    eventually("its end is told", || behind.told.ended(reason) == before + 1);
    // Nothing lingers: a client that is refused keeps no descriptor.
    assert_eq!(behind.server.context().live_count(), 0);
}

#[test]
fn bad_headers_are_closed_at_once_and_quietly() {
    // A lingering close would outlast the test.
    let limits = patient().linger(Duration::from_secs(3_600));
    let behind = behind(Threading::new(), limits, trusting());
    let bad = |cause, bytes: &[u8]| {
        fails(&behind, CloseReason::BadProxyHeader, cause, |client| {
            client.write_all(bytes).unwrap();
        });
    };
    let began = Instant::now();
    bad("it begins as no PROXY header does", b"GET / HTTP/1.1\r\n\r\n");
    bad("it begins as no PROXY header does", &[&b"x"[..], V1].concat());
    bad("its line is wrong", b"PROXY TCP4 1.1.1.1 1.1.1.1 1 99999\r\nhello\n");
    bad("longer than 107 bytes", &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat());
    bad("no version 2", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0chello");
    bad("more than the 4096", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff");
    bad("does not end where", &v2(&[1, 0, 9, b'h', b'2']));
    assert!(began.elapsed() < SOON, "nothing was waited for");
}

#[test]
fn a_header_that_is_cut_short_or_never_comes_is_the_peers_fault() {
    let behind = behind(Threading::new(), patient(), trusting());
    let cause = "ended the connection in the middle";
    for cut in [&b""[..], b"P", &V1[..40], &v2(b"")[..20], b"PROXY UNKNOWN\r"] {
        fails(&behind, CloseReason::BadProxyHeader, cause, |client| {
            client.write_all(cut).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
    }
}

fn silence_has_its_own_limit(mixin: impl Mixin + 'static) {
    let behind = behind(mixin, patient().proxy_header(MOMENT), trusting());
    for bytes in [&b""[..], b"PROXY T"] {
        let began = Instant::now();
        fails(&behind, CloseReason::BadProxyHeader, "PROXY header timeout of 50ms", |client| {
            client.write_all(bytes).unwrap();
        });
        assert!(began.elapsed() >= MOMENT);
    }
    // A byte now and then does not extend the limit.
    fails(&behind, CloseReason::BadProxyHeader, "PROXY header timeout of 50ms", |client| {
        for byte in V1 {
            if client.write_all(&[*byte]).is_err() {
                break;
            }
            thread::sleep(MOMENT / 5);
        }
    });
    // After the header this limit no longer holds.
    let mut client = behind.connect();
    client.write_all(V1).unwrap();
    thread::sleep(MOMENT * 2);
    client.write_all(b"hello\n").unwrap();
    assert_eq!(read_line(&mut client), "hello 203.0.113.9:56324 by 127.0.0.1\n");
}

#[test]
fn silence_has_its_own_limit_threading() {
    silence_has_its_own_limit(Threading::new());
}

#[test]
fn silence_has_its_own_limit_pool() {
    silence_has_its_own_limit(Pool::new(2));
}

#[test]
fn silence_has_its_own_limit_inline() {
    silence_has_its_own_limit(Inline);
}

#[test]
fn one_byte_at_a_time_is_a_header_too_and_nothing_behind_it_is_taken() {
    let behind = behind(Threading::new(), patient(), trusting());
    for header in
        [V1.to_vec(), v2(&super::tlv(2, b"example.com")), b"PROXY UNKNOWN x\rx\r\n".to_vec()]
    {
        let mut client = behind.connect();
        client.set_nodelay(true).unwrap();
        for byte in [&header[..], b"hello\n"].concat() {
            client.write_all(&[byte]).unwrap();
            // The next byte comes in a packet of its own.
            thread::yield_now();
        }
        let line = read_line(&mut client);
        assert!(line.starts_with("hello ") && line.ends_with(" by 127.0.0.1\n"), "{line}");
    }
}

#[test]
fn a_connection_from_elsewhere_is_refused_unread_and_its_header_spoofs_nothing() {
    let elsewhere = ProxyProtocol::from_networks(["10.0.0.0/8", "unix"]).unwrap();
    let behind = behind(Threading::new(), patient(), elsewhere);
    for bytes in [&b""[..], V1, b"hello\n"] {
        fails(
            &behind,
            CloseReason::Rejected,
            "in no network that proxies connect from",
            |client| {
                // The connection may be closed already.
                let _ = client.write_all(bytes);
            },
        );
    }
    let told = behind.told.diary.lines();
    assert!(told.iter().all(|line| !line.contains("203.0.113.9")), "{told:?}");
    assert!(told.contains(&"ended 127.0.0.1 by None: Rejected".to_owned()), "{told:?}");
}

#[test]
fn elsewhere_is_served_by_an_explicit_word_and_its_header_is_a_line() {
    let elsewhere = ProxyProtocol::from_networks(["10.0.0.0/8"]).unwrap().serve_others();
    let behind = behind(Threading::new(), patient().per_peer(1), elsewhere);
    let mut client = behind.connect();
    client.write_all(V1).unwrap();
    let address = client.local_addr().unwrap();
    let line = std::str::from_utf8(V1).unwrap().trim_end();
    assert_eq!(read_line(&mut client), format!("{line} {address} by nobody\n"));
    // The client counts by its own address, as without a proxy.
    assert!(ends_empty(&mut behind.connect()));
    eventually("it was refused", || behind.told.ended(CloseReason::Refused) == 1);
}

#[test]
fn a_thousand_silent_connections_of_a_proxy_end_in_time_and_others_are_served() {
    let limits = patient().proxy_header(Duration::from_secs(2));
    let behind = behind(Threading::new(), limits, trusting());
    let began = Instant::now();
    let silent: Vec<_> = (0..1_000).map(|_| behind.connect()).collect();
    let mut client = behind.connect();
    client.write_all(&[V1, b"hello\n"].concat()).unwrap();
    assert_eq!(read_line(&mut client), "hello 203.0.113.9:56324 by 127.0.0.1\n");
    let served = began.elapsed();
    for mut client in silent {
        assert!(ends_empty(&mut client));
    }
    eventually("all ends are told", || behind.told.ended(CloseReason::BadProxyHeader) == 1_000);
    assert!(served < SOON);
}

#[test]
fn a_drain_ends_a_connection_that_has_sent_no_header() {
    let limits = patient().first_read(MOMENT);
    let behind = behind(Threading::new(), limits, trusting());
    let mut silent = behind.connect();
    eventually("it is live", || behind.server.context().live_count() == 1);
    let report = behind.server.server_close_within(SOON);
    assert!(report.is_clean(), "{report}");
    assert!(ends_empty(&mut silent));
    assert_eq!(behind.server.context().counts().stopped, 1);
    assert_eq!(behind.server.context().counts().unheard, 1);
}

#[test]
fn a_first_request_behind_a_header_that_comes_in_a_drain_is_answered() {
    let limits = patient().drain(HOUR).first_read(HOUR);
    for header in [V1, b""] {
        let behind = behind(Threading::new(), limits, trusting());
        let mut client = behind.connect();
        client.write_all(header).unwrap();
        let context = behind.server.context();
        let is_waiting = || context.live().iter().any(|one| one.activity == Activity::Idle);
        eventually("it waits", || {
            is_waiting() && (header.is_empty() || context.live()[0].proxy_address.is_some())
        });
        thread::scope(|scope| {
            let closing = scope.spawn(|| behind.server.server_close());
            let _stop = StopOnPanic(&*behind.server);
            eventually("it drains", || context.is_stopping());
            // The header too may come as late as that.
            client
                .write_all(&[if header.is_empty() { V1 } else { b"" }, b"late\n"].concat())
                .unwrap();
            assert_eq!(read_line(&mut client), "late 203.0.113.9:56324 by 127.0.0.1\n");
            assert!(read_to_end(&mut client).is_empty(), "and then it ends at once");
            assert!(closing.join().unwrap().is_clean());
        });
    }
}

/// Turns away the client that the header names, by `wrap_request`.
struct NotThatOne;

impl ServerHooks<StreamRequest> for NotThatOne {
    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        let is_that_one = request.client_address().to_string() == "203.0.113.9:56324";
        if is_that_one { Err(Rejected.into()) } else { Ok(()) }
    }

    fn handle_error(&self, failure: &socketserver::hooks::Failure<'_>) {
        panic!("a rejection is no failure: {failure}");
    }
}

#[test]
fn a_hook_decides_by_the_true_address() {
    let told = Told::default();
    let server = ThreadingTcpServer::builder()
        .limits(Limits::default())
        .proxy_protocol(trusting())
        .hooks(NotThatOne)
        .observer(told.observer())
        .bind("127.0.0.1:0", stream_fn(who))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let mut other = connect(inet(&*server));
    other.write_all(b"PROXY TCP4 203.0.113.8 198.51.100.1 1 443\r\nhello\n").unwrap();
    assert_eq!(read_line(&mut other), "hello 203.0.113.8:1 by 127.0.0.1\n");
    let mut that_one = connect(inet(&*server));
    that_one.write_all(V1).unwrap();
    assert!(read_to_end(&mut that_one).is_empty());
    eventually("its end is told", || told.ended(CloseReason::Rejected) == 1);
}
