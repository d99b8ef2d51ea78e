//! [`Header`]: the content of a PROXY header.
//!
//! The reader (`request/proxy_header.rs`) and the parser share one rule: no byte after the header is read.
//!
//! ```text
//! bytes = []            parse: Partial { missing: 15 }    receive at most 15
//! "\r\n\r\n\0\r\nQUIT\n!\x11\0"  Partial { missing: 1 }         receive at most 1
//! ..                    Partial { missing: 12 }           the length is known: the rest in one receive
//! ..                    Whole                             the next byte is the client's
//! ```

use super::invalid::InvalidHeader;
use super::tlv::{self, Ssl, Tlvs};
use super::{v1, v2};
use crate::address::Address;

/// A PROXY header: the proxy's description of the connection that it forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    version: Version,
    command: Command,
    /// The client's address, and the address that the client has connected to.
    ends: Option<(Address, Address)>,
    pub(super) transport: ProxiedTransport,
    /// The TLVs: whole fields, which have been checked.
    pub(super) tlvs: Vec<u8>,
    /// The header has a checksum, and it is right.
    pub(super) is_checked: bool,
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary, with TLVs.
    V2,
}

/// On whose behalf the proxy has made the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// On its own behalf: for a health check, for example.
    Local,
    /// On a client's behalf.
    Proxy,
}

/// How the client's bytes come to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxiedTransport {
    /// TCP, or a Unix stream socket.
    Stream,
    /// UDP, or a Unix datagram socket: the proxy forwards datagrams over a stream.
    Datagram,
}

/// The result of [`Header::parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderProgress {
    /// The header is whole.
    Whole {
        /// The header's content.
        header: Box<Header>,
        /// The length of the header in bytes. All bytes after it belong to the protocol that follows.
        length: usize,
    },
    /// These bytes are the beginning of a header.
    Partial {
        /// How many more bytes the header has at least. A reader that asks for this many never reads past the end of
        /// the header.
        missing: usize,
    },
}

impl Header {
    /// Parses a header that begins with the first of these bytes. Reads no more than 107 bytes of version 1 and
    /// [`MAX_BYTES`](super::MAX_BYTES) of version 2. Bytes that cannot become a header are an error as early as
    /// possible.
    ///
    /// # Errors
    ///
    /// If the bytes are not, and cannot become, a valid header.
    ///
    /// ```
    /// use socketserver::proxy_protocol::{Header, InvalidHeader, HeaderProgress};
    ///
    /// # fn main() -> Result<(), InvalidHeader> {
    /// let bytes = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n";
    /// let HeaderProgress::Whole { header, length } = Header::parse(bytes)? else { panic!("it is whole") };
    /// assert_eq!(header.source().unwrap().to_string(), "192.0.2.1:56324");
    /// assert!(bytes[length..].starts_with(b"GET "));
    ///
    /// assert!(matches!(Header::parse(b"PROXY TCP4 192.0")?, HeaderProgress::Partial { .. }));
    /// assert_eq!(Header::parse(b"GET /"), Err(InvalidHeader::Unknown));
    /// # Ok(())
    /// # }
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<HeaderProgress, InvalidHeader> {
        let begins_as = |beginning: &[u8]| {
            let both = bytes.len().min(beginning.len());
            bytes[..both] == beginning[..both]
        };
        // Every header of either version has at least this many bytes. So a reader that receives them learns the version,
        // and none of them lies after the header.
        if bytes.is_empty() {
            return Ok(HeaderProgress::Partial { missing: v1::MIN_LINE.min(v2::FIXED_BYTES) });
        }
        if begins_as(v2::SIGNATURE) {
            v2::parse(bytes)
        } else if begins_as(v1::PREFIX) {
            v1::parse(bytes)
        } else {
            Err(InvalidHeader::Unknown)
        }
    }

    /// Makes a header of a stream, without TLVs; `ends` are the client's address and the one that it has connected to.
    pub(super) fn new(
        version: Version,
        command: Command,
        ends: Option<(Address, Address)>,
    ) -> Self {
        let (transport, tlvs) = (ProxiedTransport::Stream, Vec::new());
        Self { version, command, ends, transport, tlvs, is_checked: false }
    }

    /// The version of the protocol that the header uses.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// On whose behalf the proxy has made the connection.
    #[must_use]
    pub fn command(&self) -> Command {
        self.command
    }

    /// Whether the connection is the proxy's own: a health check, for example. (Version 1 has no word for that, and a
    /// health check says `UNKNOWN`.)
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.command == Command::Local
    }

    /// The client's address. None if the header has none: its command is `LOCAL`, or its family `UNKNOWN` or unspecified.
    #[must_use]
    pub fn source(&self) -> Option<&Address> {
        self.ends.as_ref().map(|(source, _)| source)
    }

    /// The address that the client has connected to, at the proxy. None if the header has none.
    #[must_use]
    pub fn destination(&self) -> Option<&Address> {
        self.ends.as_ref().map(|(_, destination)| destination)
    }

    /// How the client's bytes come to the proxy.
    #[must_use]
    pub fn transport(&self) -> ProxiedTransport {
        self.transport
    }

    /// All TLVs, in their order. Version 1 has none, and those of a `LOCAL` connection are ignored.
    #[must_use]
    pub fn tlvs(&self) -> Tlvs<'_> {
        Tlvs::new(&self.tlvs)
    }

    /// The protocol that client and proxy have agreed on by ALPN, such as `h2`.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlvs().find(tlv::ALPN)
    }

    /// The host name that the client has asked for: the server name of TLS, usually.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.tlvs().text(tlv::AUTHORITY)
    }

    /// The proxy's ID of this connection, at most 128 bytes: look for it in the proxy's log.
    #[must_use]
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlvs().find(tlv::UNIQUE_ID)
    }

    /// The name of the network namespace in which the proxy has had the connection.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        self.tlvs().text(tlv::NETNS)
    }

    /// The client's TLS connection, if the proxy describes it.
    #[must_use]
    pub fn ssl(&self) -> Option<Ssl<'_>> {
        self.tlvs().find(tlv::SSL).and_then(Ssl::new)
    }

    /// Whether the header has a checksum. A header whose checksum is wrong is refused.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.is_checked
    }
}

/// The proxy that a request has come through, and its header: see
/// [`StreamRequest::proxy`](crate::StreamRequest::proxy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// The other end of the connection, as `accept` has returned it.
    proxy_address: Address,
    header: Header,
}

impl Proxied {
    pub(crate) fn new(proxy_address: Address, header: Header) -> Self {
        Self { proxy_address, header }
    }

    /// The proxy's address: the other end of the connection.
    #[must_use]
    pub fn proxy_address(&self) -> &Address {
        &self.proxy_address
    }

    /// The header that the proxy has sent.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The address that the client has connected to, at the proxy: the header's
    /// [`destination`](Header::destination).
    #[must_use]
    pub fn destination(&self) -> Option<&Address> {
        self.header.destination()
    }
}
