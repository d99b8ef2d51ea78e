//! The end of a server with many connections, and under load.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::mixin::Mixin;
use socketserver::monitor::Activity;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, HandlerResult, Inline, Limits, Pool, StreamRequest, TcpServer, Threading,
    ThreadingTcpServer, stream_fn,
};

use crate::handlers::announced;
use crate::support::system::{descriptor_limits, send_signal, set_descriptor_limits};
use crate::support::{
    SOON, StopOnPanic, alone, connect, eventually, inet, read_line, read_to_end, skip,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn patient() -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR)
}

/// Allows this process all the descriptors that it may have. Returns false if they are fewer than `least`.
fn raise_descriptors(least: u64) -> bool {
    let (_, hard) = descriptor_limits();
    set_descriptor_limits(hard, hard);
    hard >= least
}

fn with_clients(count: usize) -> (BackgroundServer<Tcp, Threading>, Vec<TcpStream>) {
    // The stacks are small, because they are many.
    let server = ThreadingTcpServer::builder()
        .mixin(Threading::new().stack_size(256 * 1024))
        .limits(patient())
        .bind("127.0.0.1:0", stream_fn(announced))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let clients = (0..count).map(|_| connect(inet(&*server))).collect();
    (server, clients)
}

fn doing(server: &BackgroundServer<Tcp, Threading>, activity: Activity) -> usize {
    server.context().live().iter().filter(|request| request.activity == activity).count()
}

#[test]
fn a_thousand_idle_clients_end_at_once_and_cleanly() {
    alone("drain::a_thousand_idle_clients_end_at_once_and_cleanly", || {
        if !raise_descriptors(2_200) {
            return skip("a thousand connections take more descriptors than there may be");
        }
        let (server, mut clients) = with_clients(1_000);
        for client in &mut clients {
            client.write_all(b"0\n").unwrap();
        }
        for client in &mut clients {
            assert_eq!(
                (read_line(client), read_line(client)),
                ("go on\n".into(), "thank you\n".into())
            );
        }
        eventually("all wait for their peers", || doing(&server, Activity::Idle) == 1_000);
        // A deadline that the test would not live to see.
        let report = server.server_close_within(HOUR);
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.open_at_start, report.stopped, report.unheard), (1_000, 1_000, 0));
        assert!(
            report
                .to_string()
                .ends_with("1000 requests were open; 1000 were ended between two requests")
        );
        for client in &mut clients {
            assert!(read_to_end(client).is_empty(), "an orderly end");
        }
        assert_eq!(server.context().counts().stopped, 1_000);
    });
}

#[test]
fn two_hundred_in_the_middle_of_a_request_are_cut_off_at_the_deadline() {
    alone("drain::two_hundred_in_the_middle_of_a_request_are_cut_off_at_the_deadline", || {
        if !raise_descriptors(700) {
            return skip("two hundred connections take more descriptors than there may be");
        }
        let (server, mut clients) = with_clients(250);
        for client in &mut clients[..200] {
            client.write_all(b"1000\nhalf of it").unwrap();
            assert_eq!(read_line(client), "go on\n");
        }
        eventually("fifty are idle", || doing(&server, Activity::Idle) == 50);
        let halves = || server.context().live().iter().filter(|live| live.bytes_in == 15).count();
        eventually("two hundred are half done", || halves() == 200);
        let grace = Duration::from_secs(2);
        let began = Instant::now();
        let report = server.server_close_within(grace);
        let took = began.elapsed();
        assert!(took >= grace && report.took >= grace, "{took:?}");
        assert!(took < grace + SOON, "{took:?}");
        assert!(!report.is_clean());
        assert_eq!((report.open_at_start, report.forced.len()), (250, 200));
        assert!(report.forced.iter().all(|forced| forced.activity == Activity::Receiving));
        let text = report.to_string();
        let mut lines = text.lines();
        let first = lines.next().unwrap();
        assert!(first.contains("250 requests were open; 50 were ended that had sent nothing; 200 did not end within 2.0 s"), "{first}");
        let listed = lines.by_ref().take_while(|line| line.starts_with("  127.0.0.1:")).count();
        assert_eq!(listed, 20, "{text}");
        assert!(text.contains("\n  and 180 more"), "{text}");
        for client in &mut clients {
            let mut rest = Vec::new();
            // Bytes under way may cause a reset; half a request gets no answer.
            let _ = client.read_to_end(&mut rest);
            assert_eq!(rest, b"");
        }
        let counts = server.context().counts();
        eventually("all are counted", || server.context().counts().forced == 200);
        assert_eq!(counts.stopped, 50);
    });
}

/// The outcomes of a client's requests.
#[derive(Default)]
struct Answers {
    whole: AtomicUsize,
    half: AtomicUsize,
    wrong: AtomicUsize,
}

/// The answer to a request: its number, and more bytes than fit into one segment.
fn answer(number: &str) -> String {
    format!("{number} {}\n", number.repeat(3_000))
}

/// Sends numbered requests, a few on each connection, until the server takes no more.
fn ask_until_the_end(address: SocketAddr, client: usize, answers: &Answers) {
    for connection in 0.. {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, SOON) else { return };
        stream.set_read_timeout(Some(SOON)).unwrap();
        // The second part of a request must not wait for an acknowledgement of the first.
        stream.set_nodelay(true).unwrap();
        for request in 0..5 {
            let number = format!("{client}{connection:04}{request}");
            // The request is sent in two parts, so that the stop can come between them.
            let (one, other) = number.split_at(3);
            let sent = stream.write_all(one.as_bytes());
            if sent.and_then(|()| stream.write_all(format!("{other}\n").as_bytes())).is_err() {
                return;
            }
            let expected = answer(&number);
            let mut got = vec![0; expected.len()];
            let mut have = 0;
            let over = loop {
                match stream.read(&mut got[have..]) {
                    Ok(0) => break true,
                    Ok(count) => have += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no end in time");
                        break true;
                    }
                }
                if have == got.len() {
                    break false;
                }
            };
            let seen = match have {
                0 => return,
                _ if !expected.as_bytes().starts_with(&got[..have]) => &answers.wrong,
                _ if over => &answers.half,
                _ => &answers.whole,
            };
            seen.fetch_add(1, Ordering::SeqCst);
            if over {
                return;
            }
        }
    }
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % bound
    }
}

/// Stops servers, ten at a time, because a round may last a second: a client that connects during a stop is refused only
/// when its system tries again.
fn stops_under_load<M: Mixin + 'static>(rounds: u64, mixin: impl Fn() -> M + Sync) {
    thread::scope(|scope| {
        for lane in 0..10 {
            let mixin = &mixin;
            scope.spawn(move || stops_one_by_one(rounds / 10, lane, mixin));
        }
    });
}

/// Stops servers at random moments. Each request that a handler has taken is answered in whole.
fn stops_one_by_one<M: Mixin + 'static>(rounds: u64, lane: u64, mixin: impl Fn() -> M) {
    let mut random = Random(lane);
    for round in 0..rounds {
        let taken = Arc::new(AtomicUsize::new(0));
        let taking = Arc::clone(&taken);
        let handler = stream_fn(move |request| {
            let mut line = String::new();
            while let Some(number) = request.next_line(&mut line)? {
                taking.fetch_add(1, Ordering::SeqCst);
                request.write_all(answer(number).as_bytes())?;
            }
            Ok(())
        });
        let server = TcpServer::builder().mixin(mixin()).limits(patient());
        let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
        let address = inet(&*server);
        let answers = Arc::new(Answers::default());
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let answers = Arc::clone(&answers);
                thread::spawn(move || ask_until_the_end(address, client, &answers))
            })
            .collect();
        let enough = usize::try_from(random.below(60)).unwrap();
        eventually("some are served", || taken.load(Ordering::SeqCst) >= enough);
        // The stop then comes anywhere between two requests.
        for _ in 0..random.below(20_000) {
            std::hint::spin_loop();
        }
        let report = server.server_close_within(SOON);
        assert!(report.is_clean(), "round {round}: {report}");
        for client in clients {
            client.join().unwrap();
        }
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        assert_eq!((count(&answers.half), count(&answers.wrong)), (0, 0), "round {round}");
        assert_eq!(count(&answers.whole), count(&taken), "round {round}");
        let counts = server.context().counts();
        assert_eq!((counts.accepted, counts.forced), (counts.ended(), 0), "round {round}");
    }
}

#[test]
fn a_hundred_stops_under_load_lose_no_answer_threading() {
    stops_under_load(100, Threading::new);
}

#[test]
fn thirty_stops_under_load_lose_no_answer_pool() {
    stops_under_load(30, || Pool::new(3));
}

#[test]
fn thirty_stops_under_load_lose_no_answer_inline() {
    stops_under_load(30, || Inline);
}

#[test]
fn an_answer_that_a_stop_cuts_off_is_in_the_report() {
    let writing = Arc::new(AtomicBool::new(false));
    let begun = Arc::clone(&writing);
    let handler = stream_fn(move |request| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        begun.store(true, Ordering::SeqCst);
        // More than the buffers between server and client hold.
        request.write_all(&vec![b'x'; 64 * 1024 * 1024])?;
        Ok(())
    });
    let server = ThreadingTcpServer::builder().limits(patient()).bind("127.0.0.1:0", handler);
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    client.write_all(b"please\n").unwrap();
    eventually("it writes", || writing.load(Ordering::SeqCst));
    let report = server.server_close_within(Duration::from_millis(100));
    let [forced] = &report.forced[..] else { panic!("{report}") };
    assert_eq!(forced.client_address, client.local_addr().unwrap().into());
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received);
    assert!(received.len() < 64 * 1024 * 1024);
}

/// Runs a server of the mixin `Inline`, and signals the process while a client is being served.
fn run_until_signalled(
    drain: Duration,
    begin: impl FnOnce(&mut TcpStream) + Send,
) -> (String, Duration) {
    let server = TcpServer::builder()
        .limits(patient().drain(drain))
        .bind("127.0.0.1:0", stream_fn(announced))
        .unwrap();
    let mut client = connect(inet(&server));
    thread::scope(|scope| {
        let running = scope.spawn(|| server.run().unwrap());
        let _stop = StopOnPanic(&server);
        begin(&mut client);
        let is_served = |request: &socketserver::monitor::LiveRequest| request.bytes_in > 0;
        eventually("it is served", || server.context().live().iter().any(is_served));
        let began = Instant::now();
        send_signal(std::process::id(), libc::SIGTERM);
        let report = running.join().unwrap();
        assert!(read_to_end(&mut client).is_empty());
        (report.to_string(), began.elapsed())
    })
}

#[test]
fn run_ends_although_its_only_thread_waits_for_a_silent_client() {
    alone("drain::run_ends_although_its_only_thread_waits_for_a_silent_client", || {
        let (report, _) = run_until_signalled(HOUR, |client| {
            client.write_all(b"2\nxx").unwrap();
            assert_eq!(read_line(client), "go on\n");
            assert_eq!(read_line(client), "thank you\n");
        });
        assert!(
            report.ends_with("1 request was open; 1 was ended between two requests"),
            "{report}"
        );
    });
}

#[test]
fn run_cuts_a_request_off_in_its_middle_when_its_only_thread_serves_it() {
    alone("drain::run_cuts_a_request_off_in_its_middle_when_its_only_thread_serves_it", || {
        let grace = Duration::from_millis(300);
        let (report, took) = run_until_signalled(grace, |client| {
            client.write_all(b"2\nx").unwrap();
            assert_eq!(read_line(client), "go on\n");
        });
        assert!(report.contains("1 did not end within 0.3 s and was cut off"), "{report}");
        assert!(took >= grace, "{took:?}");
    });
}

#[test]
fn a_last_word_that_is_held_back_leaves_though_the_peer_talks_on() {
    let (heard, said) = std::sync::mpsc::channel::<()>();
    let said = std::sync::Mutex::new(said);
    let handler = stream_fn(move |request: &mut StreamRequest| -> HandlerResult {
        request.set_wbufsize(100)?;
        let ended = request.next_line(&mut String::new()).is_err();
        assert!(ended, "the drain ends the wait");
        said.lock().unwrap().recv_timeout(SOON)?;
        Ok(writeln!(request, "goodbye")?)
    });
    let server = ThreadingTcpServer::builder().limits(patient()).bind("127.0.0.1:0", handler);
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    eventually("it waits", || doing(&server, Activity::Idle) == 1);
    let closes = thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close_within(HOUR));
        let _stop = StopOnPanic(&*server);
        eventually("it is woken", || doing(&server, Activity::Idle) == 0);
        // This line comes too late to be read. A plain close with the line in the socket would be a reset.
        client.write_all(b"one more thing\n").unwrap();
        thread::sleep(Duration::from_millis(20));
        heard.send(()).unwrap();
        closing.join().unwrap()
    });
    assert!(closes.is_clean(), "{closes}");
    assert_eq!(read_line(&mut client), "goodbye\n");
}
