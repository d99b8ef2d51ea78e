//! Requests that are refused before their handshake: nothing is sent in the clear, whatever the hook `overflow` writes.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};

use socketserver::mixin::{Mixin, Refused, WhenFull};
use socketserver::proxy_protocol::ProxyProtocol;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, HandlerResult, Inline, Limits, Pool, Rate, ServerHooks,
    StreamRequest, Threading,
};

use super::client::{Client, localhost};
use crate::handlers::Echo;
use crate::support::{SOON, connect, exchange, inet};

/// Tries every way to answer, and sends the errors to the test.
struct Answers(Sender<(&'static str, Vec<ErrorKind>)>);

impl ServerHooks<StreamRequest> for Answers {
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        let mut failed = Vec::new();
        failed.extend(request.write_all(b"sorry, in the clear\n").err().map(|error| error.kind()));
        failed.extend(request.flush().err().map(|error| error.kind()));
        assert!(request.outbox().map_or(true, |outbox| outbox.send("sorry\n").is_err()));
        assert!(request.tls().is_none());
        let _ = self.0.send((why.name(), failed));
        Ok(())
    }
}

type Told = Receiver<(&'static str, Vec<ErrorKind>)>;

fn start<M: Mixin + 'static>(builder: Builder<Tcp, M>) -> (BackgroundServer<Tcp, M>, Told) {
    let (tell, told) = channel();
    let server = builder.tls(localhost()).hooks(Answers(tell)).bind("127.0.0.1:0", || Echo);
    (server.unwrap().serve_in_background().unwrap(), told)
}

/// Fails unless a client is refused for this reason, after it has sent its header and its hello.
fn is_refused(mut client: TcpStream, header: &[u8], told: &Told, why: &str) {
    let mut hello = header.to_vec();
    Client::new().session().write_tls(&mut hello).unwrap();
    // The connection may be closed already.
    let _ = client.write_all(&hello);
    let mut bytes = Vec::new();
    let ended = client.read_to_end(&mut bytes);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    assert_eq!(bytes, b"", "{why}: {:?}", String::from_utf8_lossy(&bytes));
    let (reason, failed) = told.recv_timeout(SOON).expect("the hook runs all the same");
    assert_eq!(reason, why);
    assert!(failed.contains(&ErrorKind::NotConnected), "{why}: {failed:?}");
}

/// Fails unless a client that comes too soon after another one is refused.
fn too_soon(mixin: impl Mixin + 'static) {
    let limits = Limits::default().peer_rate(Rate::per_second(1).burst(1));
    let (server, told) = start(Builder::<Tcp, _>::new(mixin).limits(limits));
    let mut served = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut served, "hello"), "hello\n");
    // `Inline` serves one client at a time, so the first one ends before the second one comes.
    served.end_output();
    let _ = served.read_to_end(&mut Vec::new());
    is_refused(connect(inet(&*server)), b"", &told, "too_fast_from_peer");
}

/// Fails unless a second client at the same time is refused.
fn too_many(mixin: impl Mixin + 'static) {
    let limits = Limits::default().per_peer(1);
    let (server, told) = start(Builder::<Tcp, _>::new(mixin).limits(limits));
    let mut served = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut served, "hello"), "hello\n");
    is_refused(connect(inet(&*server)), b"", &told, "too_many_from_peer");
    assert_eq!(exchange(&mut served, "still here"), "still here\n");
}

/// Fails unless a second client behind a proxy is refused, after the proxy's header was read.
fn too_many_behind_a_proxy(mixin: impl Mixin + 'static) {
    let trusting = ProxyProtocol::from_networks(["127.0.0.1"]).unwrap();
    let limits = Limits::default().per_peer(1);
    let (server, told) =
        start(Builder::<Tcp, _>::new(mixin).limits(limits).proxy_protocol(trusting));
    let header = b"PROXY TCP4 192.0.2.1 198.51.100.1 7 443\r\n";
    let mut stream = connect(inet(&*server));
    stream.write_all(header).unwrap();
    let mut served = Client::new().over(stream);
    assert_eq!(exchange(&mut served, "hello"), "hello\n");
    is_refused(connect(inet(&*server)), header, &told, "too_many_from_peer");
    assert_eq!(exchange(&mut served, "still here"), "still here\n");
}

#[test]
fn a_peer_that_comes_too_often_is_sent_nothing_in_the_clear() {
    too_soon(Inline);
    too_soon(Threading::new());
    too_soon(Pool::new(2));
    #[cfg(has_green)]
    too_soon(socketserver::Green::new());
}

#[test]
fn a_peer_with_too_many_requests_is_sent_nothing_in_the_clear() {
    too_many(Threading::new());
    too_many(Pool::new(3));
    #[cfg(has_green)]
    too_many(socketserver::Green::new());
}

#[test]
fn a_client_behind_a_proxy_is_sent_nothing_in_the_clear() {
    too_many_behind_a_proxy(Threading::new());
    too_many_behind_a_proxy(Pool::new(3));
    #[cfg(has_green)]
    too_many_behind_a_proxy(socketserver::Green::new());
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn a_busy_server_sends_nothing_in_the_clear() {
    let pool = Pool::new(1).queue(0).when_full(WhenFull::Refuse);
    let (server, told) = start(Builder::<Tcp, _>::new(pool));
    let mut served = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut served, "hello"), "hello\n");
    is_refused(connect(inet(&*server)), b"", &told, "busy");
    let threads = Threading::new().max_threads(1).when_full(WhenFull::Refuse);
    let (server, told) = start(Builder::<Tcp, _>::new(threads));
    let mut served = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut served, "hello"), "hello\n");
    is_refused(connect(inet(&*server)), b"", &told, "busy");
}

#[test]
fn a_server_that_closes_sends_nothing_in_the_clear() {
    // The second client waits for the only worker, which the first one holds until the drain's end.
    let limits = Limits::default().drain(std::time::Duration::ZERO);
    let (server, told) = start(Builder::<Tcp, _>::new(Pool::new(1).queue(1)).limits(limits));
    let mut served = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut served, "hello"), "hello\n");
    let mut queued = connect(inet(&*server));
    crate::support::eventually("it is queued", || server.context().live_count() == 2);
    drop(server);
    let mut bytes = Vec::new();
    let _ = queued.read_to_end(&mut bytes);
    assert_eq!(bytes, b"");
    // The pool may refuse or release the request; if the hook was called, its answer has failed.
    for (_, failed) in told.try_iter() {
        assert!(failed.contains(&ErrorKind::NotConnected), "{failed:?}");
    }
}
