//! A rolling restart behind a real proxy: HAProxy in front of two servers, which are stopped and started again in turn
//! while clients connect all the time. Each client waits between its connection and its request, as people and networks do.
//! So each stop finds open connections that have sent nothing yet.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use test_support::process::Process;
use test_support::program::assert_ends;

use crate::ECHO;
use crate::handover::line::Client;
use test_support::tls::certificate;
use test_support::{SOON, eventually, folder, skip_if};

/// No other test listens at this address, so that a restarted server finds its port free.
const HOST: &str = "127.0.0.77";

/// How long a client waits between its connection and its request.
const BETWEEN: Duration = Duration::from_millis(4);

const CLIENTS: usize = 20;

pub(crate) fn no_haproxy() -> Option<&'static str> {
    let there = Command::new("haproxy").arg("-v").output().is_ok();
    (!there).then_some("haproxy is not installed")
}

fn free_address() -> SocketAddr {
    TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap()
}

/// The proxy's configuration. The proxy connects to a server as soon as a client has connected to the proxy, before the
/// request. If a server refuses, the proxy tries the other one. A connection that is accepted and ends without an answer
/// is a failed request.
fn config(at: SocketAddr, servers: [SocketAddr; 2]) -> String {
    let [one, other] = servers;
    format!(
        "global\n    maxconn 1000\n\
         defaults\n    mode tcp\n    retries 10\n    option redispatch 1\n    timeout connect 5s\n    \
         timeout client 60s\n    timeout server 60s\n\
         frontend front\n    bind {at}\n    default_backend servers\n\
         backend servers\n    balance roundrobin\n    server one {one}\n    server other {other}\n"
    )
}

/// Makes one request. The error says what is wrong with the answer.
fn ask(proxy: SocketAddr, number: usize) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("request {number}: {error}");
    let mut stream = TcpStream::connect_timeout(&proxy, SOON).map_err(wrong)?;
    stream.set_read_timeout(Some(SOON)).map_err(wrong)?;
    thread::sleep(BETWEEN);
    stream.write_all(format!("request {number}\n").as_bytes()).map_err(wrong)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(wrong)?;
    let right = answer == format!("request {number}\n");
    right.then_some(()).ok_or_else(|| format!("request {number}: {answer:?}"))
}

/// Makes one request over TLS. The servers do the encryption, and the proxy passes the bytes on.
fn ask_over_tls(proxy: SocketAddr, number: usize) -> Result<(), String> {
    let asked = std::panic::catch_unwind(|| {
        let mut client = Client::of(&format!("{proxy} with TLS"));
        thread::sleep(BETWEEN);
        client.asks_for_one(&format!("request {number}"));
    });
    asked.map_err(|_| format!("request {number}: its panic is above"))
}

/// Fails unless all `requests` are answered while the two servers are restarted `restarts` times.
fn none_fails(mixin: &str, is_tls: bool, requests: usize, restarts: usize) {
    if skip_if(no_haproxy()) {
        return;
    }
    let addresses = [free_address(), free_address()];
    let (chain, key) = (certificate("server.pem"), certificate("server.key"));
    let start = |at: SocketAddr| {
        let mut options = vec!["--mode", "line", "--mixin", mixin, "--max-per-peer", "1000"];
        if is_tls {
            options.extend(["--tls-cert", &chain, "--tls-key", &key]);
        }
        ECHO.serve(&[&at.to_string()], &options).0
    };
    let ask = if is_tls { ask_over_tls } else { ask };
    let mut servers = addresses.map(|at| Some(start(at)));
    let (folder, proxy) = (folder(), free_address());
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, config(proxy, addresses)).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
    let running = Process::start(&mut command);
    eventually("the proxy answers", || ask(proxy, 0).is_ok());

    let (next, done, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                // If `requests` are done before the last restart, the clients go on until it is over.
                while next.load(Ordering::SeqCst) < requests
                    || over.load(Ordering::SeqCst) < restarts
                {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if let Err(wrong) = ask(proxy, number) {
                        failed.lock().unwrap().push(wrong);
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for restart in 0..restarts {
            let share = (restart + 1) * requests / (restarts + 1);
            eventually("its share of the requests is done", || {
                done.load(Ordering::SeqCst) >= share
            });
            let server = &mut servers[restart % 2];
            let stopped = server.take().unwrap();
            stopped.send_signal(libc::SIGTERM);
            assert_ends(&stopped.end(), 0);
            *server = Some(start(addresses[restart % 2]));
            over.store(restart + 1, Ordering::SeqCst);
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} failed: {failed:#?}", failed.len());
    assert!(done.load(Ordering::SeqCst) >= requests);
    for server in servers.into_iter().flatten() {
        server.send_signal(libc::SIGTERM);
        assert_ends(&server.end(), 0);
    }
    running.send_signal(libc::SIGTERM);
    drop(running);
}

#[test]
fn ten_restarts_of_two_servers_in_turn_lose_none_of_five_thousand_requests() {
    none_fails("threading", false, 5_000, 10);
}

#[test]
fn restarts_lose_no_request_over_tls() {
    none_fails("threading", true, 600, 4);
}

#[test]
fn restarts_lose_no_request_pool() {
    none_fails("pool", false, 1_000, 4);
}

#[test]
fn restarts_lose_no_request_inline() {
    none_fails("inline", false, 1_000, 4);
}

#[test]
fn restarts_lose_no_request_forking() {
    none_fails("forking", false, 1_000, 4);
}
