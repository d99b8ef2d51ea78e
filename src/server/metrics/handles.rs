//! [`Handles`]: the names, units and labels of all figures, registered with the recorder of the program.
//!
//! A label has few values, all of them known beforehand, and none of a peer's choice. So a counter with labels is a list,
//! made at once, and an event finds its place in it without a hash or an allocation: the facade's macros would look the
//! name and the labels up each time.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram, Label, Unit};

use crate::events::{CloseReason, Fault, Limit};
use crate::figures::Fill;
use crate::refused::Refused;
use crate::timed_out::Timeout;

/// The figures of one server. They are made when the first event comes, with the value zero, so that a collector sees
/// the first increase.
pub(super) struct Handles {
    // Counters of events.
    pub(super) accepted: Counter,
    /// One for each [`CloseReason`].
    pub(super) ends: CounterHandles,
    /// One for each of [`Refused::NAMES`].
    pub(super) refused: CounterHandles,
    /// One for each [`Timeout`].
    pub(super) time_limits: CounterHandles,
    /// One for each [`Limit`].
    pub(super) limits_reached: CounterHandles,
    pub(super) accept_errors: Counter,
    // Counters of numbers that are compared with the last ones: see `Told`.
    pub(super) accept_drops: Counter,
    pub(super) datagram_drops: Counter,
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    // Times of each request that has ended, as far as they are measured.
    pub(super) seconds: Histogram,
    pub(super) queue_seconds: Histogram,
    pub(super) accept_queue_seconds: Histogram,
    pub(super) handshake_seconds: Histogram,
    // Gauges.
    pub(super) live: Level,
    pub(super) busy: Level,
    pub(super) idle: Level,
    pub(super) queued: Level,
    pub(super) accept_queue: Level,
    pub(super) receive_buffer: Level,
    /// A level of the whole process, without labels.
    pub(super) descriptors: Level,
}

/// A counter for each value of a label, at the place of the value's number.
pub(super) struct CounterHandles(Vec<Counter>);

impl CounterHandles {
    /// Counts one more. A place beyond the list would count nothing; none comes, because lists and places are made from
    /// the same tables.
    pub(super) fn count(&self, place: usize) {
        if let Some(counter) = self.0.get(place) {
            counter.increment(1);
        }
    }
}

/// A gauge, and a second one for its maximum, with the same name and `_max`. Each is made when it is first set: a level
/// that nobody knows must have no series, because a series would say zero.
pub(super) struct Level {
    name: &'static str,
    labels: Vec<Label>,
    used: OnceLock<Gauge>,
    max: OnceLock<Gauge>,
}

impl Level {
    fn new(name: &'static str, labels: Vec<Label>) -> Self {
        Self { name, labels, used: OnceLock::new(), max: OnceLock::new() }
    }

    /// Sets the value and the maximum, as far as they are known.
    pub(super) fn set(&self, fill: Option<Fill>) {
        let Some(Fill { used, max, .. }) = fill else { return };
        let (name, labels) = (self.name, || self.labels.clone());
        self.used.get_or_init(|| metrics::gauge!(name, labels())).set(used as f64);
        if let Some(max) = max {
            let gauge = || metrics::gauge!(format!("{name}_max"), labels());
            self.max.get_or_init(gauge).set(max as f64);
        }
    }

    /// Sets the value to zero. If it was never set, it stays unknown.
    pub(super) fn clear(&self) {
        if let Some(used) = self.used.get() {
            used.set(0.0);
        }
    }
}

impl Handles {
    /// Registers all figures with the recorder that the program has installed by now. Without a recorder they lead
    /// nowhere.
    pub(super) fn register(server: &str, transport: &'static str) -> Self {
        describe();
        let base = vec![
            Label::new("server", server.to_owned()),
            Label::from_static_parts("transport", transport),
        ];
        let counter = |name: &'static str| metrics::counter!(name, base.clone());
        let labelled = |name: &'static str, more: &[(&'static str, &'static str)]| {
            let more = more.iter().map(|(key, value)| Label::from_static_parts(key, value));
            metrics::counter!(name, base.iter().cloned().chain(more).collect::<Vec<_>>())
        };
        let histogram = |name: &'static str| metrics::histogram!(name, base.clone());
        let level = |name| Level::new(name, base.clone());
        let end = |reason: &CloseReason| {
            let fault = reason.fault().map_or("none", Fault::name);
            let labels = [("reason", reason.name()), ("fault", fault)];
            labelled("socketserver_requests_total", &labels)
        };
        let refused = |why: &&'static str| labelled("socketserver_refused_total", &[("why", why)]);
        let time_limit =
            |limit: &Timeout| labelled("socketserver_timeouts_total", &[("limit", limit.name())]);
        let reached = |limit: &Limit| {
            labelled("socketserver_limits_reached_total", &[("limit", limit.name())])
        };
        Self {
            accepted: counter("socketserver_accepted_total"),
            ends: CounterHandles(CloseReason::ALL.iter().map(end).collect()),
            refused: CounterHandles(Refused::NAMES.iter().map(refused).collect()),
            time_limits: CounterHandles(Timeout::ALL.iter().map(time_limit).collect()),
            limits_reached: CounterHandles(Limit::ALL.iter().map(reached).collect()),
            accept_errors: counter("socketserver_accept_errors_total"),
            accept_drops: counter("socketserver_accept_drops_total"),
            datagram_drops: counter("socketserver_datagram_drops_total"),
            bytes_in: counter("socketserver_received_bytes_total"),
            bytes_out: counter("socketserver_sent_bytes_total"),
            seconds: histogram("socketserver_request_seconds"),
            queue_seconds: histogram("socketserver_queue_seconds"),
            accept_queue_seconds: histogram("socketserver_accept_queue_seconds"),
            handshake_seconds: histogram("socketserver_handshake_seconds"),
            live: level("socketserver_live_requests"),
            busy: level("socketserver_busy_workers"),
            idle: level("socketserver_idle_workers"),
            queued: level("socketserver_queued_requests"),
            accept_queue: level("socketserver_accept_queue"),
            receive_buffer: level("socketserver_receive_buffer_bytes"),
            descriptors: Level::new("socketserver_open_descriptors", Vec::new()),
        }
    }
}

/// Gives each figure its unit and its sentence, for exporters that show them. The table of `Builder::metrics` has the
/// same names. With several servers it is called for each, and says the same again.
fn describe() {
    use Unit::{Bytes, Count, Seconds};
    let counters = [
        ("socketserver_accepted_total", Count, "requests taken from the transport"),
        ("socketserver_requests_total", Count, "requests that have ended, by reason and fault"),
        ("socketserver_refused_total", Count, "requests that were refused, by cause"),
        ("socketserver_timeouts_total", Count, "requests that a time limit has ended, by limit"),
        (
            "socketserver_limits_reached_total",
            Count,
            "how often a limit began to hold clients back",
        ),
        ("socketserver_accept_errors_total", Count, "attempts to accept that failed"),
        ("socketserver_accept_drops_total", Count, "attempts to connect that the kernel dropped"),
        ("socketserver_datagram_drops_total", Count, "datagrams that the kernel dropped"),
        ("socketserver_received_bytes_total", Bytes, "bytes received, of live requests as well"),
        ("socketserver_sent_bytes_total", Bytes, "bytes sent, of live requests as well"),
    ];
    for (name, unit, text) in counters {
        metrics::describe_counter!(name, unit, text);
    }
    let histograms = [
        ("socketserver_request_seconds", Seconds, "from the acceptance of a request to its end"),
        ("socketserver_queue_seconds", Seconds, "from the acceptance of a request to its worker"),
        ("socketserver_accept_queue_seconds", Seconds, "in the accept queue of the kernel"),
        ("socketserver_handshake_seconds", Seconds, "before the handler: a TLS handshake"),
    ];
    for (name, unit, text) in histograms {
        metrics::describe_histogram!(name, unit, text);
    }
    let gauges = [
        ("socketserver_live_requests", Count, "requests that are accepted and have not ended"),
        ("socketserver_live_requests_max", Count, "the limit of live requests in force"),
        ("socketserver_busy_workers", Count, "workers that run a request"),
        ("socketserver_busy_workers_max", Count, "how many requests may run at once"),
        ("socketserver_idle_workers", Count, "workers that are kept for the next request"),
        ("socketserver_queued_requests", Count, "requests that wait for a worker"),
        ("socketserver_queued_requests_max", Count, "how many requests may wait for a worker"),
        ("socketserver_accept_queue", Count, "clients that wait in the kernel to be accepted"),
        ("socketserver_accept_queue_max", Count, "the length of the kernel's accept queue"),
        ("socketserver_receive_buffer_bytes", Bytes, "datagrams in the kernel's receive buffer"),
        ("socketserver_receive_buffer_bytes_max", Bytes, "the size of the receive buffer"),
        ("socketserver_open_descriptors", Count, "open descriptors of the process"),
        ("socketserver_open_descriptors_max", Count, "how many descriptors the process may have"),
    ];
    for (name, unit, text) in gauges {
        metrics::describe_gauge!(name, unit, text);
    }
}
