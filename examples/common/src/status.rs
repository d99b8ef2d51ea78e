//! The figures of a program at a moment. The control socket reports them, and a page may show them.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use socketserver::monitor::{Activity, Counts, Figures, Fill, LiveRequest, RunPhase};
use socketserver::{Address, BaseServer, Limits};

use crate::log;

/// A program at a moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The name of the program.
    pub program: String,
    /// Its process number.
    pub process: u32,
    /// Whether it has taken the place of another process.
    pub took_over: bool,
    /// The process that has taken this one's place: it serves the new clients, while this one ends its requests. Only a
    /// program with a control socket or a verbose log knows it.
    pub successor: Option<u32>,
    /// How long its servers have existed.
    pub uptime: Duration,
    /// How much it logs.
    pub level: log::Level,
    /// Its servers: one for each `--bind`.
    pub servers: Vec<ServerStatus>,
}

/// A server at a moment.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// Where it listens.
    pub address: Address,
    /// `serving`, `stopping` or `stopped`.
    pub state: &'static str,
    /// The phase of its run.
    pub phase: RunPhase,
    /// How many requests are alive.
    pub live: usize,
    /// How many of them have each activity.
    pub activities: Vec<(Activity, usize)>,
    /// Requests a second, over the last seconds.
    pub rates: Rates,
    /// Workers, queues, and what the kernel knows.
    pub figures: Figures,
    /// The counts since the start.
    pub counts: Counts,
    /// How much of its limits is used, the fullest first.
    pub uses: Vec<Use>,
    /// The requests that take longest. Those that only wait for their peer's next request come last.
    pub slowest: Vec<LiveRequest>,
}

/// Requests a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Requests that were accepted.
    pub accepted: f64,
    /// Requests that ended.
    pub ended: f64,
    /// Requests that ended by a failure of their handler or of this system.
    pub failed: f64,
    /// The time over which these rates are counted.
    pub over: Duration,
}

/// A limit and how much of it is used.
#[derive(Clone, Debug)]
pub struct Use {
    /// The name of the limit, or of another resource that can be used up.
    pub limit: &'static str,
    /// How much is used.
    pub used: f64,
    /// How much there is.
    pub max: f64,
    /// The peer or request that uses most of it, if each has a limit of its own.
    pub by: String,
}

impl Use {
    /// The used part: 1 is all of it.
    pub fn part(&self) -> f64 {
        if self.max > 0.0 { self.used / self.max } else { 0.0 }
    }
}

/// A limit of which this share is used is nearly reached.
pub const NEAR: f64 = 0.8;

/// How many of the slowest requests are shown.
const SLOWEST: usize = 10;

/// The servers of this program. Weak: the program's `main` owns them, and closes them at its end.
static SERVERS: OnceLock<Vec<Weak<dyn BaseServer>>> = OnceLock::new();

/// Whether this process has taken another one's place.
static TOOK_OVER: AtomicBool = AtomicBool::new(false);

/// The process that has taken this one's place; zero if there is none.
static SUCCESSOR: AtomicU32 = AtomicU32::new(0);

/// Makes the servers known to [`Status::now`].
pub(crate) fn watch(servers: &[Arc<dyn BaseServer>], took_over: bool) {
    // An error is ignored: a program serves once.
    let _ = SERVERS.set(servers.iter().map(Arc::downgrade).collect());
    TOOK_OVER.store(took_over, Ordering::Relaxed);
}

/// Notes that another process has taken this one's place.
pub(crate) fn handed_over(process: u32) {
    SUCCESSOR.store(process, Ordering::Relaxed);
}

/// The phases of a run, in their order.
pub const PHASES: [RunPhase; 7] = [
    RunPhase::Bound,
    RunPhase::Ready,
    RunPhase::LameDuck,
    RunPhase::Closed,
    RunPhase::Draining,
    RunPhase::Forced,
    RunPhase::Ended,
];

impl Status {
    /// Collects the figures of this moment. Under `forking` a child knows the figures that its parent had at the fork.
    pub fn now() -> Self {
        let servers = SERVERS.get().into_iter().flatten().filter_map(Weak::upgrade);
        let servers: Vec<_> = servers.collect();
        let mut samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
        samples.resize_with(servers.len(), VecDeque::new);
        let started = servers.iter().map(|server| server.context().started()).min();
        let servers = servers.iter().zip(samples.iter_mut());
        let mut servers: Vec<_> =
            servers.map(|(server, samples)| ServerStatus::of(&**server, samples)).collect();
        // Descriptors are the process's: the first server shows them.
        for server in servers.iter_mut().skip(1) {
            server.uses.retain(|used| used.limit != "descriptors");
        }
        Self {
            program: program_name(),
            process: std::process::id(),
            took_over: TOOK_OVER.load(Ordering::Relaxed),
            successor: Some(SUCCESSOR.load(Ordering::Relaxed)).filter(|process| *process != 0),
            uptime: started.map_or(Duration::ZERO, |started| started.elapsed()),
            level: log::level(),
            servers,
        }
    }

    /// The lines of the control socket's `status`: each is a key and its values, with tabs between them. The lines of a
    /// server follow its line `server`.
    pub fn lines(&self) -> String {
        let mut text = format!(
            "program\t{}\t{}\nuptime\t{:.1}\nlog\t{}\n",
            clean(&self.program),
            self.process,
            self.uptime.as_secs_f64(),
            self.level
        );
        if self.took_over {
            text += "took_over\n";
        }
        if let Some(process) = self.successor {
            // Writing to memory cannot fail.
            let _ = writeln!(text, "successor\t{process}");
        }
        for (number, server) in (1..).zip(&self.servers) {
            let _ = server.write_lines(number, &mut text);
        }
        text
    }
}

impl ServerStatus {
    fn of(server: &dyn BaseServer, samples: &mut VecDeque<Sample>) -> Self {
        let context = server.context();
        let (counts, limits) = (context.counts(), context.limits());
        let mut live = context.live();
        let count = |activity: &Activity| {
            (*activity, live.iter().filter(|request| request.activity == *activity).count())
        };
        let activities = Activity::ALL.iter().map(count).collect();
        let rates = Rates::lately(counts, context.started(), samples);
        let figures = context.figures();
        let uses = uses(&limits, &live, rates, &figures);
        let state = match (context.is_stopping(), server.shutdown_handle().is_shutdown()) {
            (true, _) if live.is_empty() => "stopped",
            (true, _) | (_, true) => "stopping",
            _ => "serving",
        };
        let alive = live.len();
        live.sort_by_key(|request| {
            (request.activity == Activity::Idle, std::cmp::Reverse(request.age))
        });
        live.truncate(SLOWEST);
        let address = context.server_address();
        let slowest = live;
        let phase = context.run_phase();
        Self {
            address,
            state,
            phase,
            live: alive,
            activities,
            rates,
            figures,
            counts,
            uses,
            slowest,
        }
    }

    /// Clients and datagrams that the kernel has dropped, as far as the kernel counts them.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Figures { accept_drops, datagram_drops, .. } = self.figures;
        let drops = [("accept_drops", accept_drops), ("datagram_drops", datagram_drops)];
        drops.into_iter().filter_map(|(name, count)| Some((name, count?)))
    }

    fn write_lines(&self, number: usize, text: &mut String) -> std::fmt::Result {
        writeln!(text, "server\t{number}\t{}\t{}", clean(&self.address.to_string()), self.state)?;
        writeln!(text, "phase\t{}", self.phase)?;
        writeln!(text, "live\t{}", self.live)?;
        for (activity, count) in &self.activities {
            writeln!(text, "activity\t{}\t{count}", word(*activity))?;
        }
        let Rates { accepted, ended, failed, over } = self.rates;
        let over = over.as_secs_f64();
        writeln!(text, "per_second\t{accepted:.1}\t{ended:.1}\t{failed:.1}\t{over:.1}")?;
        let Figures { busy, idle, queued, .. } = self.figures;
        let idle = idle.unwrap_or_default();
        writeln!(text, "workers\t{}\t{idle}\t{}", busy.used, queued.used)?;
        for (name, count) in self.counts.by_name().into_iter().chain(self.drops()) {
            writeln!(text, "count\t{name}\t{count}")?;
        }
        for Use { limit, used, max, by } in &self.uses {
            writeln!(text, "use\t{limit}\t{used:.0}\t{max:.0}\t{}", clean(by))?;
        }
        for request in &self.slowest {
            writeln!(text, "slow\t{}", row(&request.id.to_string(), request))?;
        }
        Ok(())
    }
}

/// An activity in one word.
pub fn word(activity: Activity) -> String {
    format!("{activity:?}").to_ascii_lowercase()
}

/// A live request as a row: its number, client, age, activity, bytes in and out, handler.
pub(crate) fn row(id: &str, request: &LiveRequest) -> String {
    format!(
        "{id}\t{}\t{:.1}\t{}\t{}\t{}\t{}",
        clean(&request.client_address.to_string()),
        request.age.as_secs_f64(),
        word(request.activity),
        request.bytes_in,
        request.bytes_out,
        clean(request.handler)
    )
}

/// Escapes the control characters of a text that others have chosen, so that it stays within one column of one line.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            cleaned.extend(character.escape_default());
        } else {
            cleaned.push(character);
        }
    }
    cleaned
}

/// The file name of the running program.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The counts at an earlier moment.
struct Sample {
    at: Instant,
    accepted: u64,
    ended: u64,
    failed: u64,
}

/// The samples of each server, the oldest first. A sample is taken when somebody asks for the status, and at no other
/// time.
static SAMPLES: Mutex<Vec<VecDeque<Sample>>> = Mutex::new(Vec::new());

/// The longest time that rates are counted over, as far as there are samples.
const WINDOW: Duration = Duration::from_secs(5);

/// The shortest time that rates are counted over, so that a single request changes a rate little.
const LEAST: Duration = Duration::from_secs(1);

/// The shortest time between two samples, however often the status is asked for.
const BETWEEN: Duration = Duration::from_millis(250);

impl Rates {
    /// Counts the rates since the oldest sample in the window, or, if there is none, since the newest one before it. The
    /// first sample is the start of the server.
    fn lately(counts: Counts, started: Instant, samples: &mut VecDeque<Sample>) -> Self {
        let now = Sample {
            at: Instant::now(),
            accepted: counts.accepted,
            ended: counts.ended(),
            failed: counts.failed + counts.panicked + counts.killed,
        };
        let age = |sample: &Sample| now.at.saturating_duration_since(sample.at);
        if samples.is_empty() {
            samples.push_back(Sample { at: started, accepted: 0, ended: 0, failed: 0 });
        }
        // Of the samples before the window the newest is kept: after a pause it is the only one that is old enough.
        while samples.get(1).is_some_and(|second| age(second) > WINDOW) {
            samples.pop_front();
        }
        let second = samples.get(1).filter(|second| age(second) >= LEAST);
        let since = match samples.front() {
            Some(first) if age(first) <= WINDOW => first,
            first => second.or(first).unwrap_or(&now),
        };
        let over = age(since);
        let rate =
            |now: u64, then: u64| now.saturating_sub(then) as f64 / over.max(LEAST).as_secs_f64();
        let rates = Self {
            accepted: rate(now.accepted, since.accepted),
            ended: rate(now.ended, since.ended),
            failed: rate(now.failed, since.failed),
            over,
        };
        if samples.back().is_none_or(|last| age(last) >= BETWEEN) {
            samples.push_back(now);
        }
        rates
    }
}

/// How much of each limit is used, as far as this can be counted from outside.
fn uses(limits: &Limits, live: &[LiveRequest], rates: Rates, figures: &Figures) -> Vec<Use> {
    let of = |limit, used, max| Use { limit, used, max, by: String::new() };
    let mut uses = Vec::new();
    let mut fill = |limit, fill: Option<Fill>| {
        if let Some(Fill { used, max: Some(max), .. }) = fill {
            uses.push(of(limit, used as f64, max as f64));
        }
    };
    // A live limit of `usize::MAX` is no limit, and has no fill.
    let live_fill = Some(figures.live).filter(|fill| fill.max < Some(u64::MAX));
    fill("live", live_fill);
    fill("workers", Some(figures.busy));
    fill("queued", Some(figures.queued));
    fill("accept_queue", figures.accept_queue);
    fill("receive_buffer", figures.receive_buffer);
    fill("descriptors", figures.descriptors);
    if limits.per_peer < limits.live {
        let mut peers: HashMap<String, usize> = HashMap::new();
        for peer in live.iter().filter_map(|request| peer_of(&request.client_address)) {
            *peers.entry(peer).or_default() += 1;
        }
        // If two peers have the same number of requests, the same peer is shown each time.
        let busiest = peers.into_iter().max_by(|(a, m), (b, n)| m.cmp(n).then(b.cmp(a)));
        if let Some((by, count)) = busiest {
            uses.push(Use { by, ..of("per_peer", count as f64, limits.per_peer.max(1) as f64) });
        }
    }
    if let Some(rate) = limits.accept_rate {
        uses.push(of("accept_rate", rates.accepted, f64::from(rate.per_second.max(1))));
    }
    let oldest = live.iter().max_by_key(|request| request.age);
    if let (Some(limit), Some(oldest)) = (limits.request, oldest) {
        let by = format!("request {}", oldest.id);
        uses.push(Use { by, ..of("request", oldest.age.as_secs_f64(), limit.as_secs_f64()) });
    }
    uses.sort_by(|a, b| b.part().total_cmp(&a.part()));
    uses
}

/// The peer that `Limits::per_peer` counts: an IPv4 address, or a network of IPv6.
fn peer_of(address: &Address) -> Option<String> {
    Some(match address.as_inet()?.ip().to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local() => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        ip => ip.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_stay_in_their_column() {
        assert_eq!(clean("a\tb\nc\x1b[2Jé"), "a\\tb\\nc\\u{1b}[2Jé");
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let (mut samples, start) = (VecDeque::new(), Instant::now() - Duration::from_secs(100));
        let counts = |accepted| {
            let mut counts = Counts::default();
            counts.accepted = accepted;
            counts
        };
        let near = |rate: f64, expected: f64| (rate - expected).abs() < expected / 50.0;
        let rates = Rates::lately(counts(1_000), start, &mut samples);
        assert!(near(rates.accepted, 10.0), "since the start: {rates:?}");
        let rates = Rates::lately(counts(1_000), start, &mut samples);
        assert!(near(rates.accepted, 10.0) && samples.len() == 2, "no time has passed: {rates:?}");
        // Two seconds pass.
        samples[1].at -= Duration::from_secs(2);
        let rates = Rates::lately(counts(1_100), start, &mut samples);
        assert!(near(rates.accepted, 50.0), "since the sample: {rates:?}");
        // A minute later no sample is from the last seconds.
        samples.iter_mut().for_each(|sample| sample.at -= Duration::from_secs(60));
        let rates = Rates::lately(counts(1_160), start, &mut samples);
        assert!(near(rates.accepted, 1.0) && samples.len() == 2, "since the newest: {rates:?}");
    }

    #[test]
    fn a_peer_is_what_the_limit_counts() {
        let peer = |text: &str| peer_of(&Address::Inet(text.parse().unwrap()));
        assert_eq!(peer("192.0.2.1:80").as_deref(), Some("192.0.2.1"));
        assert_eq!(peer("[2001:db8:1:2:3::4]:80").as_deref(), Some("2001:db8:1:2::/64"));
        assert_eq!(peer("[::1]:80").as_deref(), Some("::1"));
        assert_eq!(peer("[::ffff:192.0.2.1]:80").as_deref(), Some("192.0.2.1"));
        assert_eq!(peer_of(&Address::Unnamed), None);
    }
}
