//! Features `metrics` and `tracing` under forking: the child has the span, and the parent all figures.

use std::fmt;

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Recorder, SharedString, Unit};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{Server, eventually};

tests![a_child_has_the_span_and_the_parent_tells_of_the_end, figures_of_requests_are_the_parents,];

/// Prints spans and events, and increases of counters, on stderr, each with its process.
pub fn install() {
    tracing::subscriber::set_global_default(Prints).expect("it is the only one");
    metrics::set_global_recorder(Prints).expect("it is the only one");
}

struct Prints;

/// The fields of a span or of an event, in one line.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

fn print(what: &str, line: &str) {
    say!("{what} in {}:{line}", std::process::id());
}

impl Subscriber for Prints {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut line = Line(String::new());
        attributes.record(&mut line);
        print("span", &line.0);
        // One process has one request.
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, values: &Record<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        print("record", &line.0);
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        print("trace", &line.0);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {
        print("exit", "");
    }
}

/// A counter, by its name and labels.
struct Named(String);

impl CounterFn for Named {
    fn increment(&self, value: u64) {
        if value > 0 {
            print("counter", &format!(" {} +{value}", self.0));
        }
    }

    fn absolute(&self, _value: u64) {}
}

impl Recorder for Prints {
    fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}
    fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}
    fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}

    fn register_counter(&self, key: &Key, _metadata: &metrics::Metadata<'_>) -> Counter {
        let labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Counter::from_arc(Named(format!("{}{{{}}}", key.name(), labels.join(","))).into())
    }

    fn register_gauge(&self, _key: &Key, _metadata: &metrics::Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _key: &Key, _metadata: &metrics::Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn a_child_has_the_span_and_the_parent_tells_of_the_end() {
    let mut server = Server::tcp(&["traced"]);
    let mut client = server.connect();
    let child: u32 = client.ask("pid").parse().unwrap();
    assert_eq!(client.ask("fail"), "");
    let peer = client.address();
    eventually("it has ended", || server.children().is_empty());
    server.stop();
    let told = server.all_told("");
    let of = |what: &str, process: u32| {
        let start = format!("{what} in {process}:");
        let lines = told.iter().filter_map(|line| line.strip_prefix(&start));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let span = of("span", child).join("\n");
    assert!(span.contains(&format!("client_address={peer}")), "{told:#?}");
    assert!(of("span", server.pid()).is_empty(), "{told:#?}");
    assert_eq!(of("record", child)[0], " reason=\"failed\"", "{told:#?}");
    assert_eq!(of("exit", child).len(), 1, "{told:#?}");
    let failed = of("trace", child).join("\n");
    assert!(failed.contains("message=failed phase=handle"), "{told:#?}");
    let ended = of("trace", server.pid()).into_iter().find(|line| line.contains("message=ended"));
    let ended = ended.unwrap_or_else(|| panic!("{told:#?}"));
    for part in [&*format!("client_address={peer}"), "reason=\"failed\"", "handler_seconds="] {
        assert!(ended.contains(part), "{ended}");
    }
}

fn figures_of_requests_are_the_parents() {
    let mut server = Server::tcp(&["traced"]);
    assert_eq!(server.connect().ask("echo hello"), "hello");
    assert_eq!(server.connect().ask("panic"), "");
    eventually("both have ended", || server.children().is_empty());
    server.stop();
    let told = server.all_told("counter in ");
    let own = format!("counter in {}: ", server.pid());
    assert!(told.iter().all(|line| line.starts_with(&own)), "{told:#?}");
    let labels = "server=forking,transport=tcp";
    for line in [
        format!("socketserver_requests_total{{{labels},reason=completed,fault=none}} +1"),
        format!("socketserver_requests_total{{{labels},reason=panicked,fault=handler}} +1"),
    ] {
        let count = told.iter().filter(|told| told.strip_prefix(&own) == Some(&line)).count();
        assert_eq!(count, 1, "{line}: {told:#?}");
    }
    let sent: usize = told
        .iter()
        .filter_map(|line| line.split_once(&format!("sent_bytes_total{{{labels}}} +")))
        .map(|(_, count)| count.parse::<usize>().unwrap())
        .sum();
    assert_eq!(sent, "hello\n".len(), "the children count them, and the parent tells: {told:#?}");
}
