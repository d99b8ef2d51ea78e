//! A server with nothing to do.

use std::fs;
use std::thread;
use std::time::Duration;

use socketserver::{Green, TcpServer};

use crate::handlers::Echo;
use crate::support::{alone, connect, eventually, exchange, inet};

/// How often the threads of `Green` have been scheduled, with their names.
fn switches() -> Vec<String> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task").unwrap() {
        let folder = thread.unwrap().path();
        // A thread may end while it is looked at.
        let Ok(name) = fs::read_to_string(folder.join("comm")) else { continue };
        if name.starts_with("green-") || name.starts_with("green watchdog") {
            let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            found.push(format!("{name} {}", counts.collect::<Vec<_>>().join(" ")));
        }
    }
    found.sort();
    found
}

/// Row 47: neither the workers nor the watchdog wake.
#[test]
fn the_threads_of_an_idle_server_sleep() {
    alone("green::idle::the_threads_of_an_idle_server_sleep", || {
        let server = TcpServer::builder().mixin(Green::new().workers(2));
        let server = server.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
        for _ in 0..4 {
            assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
        }
        eventually("all is over and done with", || {
            let before = switches();
            thread::sleep(Duration::from_millis(100));
            switches() == before && server.context().live_count() == 0
        });
        let before = switches();
        thread::sleep(Duration::from_secs(1));
        assert_eq!(switches(), before);
        assert!(before.len() >= 2, "{before:?}");
        assert!(server.stop().unwrap().is_clean());
    });
}
