//! Feature `metrics`: each figure is made to change, and read back from a recorder.

use std::io::{Read, Write};
use std::time::Duration;

use metrics::Unit;
use socketserver::mixin::WhenFull;
use socketserver::monitor::update_metrics;
use socketserver::transport::Tcp;
use socketserver::{
    Builder, Limits, Pool, SocketOptions, StreamRequest, TcpServer, Threading, UdpServer,
    datagram_fn, stream_fn,
};

use super::recorder::{Recorded, recorded};
use crate::handlers::{Echo, Held, Panic, Silent, held};
use crate::support::{SOON, alone, connect, eventually, exchange, inet, read_to_end, udp_client};

/// The figures of one server.
struct Of {
    server: &'static str,
    transport: &'static str,
    recorded: &'static Recorded,
}

impl Of {
    /// Installs the recorder as well, if no other test has.
    fn tcp(server: &'static str) -> Self {
        Self { server, transport: "tcp", recorded: recorded() }
    }

    /// The labels of a series: `first`, with a comma after each label, then those of the server, then `last`.
    fn labels(&self, first: &str, last: &str) -> String {
        format!("{first}server={},transport={}{last}", self.server, self.transport)
    }

    fn value(&self, name: &str) -> f64 {
        let value = self.recorded.value(name, &self.labels("", ""));
        value.unwrap_or_else(|| panic!("{name}: {:#?}", self.recorded.all()))
    }

    fn ended(&self, reason: &str, fault: &str) -> f64 {
        let labels = self.labels(&format!("fault={fault},reason={reason},"), "");
        let ended = self.recorded.value("socketserver_requests_total", &labels);
        ended.unwrap_or_else(|| panic!("{labels}: {:#?}", self.recorded.all()))
    }

    fn limited(&self, name: &str, limit: &str) -> f64 {
        self.recorded.value(name, &self.labels(&format!("limit={limit},"), "")).unwrap()
    }

    fn refused(&self, why: &str) -> f64 {
        let labels = self.labels("", &format!(",why={why}"));
        self.recorded.value("socketserver_refused_total", &labels).unwrap()
    }

    fn times(&self, name: &str) -> Vec<f64> {
        self.recorded.values(name, &self.labels("", ""))
    }
}

fn patient() -> Limits {
    let hour = Duration::from_secs(3_600);
    Limits::default().idle(hour).read(hour).write(hour)
}

#[test]
fn requests_are_counted_by_reason_and_their_times_and_bytes_are_told() {
    let of = Of::tcp("reasons");
    let handler = stream_fn(|request: &mut StreamRequest| {
        let mut line = String::new();
        match request.next_line(&mut line)? {
            Some("panic") => panic!("told to"),
            Some("fail") => Err("told to".into()),
            text => Ok(writeln!(request, "{}", text.unwrap_or("nothing"))?),
        }
    });
    let server = TcpServer::builder()
        .mixin(Threading::new())
        .time_accept_queue(true)
        .limits(patient().read(Duration::from_millis(50)))
        .metrics("reasons")
        .bind("127.0.0.1:0", handler)
        .unwrap()
        .serve_in_background()
        .unwrap();
    for line in ["hello\n", "panic\n", "fail\n", "half"] {
        let mut client = connect(inet(&*server));
        client.write_all(line.as_bytes()).unwrap();
        while client.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    }
    eventually("all ends are told", || of.times("socketserver_request_seconds").len() == 4);
    assert_eq!(of.value("socketserver_accepted_total"), 4.0);
    assert_eq!(of.ended("completed", "none"), 1.0);
    assert_eq!(of.ended("panicked", "handler"), 1.0);
    assert_eq!(of.ended("failed", "handler"), 1.0);
    assert_eq!(of.ended("timed_out", "peer"), 1.0);
    // A series is there, at zero, before its first event, so that the first increase is seen as one.
    assert_eq!(of.ended("garbled", "peer"), 0.0);
    assert_eq!(of.limited("socketserver_timeouts_total", "read"), 1.0);
    assert_eq!(of.limited("socketserver_timeouts_total", "idle"), 0.0);
    let (ages, queued) =
        (of.times("socketserver_request_seconds"), of.times("socketserver_queue_seconds"));
    assert_eq!(queued.len(), 4);
    assert!(queued.iter().zip(&ages).all(|(queued, age)| 0.0 < *queued && queued < age));
    assert!(ages.iter().any(|age| *age >= 0.05), "{ages:?}");
    let in_accept_queue = of.times("socketserver_accept_queue_seconds").len();
    assert_eq!(in_accept_queue, if cfg!(target_os = "linux") { 4 } else { 0 });
    assert!(of.times("socketserver_handshake_seconds").is_empty(), "there is none");
    eventually("the server rests", || of.value("socketserver_live_requests") == 0.0);
    assert_eq!(of.value("socketserver_received_bytes_total"), 6.0 + 6.0 + 5.0 + 4.0);
    assert_eq!(of.value("socketserver_sent_bytes_total"), 6.0);
}

#[test]
fn gauges_follow_a_pool_that_fills_and_empties() {
    let of = Of::tcp("gauges");
    let (handler, holder) = held();
    let pool = Pool::new(2).queue(1);
    let server = Builder::<Tcp, _>::new(pool)
        .metrics("gauges")
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut clients: Vec<_> = (0..4).map(|_| connect(inet(&*server))).collect();
    eventually("all places are taken", || {
        update_metrics();
        let names = [
            "socketserver_busy_workers",
            "socketserver_queued_requests",
            "socketserver_live_requests",
        ];
        names.map(|name| of.value(name)) == [2.0, 1.0, 3.0]
    });
    assert_eq!(of.value("socketserver_busy_workers_max"), 2.0);
    assert_eq!(of.value("socketserver_queued_requests_max"), 1.0);
    assert_eq!(of.value("socketserver_idle_workers"), 0.0);
    let live = server.limits().live as f64;
    assert!(of.value("socketserver_live_requests_max") <= live);
    assert_eq!(of.limited("socketserver_limits_reached_total", "live"), 1.0);
    if cfg!(target_os = "linux") {
        eventually("one waits in the kernel", || {
            update_metrics();
            of.value("socketserver_accept_queue") == 1.0
        });
        assert!(of.value("socketserver_accept_queue_max") >= 1.0);
        assert!(of.recorded.value("socketserver_open_descriptors", "").is_some_and(|it| it > 4.0));
    }
    drop(holder);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"released\n");
    }
    // The gauges change without a call: the last end of a request reports them.
    eventually("the server rests", || {
        of.value("socketserver_busy_workers") == 0.0
            && of.value("socketserver_live_requests") == 0.0
    });
    assert_eq!(of.value("socketserver_queued_requests"), 0.0);
    eventually("both are idle", || {
        update_metrics();
        of.value("socketserver_idle_workers") == 2.0
    });
    drop(server);
    assert_eq!(of.value("socketserver_idle_workers"), 0.0, "it is gone");
    update_metrics();
}

#[test]
fn bytes_are_told_while_a_connection_lives_and_once() {
    let of = Of::tcp("bytes");
    let server = TcpServer::builder()
        .mixin(Threading::new())
        .limits(patient())
        .metrics("bytes")
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let bytes = || of.value("socketserver_sent_bytes_total");
    let mut client = connect(inet(&*server));
    let mut sent = 0.0;
    for line in ["hello", "a longer line", ""] {
        exchange(&mut client, line);
        sent += line.len() as f64 + 1.0;
        // The bytes are counted after they are sent.
        eventually("they are told", || {
            update_metrics();
            assert!(bytes() <= sent, "{} of {sent}", bytes());
            bytes() == sent
        });
    }
    drop(client);
    eventually("it has ended", || of.ended("completed", "none") == 1.0);
    update_metrics();
    assert_eq!(bytes(), sent, "not once more at its end");
}

/// Serves one client, and calls `refused` with the figures and a function that connects one more.
fn one_and_more(name: &'static str, mixin: Threading, refused: impl FnOnce(&Of, &dyn Fn(Limits))) {
    let of = Of::tcp(name);
    let server = TcpServer::builder()
        .mixin(mixin)
        .limits(patient())
        .metrics(name)
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut first = connect(inet(&*server));
    exchange(&mut first, "hello");
    refused(&of, &|limits| {
        server.context().set_limits(limits);
        let _ = connect(inet(&*server)).read(&mut [0; 8]);
    });
    assert_eq!(of.ended("refused", "server"), 1.0);
}

#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn a_refusal_without_a_thread_is_counted_as_such() {
    let full = Threading::new().max_threads(1).when_full(WhenFull::Refuse);
    one_and_more("busy", full, |of, one_more| {
        one_more(patient());
        eventually("it is counted", || of.refused("busy") == 1.0);
        assert_eq!(of.refused("too_many_from_peer"), 0.0);
    });
}

#[test]
fn refusals_are_counted_by_their_cause() {
    one_and_more("refusals", Threading::new(), |of, one_more| {
        one_more(patient().per_peer(1));
        eventually("it is counted", || of.refused("too_many_from_peer") == 1.0);
        assert_eq!(of.refused("busy"), 0.0);
        assert_eq!(of.limited("socketserver_limits_reached_total", "per_peer"), 1.0);
    });
}

#[test]
fn datagrams_have_their_own_transport_and_their_drops() {
    let of = Of { server: "datagrams", transport: "udp", recorded: recorded() };
    let options = SocketOptions::default().recv_buffer_bytes(4_096);
    let server = UdpServer::builder()
        .socket_options(options)
        .metrics("datagrams")
        .bind("127.0.0.1:0", datagram_fn(|_request| Ok(())))
        .unwrap();
    let client = udp_client();
    for _ in 0..100 {
        client.send_to(&[0; 1_000], inet(&server)).unwrap();
    }
    server.handle_request().unwrap();
    eventually("the request has ended", || server.context().live_count() == 0);
    update_metrics();
    assert_eq!(of.value("socketserver_accepted_total"), 1.0);
    assert_eq!(of.value("socketserver_received_bytes_total"), 1_000.0);
    if cfg!(target_os = "linux") {
        let drops = of.value("socketserver_datagram_drops_total");
        assert!(drops >= 50.0, "{drops}");
        update_metrics();
        assert_eq!(of.value("socketserver_datagram_drops_total"), drops, "they are told once");
        assert!(of.value("socketserver_receive_buffer_bytes_max") >= 4_096.0);
        let accept_queue = of.recorded.value("socketserver_accept_queue", &of.labels("", ""));
        assert!(accept_queue.is_none(), "there is none, and a zero would say that it is empty");
    }
}

#[test]
fn names_end_in_their_units_and_no_label_is_a_clients() {
    let of = Of::tcp("names");
    let server = TcpServer::builder()
        .metrics("names")
        .bind("127.0.0.1:0", || Panic)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut client = connect(inet(&*server));
    let peer = client.local_addr().unwrap();
    let _ = client.read(&mut [0; 8]);
    assert!(server.server_close_within(SOON).is_clean());
    assert_eq!(of.ended("panicked", "handler"), 1.0);
    for series in of.recorded.all() {
        let (name, labels) = series.split_once('{').unwrap();
        assert!(name.starts_with("socketserver_"), "{name}");
        let unit = of.recorded.unit(name).unwrap_or_else(|| panic!("{name} is not described"));
        assert_eq!(name.ends_with("_seconds"), unit == Unit::Seconds, "{name}");
        assert_eq!(name.contains("_bytes"), unit == Unit::Bytes, "{name}");
        assert!(!labels.contains(&peer.port().to_string()), "{series}");
        // The table of the documentation has this name, or the name without `_max`.
        let table = include_str!("../../../src/server/metrics/mod.rs");
        let plain = name.strip_suffix("_max").unwrap_or(name);
        assert!(table.contains(&format!("`{plain}`")), "{name} is not in the table");
    }
}

#[test]
fn a_server_without_the_line_tells_nothing() {
    let of = Of::tcp("none");
    let server = TcpServer::bind("127.0.0.1:0", || Silent).unwrap().serve_in_background().unwrap();
    read_to_end(&mut connect(inet(&*server)));
    update_metrics();
    assert!(of.recorded.all().iter().all(|series| !series.contains("server=none")));
}

#[test]
fn a_recorder_that_is_installed_between_the_bind_and_the_run_gets_all_figures() {
    let name = "a_recorder_that_is_installed_between_the_bind_and_the_run_gets_all_figures";
    // No other test of the process has installed the recorder.
    alone(&format!("figures::metrics::{name}"), || {
        let server = TcpServer::builder().metrics("late").bind("127.0.0.1:0", || Echo).unwrap();
        let of = Of::tcp("late");
        let server = server.serve_in_background().unwrap();
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
        eventually("it has ended", || server.context().counts().ended() == 1);
        server.stop().unwrap();
        assert_eq!(of.value("socketserver_accepted_total"), 1.0);
        assert_eq!(of.ended("completed", "none"), 1.0);
        assert_eq!(of.times("socketserver_request_seconds").len(), 1);
    });
}
