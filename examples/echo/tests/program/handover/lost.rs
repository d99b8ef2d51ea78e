//! Restarts lose no request, as counted at the clients.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use test_support::process::Process;
use test_support::tls::certificate;
use test_support::{eventually, system};

use super::line::{Client, Line};

/// The milliseconds between a connection and its first byte: for a client on the same machine, in the same network, and in
/// another.
const BETWEEN: [u64; 3] = [0, 2, 4];

/// How many clients there are for each of these times. Each makes one request after the other, over a new connection each
/// time (a datagram needs none).
const CLIENTS_EACH: usize = 3;

/// Restarts a server while clients ask, until each restart has had its share of the requests. Fails if one request has no
/// answer.
fn none_is_lost(bind: &str, options: &[&str], requests: usize, restarts: usize) {
    let line = Line::at(&[bind]);
    let server = line.start(options);
    let address = line.listening(&server).remove(0);
    // The servers are not dropped before the clients have ended: a drop would kill them.
    let (mut running, mut servers) = (server.id(), vec![server]);
    let (done, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let (done, over, failed, address) = (&done, &over, &failed, &address);
        for between in BETWEEN.into_iter().flat_map(|between| [between; CLIENTS_EACH]) {
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let stopped_for = AtomicU64::new(0);
                    let asked = std::panic::catch_unwind(|| {
                        let mut client = Client::of(address);
                        let connected = Instant::now();
                        thread::sleep(Duration::from_millis(between));
                        let millis = connected.elapsed().as_millis();
                        stopped_for.store(u64::try_from(millis).unwrap(), Ordering::SeqCst);
                        client.asks_for_one("hello");
                    });
                    // The server does not wait for a client that sends nothing for `Limits::first_read`, which is a
                    // second. If a busy machine has stopped the client for so long, the server is not at fault.
                    if asked.is_err() && stopped_for.into_inner() < 500 {
                        failed.lock().unwrap().push(between);
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let _over = SetAtEnd(over);
        for number in 1..=restarts {
            let share = number * requests / (restarts + 1);
            eventually("its share of the requests is done", || {
                done.load(Ordering::SeqCst) >= share
            });
            running = restart(number, &line, &mut servers, options, running);
        }
        eventually("all requests are done", || done.load(Ordering::SeqCst) >= requests);
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {done:?} are lost: {failed:?}", failed.len());
    line.stop();
}

/// Restarts the server, by the path and by the signal in turn. Returns the new process's number.
fn restart(
    number: usize,
    line: &Line,
    servers: &mut Vec<Process>,
    options: &[&str],
    old: u32,
) -> u32 {
    if number % 2 == 0 {
        servers.push(line.start(options));
    } else {
        system::send_signal(old, libc::SIGUSR2);
    }
    // A server that was started by a signal has its predecessor's stdout.
    line.listening(&servers[servers.len() - 1]);
    eventually("the one before has ended", || {
        // `has_ended` waits for the process, which is a zombie until then.
        servers.iter().for_each(|server| _ = server.has_ended());
        !line.processes().contains(&old)
    });
    if number % 2 == 0 { servers[servers.len() - 1].id() } else { line.started_by(old) }
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn no_request_is_lost_over_tcp() {
    none_is_lost("127.0.0.1:0", &["--mode", "line", "--max-per-peer", "1000"], 4_000, 6);
}

#[test]
fn no_request_is_lost_over_tls() {
    let (chain, key) = (certificate("server.pem"), certificate("server.key"));
    let options =
        ["--mode", "line", "--max-per-peer", "1000", "--tls-cert", &chain, "--tls-key", &key];
    none_is_lost("127.0.0.1:0", &options, 2_000, 6);
}

#[test]
fn no_request_is_lost_over_tcp_by_a_pool() {
    let options = ["--mode", "line", "--mixin", "pool", "--max-per-peer", "1000"];
    none_is_lost("127.0.0.1:0", &options, 2_000, 4);
}

#[test]
fn no_request_is_lost_over_tcp_in_the_loop() {
    let options = ["--mode", "line", "--mixin", "inline", "--max-per-peer", "1000"];
    none_is_lost("127.0.0.1:0", &options, 1_000, 4);
}

#[test]
fn no_request_is_lost_over_tcp_by_processes() {
    let options = ["--mode", "line", "--mixin", "forking", "--max-per-peer", "1000"];
    none_is_lost("127.0.0.1:0", &options, 1_000, 4);
}

#[test]
fn no_request_is_lost_over_a_unix_socket() {
    none_is_lost("unix:FOLDER/s", &["--mode", "line"], 4_000, 6);
}

#[test]
fn no_datagram_is_lost_over_udp() {
    none_is_lost("udp:127.0.0.1:0", &[], 4_000, 6);
}

#[test]
fn no_datagram_is_lost_over_a_unix_socket() {
    none_is_lost("unixgram:FOLDER/g", &[], 4_000, 6);
}
