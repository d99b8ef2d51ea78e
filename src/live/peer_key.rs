//! [`PeerKey`]: what counts as one peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::address::Address;

/// The key by which the limits per peer count.
///
/// Over IPv4 a peer is an address. Over IPv6 it is a network of 64 bits, because one customer is given that much.
/// Three kinds of networks hold peers that have nothing to do with each other, so there each address is a peer:
/// link-local addresses (together with their link, because another link may have the same address), loopback
/// addresses, and IPv4 addresses that a gateway has written as IPv6.
///
/// | address | peer |
/// |---|---|
/// | `192.0.2.1` | itself |
/// | `::ffff:192.0.2.1`, `64:ff9b::192.0.2.1` | the same: `192.0.2.1` |
/// | `2001:db8:1:2::1` | the network `2001:db8:1:2::/64` |
/// | `fe80::b` on link 3 | itself, on that link |
/// | `::1` | itself |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerKey {
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    Network(u64),
    /// One address, and the number of its link; zero where the link does not matter.
    Single(Ipv6Addr, u32),
}

impl PeerKey {
    /// The key of an address; `None` for Unix sockets.
    pub(crate) fn of(address: &Address) -> Option<Self> {
        Some(match address.as_inet()? {
            SocketAddr::V4(v4) => Self::V4(*v4.ip()),
            SocketAddr::V6(v6) => Self::of_v6(&v6),
        })
    }

    /// The key of an IPv6 address, with the exceptions above; the first rule that applies holds.
    fn of_v6(address: &SocketAddrV6) -> Self {
        let ip = *address.ip();
        if let IpAddr::V4(v4) = ip.to_canonical() {
            return Self::V4(v4);
        }
        if ip.is_loopback() {
            return Self::Single(ip, 0);
        }
        if ip.is_unicast_link_local() {
            return Self::Single(ip, address.scope_id());
        }
        // The prefix of gateways between IPv4 and IPv6 (RFC 6052): the address of an IPv4 client follows it.
        if ip.to_bits() >> 32 == 0x0064_ff9b_u128 << 64 {
            return Self::V4(Ipv4Addr::from_bits(ip.to_bits() as u32));
        }
        Self::Network((ip.to_bits() >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: &str, scope: u32) -> PeerKey {
        let ip = ip.parse().unwrap();
        let address = match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, 1_234),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, 1_234, 0, scope).into(),
        };
        PeerKey::of(&Address::Inet(address)).expect("it is of the internet")
    }

    #[test]
    fn one_customer_of_ipv6_is_one_peer_and_another_is_another() {
        assert_eq!(peer("2001:db8:1:2::1", 0), peer("2001:db8:1:2:ffff:ffff:ffff:ffff", 0));
        assert_ne!(peer("2001:db8:1:2::1", 0), peer("2001:db8:1:3::1", 0));
        assert_ne!(peer("192.0.2.1", 0), peer("192.0.2.2", 0));
    }

    #[test]
    fn neighbours_on_a_link_are_peers_of_their_own() {
        assert_eq!(peer("fe80::b", 3), peer("fe80::b", 3));
        assert_ne!(peer("fe80::b", 3), peer("fe80::c", 3));
        assert_ne!(peer("fe80::b", 3), peer("fe80::b", 4), "the same address on another link");
        assert_ne!(peer("febf::b", 3), peer("febf::c", 3), "the last network of the block");
        assert_eq!(peer("fec0::b", 0), peer("fec0::c", 0), "the first one behind it");
    }

    #[test]
    fn the_loopback_is_one_peer_and_its_network_another() {
        assert_eq!(peer("::1", 0), peer("::1", 0));
        assert_ne!(peer("::1", 0), peer("::2", 0));
    }

    #[test]
    fn an_address_of_ipv4_is_the_same_peer_however_it_is_written() {
        for written in ["::ffff:192.0.2.1", "64:ff9b::192.0.2.1"] {
            assert_eq!(peer(written, 0), peer("192.0.2.1", 0), "{written}");
        }
        assert_ne!(peer("64:ff9b::192.0.2.1", 0), peer("64:ff9b::192.0.2.2", 0));
        assert_eq!(peer("64:ff9b:1::1", 0), peer("64:ff9b:1::2", 0), "another prefix");
    }

    #[test]
    fn unix_sockets_have_no_such_peers() {
        assert_eq!(PeerKey::of(&Address::Unnamed), None);
        assert_eq!(PeerKey::of(&Address::Unix("/run/x".into())), None);
    }
}
