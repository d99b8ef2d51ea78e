//! Handlers that panic, block, or leave threads behind.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use socketserver::hooks::Fault;
use socketserver::mixin::Mixin;
use socketserver::{HandlerResult, Inline, Limits, Pool, StreamRequest, Threading, stream_fn};

use super::{Running, SHORT, client, mixins, serve, serves_on, serves_once};
use crate::handlers::{Holder, stuck};
use crate::support::{SOON, eventually, read_line, read_to_end};

#[test]
fn handlers_that_panic_end_nobody_but_themselves() {
    let moody = stream_fn(|request| {
        let mut line = String::new();
        let line = request.next_line(&mut line)?.unwrap_or_default();
        assert_ne!(line, "panic", "as it was told");
        writeln!(request, "{line}")?;
        Ok(())
    });
    for mixin in mixins() {
        let (server, told) = serve(mixin, Limits::default(), moody.clone());
        for _ in 0..20 {
            let mut client = client(&server);
            client.write_all(b"panic\n").unwrap();
            assert_eq!(read_to_end(&mut client), b"");
            let told = told.recv_timeout(SOON).unwrap();
            assert!(told.panicked && told.fault == Fault::Handler, "{told:?}");
            assert!(told.text.contains("as it was told"), "{}", told.text);
        }
        assert_eq!(server.context().counts().panicked, 20);
        serves_on(server);
    }
}

#[test]
#[cfg_attr(under_green, ignore = "its handler blocks its thread")]
fn a_handler_that_blocks_keeps_waiting_only_those_that_must_wait() {
    // Two clients can be served at once, so that a handler that blocks leaves room for another one.
    let mixins: [Box<dyn Mixin>; 2] = [Box::new(Threading::new()), Box::new(Pool::new(2))];
    for mixin in mixins {
        let (server, holder, mut blocked) = with_one_blocked(mixin);
        for _ in 0..10 {
            serves_once(&server);
        }
        drop(holder.release);
        assert_eq!(read_line(&mut blocked), "released\n");
        serves_on(server);
    }
    let (server, holder, _blocked) = with_one_blocked(Inline);
    // The next client waits in the kernel's queue, and is served when the blocked handler has ended.
    let mut waits = client(&server);
    waits.write_all(b"once\n").unwrap();
    drop(holder.release);
    assert_eq!(read_line(&mut waits), "once\n");
    serves_on(server);
}

/// A server whose only request blocks, the test's hold on it, and its client.
fn with_one_blocked(mixin: impl Mixin + 'static) -> (Running, Holder, TcpStream) {
    let (stuck, holder) = stuck();
    let (server, _told) = serve(mixin, Limits::default(), move || Blocks(stuck.clone()));
    let mut blocked = client(&server);
    blocked.write_all(b"block\n").unwrap();
    holder.started.recv_timeout(SOON).unwrap();
    (server, holder, blocked)
}

/// A handler that answers one line, or blocks without a look at its connection if the line is `block`.
struct Blocks(crate::handlers::Held);

impl socketserver::StreamRequestHandler for Blocks {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let mut line = String::new();
        match request.next_line(&mut line)? {
            Some("block") => self.0.handle(request),
            line => Ok(writeln!(request, "{}", line.unwrap_or_default())?),
        }
    }
}

#[test]
fn a_handler_that_blocks_for_ever_does_not_keep_the_server_from_closing() {
    let mixins: [Box<dyn Mixin>; 2] = [Box::new(Threading::new()), Box::new(Pool::new(2))];
    for mixin in mixins {
        let (server, holder, mut blocked) = with_one_blocked(mixin);
        let began = Instant::now();
        let report = server.server_close_within(SHORT);
        assert!(began.elapsed() < SOON);
        let peer = socketserver::Address::from(blocked.local_addr().unwrap());
        for list in [&report.forced, &report.left_running] {
            assert!(matches!(&list[..], [one] if one.client_address == peer), "{report}");
        }
        // The connection of the blocked handler is gone, whatever the handler does.
        assert_eq!(read_to_end(&mut blocked), b"");
        drop(holder.release);
        eventually("it ends", || server.context().live_count() == 0);
    }
}

#[test]
fn threads_that_a_handler_leaves_behind_keep_nobody_waiting() {
    for mixin in mixins() {
        let (leave, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let leaks = stream_fn(move |request: &mut StreamRequest| {
            let mut line = String::new();
            let text = request.next_line(&mut line)?.unwrap_or_default();
            writeln!(request, "{text}")?;
            // The thread keeps a duplicate of the connection: a close does not end it, only a shutdown does.
            let duplicate = request.fileno().ok_or("no socket")?.try_clone_to_owned()?;
            let wait = Arc::clone(&wait);
            thread::spawn(move || {
                let _ = wait.lock().unwrap().recv();
                drop(duplicate);
            });
            Ok(())
        });
        let (server, _told) = serve(mixin, Limits::default(), leaks);
        for _ in 0..10 {
            let mut client = client(&server);
            client.write_all(b"once\n").unwrap();
            assert_eq!(read_to_end(&mut client), b"once\n");
        }
        serves_on(server);
        drop(leave);
    }
}
