//! The pages for balancers: they say that a server is about to stop, while it still serves.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;

use test_support::{connect, eventually, read_to_end};

use test_support::program::assert_ends;

use super::{WEB, web};

/// The status line and the body of an answer.
fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut client = connect(address);
    write!(client, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    assert!(path == "/" || head.contains("Cache-Control: no-store"), "{head}");
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn a_lame_duck_is_not_ready_and_serves_under(mixin: &str) {
    let (server, address) = web(&["--health", "--lame-duck", "3600", "--mixin", mixin]);
    let ok = |body: &str| ("HTTP/1.1 200 OK".to_owned(), body.to_owned());
    assert_eq!(ask(address, "GET", "/healthz"), ok("ok\n"));
    assert_eq!(ask(address, "GET", "/readyz?from=haproxy"), ok("ready\n"));
    assert_eq!(ask(address, "HEAD", "/readyz"), ok(""));
    server.send_signal(15);
    let unready = "HTTP/1.1 503 Service Unavailable";
    eventually("it is a lame duck", || ask(address, "GET", "/readyz").0 == unready);
    assert_eq!(ask(address, "GET", "/readyz").1, "not ready\n");
    assert_eq!(ask(address, "HEAD", "/readyz"), (unready.to_owned(), String::new()));
    assert_eq!(ask(address, "GET", "/healthz"), ok("ok\n"));
    assert_eq!(ask(address, "GET", "/").0, "HTTP/1.1 200 OK");
    server.insist_by(15);
    let status = server.end().status;
    assert_eq!((status.code(), status.signal()), (Some(128 + 15), None));
}

#[test]
fn a_lame_duck_is_not_ready_and_serves_inline() {
    a_lame_duck_is_not_ready_and_serves_under("inline");
}

#[test]
fn a_lame_duck_is_not_ready_and_serves_in_threads() {
    a_lame_duck_is_not_ready_and_serves_under("threading");
}

#[test]
fn a_lame_duck_is_not_ready_and_serves_in_a_pool() {
    a_lame_duck_is_not_ready_and_serves_under("pool");
}

#[test]
fn a_lame_duck_is_not_ready_and_serves_in_processes() {
    a_lame_duck_is_not_ready_and_serves_under("forking");
}

/// The successor serves already, so no client has to be sent elsewhere. The predecessor ends without its lame duck, or in the
/// middle of a lame duck that has begun.
fn a_successor_ends_the_lame_duck_under(mixin: &str) {
    for is_begun in [false, true] {
        let folder = test_support::folder();
        let path = folder.path().join("h");
        let path = path.to_str().unwrap();
        let options = ["--health", "--lame-duck", "3600", "--mixin", mixin, "--handover", path];
        let (first, address) = web(&options);
        if is_begun {
            first.send_signal(15);
            let unready = "HTTP/1.1 503 Service Unavailable";
            eventually("it is a lame duck", || ask(address, "GET", "/readyz").0 == unready);
        }
        let (second, again) = WEB.serve(&[&address.to_string()], &options);
        assert_eq!(again, [address.to_string()], "{mixin}, {is_begun}");
        assert_ends(&first.end(), 0);
        let ready = ("HTTP/1.1 200 OK".to_owned(), "ready\n".to_owned());
        assert_eq!(ask(address, "GET", "/readyz"), ready, "{mixin}, {is_begun}");
        // The successor's own stop has the whole lame duck, which a second signal ends.
        second.send_signal(15);
        eventually("the second one is a lame duck", || ask(address, "GET", "/readyz") != ready);
        second.insist_by(15);
        assert_eq!(second.end().status.code(), Some(128 + 15));
    }
}

#[test]
fn a_successor_ends_the_lame_duck_in_threads() {
    a_successor_ends_the_lame_duck_under("threading");
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn a_successor_ends_the_lame_duck_in_coroutines() {
    a_successor_ends_the_lame_duck_under("green");
}

#[test]
fn a_successor_ends_the_lame_duck_in_processes() {
    a_successor_ends_the_lame_duck_under("forking");
}

#[test]
fn a_successor_ends_the_lame_duck_in_a_pool() {
    a_successor_ends_the_lame_duck_under("pool");
}

#[test]
fn a_successor_ends_the_lame_duck_inline() {
    a_successor_ends_the_lame_duck_under("inline");
}

#[test]
fn without_the_option_there_are_no_such_pages_and_no_lame_duck() {
    let folder = test_support::folder();
    std::fs::write(folder.path().join("index.html"), "here").unwrap();
    let (server, address) = web(&["--dir", folder.path().to_str().unwrap()]);
    let mut client = connect(address);
    client.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    assert!(read_to_end(&mut client).starts_with(b"HTTP/1.1 404 "));
    server.send_signal(15);
    assert!(server.end().status.success());
}
