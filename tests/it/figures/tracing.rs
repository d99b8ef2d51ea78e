//! Feature `tracing`: spans of requests, and the events inside and outside of them.

use std::io::{Read, Write};

use socketserver::hooks::{Failure, Incoming};
use socketserver::mixin::Mixin;
use socketserver::proxy_protocol::ProxyProtocol;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, HandlerError, HandlerResult, Inline, Limits, Server, ServerHooks,
    StreamRequest, TcpServer, Threading, stream_fn,
};
use tracing::Level;

use super::subscriber::{Told, log};
use crate::child::{child, is_child, writes_to_stderr};
use crate::handlers::Echo;
use crate::support::{SOON, connect, eventually, exchange, inet, read_to_end};

/// Obeys one line, and says so by an event of its own.
fn obey(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    let text = request.next_line(&mut line)?.unwrap_or("nothing").to_owned();
    let peer = request.client_address();
    tracing::info!(target: "handler", %peer, "obeys {text}");
    match &*text {
        "join" => {
            let says = |what| tracing::info!(target: "handler", %peer, "{what}");
            socketserver::join(
                || socketserver::sleep(std::time::Duration::from_millis(20)),
                || says("beside it"),
            )?;
            let peer = peer.clone();
            socketserver::offload(move || tracing::info!(target: "handler", %peer, "offloaded"))?;
            Ok(())
        }
        "panic" => panic!("told to panic by {peer}"),
        "fail" => Err(format!("told to fail by {peer}").into()),
        _ => Ok(writeln!(request, "{text}")?),
    }
}

/// Says by an event that it runs.
struct Says;

impl ServerHooks<StreamRequest> for Says {
    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        tracing::info!(target: "hook", peer = %request.client_address(), "shakes hands");
        Ok(())
    }

    fn handle_error(&self, failure: &Failure<'_>) {
        tracing::info!(target: "hook", peer = %failure.client_address(), "hears of it");
        failure.report();
    }
}

fn serving(mixin: impl Mixin) -> BackgroundServer<Tcp, impl Mixin> {
    log();
    let builder = TcpServer::builder().mixin(mixin).hooks(Says).tracing();
    builder.bind("127.0.0.1:0", stream_fn(obey)).unwrap().serve_in_background().unwrap()
}

/// Sends a line as a client, and waits for the end of the connection. Returns the client's address.
fn say<M: Mixin>(server: &Server<Tcp, M>, line: &str) -> String {
    let mut client = connect(inet(server));
    let peer = client.local_addr().unwrap().to_string();
    // A server that refuses may close the connection before the line is sent.
    let _ = writeln!(client, "{line}");
    while client.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    peer
}

/// The span of a client, when it is over; and the events in it.
fn span_of(peer: &str) -> (Told, Vec<Told>) {
    eventually("the span is over", || {
        let spans = log().spans("client_address", peer);
        spans.iter().filter(|(_, span)| span.closed).count() == 1
    });
    let (id, span) = log().spans("client_address", peer).remove(0);
    (span, log().inside(id))
}

fn messages(events: &[Told]) -> Vec<&str> {
    events.iter().map(|event| &*event.fields["message"]).collect()
}

fn a_request_has_a_span(mixin: impl Mixin) {
    let server = serving(mixin);
    let peer = say(&server, "hello");
    let (span, events) = span_of(&peer);
    assert_eq!((span.name, span.level, span.target), ("request", Level::INFO, "socketserver"));
    assert_eq!(messages(&events), ["shakes hands", "obeys hello", "ended"]);
    let field = |name| &*span.fields[name];
    assert_eq!([field("transport"), field("reason")], ["tcp", "completed"]);
    assert_eq!([field("bytes_in"), field("bytes_out")], ["6", "6"]);
    assert!(field("handler").contains("obey") && field("id").parse::<u64>().is_ok());
    let end = &events[2];
    assert_eq!((end.level, end.target), (Level::DEBUG, "socketserver"));
    let field = |name| end.fields.get(name).map(String::as_str);
    assert_eq!([field("client_address"), field("reason")], [Some(&*peer), Some("completed")]);
    assert_eq!([field("fault"), field("limit"), field("refused")], [None; 3]);
    let seconds = |name| field(name).unwrap().parse::<f64>().unwrap();
    let parts = ["queue_seconds", "handshake_seconds", "handler_seconds"].map(seconds);
    assert!(parts.iter().sum::<f64>() <= seconds("seconds"), "{end:?}");
    let accepted = log().events("client_address", &peer);
    let accepted = accepted.iter().find(|event| event.fields["message"] == "accepted").unwrap();
    assert_eq!((accepted.level, accepted.span), (Level::DEBUG, None));
    assert_eq!(accepted.fields["transport"], "tcp");
}

#[test]
fn a_request_has_a_span_inline() {
    a_request_has_a_span(Inline);
}

#[test]
fn a_request_has_a_span_threading() {
    a_request_has_a_span(Threading::new());
}

#[test]
fn a_failure_is_an_error_in_the_span_and_its_end_a_warning() {
    let server = serving(Threading::new());
    for (line, reason) in [("fail", "failed"), ("panic", "panicked")] {
        let peer = say(&server, line);
        let (span, events) = span_of(&peer);
        assert_eq!(span.fields["reason"], reason);
        let failed = events.iter().find(|event| event.fields["message"] == "failed").unwrap();
        assert_eq!((failed.level, &*failed.fields["phase"]), (Level::ERROR, "handle"));
        let error = &failed.fields["error"];
        assert!(error.ends_with(&format!("told to {line} by {peer}")), "{error}");
        let end = events.last().unwrap();
        assert_eq!((end.level, &*end.fields["fault"]), (Level::WARN, "handler"));
        assert!(messages(&events).contains(&"hears of it"), "the hook is in the span too");
    }
}

#[test]
fn a_peers_fault_is_no_error() {
    let limits = Limits::default().line_bytes(10);
    log();
    let server = TcpServer::builder().limits(limits).tracing();
    let server = server.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let peer = say(&server, "more than ten bytes");
    let (_, events) = span_of(&peer);
    assert_eq!(messages(&events), ["failed", "ended"]);
    assert_eq!((events[0].level, events[1].level), (Level::INFO, Level::DEBUG));
    assert_eq!(events[1].fields["fault"], "peer");
    // A client that goes in the middle of a line is an everyday event.
    let mut client = connect(inet(&*server));
    let peer = client.local_addr().unwrap().to_string();
    client.write_all(b"half").unwrap();
    drop(client);
    let (_, events) = span_of(&peer);
    assert!(events.iter().all(|event| event.level == Level::DEBUG), "{events:#?}");
}

#[test]
fn a_scanner_that_fails_before_the_handler_makes_no_event_above_debug() {
    log();
    let proxies = ProxyProtocol::from_networks(["127.0.0.0/8"]).unwrap();
    let server = TcpServer::builder().proxy_protocol(proxies).tracing();
    let server = server.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let peer = say(&server, "GET / HTTP/1.1");
    let (_, events) = span_of(&peer);
    let failed = events.iter().find(|event| event.fields["message"].contains("handshake"));
    let failed = failed.unwrap_or_else(|| panic!("{events:#?}"));
    assert_eq!(failed.level, Level::DEBUG);
    let levels = events.iter().filter(|event| event.fields["message"] != "failed");
    assert!(levels.map(|event| event.level).all(|level| level == Level::DEBUG), "{events:#?}");
}

#[test]
fn a_panic_is_told_with_its_place_in_the_span() {
    let server = serving(Threading::new());
    socketserver::monitor::trace_panics();
    let peer = say(&server, "panic");
    let (_, events) = span_of(&peer);
    let text = format!("panicked: told to panic by {peer}");
    let told = events.iter().find(|event| event.fields["message"] == text);
    let told = told.unwrap_or_else(|| panic!("{events:#?}"));
    assert_eq!((told.level, told.target), (Level::ERROR, "socketserver"));
    assert!(told.fields["location"].contains("figures/tracing.rs:"), "{told:?}");
}

#[test]
fn a_request_that_is_not_run_ends_without_a_span() {
    struct Nobody;
    impl ServerHooks<StreamRequest> for Nobody {
        fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
            Ok(incoming.id() == 1)
        }
    }
    log();
    let server = TcpServer::builder()
        .mixin(Threading::new())
        .hooks(Nobody)
        .tracing()
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut first = connect(inet(&*server));
    assert_eq!(exchange(&mut first, "hello"), "hello\n");
    let rejected = say(&server, "hello");
    let end = end_of(&rejected);
    assert_eq!((end.level, end.span, &*end.fields["reason"]), (Level::DEBUG, None, "rejected"));
    assert!(log().spans("client_address", &rejected).is_empty());

    let server = TcpServer::builder()
        .mixin(Threading::new())
        .limits(Limits::default().per_peer(1))
        .tracing()
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut first = connect(inet(&*server));
    assert_eq!(exchange(&mut first, "hello"), "hello\n");
    let end = end_of(&say(&server, "hello"));
    assert_eq!((end.level, &*end.fields["refused"]), (Level::WARN, "too_many_from_peer"));
}

/// Waits for the event that reports the end of a client's request.
fn end_of(peer: &str) -> Told {
    let find = || {
        let events = log().events("client_address", peer);
        events.into_iter().find(|event| event.fields["message"] == "ended")
    };
    eventually("its end is told", || find().is_some());
    find().unwrap()
}

#[test]
fn a_span_ends_with_its_request_and_is_not_on_the_next_ones_thread() {
    let server = serving(Inline);
    let peers = [(); 3].map(|()| say(&server, "hello"));
    for peer in &peers {
        let (_, events) = span_of(peer);
        assert_eq!(messages(&events), ["shakes hands", "obeys hello", "ended"]);
    }
    assert!(server.server_close_within(SOON).is_clean());
}

/// Connects two clients, whose requests run in turn on one thread: the first waits while the second runs, and goes on last.
fn two_at_once(server: &BackgroundServer<Tcp, impl Mixin>) {
    let address = inet(&**server);
    let mut clients = [(); 2].map(|()| connect(address));
    let peers = clients.each_ref().map(|client| client.local_addr().unwrap().to_string());
    for half in ["he", "llo\n"] {
        for client in &mut clients {
            client.write_all(half.as_bytes()).unwrap();
        }
    }
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"hello\n");
    }
    for peer in &peers {
        let (span, events) = span_of(peer);
        assert_eq!(span.fields["reason"], "completed");
        assert_eq!(messages(&events), ["shakes hands", "obeys hello", "ended"]);
        let own = events.iter().all(|event| {
            let client = event.fields.get("peer").or(event.fields.get("client_address"));
            client.is_some_and(|client| client == peer)
        });
        assert!(own, "{events:#?}");
    }
}

#[test]
fn coroutines_of_one_thread_have_each_a_span_of_its_own() {
    two_at_once(&serving(crate::coroutines::Coroutines));
    #[cfg(has_green)]
    two_at_once(&serving(socketserver::Green::new().workers(1)));
}

#[test]
fn work_beside_a_handler_is_in_its_span() {
    fn check(mixin: impl Mixin) {
        let server = serving(mixin);
        let peer = say(&server, "join");
        let (_, events) = span_of(&peer);
        let expected = ["shakes hands", "obeys join", "beside it", "offloaded", "ended"];
        assert_eq!(messages(&events), expected);
        assert_eq!(messages(&span_of(&say(&server, "hello")).1).len(), 3, "and in no other");
    }
    // Plain threads are left out: there the library asks the subscriber for the current span, which the subscriber of these
    // tests does not report.
    check(crate::coroutines::Coroutines);
    #[cfg(has_green)]
    check(socketserver::Green::new().workers(1));
}

#[test]
fn a_failure_that_a_subscriber_takes_is_not_printed_as_well() {
    if is_child() {
        for is_traced in [true, false] {
            let builder = TcpServer::builder();
            let builder = if is_traced { builder.tracing() } else { builder };
            let server = builder.bind("127.0.0.1:0", stream_fn(obey)).unwrap();
            let server = server.serve_in_background().unwrap();
            say(&server, "fail");
            server.stop().unwrap();
            if is_traced {
                // From here on there is a subscriber. Without one, `tracing()` alone suppresses no printed report.
                log();
                let server = TcpServer::builder().tracing().bind("127.0.0.1:0", stream_fn(obey));
                let server = server.unwrap().serve_in_background().unwrap();
                say(&server, "fail");
                server.stop().unwrap();
            }
        }
        return;
    }
    let (output, writes) = writes_to_stderr(child(
        module_path!(),
        "a_failure_that_a_subscriber_takes_is_not_printed_as_well",
    ));
    assert!(output.status.success(), "{output:?} {writes:?}");
    let reports = writes.iter().filter(|text| text.contains("handle failed for")).count();
    assert_eq!(reports, 2, "without a subscriber, and without the line: {writes:?}");
}
