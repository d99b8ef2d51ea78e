//! The example `relay`, under each mixin: curl through it, much in both directions at once, the end of each direction,
//! and bad clients.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use test_support::{SOON, connect, read_to_end, skip};

use super::{ADDRESS, Server};

const MIXINS: [&str; 4] = ["threading", "pool", "forking", "green"];

/// The answer of SOCKS5: the code, and an address of zeros.
fn answer(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// Sends a SOCKS5 request, in which `target` is the kind of the address and its bytes. Returns the answer, too.
fn ask(relay: SocketAddr, command: u8, target: &[u8], port: u16) -> (TcpStream, [u8; 10]) {
    let mut client = connect(relay);
    client.write_all(&[5, 2, 1, 0]).unwrap();
    let mut chosen = [0; 2];
    client.read_exact(&mut chosen).unwrap();
    assert_eq!(chosen, [5, 0], "without a login");
    client.write_all(&[&[5, command, 0], target, &port.to_be_bytes()].concat()).unwrap();
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    (client, answer)
}

/// A connection through the relay, and its other end.
fn through(relay: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (client, said) = ask(relay, 1, &[1, 127, 0, 0, 1], port);
    assert_eq!(said, answer(0));
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    server.set_write_timeout(Some(SOON)).unwrap();
    (client, server)
}

const BLOCK: usize = 1 << 18;

/// A sequence of bytes without repetitions, different for each seed. It is made once, because a debug build takes long.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = (0..BLOCK / 8).flat_map(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(seed);
        state.to_le_bytes()
    });
    words.collect()
}

/// Marks every page of a block with the block's number.
fn mark(block: &mut [u8], number: usize) {
    block.chunks_exact_mut(4_096).for_each(|page| page[..8].copy_from_slice(&number.to_le_bytes()));
}

/// Sends this many blocks, and then the end.
fn send(mut to: &TcpStream, blocks: usize, seed: u64) {
    let mut block = noise(seed);
    for number in 0..blocks {
        mark(&mut block, number);
        to.write_all(&block).unwrap();
    }
    to.shutdown(Shutdown::Write).unwrap();
}

/// Receives exactly these blocks, and then the end.
fn receive(mut from: &TcpStream, blocks: usize, seed: u64) {
    let (mut expected, mut block) = (noise(seed), vec![0; BLOCK]);
    for number in 0..blocks {
        mark(&mut expected, number);
        from.read_exact(&mut block).expect("bytes in time");
        assert!(block == expected, "block {number} of {blocks} is another one");
    }
    assert_eq!(from.read(&mut block).expect("the end"), 0);
}

/// Two hundred megabytes in each direction at once, none lost and none changed, and each
/// direction with its own end.
#[test]
fn much_moves_both_ways_at_once_under_each_mixin() {
    const BLOCKS: usize = 200 * 1024 * 1024 / BLOCK;
    for mixin in MIXINS {
        let server = Server::start("relay", &[mixin, ADDRESS]);
        let (client, target) = through(server.inet());
        thread::scope(|scope| {
            let up = [
                scope.spawn(|| send(&client, BLOCKS, 1)),
                scope.spawn(|| receive(&target, BLOCKS, 1)),
            ];
            let down = [
                scope.spawn(|| send(&target, BLOCKS, 2)),
                scope.spawn(|| receive(&client, BLOCKS, 2)),
            ];
            for (number, thread) in up.into_iter().chain(down).enumerate() {
                thread.join().unwrap_or_else(|_| panic!("{mixin}: thread {number}"));
            }
        });
        server.stop();
    }
}

#[test]
fn each_direction_ends_by_itself_and_a_reset_ends_both() {
    for mixin in MIXINS {
        let server = Server::start("relay", &[mixin, ADDRESS]);
        // The client ends first, and is answered after its end.
        let (mut client, mut target) = through(server.inet());
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut target), b"question", "{mixin}");
        target.write_all(b"answer").unwrap();
        drop(target);
        assert_eq!(read_to_end(&mut client), b"answer", "{mixin}");
        // The target ends first.
        let (mut client, mut target) = through(server.inet());
        target.write_all(b"greeting").unwrap();
        target.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client), b"greeting", "{mixin}");
        client.write_all(b"reply").unwrap();
        drop(client);
        assert_eq!(read_to_end(&mut target), b"reply", "{mixin}");
        // A failure of one connection is the end of the other.
        for client_resets in [true, false] {
            let (client, target) = through(server.inet());
            let (resets, mut other) =
                if client_resets { (client, target) } else { (target, client) };
            socket2::SockRef::from(&resets).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(resets);
            let end = other.read(&mut [0]);
            assert!(!matches!(end, Ok(1..)), "{mixin}");
        }
        server.stop();
    }
}

#[test]
fn targets_are_found_by_each_kind_of_address_and_refused_in_socks() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = target.local_addr().unwrap().port();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let v4 = [1, 127, 0, 0, 1];
    let mapped = [&[4][..], &std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets()].concat();
    let name = [&[3, 9][..], b"localhost"].concat();
    for mixin in MIXINS {
        let server = Server::start("relay", &[mixin, ADDRESS]);
        for kind in [&v4[..], &mapped, &name] {
            let (mut client, said) = ask(server.inet(), 1, kind, port);
            assert_eq!(said, answer(0), "{mixin} {kind:?}");
            drop(target.accept().unwrap());
            assert_eq!(read_to_end(&mut client), b"");
        }
        let refused = ask(server.inet(), 1, &v4, unused);
        assert_eq!(refused.1, answer(5), "{mixin}: nothing listens there");
        let nowhere = ask(server.inet(), 1, &[&[3, 12][..], b"host.invalid"].concat(), 80);
        assert_eq!(nowhere.1, answer(1), "{mixin}: no such host");
        assert_eq!(ask(server.inet(), 2, &v4, port).1, answer(7), "{mixin}: no BIND");
        let mut client = connect(server.inet());
        client.write_all(&[5, 1, 0, 5, 1, 0, 9]).unwrap();
        assert_eq!(read_to_end(&mut client), [&[5, 0][..], &answer(8)].concat(), "{mixin}");
        let mut with_login = connect(server.inet());
        with_login.write_all(&[5, 1, 2]).unwrap();
        assert_eq!(read_to_end(&mut with_login), [5, 0xff], "{mixin}");
        // A client that does not speak SOCKS5, or does not end its message, is closed without an answer.
        for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[4, 1, 0, 80, 127, 0, 0, 1, 0], &[5, 9, 0]]
        {
            let mut client = connect(server.inet());
            client.write_all(garbage).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut client), b"", "{mixin} {garbage:?}");
        }
        let ended = server.stop();
        assert_eq!(ended.err, "", "{mixin}");
    }
}

#[test]
fn curl_fetches_through_it() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("there is no curl");
    }
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = web.local_addr().unwrap().port();
    let answers = thread::spawn(move || {
        for _ in MIXINS {
            let (mut client, _) = web.accept().unwrap();
            client.set_read_timeout(Some(SOON)).unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            client.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n").unwrap();
        }
    });
    for mixin in MIXINS {
        let server = Server::start("relay", &[mixin, ADDRESS]);
        let fetched = Command::new("curl")
            .args(["-sS", "--noproxy", "", "--max-time", "20", "--socks5-hostname"])
            .args([server.inet().to_string(), format!("http://localhost:{port}/")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&fetched.stdout), "hello\n", "{mixin}: {fetched:?}");
        server.stop();
    }
    answers.join().unwrap();
}
