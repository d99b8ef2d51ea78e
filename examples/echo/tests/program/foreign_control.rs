//! `control` at a socket that is no program's control socket: it ends in time, and says so.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use test_support::folder;
use test_support::program::assert_fails_in_one_line;

use super::ECHO;

/// Asks for the counts at a path. Fails unless the client fails in these words within twenty seconds. It needs at most ten;
/// the rest of the time is for a busy machine.
fn fails_in_time(path: &Path, says: &[&str]) {
    let began = Instant::now();
    let asked = ECHO.run(&["control", path.to_str().unwrap(), "counts"]);
    assert_fails_in_one_line(&asked, 1, &[&[path.to_str().unwrap()], says].concat());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// Starts a server in a thread, which serves each connection by `answer`.
fn server(path: &Path, answer: impl Fn(UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
}

#[test]
fn a_server_with_another_protocol_is_named_by_its_first_words() {
    let folder = folder();
    let path = folder.path().join("redis");
    server(&path, |mut stream| {
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(b"-ERR unknown command 'counts'\r\n");
        // The connection stays until the client leaves.
        let _ = stream.read(&mut [0]);
    });
    fails_in_time(&path, &["is no control socket of a program", "-ERR unknown command 'counts'\""]);
}

#[test]
fn an_answer_without_an_end_is_not_waited_for() {
    let folder = folder();
    for (name, block) in [("lines", "line\n".repeat(1_000)), ("line", "x".repeat(5_000))] {
        let path = folder.path().join(name);
        server(&path, move |mut stream| while stream.write_all(block.as_bytes()).is_ok() {});
        fails_in_time(&path, &["is no control socket of a program"]);
    }
}

#[test]
fn a_server_that_says_nothing_or_accepts_nothing_is_not_waited_for() {
    let folder = folder();
    let (silent, stopped) = (folder.path().join("silent"), folder.path().join("stopped"));
    server(&silent, |mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let address = SockAddr::unix(&stopped).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let connect = || {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(&address).map(|()| client)
    };
    let queue: Vec<_> = std::iter::from_fn(|| connect().ok()).collect();
    thread::scope(|scope| {
        scope.spawn(|| fails_in_time(&silent, &["no answer from", "within 10 s"]));
        scope.spawn(|| fails_in_time(&stopped, &["accepts no connection within 10 s", "stopped?"]));
    });
    drop(queue);
}
