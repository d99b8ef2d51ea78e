//! The limits for one peer count the client behind the proxy, and never the proxy.

use std::io::Write;
use std::net::TcpStream;

use socketserver::mixin::{Mixin, Refused};
use socketserver::monitor::CloseReason;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, HandlerResult, Limits, Pool, Rate, ServerHooks, StreamRequest,
    Threading, stream_fn,
};

use super::{Told, patient, trusting, who, whole};
use crate::support::{connect, eventually, exchange, inet, read_line, read_to_end};

/// Says why a client is refused.
struct Why;

impl ServerHooks<StreamRequest> for Why {
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        let client = request.client_address();
        Ok(writeln!(request, "{client}: {why}")?)
    }
}

fn start<M: Mixin + 'static>(mixin: M, limits: Limits) -> (BackgroundServer<Tcp, M>, Told) {
    let told = Told::default();
    let server = Builder::<Tcp, _>::new(mixin)
        .limits(limits)
        .proxy_protocol(trusting())
        .hooks(Why)
        .observer(told.observer())
        .bind("127.0.0.1:0", stream_fn(who))
        .unwrap();
    (server.serve_in_background().unwrap(), told)
}

/// A client with this number, through the proxy.
fn client<M: Mixin>(server: &BackgroundServer<Tcp, M>, number: u8) -> TcpStream {
    let mut client = connect(inet(&**server));
    client
        .write_all(format!("PROXY TCP4 192.0.2.{number} 198.51.100.1 7 443\r\n").as_bytes())
        .unwrap();
    client
}

fn one_client_is_limited_and_the_proxy_is_not(mixin: impl Mixin + 'static) {
    let (server, told) = start(mixin, patient().per_peer(2));
    // Health checks, in both versions, and clients that the proxy cannot name, or names as itself, have no limit.
    let own: Vec<_> = (0..6)
        .map(|number| {
            let mut own = connect(inet(&*server));
            let port = own.local_addr().unwrap().port();
            let header = match number % 3 {
                0 => whole(0x20, 0, b""),
                1 => b"PROXY UNKNOWN\r\n".to_vec(),
                _ => format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} 443\r\n").into_bytes(),
            };
            own.write_all(&header).unwrap();
            let line = exchange(&mut own, "hello");
            assert_eq!(line, format!("hello {} by 127.0.0.1\n", own.local_addr().unwrap()));
            own
        })
        .collect();
    // Two connections of each client come through one proxy.
    let mut inside: Vec<_> = [1, 1, 2, 2, 3, 3].map(|number| client(&server, number)).into();
    for client in &mut inside {
        assert!(exchange(client, "hello").starts_with("hello 192.0.2."));
    }
    let refused = |number: u8| {
        let answer = read_to_end(&mut client(&server, number));
        let expected = format!("192.0.2.{number}:7: this client has too many requests at once\n");
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
    };
    refused(1);
    refused(3);
    eventually("both are told", || told.ended(CloseReason::Refused) == 2);
    assert_eq!(told.diary.count("PerPeer"), 2);
    assert_eq!(told.diary.count("ended 192.0.2.1 by Some(127.0.0.1): Refused"), 1);

    // After a change of the limit, the clients that are already inside count by their true addresses.
    let mut limits = server.limits();
    limits.per_peer = limits.live;
    server.context().set_limits(limits);
    inside.push(client(&server, 1));
    assert_eq!(exchange(&mut inside[6], "hello"), "hello 192.0.2.1:7 by 127.0.0.1\n");
    limits.per_peer = 3;
    server.context().set_limits(limits);
    refused(1);

    // There is room again when one has left.
    inside.remove(0);
    eventually("one has left", || {
        let live = server.context().live();
        live.iter().filter(|one| one.client_address.to_string() == "192.0.2.1:7").count() == 2
    });
    let mut next = client(&server, 1);
    assert_eq!(exchange(&mut next, "hello"), "hello 192.0.2.1:7 by 127.0.0.1\n");
    drop((own, inside, next));
    eventually("none is live", || server.context().live_count() == 0);
    let mut again = client(&server, 1);
    assert_eq!(exchange(&mut again, "hello"), "hello 192.0.2.1:7 by 127.0.0.1\n");
}

#[test]
fn one_client_is_limited_and_the_proxy_is_not_threading() {
    one_client_is_limited_and_the_proxy_is_not(Threading::new());
}

#[test]
fn one_client_is_limited_and_the_proxy_is_not_pool() {
    one_client_is_limited_and_the_proxy_is_not(Pool::new(20));
}

#[test]
fn the_rate_of_one_client_is_limited_and_the_proxys_is_not() {
    let limits = patient().peer_rate(Rate::per_second(1).burst(2));
    let (server, told) = start(Threading::new(), limits);
    for number in 1..=10 {
        for _ in 0..2 {
            let mut client = client(&server, number);
            assert!(exchange(&mut client, "hello").starts_with("hello 192.0.2."));
        }
    }
    assert_eq!(read_line(&mut client(&server, 10)), "192.0.2.10:7: this client comes too often\n");
    eventually("it is told", || told.ended(CloseReason::Refused) == 1);
    assert_eq!(told.diary.count("PeerRate"), 1);
}
