//! [`ProxyHeader`]: the step that reads a PROXY header from a connection, before anything else does.
//!
//! The step asks only for bytes that surely belong to the header: the parser says how many those are. So the bytes
//! behind the header are still in the socket, for a TLS handshake or the handler, and need not be passed on. A header
//! that comes in one packet takes two receives (version 2), or about six (version 1).

use std::io;
use std::time::Instant;

use super::preface::Preface;
use super::{Deadline, StreamRequest};
use crate::address::Address;
use crate::error::HandlerResult;
use crate::events::Limit;
use crate::limits::Limits;
use crate::peer_fault::{Owned, PeerFault, RequestId};
use crate::proxy_protocol::{Header, HeaderProgress, Proxied, ProxyProtocol};
use crate::sys::RecvBuf;
use crate::timed_out::Timeout;

/// Reads the header of a connection from a proxy, and refuses or passes a connection from elsewhere.
pub(crate) struct ProxyHeader {
    /// The networks that proxies connect from, and the treatment of other peers.
    from: ProxyProtocol,
}

impl ProxyHeader {
    /// Reads headers from the proxies of these networks.
    pub(crate) fn new(from: ProxyProtocol) -> Self {
        Self { from }
    }
}

impl Preface<StreamRequest> for ProxyHeader {
    fn deadline(&self, limits: &Limits) -> Option<Deadline> {
        Deadline::after(Timeout::ProxyHeader, limits.proxy_header)
    }

    fn names_client(&self, peer: &Address) -> bool {
        self.from.is_proxy(peer)
    }

    fn run(&self, request: &mut StreamRequest) -> HandlerResult {
        let entry = request.io.ticket.entry();
        let (owner, is_proxy) = (entry.owner(), self.from.is_proxy(entry.peer_address()));
        // Decided by the address and never by the bytes: any client can send a header.
        if !is_proxy && self.from.serves_others() {
            return Ok(());
        }
        let read = if is_proxy { request.read_proxy_header().map_err(Some) } else { Err(None) };
        let header = read.map_err(|why| {
            // No linger: nothing was answered.
            request.io.give_up();
            NoHeader { owner, why }
        })?;
        // The next byte is the client's first one: a drain waits for it as on a connection without a proxy.
        request.io.at_boundary = true;
        let ticket = &request.io.ticket;
        // From here on the limits for one peer count the client, and the list shows it.
        let beyond = ticket.server().live.name_client(ticket.entry(), header, Instant::now());
        beyond.map_or(Ok(()), |limit| Err(BeyondLimit { limit }.into()))
    }
}

impl StreamRequest {
    /// The proxy that this connection has come through, and the header that the proxy has sent: see
    /// [`proxy_protocol`](crate::proxy_protocol). None if the server reads no headers, or if the connection does not
    /// come from a proxy.
    ///
    /// ```
    /// use std::io::Write;
    /// use socketserver::{HandlerResult, StreamRequest, stream_fn};
    ///
    /// fn handle(request: &mut StreamRequest) -> HandlerResult {
    ///     // A health check of the balancer: say that all is well, and do not count it as a client.
    ///     if request.proxy().is_some_and(|proxy| proxy.header().is_local()) {
    ///         return Ok(());
    ///     }
    ///     let host = request.proxy().and_then(|proxy| proxy.header().authority()).unwrap_or("?").to_owned();
    ///     writeln!(request, "{} has asked for {host}", request.client_address())?;
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    #[must_use]
    pub fn proxy(&self) -> Option<&Proxied> {
        self.io.ticket.entry().proxied()
    }

    /// Reads the header, or returns the error that ends the connection. The parser bounds the length of a header, so
    /// `bytes` cannot grow without end.
    fn read_proxy_header(&mut self) -> io::Result<Header> {
        let owner = self.io.ticket.entry().owner();
        let mut bytes = Vec::new();
        // The time counts from the first byte. Until then a drain may end the connection, like any other that has sent
        // nothing.
        let mut started = None;
        loop {
            let missing = match Header::parse(&bytes) {
                Ok(HeaderProgress::Whole { header, .. }) => return Ok(*header),
                Ok(HeaderProgress::Partial { missing }) => missing,
                Err(invalid) => return Err(PeerFault::garbled(owner, invalid)),
            };
            let have = bytes.len();
            bytes.resize(have + missing, 0);
            let count = self.io.receive(&mut RecvBuf::from(&mut bytes[have..]), started)?;
            if count == 0 {
                return Err(PeerFault::ended_early(owner));
            }
            // A receive may bring fewer bytes than were asked for, and never more.
            bytes.truncate(have + count);
            started.get_or_insert_with(Instant::now);
        }
    }
}

/// The error for a connection that is not served: it has brought no valid header, or is not from a proxy.
#[derive(Debug, thiserror::Error)]
#[error("{}", match self.why {
    Some(_) => "no valid PROXY header",
    None => "the peer is in no network that proxies connect from",
})]
pub(crate) struct NoHeader {
    owner: RequestId,
    /// Why there is no header. None: the connection is not from a proxy.
    #[source]
    why: Option<io::Error>,
}

impl NoHeader {
    /// Whether the connection has come from a network of proxies.
    pub(crate) fn is_from_proxy(&self) -> bool {
        self.why.is_some()
    }
}

impl Owned for NoHeader {
    fn owner(&self) -> RequestId {
        self.owner
    }
}

/// The client that a header has named is beyond a limit for one peer.
#[derive(Debug, thiserror::Error)]
#[error("the client is beyond {limit}")]
pub(crate) struct BeyondLimit {
    /// `PerPeer`, `PeerRate` or `Handshakes`.
    pub(crate) limit: Limit,
}
