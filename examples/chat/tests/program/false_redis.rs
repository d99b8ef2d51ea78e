//! A program that listens in the place of Redis may say anything. The server keeps no more of it than a bound allows, and the
//! room goes on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Member, open_room};
use test_support::{eventually, system};

/// The answer to each command: its name, its first bytes, and the bytes that follow again and again for as long as they
/// are read.
type Answer = (&'static str, &'static [u8], fn() -> Vec<u8>);

const ANSWERS: &[Answer] = &[
    ("the longest length", b"$9223372036854775807\r\n", || vec![b'x'; 1 << 20]),
    ("one longer than a number", b"$92233720368547758080\r\n", || vec![b'x'; 1 << 20]),
    ("a length below nothing", b"$-2\r\n", || vec![b'x'; 1 << 20]),
    ("the longest value of Redis", b"$536870912\r\n", || vec![b'x'; 1 << 20]),
    ("a billion values", b"*1000000000\r\n", || b":1\r\n".repeat(100_000)),
    ("the largest count", b"*9223372036854775807\r\n", || b"$0\r\n\r\n".repeat(100_000)),
    ("a number of counts", b"", || b"*99999\r\n".repeat(10_000)),
    ("arrays in arrays", b"", || b"*1\r\n".repeat(100_000)),
    ("a line without end", b"+", || vec![b'x'; 1 << 20]),
    ("an error without end", b"-", || vec![b'x'; 1 << 20]),
    ("a number without end", b":", || vec![b'1'; 1 << 20]),
    ("pushes", b"", || b">2\r\n$1\r\na\r\n$1\r\nb\r\n".repeat(10_000)),
    ("maps", b"%9223372036854775807\r\n", || b":1\r\n".repeat(100_000)),
    ("attributes", b"|9223372036854775807\r\n", || b":1\r\n".repeat(100_000)),
    ("big numbers", b"(", || vec![b'1'; 1 << 20]),
    ("values of a megabyte", b"*100000\r\n", || {
        [b"$1048576\r\n", &[b'x'; 1 << 20][..], b"\r\n"].concat()
    }),
    ("values that are too long to be kept", b"*100000\r\n", || {
        [b"$4194304\r\n", &[b'x'; 4 << 20][..], b"\r\n"].concat()
    }),
    ("answers that nobody has asked for", b"", || b"+OK\r\n".repeat(100_000)),
    ("no end of the line", b"", || vec![b'\r'; 1 << 20]),
    ("nothing of Redis", b"HTTP/1.1 400 Bad Request\r\n\r\n", || vec![0; 1 << 20]),
];

/// An answer to each command, and the words about it that the operator is shown.
const WORDS: &[(&[u8], &str)] = &[
    (b":1\r\n", "it does not speak as Redis does"),
    (b"*1\r\n*0\r\n", "it does not say that it is a master"),
    (b"-\xff\xfe is no text\r\n", "it does not speak as Redis does"),
    (b"-\r\n", "it does not speak as Redis does"),
    (b"220 mail.example ESMTP\r\n", "it does not speak as Redis does"),
    (b"-LOADING\r\n", "LOADING"),
    // Redis cuts the words that it repeats, also in the middle of a character.
    ("-ERR unknown command '\u{e9}".as_bytes().split_at(23).0, "ERR unknown command '\u{fffd}"),
];

/// Sends this answer to a connection until the server closes it, and then counts the connection in `refused`.
fn answer(mut stream: TcpStream, (_, first, more): Answer, refused: &AtomicUsize) {
    let more = more();
    let mut command = [0; 65_536];
    if !matches!(stream.read(&mut command), Ok(1..)) || stream.write_all(first).is_err() {
        return;
    }
    while stream.write_all(&more).is_ok() {}
    refused.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn the_operator_is_told_in_plain_words_what_is_wrong_with_a_false_redis() {
    for (answer, words) in WORDS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut command = [0; 65_536];
                    while matches!(stream.read(&mut command), Ok(1..)) {
                        let answered = stream.write_all(answer);
                        let end = if answer.ends_with(b"\n") { &b""[..] } else { b"\r\n" };
                        if answered.and_then(|()| stream.write_all(end)).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let (server, _) = open_room(&["--bus", &format!("redis://{at}/room")]);
        let line = server.line();
        let expected = format!(
            "* the other servers cannot be reached: redis://{at}/room: cannot use {at}: {words}; trying again"
        );
        assert_eq!(line, expected, "{}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn what_a_false_redis_says_is_bounded_and_the_room_goes_on() {
    for of_answer in ANSWERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bus = format!("redis://{}/room", listener.local_addr().unwrap());
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let refused = Arc::clone(&count);
                thread::spawn(move || answer(stream, *of_answer, &refused));
            }
        });
        let (server, address) = open_room(&["--bus", &bus]);
        let mut alice = Member::join(address, "alice");
        // The server has one connection for reading and one for writing, so a third one shows that it connects again.
        let what = of_answer.0;
        eventually(what, || refused.load(Ordering::SeqCst) >= 3);
        let most = system::status_of(server.id(), "VmHWM");
        assert!(most < 128 << 10, "{what}: {most} KiB");
        alice.say("@alice still here");
        alice.sees("alice -> alice: still here");
    }
}
