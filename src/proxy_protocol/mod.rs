//! The client's true address behind a proxy: the PROXY protocol, versions 1 and 2.
//!
//! A server behind a TCP proxy (HAProxy, nginx, a cloud's balancer) sees the proxy as the peer of every connection. With
//! the [PROXY protocol](https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt) the proxy sends a header before the
//! first byte of its client. The header contains the client's address:
//!
//! ```text
//! PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\r\n      version 1: one line
//! \r\n\r\n\0\r\nQUIT\n  21 11 00 0c  cb 00 71 09 ..      version 2: binary, with further fields (TLVs)
//! ```
//!
//! One line of the builder names the networks that proxies connect from:
//!
//! ```
//! use std::io::Write;
//! use socketserver::proxy_protocol::ProxyProtocol;
//! use socketserver::{ThreadingTcpServer, stream_fn};
//!
//! # fn main() -> socketserver::Result<()> {
//! let handler = stream_fn(|request| {
//!     // The client's address, and not the proxy's.
//!     writeln!(request, "hello {}", request.client_address())?;
//!     Ok(())
//! });
//! let server = ThreadingTcpServer::builder()
//!     .proxy_protocol(ProxyProtocol::from_networks(["127.0.0.0/8", "::1"])?)
//!     .bind("127.0.0.1:0", handler)?;
//! # drop(server); Ok(())
//! # }
//! ```
//!
//! The proxy has to be told to send the header: `server app 127.0.0.1:9999 send-proxy-v2` in HAProxy, `proxy_protocol on;`
//! in a `stream` block of nginx.
//!
//! # Whom to trust
//!
//! The server believes what the header says. If a client could send one itself, it would choose its own address: in
//! the log, in the limits, and in every rule that uses the address. So the specification demands that a server
//! never guesses whether a header is there:
//!
//! | the connection comes from | and brings | then |
//! |---|---|---|
//! | a trusted network | a valid header | it is served, with the address of the header |
//! | a trusted network | anything else, or nothing in time | it is closed without an answer |
//! | elsewhere | anything | it is closed without an answer and unread; or, with [`serve_others`], it is served under its own address, and all its bytes are the handler's |
//!
//! Connections from elsewhere are refused by default, for two reasons. If others can reach a server that only its
//! proxies should reach, it is wrongly set up. And if a proxy is missing from the list, its header would be taken for a
//! request.
//!
//! Name the addresses of the proxies and no more. In a network where clients live too, each of them may choose its
//! address. For a Unix socket the word `unix` trusts every process that may open its file.
//!
//! # What changes
//!
//! The header is read in the worker, before TLS and before the hook [`wrap_request`](crate::ServerHooks::wrap_request),
//! within [`Limits::proxy_header`](field@crate::Limits::proxy_header). Not one byte after the header is read: those bytes
//! belong to TLS or to the handler. From then on:
//!
//! | | is |
//! |---|---|
//! | `client_address()` of the request, of hooks, of the live list and of messages | the client's true address |
//! | [`StreamRequest::proxy`](crate::StreamRequest::proxy) | the proxy's address, the header and its TLVs |
//! | `local_address()` | as before: this server's own end. The address that the client has connected to is [`Proxied::destination`] |
//! | [`Limits::per_peer`](field@crate::Limits::per_peer), [`peer_rate`](field@crate::Limits::peer_rate) | count the true address when it is known, and never the proxy's |
//! | [`ServerEvent::ClientKnown`](crate::monitor::ServerEvent::ClientKnown) | is sent when the address is known; `RequestEnded` has both |
//!
//! If a header has no address, the proxy's address stays: `LOCAL` (a health check of version 2; see [`Header::is_local`])
//! and `UNKNOWN` (a health check of version 1, or a client that the proxy cannot describe). It also stays if the header
//! names the proxy's own end of the connection, as HAProxy's health checks of version 1 do. Limits per peer do not count
//! such a connection. HAProxy ends its checks by a reset: a handler that reads sees a
//! [`PeerFault`](crate::request::PeerFault), which is quiet.
//!
//! The hook [`verify_request`](crate::ServerHooks::verify_request) runs in the loop, before the header, and sees the
//! proxy. To decide by the true address, override `wrap_request`, and return [`Rejected`](crate::hooks::Rejected) for a
//! client that is not welcome:
//!
//! ```
//! use socketserver::hooks::Rejected;
//! use socketserver::{HandlerResult, ServerHooks, StreamRequest};
//!
//! struct NotFromHere;
//!
//! impl ServerHooks<StreamRequest> for NotFromHere {
//!     fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
//!         if request.client_address().is_local() { Err(Rejected.into()) } else { Ok(()) }
//!     }
//! }
//! ```
//!
//! # Faults
//!
//! A header that is wrong, cut short, late or missing is the peer's fault. Nothing is printed, the request ends as
//! [`BadProxyHeader`](crate::monitor::CloseReason::BadProxyHeader), and the hook
//! [`handle_error`](crate::ServerHooks::handle_error) gets the cause. A connection from elsewhere ends as
//! [`Rejected`](crate::monitor::CloseReason::Rejected). Connections of both kinds are closed at once. If all end like
//! this, the proxy sends no header, or its address is not in the list.
//!
//! Under [`Inline`](crate::Inline) the loop reads the header, and a proxy that is silent keeps all other clients waiting
//! for as long as `Limits::proxy_header`. The other mixins serve them meanwhile.
//!
//! Under [`Forking`](crate::Forking) the child reads the header. The live list shows the true address at once. The
//! event `ClientKnown` comes just before `RequestEnded`, because the parent hears of its child only then. `per_peer`
//! and `peer_rate` hold there too; but if several clients of one peer arrive at the very moment at which it reaches
//! `per_peer`, more of them are refused than need be.
//!
//! # Bounds
//!
//! A header of version 1 has at most 107 bytes, as specified; a header of version 2 has at most [`MAX_BYTES`], TLVs
//! included. TLVs have to fill the header exactly. A known TLV (ALPN, authority, CRC32c, unique ID, SSL, namespace) may
//! come only once: if it came twice, one reader might believe the first copy, and another the second. A wrong checksum is
//! refused. [`Header::parse`] is the parser alone, for transports of your own.
//!
//! [`serve_others`]: ProxyProtocol::serve_others

mod crc32c;
mod header;
mod invalid;
mod network;
mod tlv;
mod v1;
mod v2;

use std::str::FromStr;

use crate::address::Address;
use crate::error::{Error, Result};

pub use header::{Command, Header, HeaderProgress, Proxied, ProxiedTransport, Version};
pub use invalid::InvalidHeader;
pub use network::Network;
pub use tlv::{Ssl, Tlv, Tlvs};

/// The most bytes of a header of version 2, its TLVs included. Most headers have a few hundred bytes; a client's
/// certificate, which some proxies can add, has one to three thousand.
pub const MAX_BYTES: usize = 4_096;

/// Which networks proxies connect from, for [`Builder::proxy_protocol`](crate::Builder::proxy_protocol). The
/// [module](self) explains it.
///
/// ```
/// use socketserver::proxy_protocol::{Network, ProxyProtocol};
///
/// # fn main() -> socketserver::Result<()> {
/// let from_code = ProxyProtocol::from(vec![Network::UNIX]);
/// // As an operator writes it, with commas.
/// let from_text: ProxyProtocol = "10.0.0.0/24,unix".parse()?;
/// # let _ = (from_code, from_text); Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct ProxyProtocol {
    /// Searched from the beginning for each connection, because an operator names only a few.
    networks: Vec<Network>,
    /// Whether a peer in none of them is served as if there were no proxy. Otherwise it is refused.
    serves_others: bool,
}

impl ProxyProtocol {
    /// Trusts proxies in these networks, written as [`Network`] says.
    ///
    /// # Errors
    ///
    /// If the list is empty, or a network in it cannot be understood. The error names that network.
    pub fn from_networks<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Result<Self> {
        let read = |text: T| text.as_ref().trim().parse();
        let networks: Vec<Network> = networks.into_iter().map(read).collect::<Result<_>>()?;
        if networks.is_empty() {
            return Err(Error::address("", "name a network that a proxy connects from"));
        }
        Ok(networks.into())
    }

    /// Also serves connections from elsewhere, under their own address, as if there were no proxy. If they begin with
    /// a header, the handler gets it as a part of the request. Default: they are refused.
    pub fn serve_others(mut self) -> Self {
        self.serves_others = true;
        self
    }

    /// The networks of the proxies.
    #[must_use]
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Whether this peer has to bring a header.
    pub(crate) fn is_proxy(&self, peer: &Address) -> bool {
        self.networks.iter().any(|network| network.contains(peer))
    }

    /// Whether a peer that is not a proxy is served.
    pub(crate) fn serves_others(&self) -> bool {
        self.serves_others
    }
}

/// Trusts proxies in these networks. With an empty list no peer is a proxy.
impl<L: Into<Vec<Network>>> From<L> for ProxyProtocol {
    fn from(networks: L) -> Self {
        Self { networks: networks.into(), serves_others: false }
    }
}

/// Networks with commas between them.
impl FromStr for ProxyProtocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::from_networks(text.split(','))
    }
}
