//! Bytes that the library reads.
//!
//! The control messages of a datagram, as no kernel would write them: none is read beyond its end, and an address that is
//! found stands among the bytes. And PROXY headers, which another parser reads as well.

#[allow(
    unsafe_code,
    dead_code,
    reason = "it computes two constants by it, and only what reads is run here"
)]
#[path = "../src/sys/recv_cmsg.rs"]
mod messages;

#[path = "it/proxy_protocol/compare.rs"]
mod proxy_headers;

pub(crate) fn run(input: &[u8]) {
    proxy_headers::compare(input);
    let found = messages::destination(input);
    if let Some(local) = found.local {
        let octets = match local.ip {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        assert!(input.windows(octets.len()).any(|bytes| bytes == octets));
    }
}

#[test]
fn saved_inputs() {
    test_support::replay(env!("CARGO_MANIFEST_DIR"), run);
}
