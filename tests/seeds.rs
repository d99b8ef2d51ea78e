//! Bytes that the library reads.
//!
//! Each input is read as the control messages of a datagram, although no kernel would write most of them: none is read
//! beyond its end, and an address that is found stands among the bytes. Each input is also read as a PROXY header, and
//! another parser finds the same in it.

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
