//! The rate of new requests: of all, and of one peer.

use std::io::Write;
use std::time::{Duration, Instant};

use socketserver::mixin::Refused;
use socketserver::monitor::Limit;
use socketserver::{
    BaseServer, HandlerResult, Rate, ServerHooks, StreamRequest, TcpServer, ThreadingTcpServer,
    stream_fn,
};

use super::live::connect_from;
use super::{Told, change, patient};
use crate::handlers::{Held, OneLine, held};
use crate::support::{SOON, connect, eventually, inet, read_to_end};

/// Says to each client whether it comes too often.
struct TooFast;

impl ServerHooks<StreamRequest> for TooFast {
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        assert!(matches!(why, Refused::TooFastFromPeer), "{why}");
        Ok(writeln!(request, "{why}")?)
    }
}

#[test]
fn peer_rate_refuses_one_that_comes_too_often_and_nobody_else() {
    let told = Told::default();
    let limits = patient().peer_rate(Rate::per_second(1).burst(3)).live(1_000);
    let server = TcpServer::builder()
        .limits(limits)
        .hooks(TooFast)
        .observer(told.observer())
        .bind("127.0.0.1:0", stream_fn(|request| Ok(writeln!(request, "welcome")?)))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let is_welcome = |last: u8| {
        let answer = read_to_end(&mut connect_from([127, 0, 0, last], inet(&*server)));
        let welcome = answer == b"welcome\n";
        assert!(welcome || answer == b"this client comes too often\n", "{answer:?}");
        welcome
    };
    let began = Instant::now();
    let mut burst = 0;
    while is_welcome(1) {
        burst += 1;
    }
    // The burst is welcome, and so are as many more as tokens have come back while it was used up.
    assert!((3..=4 + began.elapsed().as_secs()).contains(&burst), "{burst}");
    assert!(is_welcome(2) && is_welcome(2) && is_welcome(2), "somebody else pays for it");
    assert_eq!(told.reached(Limit::PeerRate), 1);
    eventually("a token comes back", || is_welcome(1));

    change(&server, |limits| limits.peer_rate = None);
    assert!((0..20).all(|_| is_welcome(1)), "there is no rate any more");
}

#[test]
fn a_peer_that_is_turned_away_uses_up_no_rate_of_the_others() {
    let ((handler, holder), told) = (held(), Told::default());
    // A burst that one peer alone would use up many times, and a rate that would take minutes to give it back.
    let rate = Some(Rate::per_second(1).burst(10));
    let server = ThreadingTcpServer::builder()
        .limits(patient().per_peer(1).accept_rate(rate))
        .observer(told.observer())
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let from = |last: u8| connect_from([127, 0, 0, last], inet(&*server));
    let _inside = from(1);
    holder.started.recv_timeout(SOON).unwrap();
    for _ in 0..200 {
        assert_eq!(read_to_end(&mut from(1)), b"");
    }
    let _other = from(2);
    holder.started.recv_timeout(SOON).unwrap();
    assert_eq!(told.reached(Limit::AcceptRate), 0, "nobody had to wait");
    drop(holder);
}

#[test]
fn accept_rate_lets_a_burst_pass_and_then_the_rate() {
    let rate = Rate::per_second(50).burst(5);
    let least = Duration::from_secs(10) / 50;
    let told = Told::default();
    let fifteen = |server: &dyn BaseServer| {
        for _ in 0..15 {
            let mut client = connect(inet(server));
            client.write_all(b"x\n").unwrap();
            assert_eq!(read_to_end(&mut client), b"x\n");
        }
    };

    let began = Instant::now();
    let server = TcpServer::builder()
        .limits(patient().accept_rate(rate))
        .observer(told.observer())
        .bind("127.0.0.1:0", || OneLine)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    fifteen(&*server);
    assert!(began.elapsed() >= least, "from the beginning: {:?}", began.elapsed());
    assert!(told.reached(Limit::AcceptRate) >= 1);

    // Without a limit nothing more is reported; with one again, the burst is full again.
    change(&server, |limits| limits.accept_rate = None);
    fifteen(&*server);
    let before = told.reached(Limit::AcceptRate);
    fifteen(&*server);
    assert_eq!(told.reached(Limit::AcceptRate), before);
    let began = Instant::now();
    change(&server, |limits| limits.accept_rate = Some(rate));
    fifteen(&*server);
    assert!(began.elapsed() >= least, "on a live server: {:?}", began.elapsed());
}
