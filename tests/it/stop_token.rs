//! Stop tokens, which report a stop to code that does not read, and the live list's entry for it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use socketserver::mixin::Mixin;
use socketserver::monitor::Cut;
use socketserver::request::StopToken;
use socketserver::transport::{Tcp, Udp};
use socketserver::{
    BackgroundServer, Builder, DatagramRequest, HandlerResult, Inline, Limits, Pool, StreamRequest,
    TcpServer, Threading, datagram_fn, stream_fn,
};

use crate::support::{
    SOON, StopOnPanic, connect, eventually, inet, read_to_end, receive, skip, soon, udp_client,
};

/// Longer than any test runs.
const HOUR: Duration = Duration::from_secs(3_600);

fn limits(drain: Duration) -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR).drain(drain)
}

/// A server whose handler never reads: it gives its token to the test and computes until the token reports a stop.
fn computes<M: Mixin + 'static>(
    mixin: M,
    drain: Duration,
    until: impl Fn(&StopToken) -> bool + Send + Sync + 'static,
) -> (BackgroundServer<Tcp, M>, Receiver<StopToken>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        let token = request.stop_token()?;
        tell.lock().unwrap().send(token.clone())?;
        eventually("it is to end", || until(&token));
        request.write_all(b"over")?;
        Ok(())
    });
    let server = TcpServer::builder().mixin(mixin).limits(limits(drain));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    (server, told)
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

/// The states of a token in the order in which they become true; each descriptor agrees with its method.
fn is(token: &StopToken) -> (bool, bool, bool) {
    assert_eq!(is_readable(token.as_fd()), token.is_stopping());
    assert_eq!(is_readable(token.closed_fd()), token.is_closed());
    (token.is_shutdown(), token.is_stopping(), token.is_closed())
}

fn a_computation_hears_of_a_drain(mixin: impl Mixin + 'static) {
    let (server, tokens) = computes(mixin, HOUR, StopToken::is_stopping);
    let mut client = connect(inet(&*server));
    let token = tokens.recv_timeout(SOON).unwrap();
    assert_eq!(is(&token), (false, false, false));
    assert!(!token.wait(Some(Duration::from_millis(1))));
    let helper = token.clone();
    let waits = thread::spawn(move || (helper.wait(None), helper.wait_closed(None)));
    let report = server.server_close();
    assert!(report.is_clean(), "{report}");
    assert_eq!(read_to_end(&mut client), b"over");
    assert_eq!(soon("the helper hears", move || waits.join().unwrap()), (true, true));
    assert_eq!(is(&token), (true, true, true));
    assert_eq!(server.context().counts().completed, 1);
}

#[test]
fn a_computation_hears_of_a_drain_threading() {
    a_computation_hears_of_a_drain(Threading::new());
}

#[test]
fn a_computation_hears_of_a_drain_pool() {
    a_computation_hears_of_a_drain(Pool::new(1));
}

#[test]
fn a_computation_hears_of_a_drain_inline() {
    a_computation_hears_of_a_drain(Inline);
}

#[test]
fn a_shutdown_alone_asks_no_request_to_end() {
    let (server, tokens) = computes(Threading::new(), HOUR, StopToken::is_stopping);
    let _client = connect(inet(&*server));
    let token = tokens.recv_timeout(SOON).unwrap();
    server.shutdown();
    assert_eq!(is(&token), (true, false, false));
    server.server_close();
}

#[test]
fn a_computation_hears_of_the_deadline() {
    let (server, tokens) =
        computes(Threading::new(), Duration::from_millis(50), StopToken::is_closed);
    let mut client = connect(inet(&*server));
    let token = tokens.recv_timeout(SOON).unwrap();
    let report = server.server_close();
    assert_eq!(report.forced.len(), 1, "{report}");
    assert!(token.wait_closed(Some(SOON)));
    eventually("it has ended", || server.context().counts().forced == 1);
    let _ = client.read_to_end(&mut Vec::new());
}

#[test]
fn a_computation_hears_of_close_live_and_the_list_says_what_was_done() {
    let (go_on, goes_on) = channel::<()>();
    let goes_on = Mutex::new(goes_on);
    let until = move |token: &StopToken| {
        token.is_closed() && goes_on.lock().unwrap().recv_timeout(SOON).is_ok()
    };
    let (server, tokens) = computes(Threading::new(), HOUR, until);
    let mut client = connect(inet(&*server));
    let token = tokens.recv_timeout(SOON).unwrap();
    let live = &server.context().live()[0];
    assert_eq!(live.cut, None);
    let line = live.to_string();
    assert!(line.contains(&format!(": request {}, ", live.id)), "{line}");
    assert!(server.context().close_live(live.id));
    assert!(token.wait_closed(Some(SOON)));
    assert_eq!(is(&token), (false, true, true));
    let live = &server.context().live()[0];
    assert_eq!(live.cut, Some(Cut::Closed));
    assert!(live.to_string().ends_with(", closed from this side"), "{live}");
    go_on.send(()).unwrap();
    assert!(read_to_end(&mut client).is_empty());
    eventually("it has ended", || server.context().counts().closed_here == 1);
}

#[test]
fn the_list_says_that_a_request_was_stopped() {
    let (tell, told) = channel();
    let (go_on, goes_on) = channel::<()>();
    let (tell, goes_on) = (Mutex::new(tell), Mutex::new(goes_on));
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        let stopped = request.next_line(&mut String::new()).is_err();
        tell.lock().unwrap().send(stopped)?;
        goes_on.lock().unwrap().recv_timeout(SOON)?;
        Ok(())
    });
    let limits = limits(HOUR).first_read(Duration::ZERO);
    let server = Builder::<Tcp, _>::new(Threading::new()).limits(limits);
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let _client = connect(inet(&*server));
    eventually("it is accepted", || server.context().live_count() == 1);
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close());
        let _stop = StopOnPanic(&*server);
        assert!(told.recv_timeout(SOON).unwrap(), "its read fails");
        let live = &server.context().live()[0];
        assert_eq!(live.cut, Some(Cut::Drained));
        assert!(live.to_string().ends_with(", ended by the drain"), "{live}");
        go_on.send(()).unwrap();
        assert_eq!(closing.join().unwrap().stopped, 1);
    });
}

#[test]
fn a_token_outlives_its_request_and_not_its_descriptors() {
    let (server, tokens) = computes(Threading::new(), HOUR, |_| true);
    let mut client = connect(inet(&*server));
    let token = tokens.recv_timeout(SOON).unwrap();
    let events = [token.as_fd(), token.closed_fd()];
    let events = events.map(|fd| event_number(&fd.as_raw_fd().to_string()));
    assert_eq!(read_to_end(&mut client), b"over");
    assert!(token.wait_closed(Some(SOON)), "a request that has ended is over");
    assert!(!token.is_shutdown());
    drop((token, client));
    let [Some(stop), Some(end)] = events else {
        return skip("this system does not number its events");
    };
    eventually("they are closed", || {
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let names = open.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| event_number(&name)).all(|event| event != stop && event != end)
    });
}

/// The number that Linux gives to an eventfd: other tests of this process may take its descriptor, but not this number.
fn event_number(descriptor: &str) -> Option<u64> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
    let number = about.lines().find_map(|line| line.strip_prefix("eventfd-id:"))?;
    number.trim().parse().ok()
}

/// A token that is made during the drain, or after the end, is set from the beginning.
#[test]
fn a_token_that_comes_late_says_so_at_once() {
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reasons);
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        eventually("a drain begins", || request.is_stopping());
        let token = request.stop_token()?;
        told.lock().unwrap().push(is(&token));
        eventually("it is forced", || request.is_closed());
        let token = request.stop_token()?;
        told.lock().unwrap().push(is(&token));
        Ok(())
    });
    let server = TcpServer::builder().mixin(Threading::new());
    let server = server.limits(limits(Duration::from_millis(50))).bind("127.0.0.1:0", handler);
    let server = server.unwrap().serve_in_background().unwrap();
    let _client = connect(inet(&*server));
    eventually("it is accepted", || server.context().live_count() == 1);
    server.server_close();
    eventually("it has seen both", || reasons.lock().unwrap().len() == 2);
    assert_eq!(*reasons.lock().unwrap(), [(true, true, false), (true, true, true)]);
}

#[test]
fn a_datagram_has_a_token_as_well() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let handler = datagram_fn(move |request: &mut DatagramRequest| -> HandlerResult {
        let token = request.stop_token()?;
        tell.lock().unwrap().send(token.clone())?;
        assert!(token.wait(Some(SOON)), "it hears of the drain");
        request.reply(b"over")?;
        Ok(())
    });
    let server = Builder::<Udp, _>::new(Threading::new()).limits(limits(HOUR));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let client = udp_client();
    client.send_to(b"?", inet(&*server)).unwrap();
    let token = told.recv_timeout(SOON).unwrap();
    assert!(server.server_close().is_clean());
    assert_eq!(receive(&client).len(), 4);
    assert_eq!(is(&token), (true, true, true));
}

/// Dropping the server sets the tokens of its requests as well.
#[test]
fn dropping_the_server_is_told() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        tell.lock().unwrap().send(request.stop_token()?)?;
        assert!(request.stop_token()?.wait(Some(SOON)));
        Ok(())
    });
    let server = TcpServer::builder().mixin(Threading::new()).bind("127.0.0.1:0", handler).unwrap();
    let _client = connect(inet(&server));
    server.handle_request().unwrap();
    let token = told.recv_timeout(SOON).unwrap();
    assert!(!token.is_stopping());
    drop(server);
    assert!(token.wait_closed(Some(SOON)), "its handler has ended");
}
