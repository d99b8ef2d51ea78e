//! A process whose address space is bounded (`ulimit -v`): it refuses clients, and does not end.

use std::io::{Read, Write};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socketserver::mixin::Mixin;
use socketserver::transport::Tcp;
use socketserver::{Builder, Green, Threading};

use crate::child::{child, is_child};
use crate::handlers::Echo;
use crate::support::system::own_status;
use crate::support::{connect, eventually, exchange, inet};

/// How much address space the process may take in addition to what it has: not enough for the 64 MiB that
/// glibc's allocator would take for a thread of its own accord.
const ROOM: u64 = 48 << 20;

/// More clients than there is room for the stacks of their handlers.
const CLIENTS: usize = 400;

/// Lets this process take [`ROOM`] more than it has.
fn bound_address_space() {
    let in_use = || own_status("VmSize") as u64 * 1024;
    let maximum = getrlimit(Resource::As).maximum;
    loop {
        let before = in_use();
        setrlimit(Resource::As, Rlimit { current: Some(before + ROOM), maximum }).unwrap();
        // A thread that has just begun may have taken its 64 MiB just before the limit was set. With the limit none can.
        if in_use() <= before + ROOM {
            return;
        }
        setrlimit(Resource::As, Rlimit { current: maximum, maximum }).unwrap();
    }
}

/// Bounds this process, and serves more clients than it has room for.
fn serves_with_little_room<M: Mixin + 'static>(mixin: M) {
    let server = Builder::<Tcp, _>::new(mixin).bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    // The server's own threads are started before the limit.
    assert_eq!(exchange(&mut connect(address), "first"), "first\n");
    bound_address_space();
    let mut served = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = connect(address);
        let mut answer = [0; 6];
        if client.write_all(b"hello\n").is_ok() && client.read_exact(&mut answer).is_ok() {
            served.push(client);
        }
    }
    assert!((4..CLIENTS).contains(&served.len()), "{} were served", served.len());
    drop(served);
    eventually("they have gone", || server.context().live_count() == 0);
    assert_eq!(exchange(&mut connect(address), "again"), "again\n");
}

/// Runs a test in a process of its own.
fn survives(test: &str, run: impl FnOnce()) {
    if is_child() {
        return run();
    }
    let output = child(module_path!(), test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("no address space for another"), "{text}");
}

#[test]
fn clients_leave_room_for_what_is_no_thread() {
    survives("clients_leave_room_for_what_is_no_thread", || {
        serves_with_little_room(Threading::new());
    });
}

#[test]
fn clients_leave_room_for_what_is_no_stack_of_a_coroutine() {
    survives("clients_leave_room_for_what_is_no_stack_of_a_coroutine", || {
        serves_with_little_room(Green::new().workers(1));
    });
}
