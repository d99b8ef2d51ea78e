//! Handlers that use what belongs to their thread, or to the process: parkers, locks, thread-locals, other processes.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::park::{self, Parker, Slot, Waiting, sleep};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Forking, Green, HandlerError, HandlerResult, Limits, StreamRequest,
    TcpServer, offload, stream_fn,
};

use crate::support::process::{answer, child, in_a_process, is_child};
use crate::support::{SOON, connect, eventually, exchange, inet, read_line, read_to_end};

fn serving(
    handler: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> BackgroundServer<Tcp, Green> {
    let limits = Limits::default().drain(Duration::from_millis(200));
    let server = TcpServer::builder().mixin(Green::new().workers(1)).limits(limits);
    let server = server.observer(|_| {}).hooks(Quiet);
    let server = server.bind("127.0.0.1:0", stream_fn(handler)).unwrap();
    server.serve_in_background().unwrap()
}

fn lines(
    request: &mut StreamRequest,
    mut answers: impl FnMut(&mut StreamRequest, &str) -> Result<String, HandlerError>,
) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        let text = text.to_owned();
        let answer = answers(request, &text)?;
        writeln!(request, "{answer}")?;
    }
    Ok(())
}

/// A parker that only waits, as the smallest one in the documentation does, and counts its waits.
struct Polling(Rc<Cell<usize>>);

impl Parker for Polling {
    fn park(&self, _waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()> {
        park::flush();
        self.0.set(self.0.get() + 1);
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        thread::sleep(left.unwrap_or(Duration::MAX).min(Duration::from_millis(1)));
        Ok(())
    }

    fn forget(&self, _fd: BorrowedFd<'_>, _slot: &Slot) {}
}

#[test]
fn a_parker_of_the_users_own_is_used_until_its_guard_goes_and_then_the_worker_again() {
    let server = serving(|request| {
        lines(request, |request, text| {
            let count = Rc::new(Cell::new(0));
            let parker = Rc::new(Polling(Rc::clone(&count)));
            match text {
                "polls" => {
                    let _installed = park::install(parker);
                    let mut byte = [0];
                    request.write_all(b"send one\n")?;
                    request.read_exact(&mut byte)?;
                }
                "forgets" => {
                    std::mem::forget(park::install(parker));
                    return Err("ends".into());
                }
                _ => {}
            }
            Ok(format!("{} {}", text, count.get() > 0))
        })
    });
    let address = inet(&*server);
    let (mut polls, mut other) = (connect(address), connect(address));
    assert_eq!(exchange(&mut other, "before"), "before false\n");
    assert_eq!(exchange(&mut polls, "polls"), "send one\n");
    thread::sleep(Duration::from_millis(20));
    polls.write_all(b"x").unwrap();
    assert_eq!(read_line(&mut polls), "polls true\n");
    for client in [&mut polls, &mut other] {
        assert_eq!(exchange(client, "after"), "after false\n");
    }
    // This handler never drops its guard. When it has ended, its worker parks by itself again.
    let mut forgets = connect(address);
    forgets.write_all(b"forgets\n").unwrap();
    assert!(read_to_end(&mut forgets).is_empty());
    for client in [&mut polls, &mut other] {
        assert_eq!(exchange(client, "still"), "still false\n");
    }
    drop((polls, other));
    eventually("all have ended", || server.context().live_count() == 0);
    assert!(server.stop().unwrap().is_clean());
}

#[test]
fn a_lock_held_across_a_wait_holds_the_worker_and_the_one_that_waits_for_it_is_named() {
    let (held, told) = channel();
    let lock = Arc::new(Mutex::new(()));
    let handler = stream_fn(move |request: &mut StreamRequest| {
        let lock = Arc::clone(&lock);
        lines(request, |request, text| match text {
            "keep" => {
                let _kept = lock.lock().unwrap_or_else(PoisonError::into_inner);
                request.write_all(b"kept\n")?;
                request.read_exact(&mut [0])?;
                Ok("free".to_owned())
            }
            "take" => {
                request.write_all(b"taking\n")?;
                drop(lock.lock());
                Ok("taken".to_owned())
            }
            _ => Ok(text.to_owned()),
        })
    });
    let server = TcpServer::builder()
        .mixin(Green::new().workers(1).watchdog(Duration::from_millis(100)))
        .limits(Limits::default().drain(Duration::from_millis(200)))
        .observer(move |event| {
            if let ServerEvent::WorkerHeld { id, .. } = event {
                let _ = held.send(*id);
            }
        });
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let (mut keeps, mut takes) = (connect(inet(&*server)), connect(inet(&*server)));
    assert_eq!(exchange(&mut keeps, "keep"), "kept\n");
    assert_eq!(exchange(&mut takes, "take"), "taking\n");
    let id = told.recv_timeout(SOON).unwrap();
    // The report names the request that blocks the thread, and not the one that has the lock and waits.
    let live = server.context().live();
    let named = live.iter().find(|live| live.id == id).expect("it is live");
    let theirs = takes.local_addr().unwrap();
    assert_eq!(named.client_address.as_inet(), Some(theirs), "{live:?}");
    let began = Instant::now();
    let report = server.stop().unwrap();
    assert!(began.elapsed() < SOON, "{report}");
    assert_eq!(report.left_running.len(), 2, "{report}");
}

thread_local! {
    static OF_THE_WORKER: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn a_thread_local_is_of_the_worker_and_a_borrow_across_a_wait_ends_the_request_that_meets_it() {
    let (ends, ended) = channel();
    let handler = stream_fn(|request: &mut StreamRequest| {
        lines(request, |request, text| match text {
            "hold" => OF_THE_WORKER.with_borrow_mut(|all| {
                request.write_all(b"held\n")?;
                request.read_exact(&mut [0])?;
                Ok(all.join(" "))
            }),
            _ => Ok(OF_THE_WORKER.with_borrow_mut(|all| {
                all.push(text.to_owned());
                all.join(" ")
            })),
        })
    });
    let server = TcpServer::builder().mixin(Green::new().workers(1)).observer(move |event| {
        if let ServerEvent::RequestEnded { reason, .. } = event {
            let _ = ends.send(*reason);
        }
    });
    let server = server.hooks(Quiet).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let (mut first, mut second) = (connect(inet(&*server)), connect(inet(&*server)));
    assert_eq!(exchange(&mut first, "a"), "a\n");
    assert_eq!(exchange(&mut second, "b"), "a b\n");
    assert_eq!(exchange(&mut first, "hold"), "held\n");
    // The second handler meets the borrow, and panics; nothing else does.
    second.write_all(b"c\n").unwrap();
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Panicked);
    assert!(read_to_end(&mut second).is_empty());
    first.write_all(b"x").unwrap();
    assert_eq!(read_line(&mut first), "a b\n");
    assert_eq!(exchange(&mut first, "d"), "a b d\n");
    drop(first);
    assert!(server.stop().unwrap().is_clean());
}

struct Quiet;

impl socketserver::ServerHooks for Quiet {
    fn handle_error(&self, _failure: &socketserver::hooks::Failure<'_>) {}
}

/// Starts a program, and returns the descriptors that the program has.
fn descriptors_of_a_child() -> io::Result<String> {
    let output = Command::new("ls").arg("/proc/self/fd").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn a_program_that_a_handler_starts_has_none_of_the_servers_descriptors() {
    // These are the descriptors that this process was itself started with, those of stdio, and that of the folder.
    let usual = descriptors_of_a_child().unwrap().split_whitespace().count();
    let server = serving(|request| {
        lines(request, |_, text| match text {
            "offload" => Ok(offload(descriptors_of_a_child)??),
            _ => Ok(descriptors_of_a_child()?),
        })
    });
    let address = inet(&*server);
    let mut idle: Vec<_> = (0..10).map(|_| connect(address)).collect();
    let mut client = connect(address);
    for how in ["directly", "offload"] {
        let answer = exchange(&mut client, how);
        assert_eq!(answer.split_whitespace().count(), usual, "{answer}");
        for client in &mut idle {
            client.write_all(b"").unwrap();
        }
    }
    drop((idle, client));
    assert!(server.stop().unwrap().is_clean());
}

const BESIDE: &str =
    "green::of_a_thread::a_forking_server_beside_a_green_one_says_why_it_does_not_fork";

#[test]
fn a_forking_server_beside_a_green_one_says_why_it_does_not_fork() {
    let Some(ended) = in_a_process(BESIDE, || {
        let green = serving(|request| lines(request, |_, text| Ok(text.to_owned())));
        let forking = TcpServer::builder().mixin(Forking::new());
        let handler = stream_fn(|request| lines(request, |_, text| Ok(text.to_owned())));
        let forking = forking.bind("127.0.0.1:0", handler).unwrap();
        // The workers of `Green` have started, and have their names.
        assert_eq!(exchange(&mut connect(inet(&*green)), "well"), "well\n");
        let text = forking.serve_forever().unwrap_err().to_string();
        assert_eq!(exchange(&mut connect(inet(&*green)), "well"), "well\n");
        text
    }) else {
        return;
    };
    assert!(ended.out.contains("other threads") && ended.out.contains("green-1"), "{}", ended.out);
}

const EXITS: &str = "green::of_a_thread::a_handler_that_ends_the_process_does_so_at_once";

/// Destructors of the C library run on the handler's stack, while other handlers wait on theirs.
#[test]
fn a_handler_that_ends_the_process_does_so_at_once() {
    if !is_child(EXITS) {
        let process = child(EXITS);
        let address = process.answer().parse().unwrap();
        let mut idle: Vec<_> = (0..50).map(|_| connect(address)).collect();
        for client in &mut idle {
            assert_eq!(exchange(client, "hello"), "hello\n");
        }
        connect(address).write_all(b"exit\n").unwrap();
        let ended = process.end_within(SOON);
        assert_eq!(ended.status.code(), Some(7), "{}", ended.err);
        assert_eq!(ended.err, "");
        return;
    }
    let server = serving(|request| {
        lines(request, |_, text| match text {
            "exit" => std::process::exit(7),
            _ => Ok(text.to_owned()),
        })
    });
    answer(inet(&*server));
    loop {
        thread::sleep(SOON);
    }
}

const ABORTS: &str =
    "green::of_a_thread::a_drop_that_panics_in_an_unwinding_ends_the_process_as_in_any_panic";

/// A panic during an unwinding ends the process: this is Rust's rule, and no mixin can change it. A handler
/// that returns when its wait has failed is never unwound.
#[test]
fn a_drop_that_panics_in_an_unwinding_ends_the_process_as_in_any_panic() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    if is_child(ABORTS) {
        let server = serving(|request| {
            let bomb = Bomb;
            let mut line = String::new();
            if request.next_line(&mut line)? == Some("returns") {
                std::mem::forget(bomb);
                request.write_all(b"here\n")?;
                let never = park::Event::new()?;
                never.wait(None)?;
                return Ok(());
            }
            request.write_all(b"here\n")?;
            loop {
                sleep(Duration::from_secs(3_600));
            }
        });
        let stop = |line: &str, server: BackgroundServer<Tcp, Green>| {
            let mut client = connect(inet(&*server));
            assert_eq!(exchange(&mut client, line), "here\n");
            server.stop().unwrap()
        };
        stop("loops", server);
        // On a busy machine the unwinding comes a moment after the close.
        thread::sleep(SOON);
        answer("it goes on");
        return;
    }
    let ended = child(ABORTS).end_within(2 * SOON);
    assert!(!ended.status.success() && !ended.out.contains("it goes on"), "{}", ended.out);
    assert!(ended.err.contains("panic in a destructor during cleanup"), "{}", ended.err);
}
