//! How connections and servers end: rows 28, 52 and 66.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::mixin::Mixin;
use socketserver::monitor::{Activity, CloseReason, ServerEvent};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, HandlerResult, Inline, Limits, Pool, StreamRequest, TcpServer, Threading,
    ThreadingTcpServer, ThreadingUdpServer, datagram_fn, stream_fn,
};

use crate::handlers::{Diary, announced, stuck};
use crate::support::{
    SOON, connect, eventually, inet, read_line, read_to_end, receive_text, soon, udp_client,
};

/// Answers the first line and reads no more.
fn refuse_the_rest(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    request.next_line(&mut line)?;
    Ok(writeln!(request, "no, thank you")?)
}

fn refusing<M: Mixin + 'static>(mixin: M, limits: Limits) -> BackgroundServer<Tcp, M> {
    let server = TcpServer::builder().mixin(mixin).limits(limits);
    server.bind("127.0.0.1:0", stream_fn(refuse_the_rest)).unwrap().serve_in_background().unwrap()
}

fn answers_who_is_still_sending(mixin: impl Mixin + 'static) {
    let server = refusing(mixin, Limits::default().linger(SOON));
    let mut upload = b"upload\n".to_vec();
    upload.resize(4 * 1024 * 1024, b'x');
    for round in 0..50 {
        let mut client = connect(inet(&*server));
        let sent = client.write_all(&upload);
        assert!(sent.is_ok(), "round {round}: {sent:?}");
        assert_eq!(read_to_end(&mut client), b"no, thank you\n", "round {round}");
    }
}

#[test]
fn row_028_a_client_that_is_still_sending_gets_its_reply_inline() {
    answers_who_is_still_sending(Inline);
}

#[test]
fn row_028_a_client_that_is_still_sending_gets_its_reply_threading() {
    answers_who_is_still_sending(Threading::new());
}

#[test]
fn row_028_a_client_that_is_still_sending_gets_its_reply_pool() {
    answers_who_is_still_sending(Pool::new(2));
}

/// Sends until it is cut off. Returns how much was taken, and after how long.
fn flood(client: &mut TcpStream) -> (usize, Duration) {
    let began = Instant::now();
    let mut sent = 0;
    // The client sends all in one piece, so that something is unread when the answer ends.
    client.write_all(&[b"upload\n".as_slice(), &[b'x'; 1024]].concat()).unwrap();
    loop {
        match client.write(&[b'x'; 64 * 1024]) {
            Ok(count) => sent += count,
            Err(_) => return (sent, began.elapsed()),
        }
        assert!(began.elapsed() < SOON, "{sent} bytes, and it is not cut off");
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn row_028_a_client_that_never_stops_is_cut_off_by_its_bytes() {
    let linger_bytes = 32 * 1024 * 1024;
    let server = refusing(Inline, Limits::default().linger(HOUR).linger_bytes(linger_bytes));
    let (sent, _) = flood(&mut connect(inet(&*server)));
    assert!(sent >= linger_bytes, "{sent}");
}

#[test]
fn row_028_a_client_that_never_stops_is_cut_off_in_time() {
    let linger = Duration::from_millis(300);
    let limits = Limits::default().linger(linger).linger_bytes(usize::MAX);
    let server = refusing(Inline, limits);
    let (_, lasted) = flood(&mut connect(inet(&*server)));
    assert!(lasted >= linger, "{lasted:?}");
}

#[test]
fn row_028_who_lingers_takes_no_place_among_the_live() {
    let limits = Limits::default().linger(HOUR).linger_bytes(usize::MAX).live(1);
    let server = refusing(Pool::new(1), limits);
    let mut lingering = Vec::new();
    for _ in 0..5 {
        let mut client = connect(inet(&*server));
        client.write_all(b"upload\nand more").unwrap();
        assert_eq!(read_to_end(&mut client), b"no, thank you\n");
        lingering.push(client);
    }
    eventually("none is live", || server.context().live_count() == 0);
    // The server still reads from each client, although it had received all bytes when the request ended: a closed
    // connection would answer more bytes with a reset.
    for client in &mut lingering {
        client.write_all(&vec![b'x'; 10_000_000]).unwrap();
    }
}

fn half_done<M: Mixin>(server: &BackgroundServer<Tcp, M>) -> TcpStream {
    let mut client = connect(inet(&**server));
    client.write_all(b"1000\n").unwrap();
    assert_eq!(read_line(&mut client), "go on\n");
    client.write_all(&[b'x'; 400]).unwrap();
    client
}

#[test]
fn row_052_at_the_deadline_the_close_returns_and_says_what_was_open_since_when_doing_what() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(announced)).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut busy = half_done(&server);
    let mut idle = connect(inet(&*server));
    let arrived = Instant::now();
    eventually("one is half done and one is idle", || {
        let live = server.context().live();
        live.iter().any(|request| request.bytes_in == 405)
            && live.iter().any(|request| request.activity == Activity::Idle)
    });
    let before = arrived.elapsed();
    let grace = Duration::from_secs(2);
    let began = Instant::now();
    let report = server.server_close_within(grace);
    let took = began.elapsed();

    assert!(took >= grace && report.took >= grace, "{took:?}, {:?}", report.took);
    assert!(took < grace + SOON, "{took:?}");
    assert_eq!((report.grace, report.open_at_start), (grace, 2));
    assert!(!report.is_clean());
    let [forced] = &report.forced[..] else { panic!("{report}") };
    assert_eq!(forced.client_address, busy.local_addr().unwrap().into());
    assert!(forced.age >= before + grace, "{:?}", forced.age);
    assert_eq!(forced.activity, Activity::Receiving);
    assert_eq!((forced.bytes_in, forced.bytes_out), (405, 6));
    assert!(forced.handler.contains("announced"), "{}", forced.handler);

    let text = report.to_string();
    let peer = busy.local_addr().unwrap().to_string();
    assert!(text.contains("2 requests were open"), "{text}");
    assert!(text.contains("1 did not end within 2.0 s"), "{text}");
    let line = text.lines().find(|line| line.contains(&peer)).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("announced") && line.contains("receiving"), "{line}");
    assert!(line.contains("405 bytes in, 6 bytes out"), "{line}");
    // The idle client's connection has ended without a wait for the deadline, and neither client gets anything more.
    assert!(read_to_end(&mut idle).is_empty());
    assert!(read_to_end(&mut busy).is_empty());
}

#[test]
fn row_052_a_handler_that_does_not_notice_is_left_behind_and_named() {
    let (handler, holder) = stuck();
    let server = ThreadingTcpServer::bind("127.0.0.1:0", move || handler.clone()).unwrap();
    let server = Arc::new(server.serve_in_background().unwrap());
    let client = connect(inet(&**server));
    holder.started.recv_timeout(SOON).unwrap();
    let closed = Arc::clone(&server);
    let report = soon("a close that a handler does not hold up", move || {
        closed.server_close_within(Duration::from_millis(50))
    });
    // A tenth of a second is the aim; a busy machine is given more than ten times that.
    assert!(report.took < Duration::from_millis(50) + Duration::from_secs(2), "{report}");
    assert_eq!((report.forced.len(), report.left_running.len()), (1, 1), "{report}");
    assert_eq!(report.left_running[0].client_address, client.local_addr().unwrap().into());
    let text = report.to_string();
    assert!(text.contains("1 is still running") && text.contains("Held"), "{text}");
    drop(holder);
}

/// A datagram has no connection that could be cut off: if its handler goes on, it is reported as still running only.
#[test]
#[cfg_attr(under_green, ignore = "its handler blocks its thread")]
fn row_052_a_datagram_that_goes_on_is_still_running_and_one_that_ends_was_cut_off() {
    let (started, starts) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let handler = datagram_fn(move |request| {
        let ends = request.packet() == b"ends";
        started.send(())?;
        if ends {
            assert!(request.stop_token()?.wait_closed(Some(SOON)));
        } else {
            let _ = released.lock().unwrap().recv();
        }
        request.reply(b"late")?;
        Ok(())
    });
    let server = ThreadingUdpServer::bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let client = udp_client();
    for packet in ["ends", "goes on"] {
        client.send_to(packet.as_bytes(), inet(&*server)).unwrap();
        starts.recv_timeout(SOON).unwrap();
    }
    let report = server.server_close_within(Duration::from_millis(50));
    // The deadline closes the stop tokens of both handlers. One handler waits for its token, and ends.
    let [forced] = &report.forced[..] else { panic!("{report}") };
    let [left] = &report.left_running[..] else { panic!("{report}") };
    assert_eq!((forced.bytes_in, left.bytes_in, left.cut), (4, 7, None), "{report}");
    assert_eq!(report.open_at_start, 2, "{report}");
    let text = report.to_string();
    assert!(text.contains("2 requests were open; 1 did not end within"), "{text}");
    let [.., before, last] = &text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(*before, "1 is still running:");
    assert!(last.ends_with("7 bytes in, 0 bytes out"), "{text}");
    assert_eq!(receive_text(&client), "late");
    drop(release);
}

#[test]
fn row_052_a_close_that_has_nobody_to_wait_for_does_not_wait() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(announced)).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut idle = connect(inet(&*server));
    idle.write_all(b"0\n").unwrap();
    assert_eq!(read_line(&mut idle), "go on\n");
    assert_eq!(read_line(&mut idle), "thank you\n");
    let report = soon("a close without a wait", move || server.server_close_within(HOUR));
    assert!(report.is_clean() && report.open_at_start == 1, "{report}");
    assert!(report.to_string().ends_with("1 was ended between two requests"), "{report}");
    assert!(read_to_end(&mut idle).is_empty());
}

/// Counts the threads of a mixin, and makes each take its time to leave, so that a close that does not join is noticed.
#[derive(Clone, Default)]
struct Threads {
    started: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
    takes: Duration,
}

impl Threads {
    fn starts(&self) -> impl Fn() + Send + Sync + 'static {
        let started = Arc::clone(&self.started);
        move || _ = started.fetch_add(1, Ordering::SeqCst)
    }

    fn leaves(&self) -> impl Fn() + Send + Sync + 'static {
        let (gone, takes) = (Arc::clone(&self.gone), self.takes);
        move || {
            thread::sleep(takes);
            gone.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn are_gone(&self) -> bool {
        let started = self.started.load(Ordering::SeqCst);
        started >= 4 && self.gone.load(Ordering::SeqCst) == started
    }
}

fn close_ends_and_joins<M: Mixin + 'static>(mixin: impl Fn(&Threads) -> M) {
    // Threads that end by themselves are joined before the close returns, for as long as its grace allows.
    let threads = Threads { takes: Duration::from_millis(300), ..Threads::default() };
    let server = TcpServer::builder().mixin(mixin(&threads));
    let server = server.bind("127.0.0.1:0", stream_fn(announced)).unwrap();
    let server = server.serve_in_background().unwrap();
    let idle: Vec<TcpStream> = (0..4).map(|_| connect(inet(&*server))).collect();
    eventually("all run", || {
        let live = server.context().live();
        live.iter().filter(|request| request.activity == Activity::Idle).count() == 4
    });
    assert!(server.server_close_within(SOON).is_clean());
    assert!(threads.are_gone());
    drop(idle);

    // Threads that do not end by themselves end because their connections are shut down: nothing else would end them.
    let threads = Threads { takes: Duration::from_millis(20), ..Threads::default() };
    let ends = Diary::default();
    let noted = ends.clone();
    let server = TcpServer::builder()
        .mixin(mixin(&threads))
        .limits(Limits::default().idle(HOUR).read(HOUR))
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::RequestEnded { reason, .. } = event {
                noted.note(reason.to_string());
            }
        })
        .bind("127.0.0.1:0", stream_fn(announced))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut clients: Vec<TcpStream> = (0..4).map(|_| half_done(&server)).collect();
    let report = server.server_close_within(Duration::from_millis(100));
    assert_eq!(report.forced.len(), 4, "{report}");
    // On a slow machine the threads may outlive the close by a little.
    eventually("all threads are gone", || threads.are_gone());
    assert_eq!(ends.lines(), [CloseReason::Forced.to_string().as_str(); 4]);
    for client in &mut clients {
        // Bytes for a connection that is closed may cause a reset.
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    }
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn row_066_a_close_with_a_deadline_ends_live_connections_and_then_joins_threading() {
    close_ends_and_joins(|threads| {
        Threading::new().on_thread_start(threads.starts()).on_thread_stop(threads.leaves())
    });
}

#[test]
fn row_066_a_close_with_a_deadline_ends_live_connections_and_then_joins_pool() {
    close_ends_and_joins(|threads| {
        Pool::new(4).on_thread_start(threads.starts()).on_thread_stop(threads.leaves())
    });
}

#[test]
fn row_066_a_close_with_a_deadline_ends_the_connection_that_the_loop_itself_serves() {
    let server = TcpServer::bind("127.0.0.1:0", stream_fn(announced)).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = half_done(&server);
    let report = server.server_close_within(Duration::from_millis(100));
    assert_eq!(report.forced.len(), 1, "{report}");
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    soon("the end of the loop", move || server.join()).unwrap();
}
