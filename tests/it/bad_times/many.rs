//! Ten thousand connections leave nothing behind.

use std::io::Write;
use std::thread;
use std::time::Duration;

use socketserver::mixin::Mixin;
use socketserver::{Inline, Limits, Pool, Threading};

use super::{Running, serve, serves_on};
use crate::handlers::OneLine;
use crate::support::process::in_a_process;
use crate::support::system::own_status;
use crate::support::{connect, eventually, inet, open_descriptors, read_to_end};

/// Resources that requests must not leak.
#[derive(Debug)]
struct Footprint {
    threads: usize,
    descriptors: usize,
    memory_kib: usize,
}

impl Footprint {
    fn now() -> Self {
        Self {
            threads: own_status("Threads"),
            descriptors: open_descriptors(),
            memory_kib: own_status("VmRSS"),
        }
    }
}

const CLIENTS: usize = 4;

fn short_connections(server: &Running, count: usize) {
    let address = inet(&**server);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..count / CLIENTS {
                    let mut client = connect(address);
                    client.write_all(b"hello\n").unwrap();
                    assert_eq!(read_to_end(&mut client), b"hello\n");
                }
            });
        }
    });
    eventually("all have ended", || server.context().live_count() == 0);
}

fn ten_thousand_connections(name: &str, mixin: impl Mixin + 'static) {
    in_a_process(name, || {
        let (server, _told) = serve(mixin, Limits::default(), || OneLine);
        short_connections(&server, 1_000);
        let early = Footprint::now();
        short_connections(&server, 9_000);
        let late = Footprint::now();
        assert_eq!(server.context().counts().completed, 10_000);
        // Some threads may not have ended yet.
        assert!(late.threads <= early.threads + 2 * CLIENTS, "{early:?} {late:?}");
        assert!(late.descriptors <= early.descriptors + 2, "{early:?} {late:?}");
        assert!(late.memory_kib <= early.memory_kib + 4 * 1_024, "{early:?} {late:?}");
        serves_on(server);
        String::new()
    });
}

#[test]
fn ten_thousand_connections_leave_nothing_behind_inline() {
    let name = "bad_times::many::ten_thousand_connections_leave_nothing_behind_inline";
    ten_thousand_connections(name, Inline);
}

#[test]
fn ten_thousand_connections_leave_nothing_behind_in_threads() {
    let name = "bad_times::many::ten_thousand_connections_leave_nothing_behind_in_threads";
    ten_thousand_connections(name, Threading::new());
}

#[test]
fn ten_thousand_connections_leave_nothing_behind_in_a_thread_each() {
    let name = "bad_times::many::ten_thousand_connections_leave_nothing_behind_in_a_thread_each";
    ten_thousand_connections(name, Threading::new().keep(Duration::ZERO));
}

#[test]
fn ten_thousand_connections_leave_nothing_behind_in_a_pool() {
    let name = "bad_times::many::ten_thousand_connections_leave_nothing_behind_in_a_pool";
    ten_thousand_connections(name, Pool::new(4));
}
