//! TLS behind a proxy that passes it through: first the header, in the clear, and then the handshake.

use std::io::Write;
use std::thread;
use std::time::Duration;

use socketserver::monitor::{Activity, CloseReason};
use socketserver::transport::Tcp;
use socketserver::{Limits, Server, Threading, ThreadingTcpServer, stream_fn};

use super::{HOUR, Told, V1, patient, tlv, trusting, v2, who};
use crate::support::{StopOnPanic, connect, eventually, exchange, inet, read_to_end};
use crate::tls::client::{Client, TlsClient, localhost};

/// Servers with both orders of the setters.
fn servers(limits: Limits) -> [(Server<Tcp, Threading>, Told); 2] {
    [false, true].map(|is_tls_first| {
        let told = Told::default();
        let builder = ThreadingTcpServer::builder().limits(limits).observer(told.observer());
        let builder = if is_tls_first {
            builder.tls(localhost()).proxy_protocol(trusting())
        } else {
            builder.proxy_protocol(trusting()).tls(localhost())
        };
        (builder.bind("127.0.0.1:0", stream_fn(who)).unwrap(), told)
    })
}

/// Sends the header and the hello in one packet, and the hello alone if there is no header.
fn begin(client: &mut TlsClient, header: &[u8]) {
    let mut bytes = header.to_vec();
    client.stream.conn.write_tls(&mut bytes).unwrap();
    client.stream.sock.write_all(&bytes).unwrap();
}

#[test]
fn a_header_and_the_hello_come_in_one_packet() {
    for (server, told) in servers(patient()) {
        let server = server.serve_in_background().unwrap();
        for header in [V1.to_vec(), v2(&tlv(2, b"localhost"))] {
            let mut client = Client::new().connect(inet(&*server));
            begin(&mut client, &header);
            let says = "hello 203.0.113.9:56324 by 127.0.0.1\n";
            assert_eq!(exchange(&mut client, "hello"), says);
            client.end_output();
            assert!(read_to_end(&mut client).is_empty());
        }
        eventually("both ends are told", || told.ended(CloseReason::Completed) == 2);
    }
}

#[test]
fn a_hello_and_a_first_request_that_come_in_a_drain_are_answered() {
    for (server, _told) in servers(patient().drain(HOUR).first_read(HOUR)) {
        let server = server.serve_in_background().unwrap();
        let mut client = Client::new().connect(inet(&*server));
        client.stream.sock.write_all(V1).unwrap();
        let is_waiting = || {
            let live = server.context().live();
            live.iter().any(|one| one.proxy_address.is_some() && one.activity == Activity::Idle)
        };
        eventually("its client is known, and it waits for the hello", is_waiting);
        thread::scope(|scope| {
            let closing = scope.spawn(|| server.server_close());
            let _stop = StopOnPanic(&*server);
            eventually("it drains", || server.context().is_stopping());
            client.handshake().unwrap();
            let says = "late 203.0.113.9:56324 by 127.0.0.1\n";
            assert_eq!(exchange(&mut client, "late"), says);
            assert!(read_to_end(&mut client).is_empty(), "and then it ends at once");
            assert!(closing.join().unwrap().is_clean());
        });
    }
}

#[test]
fn each_of_both_has_its_own_limit_and_its_own_reason() {
    let moment = Duration::from_millis(50);
    // The client sends a header and no hello.
    for (server, told) in servers(patient().handshake(moment)) {
        let server = server.serve_in_background().unwrap();
        let mut silent = connect(inet(&*server));
        silent.write_all(V1).unwrap();
        assert!(read_to_end(&mut silent).is_empty());
        eventually("its end is told", || told.ended(CloseReason::TimedOut) == 1);
    }
    // The client sends neither; or a hello without a header.
    for (server, told) in servers(patient().handshake(moment).proxy_header(moment)) {
        let server = server.serve_in_background().unwrap();
        assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
        let mut client = Client::new().connect(inet(&*server));
        begin(&mut client, b"");
        assert!(client.handshake().is_err());
        eventually("both are told", || told.ended(CloseReason::BadProxyHeader) == 2);
    }
}
