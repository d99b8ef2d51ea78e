//! The phases of a server, and its lame duck: not ready any more, and still serving.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::mixin::Mixin;
use socketserver::monitor::{RunPhase, ServerEvent};
use socketserver::transport::Tcp;
use socketserver::{
    BaseServer, Builder, Fatal, HandlerResult, Inline, Limits, Pool, ServerContext, ServerHooks,
    StreamRequest, TcpServer, Threading, run_all, stream_fn,
};

use crate::support::process::{Process, answer, child_command, is_child};
use crate::support::{SOON, StopOnPanic, alone, connect, eventually, exchange, inet, system};

const HOUR: Duration = Duration::from_secs(3_600);

use RunPhase::{Bound, Closed, Draining, Ended, Forced, LameDuck, Ready};

/// Hooks that send each phase to the test.
struct Phases(Sender<RunPhase>);

impl ServerHooks for Phases {
    fn ready(&self, server: &ServerContext) {
        assert!(server.is_ready());
    }

    fn stopping(&self, server: &ServerContext) {
        assert!(!server.is_ready() && !server.is_stopping());
    }

    fn run_phase(&self, server: &ServerContext, phase: RunPhase) {
        // The server may be in a later phase, while another thread closes it as well.
        assert!(server.run_phase() >= phase || phase == Bound);
        // The test may have seen enough.
        let _ = self.0.send(phase);
    }
}

/// Answers each line with the readiness of its server.
fn readiness(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        if text == "fatal" {
            return Err(Fatal::new("as it was asked").into());
        }
        let ready = request.server().is_ready();
        writeln!(request, "{}", if ready { "ready" } else { "not ready" })?;
    }
    Ok(())
}

fn builder<M: Mixin>(mixin: M, lame_duck: Duration) -> (Builder<Tcp, M>, Receiver<RunPhase>) {
    let (sender, phases) = channel();
    let limits = Limits::default().lame_duck(lame_duck).drain(Duration::from_secs(5));
    let builder = TcpServer::builder().mixin(mixin).limits(limits).hooks(Phases(sender));
    (builder, phases)
}

#[track_caller]
fn reach(phases: &Receiver<RunPhase>, expected: &[RunPhase]) {
    for phase in expected {
        assert_eq!(phases.recv_timeout(SOON).expect("the next phase"), *phase);
    }
}

/// Asks as a client that leaves at once, because `Inline` serves one client at a time.
fn asked(server: &impl BaseServer) -> String {
    exchange(&mut connect(inet(server)), "ready?")
}

fn terminate() {
    system::send_signal(std::process::id(), libc::SIGTERM);
}

/// A signal begins the lame duck, in which clients are served; a shutdown ends it.
fn a_lame_duck_serves_until_a_shutdown<M: Mixin + 'static>(mixin: M) {
    let (builder, phases) = builder(mixin, HOUR);
    let (told, events) = channel();
    let observe = move |event: &ServerEvent<'_>| {
        if let ServerEvent::PhaseReached { phase, .. } = event {
            let _ = told.send(*phase);
        }
    };
    let server = builder.observer(observe).bind("127.0.0.1:0", stream_fn(readiness)).unwrap();
    assert!(!server.context().is_ready());
    thread::scope(|scope| {
        let running = scope.spawn(|| server.run());
        let _stop = StopOnPanic(&server);
        reach(&phases, &[Bound, Ready]);
        assert_eq!(asked(&server), "ready\n");
        terminate();
        reach(&phases, &[LameDuck]);
        for _ in 0..3 {
            assert_eq!(asked(&server), "not ready\n");
        }
        assert!(!server.shutdown_handle().is_shutdown());
        server.shutdown_handle().shutdown();
        let report = running.join().unwrap().unwrap();
        assert!(report.is_clean() && report.took < HOUR, "{report}");
    });
    reach(&phases, &[Closed, Draining, Ended]);
    assert!(phases.try_recv().is_err());
    assert!(TcpStream::connect(inet(&server)).is_err());
    let events: Vec<_> = events.try_iter().collect();
    assert_eq!(events, [Bound, Ready, LameDuck, Closed, Draining, Ended]);
}

#[test]
fn a_lame_duck_serves_until_a_shutdown_inline() {
    alone("phases::a_lame_duck_serves_until_a_shutdown_inline", || {
        a_lame_duck_serves_until_a_shutdown(Inline);
    });
}

#[test]
fn a_lame_duck_serves_until_a_shutdown_threading() {
    alone("phases::a_lame_duck_serves_until_a_shutdown_threading", || {
        a_lame_duck_serves_until_a_shutdown(Threading::new());
    });
}

#[test]
fn a_lame_duck_serves_until_a_shutdown_pool() {
    alone("phases::a_lame_duck_serves_until_a_shutdown_pool", || {
        a_lame_duck_serves_until_a_shutdown(Pool::new(2));
    });
}

#[test]
fn a_lame_duck_ends_by_itself_while_the_loop_is_away() {
    alone("phases::a_lame_duck_ends_by_itself_while_the_loop_is_away", || {
        let time = Duration::from_millis(300);
        let (builder, phases) = builder(Inline, time);
        let server = builder.bind("127.0.0.1:0", stream_fn(readiness)).unwrap();
        thread::scope(|scope| {
            let running = scope.spawn(|| server.run());
            let _stop = StopOnPanic(&server);
            let mut client = connect(inet(&server));
            assert_eq!(exchange(&mut client, "ready?"), "ready\n");
            let began = Instant::now();
            // The loop runs the handler of this client, which waits for the next line until the drain ends the wait.
            terminate();
            reach(&phases, &[Bound, Ready, LameDuck, Closed, Draining]);
            assert!(began.elapsed() >= time);
            assert_eq!(running.join().unwrap().unwrap().stopped, 1);
        });
        reach(&phases, &[Ended]);
    });
}

#[test]
fn a_close_has_a_lame_duck_and_a_second_one_ends_it() {
    let (builder, phases) = builder(Threading::new(), HOUR);
    let server = builder.bind("127.0.0.1:0", stream_fn(readiness)).unwrap();
    let server = Arc::new(server.serve_in_background().unwrap());
    reach(&phases, &[Bound, Ready]);
    assert_eq!(asked(&**server), "ready\n");
    let closing = Arc::clone(&server);
    let first = thread::spawn(move || closing.server_close());
    reach(&phases, &[LameDuck]);
    assert_eq!(asked(&**server), "not ready\n");
    assert!(server.server_close().is_clean());
    assert!(first.join().unwrap().is_clean());
    reach(&phases, &[Closed, Draining, Ended]);
    assert!(phases.try_recv().is_err(), "each is told once");
}

/// Stays in the hook of `Closed` until it may go on.
struct HeldWhenClosed {
    phases: Sender<RunPhase>,
    go_on: Mutex<Receiver<()>>,
}

impl ServerHooks for HeldWhenClosed {
    fn run_phase(&self, _server: &ServerContext, phase: RunPhase) {
        self.phases.send(phase).unwrap();
        if phase == Closed {
            self.go_on.lock().recv_timeout(SOON).expect("the second close has returned");
        }
    }
}

#[test]
fn the_phases_of_two_closes_are_told_in_their_order() {
    let ((told, phases), (go_on, held)) = (channel(), channel());
    let hooks = HeldWhenClosed { phases: told, go_on: Mutex::new(held) };
    let server = TcpServer::builder().mixin(Threading::new()).hooks(hooks);
    let server = server.bind("127.0.0.1:0", stream_fn(readiness)).unwrap();
    let server = Arc::new(server.serve_in_background().unwrap());
    reach(&phases, &[Bound, Ready]);
    let closing = Arc::clone(&server);
    let first = thread::spawn(move || closing.server_close());
    reach(&phases, &[LameDuck, Closed]);
    // The first close is in its hook, and the second one runs to its end.
    assert!(server.server_close().is_clean());
    let early: Vec<_> = phases.try_iter().collect();
    assert_eq!(early, [], "told before the hook of the phase before has returned");
    go_on.send(()).unwrap();
    assert!(first.join().unwrap().is_clean());
    reach(&phases, &[Draining, Ended]);
    assert!(phases.try_recv().is_err());
}

#[test]
fn a_close_waits_for_the_whole_lame_duck_and_then_for_requests() {
    let time = Duration::from_millis(500);
    let (builder, phases) = builder(Pool::new(2), time);
    let server = builder.bind("127.0.0.1:0", stream_fn(readiness)).unwrap();
    let server = server.serve_in_background().unwrap();
    reach(&phases, &[Bound, Ready]);
    let mut busy = connect(inet(&*server));
    // Half a line: the handler is in the middle of a request.
    assert_eq!(exchange(&mut busy, "ready?"), "ready\n");
    busy.write_all(b"hal").unwrap();
    eventually("the half line is read", || server.context().live()[0].bytes_in > 7);
    let began = Instant::now();
    let report = server.server_close_within(Duration::from_millis(100));
    assert!(began.elapsed() >= time + Duration::from_millis(100));
    assert_eq!(report.forced.len(), 1);
    reach(&phases, &[LameDuck, Closed, Draining, Forced, Ended]);
}

#[test]
fn an_error_of_a_handler_ends_a_lame_duck() {
    alone("phases::an_error_of_a_handler_ends_a_lame_duck", || {
        let (builder, phases) = builder(Threading::new(), HOUR);
        let server = builder.bind("127.0.0.1:0", stream_fn(readiness)).unwrap();
        thread::scope(|scope| {
            let running = scope.spawn(|| server.run());
            let _stop = StopOnPanic(&server);
            reach(&phases, &[Bound, Ready]);
            // `retire` begins the lame duck here, because a signal already stops the run by itself.
            server.shutdown_handle().retire();
            reach(&phases, &[LameDuck]);
            connect(inet(&server)).write_all(b"fatal\n").unwrap();
            assert!(running.join().unwrap().unwrap_err().as_fatal().is_some());
        });
        reach(&phases, &[Closed, Draining, Ended]);
    });
}

#[test]
fn a_run_that_is_not_the_last_leaves_a_server_bound() {
    let (builder, phases) = builder(Threading::new(), Duration::ZERO);
    let server = Arc::new(builder.bind("127.0.0.1:0", stream_fn(readiness)).unwrap());
    for _ in 0..2 {
        let done = crate::support::serve(&server);
        reach(&phases, &[Bound, Ready]);
        assert_eq!(asked(&*server), "ready\n");
        // Without a `run`, retiring is a shutdown.
        server.shutdown_handle().retire();
        done.recv_timeout(SOON).unwrap().unwrap();
    }
    reach(&phases, &[Bound]);
    assert!(!server.context().is_ready());
    server.server_close();
    reach(&phases, &[LameDuck, Closed, Draining, Ended]);
}

#[test]
fn several_servers_are_lame_ducks_together() {
    alone("phases::several_servers_are_lame_ducks_together", || {
        let (one, of_one) = builder(Threading::new(), HOUR);
        let (two, of_two) = builder(Inline, HOUR);
        let one = Arc::new(one.bind("127.0.0.1:0", stream_fn(readiness)).unwrap());
        let two = Arc::new(two.bind("127.0.0.1:0", stream_fn(readiness)).unwrap());
        let servers: Vec<Box<dyn BaseServer>> =
            vec![Box::new(Arc::clone(&one)), Box::new(Arc::clone(&two))];
        thread::scope(|scope| {
            let running = scope.spawn(|| run_all(&servers, Duration::from_secs(10), || ()));
            let _stop = servers.iter().map(|server| StopOnPanic(&**server)).collect::<Vec<_>>();
            reach(&of_one, &[Bound, Ready]);
            reach(&of_two, &[Bound, Ready]);
            terminate();
            reach(&of_one, &[LameDuck]);
            reach(&of_two, &[LameDuck]);
            assert_eq!((asked(&*one), asked(&*two)), ("not ready\n".into(), "not ready\n".into()));
            one.shutdown();
            two.shutdown();
            assert_eq!(running.join().unwrap().unwrap().len(), 2);
        });
    });
}

const TWICE: &str = "phases::a_second_signal_in_a_lame_duck_ends_the_process";

#[test]
fn a_second_signal_in_a_lame_duck_ends_the_process() {
    if is_child(TWICE) {
        let (builder, _phases) = builder(Threading::new(), HOUR);
        let server = builder.bind("127.0.0.1:0", stream_fn(readiness)).unwrap();
        answer(inet(&server));
        server.run().unwrap();
        return;
    }
    let child = Process::start(child_command(TWICE).stdin(Stdio::null()).stdout(Stdio::piped()));
    let address = child.answer().parse().unwrap();
    assert_eq!(exchange(&mut connect(address), "ready?"), "ready\n");
    child.send_signal(libc::SIGTERM);
    eventually("the lame duck has begun", || {
        exchange(&mut connect(address), "ready?") == "not ready\n"
    });
    child.insist_by(libc::SIGINT);
    let status = child.end().status;
    assert_eq!((status.code(), status.signal()), (Some(128 + libc::SIGINT), None));
}
