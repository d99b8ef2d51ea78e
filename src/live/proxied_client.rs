//! [`ProxiedClient`]: the client of a connection that has come by a proxy, which is known when the proxy's header has been
//! read.
//!
//! Under `Forking` the child reads the header, but the parent is asked for the client. So the child writes the
//! address into memory that both processes have, a row for each slot of the live list:
//!
//! | word | content |
//! |---|---|
//! | 0 | what is known (0: nothing yet), the length of a path, the port. Written last, read first |
//! | 1 to 14 | the bytes of the address, at most 108 |
//!
//! The first row belongs to no slot: its first word is the number of slots that were ever used. Rows beyond this number
//! were never written, and a read would give them memory. The parent clears a row before its slot is used again.
//!
//! ```text
//! parent   accepts; clears the row; forks
//! child    reads the header; writes the row; counts the rows with the same client (count): one too many?
//! parent   reads the row when somebody asks for the client, and keeps the answer (told)
//! child    ends
//! parent   reaps it; keeps what the row says; clears it; the slot is free
//! ```
//!
//! A child that is killed in the middle of a write leaves word 0 at zero: nothing is known. So a reader never sees half of
//! an address.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::Entry;
use super::peer_key::PeerKey;
use super::shared_row::SharedRow;
use crate::address::Address;
use crate::proxy_protocol::{Header, Proxied};
use crate::sys::Common;

/// How many words a row has: one, and room for the longest path of a Unix socket (108 bytes in `sockaddr_un`).
const WORDS: usize = 15;

/// The rows of all slots.
pub(super) type ClientRows = Common<WORDS>;

/// The client of a connection from a proxy, as far as it is known. A part of the connection's entry, and made with it.
#[derive(Debug)]
pub(super) struct ProxiedClient {
    /// Set once, in the process that has read the header.
    proxied: OnceLock<Proxied>,
    /// The client as the child has written it to the row, kept in the parent so that `client` can lend it. `Some(None)`
    /// if the header had no address.
    told: OnceLock<Option<Address>>,
    /// The row, if a child may serve the request.
    common: Option<SharedRow<WORDS>>,
}

impl ProxiedClient {
    /// A client of which nothing is known yet.
    pub(super) fn new(rows: Option<&Arc<ClientRows>>, slot: usize) -> Self {
        let row = slot + 1;
        let common = SharedRow::new(rows, row);
        if let Some(common) = &common {
            common.numbers()[0].store(0, Ordering::Relaxed);
            common.all()[0][0].fetch_max(row as u64, Ordering::SeqCst);
        }
        Self { proxied: OnceLock::new(), told: OnceLock::new(), common }
    }

    /// Notes what the header has said. Only the worker calls this, once.
    pub(super) fn name(&self, proxied: Proxied) {
        let proxied = self.proxied.get_or_init(|| proxied);
        if let Some(common) = &self.common {
            write(common.numbers(), named_by(proxied));
        }
    }

    /// The client's address, if it is known and the header has one that is not the proxy's.
    pub(super) fn client(&self) -> Option<&Address> {
        if let Some(proxied) = self.proxied.get() {
            return named_by(proxied);
        }
        let common = self.common.as_ref()?;
        if self.told.get().is_none() {
            let _ = self.told.set(read(common.numbers())?);
        }
        self.told.get()?.as_ref()
    }

    /// Keeps what is known at the request's end, and clears the row. Called in the parent before the slot is free:
    /// until then the row counts against its client.
    pub(super) fn end(&self) {
        if let Some(common) = &self.common {
            // Kept in `told` for events that come later, such as that of the request's end.
            let _ = self.client();
            common.numbers()[0].store(0, Ordering::SeqCst);
        }
    }

    /// Whether the children count the requests of each peer, in place of this list. Each child knows its own client,
    /// and sees the rows of the other children.
    pub(super) fn is_common(&self) -> bool {
        self.common.is_some()
    }

    /// How many live requests this request's client has, this one included, according to the rows that the children have
    /// written.
    ///
    /// Each child writes its row before it counts. So if two children do this at once, at least one of them sees the
    /// other. If both see each other, both may be refused.
    pub(super) fn count(&self) -> usize {
        let Some(common) = &self.common else { return 0 };
        let Some(key) = key(common.numbers()) else { return 0 };
        let rows = common.all();
        let used = usize::try_from(rows[0][0].load(Ordering::SeqCst)).unwrap_or(0);
        // The number is bounded, because a child could have written over it.
        let used = used.min(rows.len() - 1);
        rows[1..=used].iter().filter(|row| self::key(row) == Some(key)).count()
    }
}

/// The client that a header names. `None` if the proxy names itself, by its own address on this connection: the health
/// checks of HAProxy in version 1 of the protocol do so, because that version has no other way to mark them.
fn named_by(proxied: &Proxied) -> Option<&Address> {
    proxied.header().source().filter(|source| *source != proxied.proxy_address())
}

impl Entry {
    /// The client: the peer itself, or the client behind it as soon as the proxy has named that.
    pub(crate) fn client_address(&self) -> &Address {
        self.client_by_proxy().unwrap_or(&self.arrival.peer)
    }

    /// The other end of the connection, as `get_request` gave it: the client or a proxy.
    pub(crate) fn peer_address(&self) -> &Address {
        &self.arrival.peer
    }

    /// The client, if it is not the peer.
    fn client_by_proxy(&self) -> Option<&Address> {
        self.arrival.proxied_client.as_ref().and_then(|proxied_client| proxied_client.client())
    }

    /// The proxy that has named the client.
    pub(crate) fn proxy_address(&self) -> Option<&Address> {
        self.client_by_proxy().map(|_| &self.arrival.peer)
    }

    /// The proxy and its header. `None` in every process but the one that has read the header.
    pub(crate) fn proxied(&self) -> Option<&Proxied> {
        self.arrival.proxied_client.as_ref().and_then(|proxied_client| proxied_client.proxied.get())
    }

    /// Notes the header of the proxy. Does nothing if the peer is the client itself.
    pub(super) fn name_client(&self, header: Header) {
        if let Some(proxied_client) = &self.arrival.proxied_client {
            proxied_client.name(Proxied::new(self.arrival.peer.clone(), header));
        }
    }

    /// The address that this process counts for the limits per peer, if there is one. A proxy is never counted: it has
    /// the requests of all clients. The clients of children are counted by the children.
    pub(super) fn counted_address(&self) -> Option<&Address> {
        match &self.arrival.proxied_client {
            None => Some(&self.arrival.peer),
            Some(proxied_client) if proxied_client.is_common() => None,
            Some(proxied_client) => proxied_client.client(),
        }
    }
}

type AddressWords = [AtomicU64; WORDS];

// The kind of address, in the lowest byte of the first word. Zero: nothing is known.
const NO_ADDRESS: u64 = 1;
const V4: u64 = 2;
const V6: u64 = 3;
const UNIX: u64 = 4;
const ABSTRACT: u64 = 5;
const UNNAMED: u64 = 6;

/// Writes an address to the row; `None` if the header has none. Only the process that serves the request calls this.
fn write(row: &AddressWords, address: Option<&Address>) {
    let octets;
    let (kind, bytes, port): (u64, &[u8], u16) = match address {
        Some(Address::Inet(inet)) => {
            let (kind, ip) = match inet.ip() {
                IpAddr::V4(ip) => (V4, ip.to_ipv6_mapped()),
                IpAddr::V6(ip) => (V6, ip),
            };
            octets = ip.octets();
            (kind, &octets, inet.port())
        }
        Some(Address::Unix(path)) => (UNIX, path.as_os_str().as_bytes(), 0),
        Some(Address::Abstract(name)) => (ABSTRACT, name, 0),
        Some(Address::Unnamed) => (UNNAMED, &[], 0),
        Some(Address::Other(_)) | None => (NO_ADDRESS, &[], 0),
    };
    // Relaxed, and a word at a time: no reader looks at these words before the first word says that they are there.
    for (word, bytes) in row[1..].iter().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
    }
    // No path of the system is longer than these words hold. The length fits into one byte; the port takes two.
    let length = bytes.len().min(8 * (WORDS - 1)) as u64;
    // Stored last: a reader that sees this word sees the bytes as well.
    row[0].store(kind | length << 8 | u64::from(port) << 16, Ordering::SeqCst);
}

/// The first word: what is known, the length, the port.
fn head(row: &AddressWords) -> (u64, usize, u16) {
    let head = row[0].load(Ordering::SeqCst);
    (head & 0xff, (head >> 8) as u8 as usize, (head >> 16) as u16)
}

/// The bytes of a path or a name. Allocates, so limits compare [`key`]s instead.
fn bytes(row: &AddressWords, length: usize) -> Vec<u8> {
    let words = row[1..].iter().map(|word| word.load(Ordering::Relaxed).to_le_bytes());
    let mut bytes: Vec<u8> = words.take(length.div_ceil(8)).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// The IP address in the row, if `kind` is one. Both versions have 16 bytes in two words: IPv4 is mapped into IPv6.
fn ip(row: &AddressWords, kind: u64) -> Option<IpAddr> {
    let mut octets = [0; 16];
    for (octets, word) in octets.chunks_exact_mut(8).zip(&row[1..]) {
        octets.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    let ip = Ipv6Addr::from(octets);
    match kind {
        V4 => ip.to_ipv4_mapped().map(IpAddr::V4),
        V6 => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

/// Reads the address in the row. `None`: nothing is known yet. `Some(None)`: the header has no address.
fn read(row: &AddressWords) -> Option<Option<Address>> {
    let (kind, length, port) = head(row);
    let path = || bytes(row, length);
    Some(match kind {
        0 => return None,
        V4 | V6 => ip(row, kind).map(|ip| SocketAddr::new(ip, port).into()),
        UNIX => Some(Address::Unix(OsStr::from_bytes(&path()).into())),
        ABSTRACT => Some(Address::Abstract(path())),
        UNNAMED => Some(Address::Unnamed),
        _ => None,
    })
}

/// The client in the row, as limits count it. `None` if nothing is known yet, or if it has no IP address.
fn key(row: &AddressWords) -> Option<PeerKey> {
    let (kind, _, port) = head(row);
    ip(row, kind).and_then(|ip| PeerKey::of(&SocketAddr::new(ip, port).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_written_is_read_again() {
        let inet = |text: &str| Address::Inet(text.parse().unwrap());
        let addresses = [
            inet("192.0.2.1:65535"),
            inet("[2001:db8::1:2]:1"),
            Address::Unix("/run/a".into()),
            Address::Unix(format!("/{}", "x".repeat(107)).into()),
            Address::Abstract(b"name\0with a zero".to_vec()),
            Address::Unnamed,
        ];
        let rows = ClientRows::new(1).unwrap();
        let row = &rows.rows()[0];
        assert_eq!(read(row), None);
        for address in addresses {
            write(row, Some(&address));
            assert_eq!(read(row), Some(Some(address.clone())));
            assert_eq!(key(row), PeerKey::of(&address), "{address}");
        }
        write(row, None);
        assert_eq!((read(row), key(row)), (Some(None), None));
    }
}
