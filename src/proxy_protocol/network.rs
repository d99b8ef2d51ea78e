//! [`Network`]: the peers that a proxy connects from.
//!
//! A peer is compared with each network by the first bits of its address: `10.1.2.3` is in `10.0.0.0/8`, because its first
//! eight bits are those of `10.0.0.0`. Addresses are kept in their canonical form, so that a peer has the same form on
//! every kind of socket.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::address::Address;
use crate::error::{Error, Result};

/// A network of proxies: addresses that begin with the same bits, or all clients of a Unix socket.
///
/// | text | means |
/// |---|---|
/// | `10.0.0.0/8` | all addresses that begin with `10.` |
/// | `192.0.2.7`, `2001:db8::7` | this address alone |
/// | `2001:db8:1::/48` | an IPv6 network |
/// | `unix` | every client of a Unix socket; its file's permissions decide who that is |
///
/// An IPv4 address that the kernel or a gateway writes as `::ffff:192.0.2.7` counts as the IPv4 address, in a network
/// as in a peer. So `::/0` contains no IPv4 address.
///
/// ```
/// use socketserver::proxy_protocol::Network;
///
/// # fn main() -> socketserver::Result<()> {
/// let network: Network = "10.1.0.0/16".parse()?;
/// let peer: std::net::SocketAddr = "10.1.2.3:80".parse().unwrap();
/// assert!(network.contains(&peer.into()));
///
/// // Bits after the prefix are a mistake, and the error says what was probably meant.
/// let error = "10.1.2.3/16".parse::<Network>().unwrap_err();
/// assert!(error.to_string().contains("10.1.0.0/16"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    peers: PeerSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PeerSet {
    /// The address that the network begins with, and how many of its bits count.
    Inet { first: IpAddr, bits: u32 },
    /// Clients of a Unix socket.
    Unix,
}

impl Network {
    /// Every client of a Unix socket, as by the text `unix`.
    pub const UNIX: Self = Self { peers: PeerSet::Unix };

    /// The addresses whose first `bits` bits are those of `first`.
    ///
    /// # Errors
    ///
    /// If `first` is shorter than `bits`, or has other bits set after them.
    pub fn new(first: IpAddr, bits: u32) -> Result<Self> {
        let text = format!("{first}/{bits}");
        // A network whose addresses are all mapped is a network of IPv4.
        // The first 96 bits of a mapped address are the same for all of them.
        let (first, bits) = match first.to_canonical() {
            canonical if canonical.is_ipv4() && first.is_ipv6() => match bits.checked_sub(96) {
                Some(bits) => (canonical, bits),
                None => return Err(Error::address(text, "write it as a network of IPv4")),
            },
            canonical => (canonical, bits),
        };
        let most = width(first);
        if bits > most {
            return Err(Error::address(text, format!("it has at most {most} bits")));
        }
        // A bit after the prefix is a slip: `10.1.2.3/16` may mean the network or the host.
        let begins = first_of(first, bits);
        if begins != first {
            let why = format!("the network is {begins}/{bits}, the address alone {first}");
            return Err(Error::address(text, why));
        }
        Ok(Self { peers: PeerSet::Inet { first, bits } })
    }

    /// Whether a peer is in this network.
    #[must_use]
    pub fn contains(&self, peer: &Address) -> bool {
        match (self.peers, peer) {
            (PeerSet::Unix, Address::Unix(_) | Address::Abstract(_) | Address::Unnamed) => true,
            (PeerSet::Inet { first, bits }, Address::Inet(peer)) => {
                // On a socket of both versions an IPv4 peer has a mapped address; it counts as IPv4.
                let peer = peer.ip().to_canonical();
                peer.is_ipv4() == first.is_ipv4() && first_of(peer, bits) == first
            }
            _ => false,
        }
    }
}

/// How many bits an address has.
fn width(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address with only its first `bits` bits; the others are zero.
fn first_of(ip: IpAddr, bits: u32) -> IpAddr {
    // A shift by the whole width would overflow. A prefix of zero bits matches every address.
    match ip {
        IpAddr::V4(v4) => {
            IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into())
        }
        IpAddr::V6(v6) => {
            IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into())
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "unix" {
            return Ok(Self::UNIX);
        }
        // A text without a slash means this address alone.
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let why = "write a network as 10.0.0.0/8, 2001:db8::/32, an address alone, or unix";
        let ip: IpAddr = ip.parse().map_err(|_| Error::address(text, why))?;
        let bits = match bits {
            None => width(ip),
            // `parse` would take a sign.
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| Error::address(text, why))?
            }
            Some(_) => return Err(Error::address(text, why)),
        };
        Self::new(ip, bits)
    }
}

impl From<IpAddr> for Network {
    /// The network of this address alone.
    fn from(ip: IpAddr) -> Self {
        let first = ip.to_canonical();
        Self { peers: PeerSet::Inet { first, bits: width(first) } }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peers {
            PeerSet::Unix => f.write_str("unix"),
            PeerSet::Inet { first, bits } if bits == width(first) => first.fmt(f),
            PeerSet::Inet { first, bits } => write!(f, "{first}/{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn peer(ip: &str) -> Address {
        // Built by hand: `From` would make a mapped address one of IPv4.
        Address::Inet(SocketAddr::new(ip.parse().unwrap(), 1))
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_other() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:9.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.1.1.1", "11.1.1.1"),
            ("192.0.2.4/30", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "1.2.3.4"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::1", "::1", "::2"),
        ] {
            let read: Network = network.parse().unwrap();
            assert!(read.contains(&peer(inside)), "{inside} in {network}");
            assert!(!read.contains(&peer(outside)), "{outside} in {network}");
            assert!(!read.contains(&Address::Unnamed));
            assert_eq!(read.to_string().parse::<Network>().unwrap(), read);
        }
    }

    #[test]
    fn unix_is_every_unix_socket_and_nothing_else() {
        let unix: Network = "unix".parse().unwrap();
        for peer in [Address::Unnamed, Address::Unix("/x".into()), Address::Abstract(vec![1])] {
            assert!(unix.contains(&peer));
        }
        assert!(!unix.contains(&peer("127.0.0.1")));
        assert!(!unix.contains(&Address::Other("unix".to_owned())));
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, says) in [
            ("10.0.0.1/8", "the network is 10.0.0.0/8, the address alone 10.0.0.1"),
            ("10.0.0.0/33", "at most 32 bits"),
            ("::/129", "at most 128 bits"),
            ("::ffff:0.0.0.0/80", "a network of IPv4"),
            ("10.0.0.0/+8", "write a network as"),
            ("10.0.0.0/", "write a network as"),
            ("10.0.0.0/99999999999", "write a network as"),
            ("10.0/8", "write a network as"),
            ("localhost", "write a network as"),
            ("10.0.0.1:80", "write a network as"),
            ("", "write a network as"),
        ] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.is_bad_address() && error.to_string().contains(says), "{error}");
        }
    }
}
