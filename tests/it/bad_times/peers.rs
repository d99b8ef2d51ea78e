//! Peers that are slow, silent or gone.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use socketserver::hooks::Fault;
use socketserver::request::Timeout;
use socketserver::transport::{Bind, Tcp, Udp, UnixDatagram};
use socketserver::{Address, Builder, Limits, stream_fn};

use super::{SHORT, Tell, client, mixins, reset, serve, serves_on, serves_once};
use crate::handlers::Echo;
use crate::support::process::in_a_process;
use crate::support::system::own_status;
use crate::support::{SOON, connect, eventually, exchange, folder, inet, read_line, read_to_end};

#[test]
fn a_peer_that_says_nothing_is_ended_quietly() {
    for mixin in mixins() {
        let limits = Limits::default().idle(SHORT);
        let (server, told) = serve(mixin, limits, || Echo);
        for number in 1..=3 {
            assert_eq!(read_to_end(&mut client(&server)), b"");
            eventually("it is counted", || server.context().counts().idle == number);
        }
        // This is no failure.
        assert!(told.try_recv().is_err());
        server.context().set_limits(Limits::default());
        serves_on(server);
    }
}

#[test]
fn nothing_is_printed_about_peers_that_are_silent_or_gone() {
    let name = "bad_times::peers::nothing_is_printed_about_peers_that_are_silent_or_gone";
    let ended = in_a_process(name, || {
        for mixin in mixins() {
            let limits = Limits::default().idle(SHORT);
            let server = Builder::<Tcp, _>::new(mixin).limits(limits);
            let server = server.bind("127.0.0.1:0", || Echo).unwrap();
            let server = server.serve_in_background().unwrap();
            assert_eq!(read_to_end(&mut client(&server)), b"");
            server.context().set_limits(Limits::default());
            // The peer is gone while it is read from, and while it is written to.
            for bytes in [&b"half a li"[..], &[b'\n'; 100_000]] {
                let mut gone = client(&server);
                gone.write_all(bytes).unwrap();
                reset(gone);
            }
            let counts = || server.context().counts();
            eventually("both are counted", || counts().idle == 1 && counts().disconnected == 2);
            serves_on(server);
        }
        String::new()
    });
    if let Some(ended) = ended {
        assert_eq!(ended.err, "");
    }
}

#[test]
fn a_line_that_comes_byte_by_byte_has_one_deadline_for_all_of_it() {
    for mixin in mixins() {
        let limits = Limits::default().read(SHORT);
        let (server, told) = serve(mixin, limits, || Echo);
        let slow = client(&server);
        slow.set_nonblocking(true).unwrap();
        eventually("the slow client is cut off", || {
            // The client sends several bytes within each limit, and never a newline.
            thread::sleep(SHORT / 10);
            let sent = (&slow).write(b"x").is_ok();
            let open = matches!((&slow).read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
            !sent || !open
        });
        let told = told.recv_timeout(SOON).unwrap();
        assert!(told.limit == Some(Timeout::Read) && told.fault == Fault::Peer, "{told:?}");
        serves_on(server);
    }
}

#[test]
fn a_peer_that_takes_nothing_is_ended_by_the_write_limit() {
    let endless = stream_fn(|request| {
        let mut line = String::new();
        if request.next_line(&mut line)? == Some("next") {
            writeln!(request, "next")?;
            return Ok(());
        }
        loop {
            request.write_all(&[0; 65_536])?;
        }
    });
    for mixin in mixins() {
        let limits = Limits::default().write(SHORT);
        let (server, told) = serve(mixin, limits, endless.clone());
        let mut stalled = client(&server);
        stalled.write_all(b"more\n").unwrap();
        let told = told.recv_timeout(SOON).unwrap();
        assert!(told.limit == Some(Timeout::Write) && told.fault == Fault::Peer, "{told:?}");
        serves_on(server);
    }
}

#[test]
fn resets_harm_nobody_else() {
    for mixin in mixins() {
        let (told, telling) = channel();
        let builder = Builder::<Tcp, _>::new(mixin).hooks(Tell { told });
        let server = builder.bind("127.0.0.1:0", || Echo).unwrap();
        // These clients are gone before they are accepted.
        for bytes in [&b""[..], b"a line\n"] {
            let mut early = connect(inet(&server));
            early.write_all(bytes).unwrap();
            reset(early);
        }
        let server = server.serve_in_background().unwrap();
        for _ in 0..10 {
            reset(client(&server));
            let mut midway = client(&server);
            midway.write_all(b"half a li").unwrap();
            reset(midway);
            let mut answered = client(&server);
            assert_eq!(exchange(&mut answered, "hello"), "hello\n");
            // The server sends to a peer that is gone.
            answered.write_all(&[b'\n'; 100_000]).unwrap();
            reset(answered);
        }
        let context = server.context();
        eventually("all are forgotten", || context.live_count() == 0);
        serves_on(server);
        for told in telling {
            assert!(told.is_disconnect && told.fault == Fault::Peer, "{told:?}");
        }
    }
}

#[test]
fn a_peer_that_has_ended_its_side_still_gets_its_answers() {
    for mixin in mixins() {
        let (server, told) = serve(mixin, Limits::default(), || Echo);
        let mut client = client(&server);
        client.write_all(b"one\ntwo\nthree, without its end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client), b"one\ntwo\nthree, without its end\n");
        assert!(told.try_recv().is_err());
        serves_on(server);
    }
}

/// The allowed growth of memory, in KiB: far less than the bytes sent, more than allocators keep.
const MEMORY_KIB: usize = 8 * 1024;

#[test]
fn a_hundred_mebibytes_without_a_newline_take_no_memory() {
    let name = "bad_times::peers::a_hundred_mebibytes_without_a_newline_take_no_memory";
    in_a_process(name, || {
        for mixin in mixins() {
            let (server, told) = serve(mixin, Limits::default(), || Echo);
            serves_once(&server);
            let before = own_status("VmHWM");
            let mut client = client(&server);
            let block = vec![b'x'; 65_536];
            let refused = (0..1_600).find_map(|_| client.write_all(&block).err());
            let refused = refused.expect("the server ends it before it has taken all");
            assert_ne!(refused.kind(), std::io::ErrorKind::WouldBlock, "it hangs");
            let told = told.recv_timeout(SOON).unwrap();
            assert!(told.line_too_long && told.fault == Fault::Peer, "{told:?}");
            assert!(told.text.contains("longer than 65536 bytes"), "{}", told.text);
            assert!(own_status("VmHWM") < before + MEMORY_KIB);
            serves_on(server);
        }
        String::new()
    });
}

#[test]
fn a_hundred_mebibytes_taken_in_chunks_take_no_memory() {
    let name = "bad_times::peers::a_hundred_mebibytes_taken_in_chunks_take_no_memory";
    let sink = stream_fn(|request| {
        let mut count = 0;
        while let Some(chunk) = request.chunk()? {
            count += chunk.len();
        }
        writeln!(request, "{count}")?;
        Ok(())
    });
    in_a_process(name, || {
        for mixin in mixins() {
            let (server, _told) = serve(mixin, Limits::default(), sink.clone());
            let before = own_status("VmHWM");
            let mut client = client(&server);
            let block = vec![b'x'; 65_536];
            for _ in 0..1_600 {
                client.write_all(&block).unwrap();
            }
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_line(&mut client), "104857600\n");
            assert!(own_status("VmHWM") < before + MEMORY_KIB);
        }
        String::new()
    });
}

#[test]
fn peers_that_vanish_under_load_are_forgotten() {
    for mixin in mixins() {
        let (server, told) = serve(mixin, Limits::default(), || Echo);
        let address = inet(&*server);
        let lines = b"a line of some length\n".repeat(1_000);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for number in 0..20 {
                        let mut client = connect(address);
                        // The server may be busy with answers, and then the socket does not accept everything.
                        client.set_nonblocking(true).unwrap();
                        let _ = client.write(&lines);
                        if number % 2 == 0 { reset(client) } else { drop(client) }
                    }
                });
            }
        });
        let context = server.context();
        eventually("all are accepted", || context.counts().accepted >= 80);
        eventually("all are forgotten", || context.live_count() == 0);
        serves_on(server);
        for told in told {
            assert!(told.is_disconnect, "{told:?}");
        }
    }
}

/// Sends datagrams from sockets that are gone before the server sees them, and then from one that is not.
fn senders_that_are_gone<T: Bind>(
    address: &str,
    open: impl Fn() -> socket2::Socket,
    to: impl Fn(&Address) -> socket2::SockAddr,
) where
    Echo: socketserver::handler::BaseRequestHandler<T::Request>,
{
    for (number, mixin) in mixins().into_iter().enumerate() {
        let address = address.replace('#', &number.to_string());
        let server = Builder::<T, _>::new(mixin).bind(address, || Echo).unwrap();
        let address = server.server_address();
        for _ in 0..5 {
            open().send_to(b"gone", &to(&address)).unwrap();
        }
        let server = server.serve_in_background().unwrap();
        let client = open();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send_to(b"next", &to(&address)).unwrap();
        let mut back = [0; 4];
        (&client).read_exact(&mut back).unwrap();
        assert_eq!(&back, b"next");
        eventually("all are counted", || {
            let counts = server.context().counts();
            counts.completed + counts.disconnected + counts.failed == 6
        });
        server.stop().unwrap();
    }
}

#[test]
fn senders_of_datagrams_that_are_gone_harm_nobody() {
    use socket2::{Domain, SockAddr, Socket, Type};
    senders_that_are_gone::<Udp>(
        "127.0.0.1:0",
        || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
            socket
        },
        |address| address.as_inet().unwrap().into(),
    );
    let folder = folder();
    let names = AtomicU64::new(0);
    senders_that_are_gone::<UnixDatagram>(
        &format!("{}/#", folder.path().display()),
        || {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap();
            let name = format!("from{}", names.fetch_add(1, Ordering::SeqCst));
            socket.bind(&SockAddr::unix(folder.path().join(name)).unwrap()).unwrap();
            socket
        },
        |address| SockAddr::unix(address.as_path().unwrap()).unwrap(),
    );
}
