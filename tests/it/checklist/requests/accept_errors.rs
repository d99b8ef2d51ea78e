//! Rows 24 and 25: errors of `get_request`.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use socketserver::hooks::AcceptFailure;
use socketserver::monitor::AcceptOutcome;
use socketserver::transport::{AcceptAction, accept_action};
use socketserver::{Builder, Inline, Server, ServerHooks, StreamRequest};

use super::{Injected, Noted, joined};
use crate::handlers::OneLine;
use crate::support::{SOON, connect, exchange, inet, read_line};

/// The errors that concern one connection only.
const SKIPPED: [i32; 12] = [
    libc::ECONNABORTED,
    libc::ECONNRESET,
    libc::ECONNREFUSED,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::EHOSTUNREACH,
    libc::ENOPROTOOPT,
    libc::EOPNOTSUPP,
    libc::ETIMEDOUT,
    libc::EPERM,
];

/// A call of `accept_error`: the error's number, the action that follows, how many errors came in a row, the pause, and
/// whether a report is due.
type Told = (i32, AcceptAction, u64, Duration, bool);

struct AcceptErrors {
    to: Sender<Told>,
}

impl ServerHooks<StreamRequest> for AcceptErrors {
    fn accept_error(&self, failure: &AcceptFailure<'_>) {
        let errno = failure.error().raw_os_error().unwrap_or(0);
        let due = failure.is_first_or_due();
        let _ = self.to.send((errno, failure.action(), failure.in_a_row(), failure.pause(), due));
    }
}

/// An inline echo server whose accept fails, and the calls of its hook.
fn meets(injected: &Injected) -> (Server<Noted, Inline>, Receiver<Told>) {
    let (to, told) = channel();
    let server = Builder::<Noted, _>::new(Inline)
        .hooks(AcceptErrors { to })
        .timeout(SOON)
        .with_transport(Noted::with_errors(injected), || OneLine)
        .unwrap();
    (server, told)
}

#[test]
fn row_024_an_error_of_get_request_costs_one_turn_and_no_more() {
    let injected = Injected::default();
    injected.queue.lock().unwrap().extend(SKIPPED);
    let (server, told) = meets(&injected);
    let server = server.serve_in_background().unwrap();
    assert_eq!(exchange(&mut connect(inet(&*server)), "served"), "served\n");
    let told: Vec<Told> = told.try_iter().collect();
    let expected: Vec<Told> = SKIPPED
        .iter()
        .map(|errno| (*errno, AcceptAction::Skip, 0, Duration::ZERO, false))
        .collect();
    assert_eq!(told, expected);
    assert_eq!(server.context().counts().accept_errors, SKIPPED.len() as u64);
    server.stop().unwrap();
}

#[test]
fn row_025_the_table_says_what_follows_from_each_error() {
    use AcceptAction::{BackOff, Fatal, Retry, Shed, Skip, Wait};
    let action = |errno| accept_action(&io::Error::from_raw_os_error(errno));
    let mut table: Vec<(i32, AcceptAction)> = SKIPPED.map(|errno| (errno, Skip)).to_vec();
    table.extend([
        (libc::EAGAIN, Wait),
        (libc::EWOULDBLOCK, Wait),
        (libc::EINTR, Retry),
        (libc::EMFILE, Shed),
        (libc::ENFILE, BackOff),
        (libc::ENOBUFS, BackOff),
        (libc::ENOMEM, BackOff),
        (libc::EBADF, Fatal),
        (libc::ENOTSOCK, Fatal),
        (libc::EINVAL, Fatal),
        (libc::EFAULT, Fatal),
        // An unknown error causes neither a spin nor the end.
        (libc::EXDEV, BackOff),
    ]);
    for (errno, expected) in table {
        assert_eq!(action(errno), expected, "{}", io::Error::from_raw_os_error(errno));
    }
    assert_eq!(accept_action(&io::Error::other("a transport's own")), BackOff);
    assert_eq!(accept_action(&io::ErrorKind::WouldBlock.into()), Wait);
}

#[test]
fn row_025_a_lack_of_descriptors_is_backed_off_from_and_gets_over() {
    for (errno, action) in
        [(libc::EMFILE, AcceptAction::Shed), (libc::ENFILE, AcceptAction::BackOff)]
    {
        let injected = Injected::default();
        injected.always.store(errno, Ordering::SeqCst);
        let (server, told) = meets(&injected);
        let server = server.serve_in_background().unwrap();
        for (in_a_row, millis) in [(1, 10), (2, 20), (3, 40)] {
            let pause = Duration::from_millis(millis);
            let expected = (errno, action, in_a_row, pause, in_a_row == 1);
            assert_eq!(told.recv_timeout(SOON).unwrap(), expected, "one of a row is reported");
        }
        let before = injected.calls.load(Ordering::SeqCst);
        // The row bounds a rate, and it takes time to measure one.
        thread::sleep(Duration::from_secs(1));
        let turns = injected.calls.load(Ordering::SeqCst) - before;
        assert!(turns < 100, "{turns} turns in a second");
        injected.always.store(0, Ordering::SeqCst);
        assert_eq!(exchange(&mut connect(inet(&*server)), "over"), "over\n");
        server.stop().unwrap();
    }
}

#[test]
fn row_025_only_a_lack_of_descriptors_of_its_own_makes_the_server_shed() {
    for (errno, shed) in [(libc::EMFILE, 3), (libc::ENFILE, 0), (libc::ECONNABORTED, 0)] {
        let injected = Injected::default();
        injected.queue.lock().unwrap().push_back(errno);
        let (server, _told) = meets(&injected);
        assert_eq!(server.handle_request().unwrap(), AcceptOutcome::AcceptFailed);
        assert_eq!(server.context().counts().shed, shed);
    }
}

#[test]
fn row_025_a_broken_listener_ends_serve_forever_with_its_error() {
    for errno in [libc::EBADF, libc::ENOTSOCK, libc::EINVAL, libc::EFAULT] {
        let injected = Injected::default();
        injected.always.store(errno, Ordering::SeqCst);
        let (server, told) = meets(&injected);
        let address = server.server_address();
        let error = joined(server.serve_in_background().unwrap()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot accept at {address}: ")), "{error}");
        let cause = std::error::Error::source(&error).unwrap();
        let cause = cause.downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.raw_os_error(), Some(errno));
        assert_eq!(told.try_iter().count(), 0, "serve_forever's own error says it");
    }
}

#[test]
fn row_025_what_is_no_trouble_is_no_trouble_of_the_hook() {
    let injected = Injected::default();
    injected.queue.lock().unwrap().extend([libc::EINTR, libc::EINTR, libc::EAGAIN]);
    let (server, told) = meets(&injected);
    let mut client = connect(inet(&server));
    client.write_all(b"hello\n").unwrap();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(read_line(&mut client), "hello\n");
    assert_eq!(told.try_iter().count(), 0);
    assert_eq!(server.context().counts().accept_errors, 0);
}

#[test]
fn row_025_a_panic_of_the_hook_does_not_end_the_loop() {
    struct Clumsy;

    impl<R> ServerHooks<R> for Clumsy {
        fn accept_error(&self, _failure: &AcceptFailure<'_>) {
            panic!("while telling of an error")
        }
    }

    let injected = Injected::default();
    injected.queue.lock().unwrap().push_back(libc::ECONNABORTED);
    let server = Builder::<Noted, _>::new(Inline)
        .hooks(Clumsy)
        .with_transport(Noted::with_errors(&injected), || OneLine)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    assert_eq!(exchange(&mut connect(inet(&*server)), "alive"), "alive\n");
    server.stop().unwrap();
}
