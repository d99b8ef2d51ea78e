//! Everything has a limit: [`Limits`], in one struct with finite defaults.
//!
//! A request gets the limits that are in force when it is accepted, by reference, and keeps them to its end. A change makes
//! a new struct for the requests that follow. So a limit never changes in the middle of a wait, and reading one takes no
//! lock. The limits of the server as a whole (`live`, the rates, the number for one peer, the drain) are looked up when they
//! are needed, and follow a change at once.

mod by_name;

use std::time::Duration;

pub use by_name::LimitError;

/// The limits of a server. Each default is finite, or its field says why it is not.
///
/// ```
/// use std::time::Duration;
/// use socketserver::{Limits, Rate};
///
/// let limits = Limits::default()
///     .idle(Duration::from_secs(5))
///     .per_peer(20)
///     .accept_rate(Rate::per_second(500));
/// # assert_eq!(limits.line_bytes, 65_536);
/// ```
///
/// Set them with `builder().limits(..)`, and change them on a live server with
/// [`ServerContext::set_limits`](crate::ServerContext::set_limits): new requests get the new limits, running
/// ones keep theirs. An operator changes one by its name: [`set`](Self::set), and
/// [`ServerContext::set_limit`](crate::ServerContext::set_limit).
///
/// A duration of [`Duration::MAX`], or one longer than the clock can count, means no limit. With zero the server does
/// not wait at all.
///
/// The effect of each limit, and how an observer learns of it:
///
/// - `live`, `per_peer`, `accept_rate`, `peer_rate` and `handshakes` hold requests back or refuse them. They are reported as
///   [`LimitReached`](crate::monitor::ServerEvent::LimitReached).
/// - `line_bytes`, `idle`, `read`, `write`, `request`, `handshake`, `proxy_header`, `drain` and `first_read` end a
///   request. The [`CloseReason`](crate::monitor::CloseReason) of its end shows it.
/// - A send that would exceed `outbox_bytes` fails. No observer learns of it.
/// - `lame_duck` is reported as a [phase](crate::monitor::RunPhase).
/// - `linger` and `linger_bytes` are not reported: the request has already ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Requests alive at once in this server. At the limit nothing more is accepted: new clients wait in the
    /// kernel's accept queue. Zero counts as one. Default 10,000, which the thread stacks and descriptors of an
    /// ordinary machine allow.
    pub live: usize,
    /// Requests alive at once from one peer. A peer is an IPv4 address, a /64 network of IPv6 (which is what one
    /// customer is given), or a single IPv6 address if that is link-local or `::1`. Clients of Unix sockets are not
    /// counted. A request beyond the limit is refused, and the `overflow` hook may answer it. Zero counts as one.
    /// Default 10,000, the same as `live`, so that by default only `live` limits a peer: many users may be behind one
    /// proxy. (One that sends [PROXY headers](crate::proxy_protocol) is not counted itself; its clients are.)
    ///
    /// If the process has too few descriptors for `live` requests, this limit is lowered in proportion.
    pub per_peer: usize,
    /// How fast requests are accepted: a token bucket. Requests beyond the rate wait in the kernel's accept queue.
    /// Requests that `per_peer` or `peer_rate` refuses are not counted. None by default: the right rate depends on the
    /// cost of a request.
    pub accept_rate: Option<Rate>,
    /// How fast requests of one peer (as for `per_peer`) are accepted, so that one busy client cannot use up
    /// `accept_rate`. A request beyond the rate is refused and not left in the queue, where it would make all later
    /// clients wait. The server keeps the buckets of 8,192 peers, in 128 KiB. If there are more peers, the least busy
    /// ones are forgotten, and start with a full bucket. None by default, because many users may be behind one proxy.
    pub peer_rate: Option<Rate>,
    /// Bytes of one line in `next_line`, without its newline. `usize::MAX` is no limit. Default 65,536, as in Python's
    /// `http.server` and most line protocols.
    pub line_bytes: usize,
    /// Bytes that may wait in an [`Outbox`](crate::Outbox) for a peer that does not read them. A send that would exceed
    /// the limit fails. Default 65,536, several hundred lines of chat: a peer that is further behind is not reading.
    pub outbox_bytes: usize,
    /// How long a connection may be silent in both directions while a handler waits for the beginning of a line or a
    /// request. (`read` applies once the line or request has begun.) After that time the connection ends without a
    /// report. Default 60 s: longer than a person thinks, shorter than an outage.
    ///
    /// A peer that receives is not idle, even if it sends nothing: the end of a long answer, the lines of an
    /// [`Outbox`](crate::Outbox) and output through a copy of the descriptor all count. For TCP on Linux, the bytes
    /// that the peer's system acknowledges count. Elsewhere only the bytes that the request and its outbox have sent
    /// count; output through copies does not.
    ///
    /// An idle limit of 8 s or more ends the connection up to an eighth late (a quarter if output is still waiting for
    /// the peer), and the connection cannot be read from again. A handler that wants to continue after a silence sets
    /// [its own timeout](crate::StreamRequest::set_timeout), which counts only received bytes.
    pub idle: Duration,
    /// How long a read that has begun may take, such as the rest of a line or an exact number of bytes. The read has
    /// one deadline, which a byte each second does not extend. Default 60 s.
    pub read: Duration,
    /// How long a write may make no progress because the peer reads nothing. Progress means that the peer's system
    /// acknowledges bytes (on Linux), or that there is room for more of the output. A peer that reads one byte at a
    /// time acknowledges nothing for a long time. A peer that reads a little again and again is slow but not stalled,
    /// and only [`request`](field@Self::request) ends its connection. The limit is noticed up to an eighth late.
    /// Default 60 s.
    pub write: Duration,
    /// How long one request may take in all, however busy it is. After that time its reads and writes fail at once; a
    /// handler that only computes notices nothing. Only
    /// [`set_server_deadline`](crate::request::Request::set_server_deadline) lifts it. None by default: an upload or a
    /// chat may rightly last for hours.
    pub request: Option<Duration>,
    /// How long `wrap_request` (a TLS handshake, for example) may take. Default 10 s: several round trips of the
    /// slowest network.
    pub handshake: Duration,
    /// TLS handshakes that have begun and are not finished. Beyond this number the oldest of them is ended, and its
    /// request refused. So peers that connect and stay silent keep nobody else out, while an honest client has finished
    /// after two round trips. Zero counts as one. Default 1,000, a tenth of `live`. Under [`Forking`](crate::Forking),
    /// handshakes also take at most three quarters of the processes that other requests leave, but may always take one.
    pub handshakes: usize,
    /// How long a trusted proxy may take for its [PROXY header](crate::proxy_protocol), from the moment at which a
    /// worker has taken the connection. Default 5 s: a proxy sends its header with the connection, so that only a lost
    /// packet delays it. Servers that read no such header ignore this limit.
    pub proxy_header: Duration,
    /// How long a connection stays open after its request has ended, so that a peer that is still sending can read the
    /// answer. Further input is discarded. The server lingers when the peer has sent more than was read, or more than 8
    /// KiB without an end; when a read has ended in the middle; when the handler has failed; when the request is
    /// refused; and when the handler [asks for it](crate::StreamRequest::expect_more_input). Default 2 s: several round
    /// trips. Zero closes at once.
    pub linger: Duration,
    /// How many bytes are discarded during `linger`. Default 16 MiB: a peer that sends more than that without reading
    /// the answer will not read it later.
    pub linger_bytes: usize,
    /// How long `server_close` waits for running requests before it forces them to end. Default 10 s, the grace that
    /// process managers commonly give.
    pub drain: Duration,
    /// How long a server that is about to close goes on accepting, although it is not
    /// [ready](crate::ServerContext::is_ready) any more: its *lame duck*. A balancer that checks the server's health learns
    /// of the end in this time, and sends new clients elsewhere before they would be refused. Choose it longer than the
    /// balancer needs: its interval, times the failures that it waits for. `drain` begins after it.
    ///
    /// A lame duck begins with a signal under [`run`](crate::Server::run), with
    /// [`ShutdownHandle::retire`](crate::ShutdownHandle::retire), and with a close that waits for requests while
    /// `serve_forever` still accepts. A [`shutdown`](crate::ShutdownHandle::shutdown) begins none, and ends one that
    /// has begun. A second close ends it as well. Default zero: without a balancer nobody would notice it.
    pub lame_duck: Duration,
    /// How long a drain waits for the first bytes of a connection that has sent nothing yet: its client is about to
    /// send a request, and may have no other server to send it to. The drain does not wait for a connection between two
    /// requests, because its peer knows that the connection may end at any time. This time is a part of `drain`, and
    /// never more than half of it. Zero ends such connections at once, together with requests that are on their way.
    /// Default 1 s: several round trips and a busy machine.
    pub first_read: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // The documentation of each field gives the reason for its number.
        Self {
            live: 10_000,
            per_peer: 10_000,
            accept_rate: None,
            peer_rate: None,
            line_bytes: 65_536,
            outbox_bytes: 65_536,
            idle: Duration::from_secs(60),
            read: Duration::from_secs(60),
            write: Duration::from_secs(60),
            request: None,
            handshake: Duration::from_secs(10),
            handshakes: 1_000,
            proxy_header: Duration::from_secs(5),
            linger: Duration::from_secs(2),
            linger_bytes: 16 * 1024 * 1024,
            drain: Duration::from_secs(10),
            lame_duck: Duration::ZERO,
            first_read: Duration::from_secs(1),
        }
    }
}

/// Defines one setter for each field, with the field's name. `into` lets the setter of an `Option` also take the value
/// itself. `transport/socket_options.rs` uses the macro as well.
macro_rules! setters {
    ($owner:ident: $($(#[$attribute:meta])* $name:ident($value:ident: $type:ty);)*) => {
        impl $owner {
            $(
                $(#[$attribute])*
                #[must_use]
                pub fn $name(mut self, $value: $type) -> Self {
                    self.$name = $value.into();
                    self
                }
            )*
        }
    };
}
pub(crate) use setters;

setters! {
    Limits:
    /// Sets [`live`](field@Self::live), in requests. Default 10,000. Zero counts as one; `usize::MAX` is no limit.
    live(limit: usize);
    /// Sets [`per_peer`](field@Self::per_peer), in requests. Default 10,000. Zero counts as one; `live` or more is no
    /// limit.
    per_peer(limit: usize);
    /// Sets [`accept_rate`](field@Self::accept_rate). Default `None`, which is no limit.
    accept_rate(limit: impl Into<Option<Rate>>);
    /// Sets [`peer_rate`](field@Self::peer_rate). Default `None`, which is no limit.
    peer_rate(limit: impl Into<Option<Rate>>);
    /// Sets [`line_bytes`](field@Self::line_bytes), in bytes. Default 65,536. Zero allows only empty lines;
    /// `usize::MAX` is no limit.
    line_bytes(limit: usize);
    /// Sets [`outbox_bytes`](field@Self::outbox_bytes), in bytes. Default 65,536. With zero every send fails;
    /// `usize::MAX` is no limit.
    outbox_bytes(limit: usize);
    /// Sets [`idle`](field@Self::idle). Default 60 s. With zero a read that would wait fails; `Duration::MAX` is no
    /// limit.
    idle(limit: Duration);
    /// Sets [`read`](field@Self::read). Default 60 s. With zero a read that would wait fails; `Duration::MAX` is no
    /// limit.
    read(limit: Duration);
    /// Sets [`write`](field@Self::write). Default 60 s. With zero a write that would wait fails; `Duration::MAX` is no
    /// limit.
    write(limit: Duration);
    /// Sets [`request`](field@Self::request). Default `None`, which is no limit, as `Duration::MAX` is. With zero no
    /// read or write waits.
    request(limit: impl Into<Option<Duration>>);
    /// Sets [`handshake`](field@Self::handshake). Default 10 s. With zero no handshake may wait; `Duration::MAX` is no
    /// limit.
    handshake(limit: Duration);
    /// Sets [`handshakes`](field@Self::handshakes). Default 1,000. Zero counts as one; `usize::MAX` is no limit.
    handshakes(limit: usize);
    /// Sets [`proxy_header`](field@Self::proxy_header). Default 5 s. With zero a header has to be there already;
    /// `Duration::MAX` leaves the wait to `idle` and `read`.
    proxy_header(limit: Duration);
    /// Sets [`linger`](field@Self::linger). Default 2 s. Zero closes at once; `Duration::MAX` is no limit.
    linger(limit: Duration);
    /// Sets [`linger_bytes`](field@Self::linger_bytes), in bytes. Default 16 MiB. Zero closes at once; `usize::MAX` is
    /// no limit.
    linger_bytes(limit: usize);
    /// Sets [`drain`](field@Self::drain). Default 10 s. Zero forces running requests at once; `Duration::MAX` waits for
    /// them without limit.
    drain(limit: Duration);
    /// Sets [`lame_duck`](field@Self::lame_duck). Default zero, which means none; `Duration::MAX` lasts until a
    /// [`shutdown`](crate::ShutdownHandle::shutdown).
    lame_duck(limit: Duration);
    /// Sets [`first_read`](field@Self::first_read). Default 1 s. Zero waits for no first bytes; half of `drain` is the
    /// most.
    first_read(limit: Duration);
}

impl Limits {
    /// How many requests one peer may have, if there are descriptors for `descriptors` requests in all. The peer's
    /// share stays the same: `per_peer` of `live`. None if one peer may have all of them.
    pub(crate) fn per_peer_within(&self, descriptors: usize) -> Option<usize> {
        let (live, per_peer) = (self.live.max(1), self.per_peer.max(1));
        if per_peer >= live {
            return None;
        }
        // 3,000 of 10,000 for one peer are 300 of 1,000. (As u128, because either factor may be `usize::MAX`.)
        let allowed = live.min(descriptors.max(1));
        let part = per_peer as u128 * allowed as u128 / live as u128;
        // Every peer may have one request. If that is all that is allowed, there is no limit for one peer.
        Some(usize::try_from(part).unwrap_or(per_peer).max(1)).filter(|max| *max < allowed)
    }
}

/// A rate with bursts: an average number of requests each second, and a number of requests at once.
///
/// ```
/// use socketserver::Rate;
///
/// let rate = Rate::per_second(100).burst(20);
/// # assert_eq!((rate.per_second, rate.burst), (100, 20));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rate {
    /// Requests each second, in the long run. Zero counts as one.
    pub per_second: u32,
    /// Requests at once after a pause. Zero counts as one.
    pub burst: u32,
}

impl Rate {
    /// A rate of `requests` each second, and as many at once.
    #[must_use]
    pub const fn per_second(requests: u32) -> Self {
        Self { per_second: requests, burst: requests }
    }

    /// Sets how many requests may come at once after a pause.
    #[must_use]
    pub const fn burst(mut self, requests: u32) -> Self {
        self.burst = requests;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The struct is written out without `..`, so that a new limit has to be added here.
    #[test]
    fn every_default_is_the_documented_one() {
        let documented = Limits {
            live: 10_000,
            per_peer: 10_000,
            accept_rate: None,
            peer_rate: None,
            line_bytes: 64 * 1024,
            outbox_bytes: 64 * 1024,
            idle: seconds(60),
            read: seconds(60),
            write: seconds(60),
            request: None,
            handshake: seconds(10),
            handshakes: 1_000,
            proxy_header: seconds(5),
            linger: seconds(2),
            linger_bytes: 16 * 1024 * 1024,
            drain: seconds(10),
            lame_duck: seconds(0),
            first_read: seconds(1),
        };
        assert_eq!(Limits::default(), documented);
    }

    #[test]
    fn each_setter_sets_its_own_limit() {
        let set = Limits::default()
            .live(1)
            .per_peer(2)
            .accept_rate(Rate::per_second(3).burst(4))
            .peer_rate(Rate::per_second(5))
            .line_bytes(6)
            .outbox_bytes(7)
            .idle(seconds(8))
            .read(seconds(9))
            .write(seconds(10))
            .request(seconds(11))
            .handshake(seconds(12))
            .linger(seconds(13))
            .linger_bytes(14)
            .drain(seconds(15))
            .lame_duck(seconds(17))
            .first_read(seconds(16))
            .proxy_header(seconds(17))
            .handshakes(18);
        let expected = Limits {
            live: 1,
            per_peer: 2,
            accept_rate: Some(Rate { per_second: 3, burst: 4 }),
            peer_rate: Some(Rate { per_second: 5, burst: 5 }),
            line_bytes: 6,
            outbox_bytes: 7,
            idle: seconds(8),
            read: seconds(9),
            write: seconds(10),
            request: Some(seconds(11)),
            handshake: seconds(12),
            linger: seconds(13),
            linger_bytes: 14,
            drain: seconds(15),
            lame_duck: seconds(17),
            first_read: seconds(16),
            proxy_header: seconds(17),
            handshakes: 18,
        };
        assert_eq!(set, expected);
        assert_eq!(set.request(None).accept_rate(None).peer_rate(None).request, None);
    }
}
