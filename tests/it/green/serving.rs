//! Handlers that know nothing of coroutines are served by them.

use socketserver::{Green, GreenTcpServer, GreenUdpServer, GreenUnixStreamServer, TcpServer};

use crate::handlers::Echo;
use crate::support::{
    connect, connect_any, exchange, folder, inet, read_to_end, receive, udp_client,
};

#[test]
fn two_hundred_connections_are_held_by_one_worker_and_end_with_the_server() {
    let server = TcpServer::builder().mixin(Green::new().workers(1));
    let server = server.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let mut clients: Vec<_> = (0..200).map(|_| connect(inet(&*server))).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            let line = format!("client {number} round {round}");
            assert_eq!(exchange(client, &line), format!("{line}\n"));
        }
    }
    assert_eq!(server.context().live_count(), 200);
    let report = server.stop().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.open_at_start, 200);
    for client in &mut clients {
        assert!(read_to_end(client).is_empty());
    }
}

#[test]
fn every_transport_serves_by_an_alias() {
    let folder = folder();
    let tcp = GreenTcpServer::bind("127.0.0.1:0", || Echo).unwrap();
    let tcp = tcp.serve_in_background().unwrap();
    assert_eq!(exchange(&mut connect(inet(&*tcp)), "tcp"), "tcp\n");

    let unix = GreenUnixStreamServer::bind(folder.path().join("s"), || Echo).unwrap();
    let unix = unix.serve_in_background().unwrap();
    assert_eq!(exchange(&mut *connect_any(&unix.server_address()), "unix"), "unix\n");

    let udp = GreenUdpServer::bind("127.0.0.1:0", || Echo).unwrap();
    let udp = udp.serve_in_background().unwrap();
    let client = udp_client();
    for _ in 0..3 {
        client.send_to(b"udp", inet(&*udp)).unwrap();
        assert_eq!(receive(&client).len(), 3);
    }
}
