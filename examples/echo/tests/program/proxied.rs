//! `--proxy-from`, which all programs have: a program knows the clients of a proxy by their own addresses, and refuses all
//! others.

use std::io::Write;
use std::net::TcpListener;

use test_support::skip_if;

use super::*;
use crate::haproxy::no_haproxy;

/// No other test listens at this address.
const HOST: &str = "127.0.0.79";

/// Reads the next line of the log that contains `what`.
fn logged(server: &Process, what: &str) -> String {
    loop {
        let line = server.line();
        if line.contains(what) {
            return line;
        }
    }
}

fn the_log_has_the_true_address(mixin: &str) {
    let options = ["--proxy-from", "10.0.0.0/8,127.0.0.1", "--log-level", "verbose"];
    let (server, address) = echo(&[&options[..], &["--mixin", mixin]].concat());
    let mut client = connect(address);
    let own = client.local_addr().unwrap();
    client.write_all(b"PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\r\nhello\n").unwrap();
    assert_eq!(read_line(&mut client), "hello\n");
    drop(client);
    let known = logged(&server, "is of");
    assert_eq!(known, format!("request 1 from {own} is of 203.0.113.9:56324"));
    let ended = logged(&server, "ended");
    let says = format!("request 1 from 203.0.113.9:56324 by {own} ended: completed, ");
    assert!(ended.starts_with(&says), "{ended}");
    // A client without a header is refused.
    let mut other = connect(address);
    other.write_all(b"hello\n").unwrap();
    assert_eq!(other.read(&mut [0; 8]).unwrap_or(0), 0);
    let failed = logged(&server, "failed");
    assert!(failed.contains(" failed: no valid PROXY header: "), "{failed}");
    let ended = logged(&server, "ended");
    assert!(ended.contains("it brought no valid PROXY header"), "{ended}");
    server.send_signal(libc::SIGTERM);
    assert_ends(&server.end(), 0);
}

#[test]
fn the_log_has_the_true_address_in_threads() {
    the_log_has_the_true_address("threading");
}

#[test]
fn the_log_has_the_true_address_in_a_pool() {
    the_log_has_the_true_address("pool");
}

#[test]
fn the_log_has_the_true_address_inline() {
    the_log_has_the_true_address("inline");
}

#[test]
fn the_log_has_the_true_address_in_processes() {
    the_log_has_the_true_address("forking");
}

/// The rate per client is changed while the server runs. It counts by the address behind the proxy.
fn a_new_rate_holds_for_clients_of_a_proxy_under(mixin: &str) {
    let folder = folder();
    let path = folder.path().join("ctl");
    let control = format!("unix:{}", path.display());
    let (_server, address) =
        echo(&["--proxy-from", "127.0.0.1", "--control", &control, "--mixin", mixin]);
    let is_served = |number: u8| {
        let mut client = connect(address);
        let header = format!("PROXY TCP4 203.0.113.{number} 198.51.100.1 56324 443\r\nhello\n");
        client.write_all(header.as_bytes()).unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).is_ok_and(|()| answer == *b"hello\n")
    };
    let limit = |value: &str| {
        let ended = ECHO.run(&["control", path.to_str().unwrap(), "limit", "peer_rate", value]);
        assert_ends(&ended, 0);
    };
    assert!((0..10).all(|_| is_served(1)), "{mixin}: there is no rate yet");
    limit("1/2");
    // Two clients at once are served, and one more each second.
    assert!((0..50).any(|_| !is_served(1)), "{mixin}: its rate does not hold");
    assert!(is_served(2), "{mixin}: another one pays for it");
    limit("none");
    assert!((0..10).all(|_| is_served(1)), "{mixin}: there is no rate any more");
}

#[test]
fn a_new_rate_holds_for_clients_of_a_proxy() {
    for mixin in ["inline", "threading", "pool", "forking"] {
        a_new_rate_holds_for_clients_of_a_proxy_under(mixin);
    }
}

#[test]
fn a_connection_from_elsewhere_is_refused_without_a_word() {
    let options = ["--proxy-from", "10.0.0.0/8", "--log-level", "verbose"];
    let (server, address) = echo(&options);
    let mut client = connect(address);
    let _ = client.write_all(b"PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\r\nhello\n");
    assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
    let ended = logged(&server, "ended");
    assert!(ended.contains("127.0.0.1") && ended.contains("it was rejected"), "{ended}");
}

#[test]
fn a_proxy_at_a_unix_socket_is_trusted_by_a_word() {
    let folder = folder();
    let path = folder.path().join("echo");
    let at = format!("unix:{}", path.display());
    let (_server, _) = ECHO.serve(&[&at], &["--proxy-from", "unix"]);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\r\nhello\n").unwrap();
    assert_eq!(read_line(&mut client), "hello\n");
}

#[test]
fn networks_that_cannot_be_right_are_refused_at_the_start() {
    for (bind, from, says) in [
        ("127.0.0.1:0", "10.0.0.1/8", "the network is 10.0.0.0/8, the address alone 10.0.0.1"),
        ("127.0.0.1:0", "everywhere", "write a network as"),
        ("127.0.0.1:0", "unix", "give --proxy-from that network"),
        ("unix:/tmp/never", "10.0.0.0/8", "give --proxy-from unix"),
        ("udp:127.0.0.1:0", "10.0.0.0/8", "a datagram has no PROXY header"),
    ] {
        let ended = ECHO.run(&["serve", "--bind", bind, "--proxy-from", from]);
        assert_ends(&ended, 2);
        assert!(ended.err.contains(says), "{}", ended.err);
    }
}

#[test]
fn a_share_of_each_client_and_not_of_haproxy() {
    if skip_if(no_haproxy()) {
        return;
    }
    let options = ["--proxy-from", HOST, "--max-per-peer", "2", "--log-level", "verbose"];
    let (servers, addresses) = ECHO.serve(&[&format!("{HOST}:0")], &options);
    let front = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap();
    let folder = folder();
    let file = folder.path().join("haproxy.cfg");
    let config = format!(
        "global\n    maxconn 100\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n\
         listen front\n    bind {front}\n    source {HOST}\n    server echo {} send-proxy-v2\n",
        addresses[0]
    );
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
    let running = Process::start(&mut command);
    eventually("it listens", || TcpStream::connect(front).is_ok());
    let from = |last: u8| connect_from([127, 0, 0, last], front);
    let mut inside = Vec::new();
    // 127.0.0.1 is left out, because the attempts above came from there.
    for last in [2, 2, 3, 3, 4, 4] {
        let mut client = from(last);
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        inside.push(client);
    }
    let mut one_more = from(2);
    let _ = one_more.write_all(b"hello\n");
    assert_eq!(one_more.read(&mut [0; 6]).unwrap_or(0), 0, "it is refused");
    let told = logged(&servers, "it was refused");
    assert!(told.contains(" from 127.0.0.2:") && told.contains(" by 127.0.0.79:"), "{told}");
    running.send_signal(libc::SIGTERM);
}

#[test]
fn a_network_of_all_clients_is_warned_of() {
    for everywhere in ["0.0.0.0/0", "::/0"] {
        let networks = format!("10.0.0.0/8,{everywhere}");
        let (server, _) = ECHO.serve(&["127.0.0.1:0"], &["--proxy-from", &networks]);
        let said = server.err_line();
        assert!(said.contains(&format!("--proxy-from {everywhere} trusts every client")), "{said}");
    }
}
