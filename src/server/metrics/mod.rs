//! Figures for collectors, by the facade `metrics`: [`Builder::metrics`] and [`update_metrics`].
//!
//! ```text
//! events of requests --> counters and histograms, at once
//!            `---------> all gauges, once a second at most          by the thread that tells the event
//! the last request ends -> live, busy and queued are zero
//! update_metrics() ----> all gauges, now                            by a collector, before it renders
//! ```
//!
//! So no thread is needed (a server that forks could not have one), and a server without requests costs nothing. Under
//! `Forking` only the parent tells events, so the children's recorders, which are copies, are never used.
//!
//! A handle of the recorder ([`Handles`]) is looked up once, at the first event after the bind. After that an event costs a
//! few additions.
//!
//! Bytes are counted as they flow, and not only when a request ends: an update adds the growth of the sum over all
//! requests, ended and live. The ended requests are read first. So a request that ends at that moment may be missing
//! once, but is never counted twice; and the sum is reported only when it has grown.

mod handles;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::handles::Handles;
use super::Builder;
use crate::events::ServerEvent;
use crate::figures::Fill;
use crate::mixin::Mixin;
use crate::refused::Refused;
use crate::run_phase::RunPhase;
use crate::server_context::ServerContext;
use crate::transport::Transport;

/// The shortest time between two updates that events cause. A collector usually comes every 10 to 60 seconds.
const MIN_UPDATE_INTERVAL: Duration = Duration::from_secs(1);

impl<T: Transport, M: Mixin> Builder<T, M> {
    /// Reports figures of the server to the recorder that the program has installed for the facade
    /// [`metrics`](https://docs.rs/metrics), such as a Prometheus exporter: `examples/metrics` shows one. The
    /// argument `server` is the value of the label `server`. Feature `metrics`.
    ///
    /// | figure | kind | labels besides `server` and `transport` |
    /// |---|---|---|
    /// | `socketserver_accepted_total` | requests | |
    /// | `socketserver_requests_total` | requests that have ended | `reason`: [`CloseReason::name`](crate::monitor::CloseReason::name), `panicked` for one; `fault`: [`peer`, `handler`, `server`](crate::monitor::CloseReason::fault) or `none` |
    /// | `socketserver_refused_total` | requests | `why`: [`Refused::name`](crate::mixin::Refused::name) |
    /// | `socketserver_timeouts_total` | requests | `limit`: [`Timeout::name`](crate::request::Timeout::name) |
    /// | `socketserver_limits_reached_total` | times | `limit`: [`Limit::name`](crate::monitor::Limit::name) |
    /// | `socketserver_accept_errors_total` | attempts to accept | |
    /// | `socketserver_accept_drops_total`, `socketserver_datagram_drops_total` | clients and datagrams that the kernel has dropped | |
    /// | `socketserver_received_bytes_total`, `socketserver_sent_bytes_total` | bytes | |
    /// | `socketserver_request_seconds` | histogram of the [age](crate::monitor::ServerEvent::RequestEnded) at the end | |
    /// | `socketserver_queue_seconds`, `socketserver_handshake_seconds`, `socketserver_accept_queue_seconds` | histograms of [`RequestTimes`](crate::monitor::RequestTimes) | |
    /// | `socketserver_live_requests`, `socketserver_busy_workers`, `socketserver_queued_requests`, `socketserver_accept_queue`, `socketserver_receive_buffer_bytes`, each also with `_max`; `socketserver_idle_workers` | gauges of [`Figures`](crate::monitor::Figures) | |
    /// | `socketserver_open_descriptors`, also with `_max` | gauges of the process | none at all |
    ///
    /// No label has a value that a client chooses. If the kernel does not report a level, or if there is no maximum,
    /// there is no series for it. The histogram of the accept queue needs
    /// [`time_accept_queue`](Self::time_accept_queue) as well.
    ///
    /// Counters and histograms follow each event. Gauges and bytes are updated with an event, but once a second at
    /// most, and by [`update_metrics`], which a collector calls before it renders. When the last request ends, the
    /// gauges of workers and queues become zero.
    ///
    /// Install the recorder before the server serves: the beginning of its first run looks for it (or
    /// [`update_metrics`], if that comes first), and without one the server's counters and histograms stay empty. Give
    /// two servers of a program two names, or their gauges overwrite each other. Under [`Forking`](crate::Forking) the
    /// parent reports all figures, so the recorder must not start a thread in it.
    ///
    /// ```
    /// use socketserver::{ThreadingTcpServer, stream_fn};
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let server = ThreadingTcpServer::builder()
    ///     .metrics("time")
    ///     .bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
    /// # drop(server); Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn metrics(self, server: impl Into<String>) -> Self {
        let server = server.into();
        self.observer_of(Box::new(move |context| {
            let meter = Arc::new(Meter::new(server, context));
            METERS.lock().push(Arc::downgrade(&meter));
            Box::new(move |event| meter.note(event))
        }))
    }
}

/// The meters of all servers of the process, for [`update_metrics`]. Weak, because a meter lives and ends with its server's
/// observers; one that has ended is taken out at the next update.
static METERS: Mutex<Vec<Weak<Meter>>> = Mutex::new(Vec::new());

/// Updates the gauges of all servers with [`Builder::metrics`](crate::Builder::metrics), and their bytes. A collector
/// calls this just before it renders: `examples/metrics` does it in the handler of `/metrics`. Feature `metrics`.
pub fn update_metrics() {
    let mut meters = Vec::new();
    METERS.lock().retain(|meter| {
        let meter = meter.upgrade();
        let lives = meter.is_some();
        meters.extend(meter);
        lives
    });
    // `METERS` is not locked here: `update` asks the mixin for its figures, which may run the program's code.
    for meter in meters {
        meter.update(&mut meter.told.lock());
    }
}

/// Reports one server's figures.
struct Meter {
    /// The label `server`.
    server: String,
    /// The server's context, which has the figures.
    context: Weak<ServerContext>,
    /// The figures of this server, registered at the first event after the bind, such as the beginning of a run. The
    /// program has to install its recorder before that.
    handles: OnceLock<Handles>,
    /// `next_update` counts from here.
    made: Instant,
    /// The moment of the next update, in milliseconds. The thread that does the update changes it.
    next_update: AtomicU64,
    /// The bytes that ended requests have received; the next field has those that they have sent. A request's bytes are
    /// added when it has left the live list: see the top of the file about the order.
    ended_in: AtomicU64,
    ended_out: AtomicU64,
    /// Bytes that `DatagramSender`s have sent, which belong to no request. The meter has a reference to the count, because
    /// the context may be gone before the last of them are reported.
    sent_by_senders: Arc<AtomicU64>,
    /// The last numbers that were reported. Locked while gauges are set, so that an older number does not replace a
    /// newer one.
    told: Mutex<Told>,
}

/// Numbers that only grow, as the recorder has last got them.
#[derive(Default)]
struct Told {
    bytes_in: u64,
    bytes_out: u64,
    accept_drops: u64,
    datagram_drops: u64,
}

impl Meter {
    fn new(server: String, context: &Arc<ServerContext>) -> Self {
        Self {
            server,
            // Weak: a meter that `update_metrics` still holds must not keep the context of a server that is gone.
            context: Arc::downgrade(context),
            handles: OnceLock::new(),
            made: Instant::now(),
            next_update: AtomicU64::new(0),
            ended_in: AtomicU64::new(0),
            ended_out: AtomicU64::new(0),
            sent_by_senders: Arc::clone(&context.sent_by_senders),
            told: Mutex::default(),
        }
    }

    /// The figures of this server, registered by the first call.
    fn handles(&self, context: &ServerContext) -> &Handles {
        self.handles.get_or_init(|| Handles::register(&self.server, context.transport()))
    }

    /// Called with each event, by the thread that reports it: a worker, the accept loop, or any other. Once a second at
    /// most it looks at all requests. Otherwise it takes locks only at the end of a request, for moments: that of the
    /// live list, to see whether this was the last one, and then that of `told`.
    fn note(&self, event: &ServerEvent<'_>) {
        // The context is gone only for an event of a server that is being dropped.
        let Some(context) = self.context.upgrade() else { return };
        // The bind changes no figure, and a program may install its recorder between the bind and the run.
        let is_bind = matches!(event, ServerEvent::PhaseReached { phase: RunPhase::Bound, .. });
        if is_bind && self.handles.get().is_none() {
            return;
        }
        let handles = self.handles(&context);
        let mut is_last = false;
        match event {
            ServerEvent::RequestStarted { .. } => handles.accepted.increment(1),
            ServerEvent::RequestEnded { bytes_in, bytes_out, .. } => {
                count_end(handles, event);
                self.ended_in.fetch_add(*bytes_in, Ordering::SeqCst);
                self.ended_out.fetch_add(*bytes_out, Ordering::SeqCst);
                is_last = context.live_count() == 0;
            }
            ServerEvent::AcceptFailed { .. } => handles.accept_errors.increment(1),
            ServerEvent::LimitReached { limit } => handles.limits_reached.count(*limit as usize),
            _ => {}
        }
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.next_update.load(Ordering::Relaxed);
        // The thread that changes the moment does the update; the others go on. Relaxed, because it guards only itself: the
        // lock of `told` orders the updates.
        let (next, relaxed) = (now + MIN_UPDATE_INTERVAL.as_millis() as u64, Ordering::Relaxed);
        let set = || self.next_update.compare_exchange(due, next, relaxed, relaxed);
        if now >= due && set().is_ok() {
            // If another thread is updating the gauges now, its numbers are as new.
            if let Some(mut told) = self.told.try_lock() {
                self.update(&mut told);
            }
        }
        // This comes after the update, which has still counted this request's worker as busy. Another request may have begun
        // since: then the zeros are wrong until the next update, which comes with the events of that request.
        if is_last {
            self.rest(handles);
        }
    }

    /// Sets the gauges of workers and queues to zero: the server has nothing to do until its next client, and no later event
    /// would say so.
    fn rest(&self, handles: &Handles) {
        let mut told = self.told.lock();
        handles.live.clear();
        handles.busy.clear();
        handles.queued.clear();
        self.add_bytes(handles, &mut told, || (0, 0));
    }

    /// Sets all gauges, and adds the bytes. `told` is this meter's own, locked by the caller.
    fn update(&self, told: &mut Told) {
        let Some(context) = self.context.upgrade() else { return };
        let handles = self.handles(&context);
        let figures = context.figures();
        handles.live.set(Some(figures.live));
        handles.busy.set(Some(figures.busy));
        handles.queued.set(Some(figures.queued));
        handles.accept_queue.set(figures.accept_queue);
        handles.receive_buffer.set(figures.receive_buffer);
        handles.descriptors.set(figures.descriptors);
        handles.idle.set(figures.idle.map(|idle| Fill::new(idle, None)));
        // The kernel counts in 32 bits, which may begin anew: so the growth is counted in 32 bits as well. An unknown number
        // has not grown.
        let grown = |now: Option<u64>, told: &mut u64| {
            let Some(now) = now else { return 0 };
            (now as u32).wrapping_sub(std::mem::replace(told, now) as u32).into()
        };
        handles.accept_drops.increment(grown(figures.accept_drops, &mut told.accept_drops));
        handles.datagram_drops.increment(grown(figures.datagram_drops, &mut told.datagram_drops));
        self.add_bytes(handles, told, || context.live.bytes());
    }

    /// Adds the growth of both sums since the last call. `live` gives the bytes of the live requests, and is called after the
    /// ended ones are read. The order matters: see the top of the file.
    fn add_bytes(&self, handles: &Handles, told: &mut Told, live: impl FnOnce() -> (u64, u64)) {
        let [ended_in, ended_out] =
            [&self.ended_in, &self.ended_out].map(|ended| ended.load(Ordering::SeqCst));
        let (live_in, live_out) = live();
        let by_senders = self.sent_by_senders.load(Ordering::SeqCst);
        let parts = [
            (ended_in + live_in, &mut told.bytes_in, &handles.bytes_in),
            (ended_out + live_out + by_senders, &mut told.bytes_out, &handles.bytes_out),
        ];
        for (all, told, counter) in parts {
            // The sum may be smaller than before, while a request is in neither part of it.
            if all > *told {
                counter.increment(all - *told);
                *told = all;
            }
        }
    }
}

/// Counts the end of a request, by its reason and its times. Its bytes are counted in the meter.
fn count_end(handles: &Handles, event: &ServerEvent<'_>) {
    let ServerEvent::RequestEnded { reason, refused, limit, age, times, .. } = event else {
        return;
    };
    handles.ends.count(*reason as usize);
    let place = |why: &Refused| Refused::NAMES.iter().position(|name| *name == why.name());
    if let Some(place) = refused.and_then(place) {
        handles.refused.count(place);
    }
    if let Some(limit) = limit {
        handles.time_limits.count(*limit as usize);
    }
    handles.seconds.record(*age);
    let parts = [
        (times.in_queue, &handles.queue_seconds),
        (times.in_accept_queue, &handles.accept_queue_seconds),
        (times.handshake, &handles.handshake_seconds),
    ];
    for (time, histogram) in parts {
        if let Some(time) = time {
            histogram.record(time);
        }
    }
}

/// A server that is gone has no workers and no queues.
impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(handles) = self.handles.get() {
            self.rest(handles);
            handles.idle.clear();
            handles.accept_queue.clear();
            handles.receive_buffer.clear();
        }
    }
}
