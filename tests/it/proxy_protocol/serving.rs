//! Serving behind a proxy: the true address everywhere.

use std::io::Write;

use socketserver::mixin::Mixin;
use socketserver::monitor::CloseReason;
use socketserver::{Inline, Pool, Threading};

use super::{V1, behind, patient, tlv, trusting, v2};
use crate::support::{eventually, exchange, read_line};

fn the_true_address_is_everywhere(mixin: impl Mixin + 'static) {
    let behind = behind(mixin, patient(), trusting());
    for header in [V1.to_vec(), v2(&tlv(4, b"padding"))] {
        // Header and first request in one packet.
        let mut client = behind.connect();
        client.write_all(&[&header, &b"hello\n"[..]].concat()).unwrap();
        assert_eq!(read_line(&mut client), "hello 203.0.113.9:56324 by 127.0.0.1\n");
        let live = behind.server.context().live();
        let [one] = &live[..] else { panic!("one is live: {live:?}") };
        assert_eq!(one.client_address.to_string(), "203.0.113.9:56324");
        assert_eq!(one.proxy_address, Some(client.local_addr().unwrap().into()));
        assert!(one.to_string().contains(", by 127.0.0.1:"), "{one}");
        // A second header is an ordinary line, which the handler reads.
        assert_eq!(
            exchange(&mut client, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2"),
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 203.0.113.9:56324 by 127.0.0.1\n"
        );
        drop(client);
        eventually("it has ended", || behind.server.context().live_count() == 0);
    }
    let one = [
        "started 127.0.0.1",
        "known 203.0.113.9:56324 by 127.0.0.1",
        "ended 203.0.113.9 by Some(127.0.0.1): Completed",
    ];
    eventually("both ends are told", || behind.told.ended(CloseReason::Completed) == 2);
    assert_eq!(behind.told.diary.lines(), [one, one].concat());
    assert!(behind.failures.try_recv().is_err());
}

#[test]
fn the_true_address_is_everywhere_inline() {
    the_true_address_is_everywhere(Inline);
}

#[test]
fn the_true_address_is_everywhere_threading() {
    the_true_address_is_everywhere(Threading::new());
}

#[test]
fn the_true_address_is_everywhere_pool() {
    the_true_address_is_everywhere(Pool::new(2));
}
