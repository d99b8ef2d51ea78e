//! The number of live requests: of all, of one peer, and with few descriptors.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use socketserver::mixin::{Mixin, Refused};
use socketserver::monitor::{CloseReason, Limit, ServerEvent};
use socketserver::transport::{Bind, Tcp, Transport};
use socketserver::{
    Address, BaseServer, Builder, HandlerResult, Pool, ServerHooks, SocketOptions, StreamRequest,
    TcpServer, Threading, ThreadingTcpServer,
};

use super::{Told, change, holding, patient};
use crate::handlers::{Echo, Held, OneLine, held};
use crate::over_tcp::{leave_connections_to_tcp, leave_to_tcp};
use crate::support::system::{descriptor_limits, set_descriptor_limits};
use crate::support::{SOON, alone, connect, eventually, exchange, inet, read_to_end, serve};

fn the_gate_of_live_holds(mixin: impl Mixin + 'static) {
    let (server, holder, told) = holding(mixin, patient().live(2));
    let clients: Vec<TcpStream> = (0..6).map(|_| connect(inet(&*server))).collect();
    let starts = |count: usize| {
        for _ in 0..count {
            holder.started.recv_timeout(SOON).unwrap();
        }
    };
    starts(2);
    eventually("it says that it is full", || told.reached(Limit::Live) == 1);
    assert_eq!(server.context().counts().accepted, 2);

    // One client leaves and one enters, and the server is full again.
    holder.release.send(()).unwrap();
    starts(1);
    eventually("it says so again", || told.reached(Limit::Live) == 2);
    assert_eq!((server.context().counts().accepted, server.context().live_count()), (3, 2));

    // A higher limit of the running server lets in more at once.
    change(&server, |limits| limits.live = 4);
    starts(2);
    eventually("it says so of the new limit", || told.reached(Limit::Live) == 3);
    assert_eq!((server.context().counts().accepted, server.context().live_count()), (5, 4));

    // With a lower limit, running requests stay, and the next one is accepted when all of them have left.
    change(&server, |limits| limits.live = 1);
    for left in [3, 2, 1] {
        holder.release.send(()).unwrap();
        eventually("one has left", || server.context().live_count() == left);
        assert_eq!(server.context().counts().accepted, 5);
    }
    holder.release.send(()).unwrap();
    starts(1);
    eventually("it says so a last time", || told.reached(Limit::Live) == 4);
    holder.release.send(()).unwrap();
    for mut client in clients {
        assert_eq!(read_to_end(&mut client), b"released\n");
    }
    let last = told.reached(Limit::Live);
    assert!(last == 4, "told once in each episode, and not {last} times in four");
}

#[test]
fn live_holds_and_the_rest_is_served_later_threading() {
    the_gate_of_live_holds(Threading::new());
}

#[test]
fn live_holds_and_the_rest_is_served_later_pool() {
    the_gate_of_live_holds(Pool::new(6));
}

/// Says why a client is refused, to the client and to the test.
struct Why {
    to: Sender<bool>,
}

impl ServerHooks<StreamRequest> for Why {
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        self.to.send(matches!(why, Refused::TooManyFromPeer))?;
        Ok(writeln!(request, "{why}")?)
    }
}

const TOO_MANY: &[u8] = b"this client has too many requests at once\n";

/// Connects from an address of this machine.
pub fn connect_from(ip: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::from(ip), 0)).into()).unwrap();
    socket.connect_timeout(&server.into(), SOON).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

#[test]
fn per_peer_refuses_one_more_from_an_address_and_nobody_else() {
    let ((handler, holder), told) = (held(), Told::default());
    let (to, why) = channel();
    let server = ThreadingTcpServer::builder()
        .limits(patient().per_peer(2))
        .hooks(Why { to })
        .observer(told.observer())
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    let from = |last: u8| connect_from([127, 0, 0, last], address);
    let starts = || holder.started.recv_timeout(SOON).unwrap();
    let refused = |last: u8| {
        assert_eq!(read_to_end(&mut from(last)), TOO_MANY);
        assert!(why.recv_timeout(SOON).unwrap(), "the reason is TooManyFromPeer");
    };

    let mut inside = vec![from(1), from(1)];
    starts();
    starts();
    refused(1);
    assert_eq!(told.reached(Limit::PerPeer), 1);
    inside.push(from(2));
    starts();
    // Refused clients are not counted.
    refused(1);
    eventually("who was refused has left", || server.context().live_count() == 3);

    change(&server, |limits| limits.per_peer = 3);
    inside.push(from(1));
    starts();
    refused(1);

    // A limit for one peer has no effect if it equals the limit for all. A limit of one counts the clients
    // that are already inside.
    change(&server, |limits| limits.per_peer = limits.live);
    inside.push(from(1));
    starts();
    change(&server, |limits| limits.per_peer = 1);
    refused(1);
    refused(2);
    inside.push(from(3));
    starts();

    // Once they have left there is room again.
    for _ in 0..inside.len() {
        holder.release.send(()).unwrap();
    }
    for client in &mut inside {
        assert_eq!(read_to_end(client), b"released\n");
    }
    eventually("all have left", || server.context().live_count() == 0);
    let mut again = from(1);
    starts();
    holder.release.send(()).unwrap();
    assert_eq!(read_to_end(&mut again), b"released\n");
    assert_eq!(server.context().counts().refused, 5);
    assert_eq!(told.ended(CloseReason::Refused), 5);
}

/// TCP whose peers appear to have the addresses that the test sets.
struct Disguised {
    inner: Tcp,
    from: Arc<Mutex<&'static str>>,
}

impl Transport for Disguised {
    leave_to_tcp!();
    leave_connections_to_tcp!();

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        let (raw, _) = self.inner.get_request()?;
        let from: SocketAddr = self.from.lock().unwrap().parse().unwrap();
        Ok((raw, from.into()))
    }

    fn shutdown_request(&self, request: &mut StreamRequest) {
        self.inner.shutdown_request(request);
    }

    fn close_request(&self, request: StreamRequest) {
        self.inner.close_request(request);
    }
}

#[test]
fn per_peer_takes_an_ipv6_network_of_64_bits_for_one_peer() {
    let (handler, holder) = held();
    let (to, why) = channel();
    let from = Arc::new(Mutex::new(""));
    let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    let server = Builder::<Disguised, _>::new(Threading::new())
        .limits(patient().per_peer(2))
        .hooks(Why { to })
        .with_transport(Disguised { inner, from: Arc::clone(&from) }, move || handler.clone())
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut inside = Vec::new();
    for (address, served) in [
        ("[2001:db8:0:1::1]:1000", true),
        ("[2001:db8:0:1:ffff:ffff:ffff:ffff]:2000", true),
        ("[2001:db8:0:1:1234::]:3000", false),
        // A neighbouring network, and another one with an address that ends alike.
        ("[2001:db8:0:2::1]:1000", true),
        ("[2001:db8:1:1::1]:1000", true),
        ("[2001:db8:0:1::1]:4000", false),
        // An IPv4 address counts as one, in whatever form.
        ("192.0.2.1:1000", true),
        ("[::ffff:192.0.2.1]:2000", true),
        ("192.0.2.1:3000", false),
        ("[::ffff:192.0.2.2]:1000", true),
    ] {
        *from.lock().unwrap() = address;
        let mut client = connect(inet(&*server));
        if served {
            holder.started.recv_timeout(SOON).unwrap_or_else(|_| panic!("{address} is refused"));
            inside.push(client);
        } else {
            assert_eq!(read_to_end(&mut client), TOO_MANY, "{address}");
            assert!(why.recv_timeout(SOON).unwrap());
        }
    }
    drop(holder);
}

struct Warned {
    to: Sender<String>,
}

impl<R> ServerHooks<R> for Warned {
    fn warning(&self, text: &str) {
        let _ = self.to.send(text.to_owned());
    }
}

#[test]
fn there_are_never_more_live_requests_than_descriptors_for_them() {
    alone("limits::live::there_are_never_more_live_requests_than_descriptors_for_them", || {
        let (to, warnings) = channel();
        let (alive, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let server = ThreadingTcpServer::builder()
            .limits(patient().live(5_000))
            .hooks(Warned { to })
            .observer(move |event: &ServerEvent<'_>| match event {
                ServerEvent::RequestStarted { .. } => {
                    seen.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                }
                ServerEvent::RequestEnded { .. } => {
                    alive.fetch_sub(1, Ordering::SeqCst);
                }
                _ => {}
            })
            .bind("127.0.0.1:0", || OneLine)
            .unwrap();
        // The clients are in this process as well, and have their descriptors before the budget is made.
        let mut clients: Vec<TcpStream> = (0..60).map(|_| connect(inet(&server))).collect();
        let open = crate::support::open_descriptors() as u64;
        let limit = open + 120;
        set_descriptor_limits(limit, limit);
        let server = server.serve_in_background().unwrap();
        let warning = warnings.recv_timeout(SOON).unwrap();
        let number_before = |what: &str| -> u64 {
            let before = warning.split(what).next().unwrap_or_default().trim_end();
            before.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{warning}"))
        };
        let allowed = number_before(" requests at once");
        assert!((1..50).contains(&allowed), "{warning}");
        assert!(warning.contains("not 5000"), "{warning}");
        assert_eq!(number_before(" descriptors"), limit, "{warning}");
        // The warning shows the arithmetic.
        let others = [" are open", " are kept", " for connections"].map(number_before);
        assert_eq!(limit - others.iter().sum::<u64>(), allowed, "{warning}");
        assert!(warning.contains("serve by `run`"), "{warning}");

        eventually("as many live as may", || server.context().live_count() as u64 == allowed);
        // A higher limit lets in no more than the descriptors allow.
        change(&server, |limits| limits.live = 4_000);
        for client in &mut clients {
            client.write_all(b"x\n").unwrap();
            assert_eq!(read_to_end(client), b"x\n");
        }
        assert_eq!(most.load(Ordering::SeqCst) as u64, allowed);
        assert_eq!(server.context().counts().accept_errors, 0);
        server.stop().unwrap();
        assert!(warnings.try_recv().is_err(), "told once");
    });
}

#[test]
fn one_peer_has_its_part_of_the_requests_that_there_are_descriptors_for() {
    alone(
        "limits::live::one_peer_has_its_part_of_the_requests_that_there_are_descriptors_for",
        || {
            let (to, warnings) = channel();
            let server = ThreadingTcpServer::builder()
                .limits(patient().live(5_000).per_peer(500))
                .hooks(Warned { to })
                .bind("127.0.0.1:0", || OneLine)
                .unwrap();
            let limit = crate::support::open_descriptors() as u64 + 150;
            set_descriptor_limits(limit, limit);
            let address = inet(&server);
            let server = server.serve_in_background().unwrap();
            let warning = warnings.recv_timeout(SOON).unwrap();
            let word_after = |what: &str| -> usize {
                let after = warning.split(what).nth(1).unwrap_or_default();
                let number = after.split(|one: char| !one.is_ascii_digit()).next();
                number.unwrap_or_default().parse().unwrap_or_else(|_| panic!("{warning}"))
            };
            let (live, share) = (word_after("at most "), word_after("of one peer "));
            assert!(warning.contains(&format!("(of one peer {share}, not 500)")), "{warning}");
            assert_eq!(share, (live / 10).max(1), "{warning}");
            let turned_away = |within: usize| {
                let served: Vec<_> = (0..within).map(|_| connect(address)).collect();
                eventually("those that may are served", || server.context().live_count() == within);
                assert_eq!(read_to_end(&mut connect(address)), b"");
                drop(served);
                eventually("all have gone", || server.context().live_count() == 0);
            };
            turned_away(share);
            // The same holds for limits that are set later. A limit that allows one peer as many as all has no effect.
            change(&server, |limits| limits.per_peer = 1_000);
            turned_away(live / 5);
            change(&server, |limits| limits.per_peer = 5_000);
            let served: Vec<_> = (0..=share).map(|_| connect(address)).collect();
            eventually("more than its part", || server.context().live_count() == share + 1);
            drop(served);
            server.stop().unwrap();
        },
    );
}

#[test]
fn run_raises_the_limit_of_descriptors_as_far_as_it_may() {
    alone("limits::live::run_raises_the_limit_of_descriptors_as_far_as_it_may", || {
        set_descriptor_limits(100, 400);
        let (to, warnings) = channel();
        let server = ThreadingTcpServer::builder()
            .limits(patient().live(200))
            .hooks(Warned { to })
            .bind("127.0.0.1:0", || Echo)
            .unwrap();
        let server = Arc::new(server);
        let running = Arc::clone(&server);
        let run = thread::spawn(move || running.run());
        let mut client = connect(inet(&*server));
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        assert_eq!(descriptor_limits(), (400, 400));
        server.shutdown();
        assert!(run.join().unwrap().unwrap().is_clean());
        assert!(warnings.try_recv().is_err(), "what it may have suffices");
    });
}

#[test]
fn serve_forever_leaves_the_limit_of_descriptors_alone() {
    alone("limits::live::serve_forever_leaves_the_limit_of_descriptors_alone", || {
        set_descriptor_limits(100, 400);
        let limits = patient().live(10);
        let server = TcpServer::builder().limits(limits).bind("127.0.0.1:0", || OneLine);
        let server = Arc::new(server.unwrap());
        let ended = serve(&server);
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
        assert_eq!(descriptor_limits(), (100, 400));
        BaseServer::shutdown(&*server);
        ended.recv_timeout(SOON).unwrap().unwrap();
    });
}
