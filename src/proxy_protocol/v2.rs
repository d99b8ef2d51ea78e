//! The second version: binary.
//!
//! ```text
//!   0  12 bytes   the signature
//!  12  1 byte     version 2, and the command: 0x20 LOCAL, 0x21 PROXY
//!  13  1 byte     address family and protocol
//!  14  2 bytes    the length of what follows
//!  16             addresses and ports: 12 bytes of IPv4, 36 of IPv6, 216 of Unix sockets
//!                 TLVs: type, length in 2 bytes, value
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use super::MAX_BYTES;
use super::header::{Command, Header, HeaderProgress, ProxiedTransport, Version};
use super::invalid::InvalidHeader;
use super::tlv;
use crate::address::Address;

/// The first bytes, with which no text protocol begins.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The length of the fixed part, which every header begins with.
pub(super) const FIXED_BYTES: usize = 16;

/// The length of a Unix socket's address.
const UNIX_ADDRESS_BYTES: usize = 108;

/// Parses a header. The caller has compared the first bytes with those of a header.
pub(super) fn parse(bytes: &[u8]) -> Result<HeaderProgress, InvalidHeader> {
    // A wrong byte is an error as soon as it has come, and not only when the header is whole: a peer that is not a proxy may
    // never send more.
    let command = match bytes.get(12) {
        None => return Ok(HeaderProgress::Partial { missing: FIXED_BYTES - bytes.len() }),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(other) => return Err(InvalidHeader::Command(*other)),
    };
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else {
        return Ok(HeaderProgress::Partial { missing: FIXED_BYTES - bytes.len() });
    };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    // The length is checked before memory for the header is taken, so that two bytes of a peer cannot ask for 64 KiB.
    if length > MAX_BYTES {
        return Err(InvalidHeader::TooLong(length));
    }
    // The family is checked before the rest of the header has come. For a connection of the proxy's own, "the receiver must
    // [..] discard the protocol block including the family which is ignored".
    let proxied_as = match command {
        Command::Local => None,
        Command::Proxy => Some(family(fixed[13]).ok_or(InvalidHeader::Family(fixed[13]))?),
    };
    if proxied_as.is_some_and(|(_, family)| length < FIXED_BYTES + family.length()) {
        return Err(InvalidHeader::TooShort);
    }
    let Some(whole) = bytes.get(..length) else {
        return Ok(HeaderProgress::Partial { missing: length - bytes.len() });
    };
    let header = match proxied_as {
        None => Header::new(Version::V2, command, None),
        Some((transport, family)) => proxied(whole, transport, family)?,
    };
    Ok(HeaderProgress::Whole { header: Box::new(header), length })
}

/// The family of both addresses.
#[derive(Clone, Copy)]
enum Family {
    Unspecified,
    V4,
    V6,
    Unix,
}

impl Family {
    /// The length of both addresses and ports.
    fn length(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::V4 => 12,
            Self::V6 => 36,
            Self::Unix => 2 * UNIX_ADDRESS_BYTES,
        }
    }
}

/// The meaning of the 14th byte. The specification names these seven values. All others must be refused.
fn family(byte: u8) -> Option<(ProxiedTransport, Family)> {
    let family = match byte >> 4 {
        // 0x01 and 0x02, a transport without a family, are not among the seven.
        0 if byte == 0 => Family::Unspecified,
        1 => Family::V4,
        2 => Family::V6,
        3 => Family::Unix,
        _ => return None,
    };
    match (byte & 0xf, family) {
        // The transport of an unspecified family is ignored.
        (1, _) | (_, Family::Unspecified) => Some((ProxiedTransport::Stream, family)),
        (2, _) => Some((ProxiedTransport::Datagram, family)),
        _ => None,
    }
}

/// Makes the header of a client's connection.
///
/// `whole` is the header from its signature on, and exactly as long as it says. The TLVs are copied out, because
/// the bytes are the reader's.
fn proxied(
    whole: &[u8],
    transport: ProxiedTransport,
    family: Family,
) -> Result<Header, InvalidHeader> {
    let mut rest = &whole[FIXED_BYTES..];
    let ends = match family {
        // The proxy cannot describe its client, but its TLVs may be of use.
        Family::Unspecified => None,
        Family::V4 => Some(inet::<Ipv4Addr, 4>(&mut rest)?),
        Family::V6 => Some(inet::<Ipv6Addr, 16>(&mut rest)?),
        Family::Unix => Some((
            unix(&take::<UNIX_ADDRESS_BYTES>(&mut rest)?),
            unix(&take::<UNIX_ADDRESS_BYTES>(&mut rest)?),
        )),
    };
    // The check includes the fixed part, because the checksum is of the whole header.
    let is_checked = tlv::check(whole, whole.len() - rest.len())?;
    let mut header = Header::new(Version::V2, Command::Proxy, ends);
    (header.transport, header.tlvs, header.is_checked) = (transport, rest.to_owned(), is_checked);
    Ok(header)
}

/// Takes the next bytes out of `rest`.
///
/// The caller has compared the length of the header with that of its family, so in practice it never fails.
fn take<const LEN: usize>(rest: &mut &[u8]) -> Result<[u8; LEN], InvalidHeader> {
    let (taken, behind) = rest.split_first_chunk().ok_or(InvalidHeader::TooShort)?;
    *rest = behind;
    Ok(*taken)
}

/// Both addresses, and then both ports.
fn inet<Ip, const LEN: usize>(rest: &mut &[u8]) -> Result<(Address, Address), InvalidHeader>
where
    Ip: From<[u8; LEN]> + Into<IpAddr>,
{
    let ips = [Ip::from(take(rest)?), Ip::from(take(rest)?)];
    // The ports are in network byte order, like everything in the header.
    let ports = [take(rest)?, take(rest)?].map(u16::from_be_bytes);
    let [source, destination] = ips.map(Ip::into);
    let end = |ip: IpAddr, port| Address::from(SocketAddr::new(ip, port));
    Ok((end(source, ports[0]), end(destination, ports[1])))
}

/// The address of a Unix socket, from the bytes of `sun_path`. A path ends at a zero byte. An abstract name follows a
/// leading zero byte; the header does not give its length, so zeros at its end do not count. If all bytes are zero, there
/// is no name.
fn unix(bytes: &[u8]) -> Address {
    let until = |end: Option<usize>| &bytes[..end.unwrap_or(bytes.len())];
    // The proxy fills all 108 bytes, so the length of a path or a name has to be found.
    if bytes[0] != 0 {
        let path = until(bytes.iter().position(|byte| *byte == 0));
        return Address::Unix(std::ffi::OsStr::from_bytes(path).into());
    }
    match bytes.iter().rposition(|byte| *byte != 0) {
        Some(last) => Address::Abstract(bytes[1..=last].to_owned()),
        None => Address::Unnamed,
    }
}
