//! Datagrams that are sent after their handler has returned, or to a peer other than its client.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use socketserver::mixin::Mixin;
use socketserver::request::DatagramSender;
use socketserver::transport::{Bind, Udp, UnixDatagram as UnixTransport};
use socketserver::{
    Address, BackgroundServer, Builder, HandlerResult, Inline, Threading, datagram_fn,
};

use crate::support::datagrams::receive_from;
use crate::support::{SOON, folder, has_ipv6, inet, receive_text, skip_if, udp_client};

/// A server that answers nothing by itself, and hands the sender of each datagram to the test.
fn keeping<T: Bind<Request = socketserver::DatagramRequest>, M: Mixin + 'static>(
    mixin: M,
    address: impl Into<socketserver::transport::BindAddress>,
) -> (BackgroundServer<T, M>, Receiver<DatagramSender>) {
    let (keep, kept) = channel();
    let keep = parking_lot::Mutex::new(keep);
    let handler = datagram_fn(move |request| -> HandlerResult {
        let sender = request.sender()?;
        // The request's own reply leaves before those that are sent later.
        request.reply(b"first")?;
        assert_eq!(sender.client_address(), &request.client_address());
        sender.reply(b"second")?;
        keep.lock().send(sender)?;
        Ok(())
    });
    let server = Builder::<T, M>::new(mixin).bind(address, handler).unwrap();
    (server.serve_in_background().unwrap(), kept)
}

#[test]
fn a_reply_is_sent_later_from_another_thread_and_to_another_address() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let (server, kept) = keeping::<Udp, M>(mixin, "127.0.0.1:0");
        let (client, other) = (udp_client(), udp_client());
        client.send_to(b"?", inet(&*server)).unwrap();
        assert_eq!(
            (receive_text(&client), receive_text(&client)),
            ("first".into(), "second".into())
        );
        let sender = kept.recv_timeout(SOON).unwrap();
        let clone = sender.clone();
        assert!(thread::spawn(move || clone.reply(b"later")).join().unwrap().unwrap());
        let (bytes, from) = receive_from(&client);
        assert_eq!((&*bytes, from), (&b"later"[..], inet(&*server)));
        assert!(sender.send_to(b"to another", other.local_addr().unwrap()).unwrap());
        let (bytes, from) = receive_from(&other);
        assert_eq!((&*bytes, from), (&b"to another"[..], inet(&*server)));
        // Nothing can be sent to these.
        for nowhere in [Address::Unnamed, SocketAddr::from(([127, 0, 0, 1], 0)).into()] {
            assert!(!sender.send_to(b"x", nowhere).unwrap());
        }
        let error = sender.send_to(b"x", Address::Unix("/tmp/x".into())).unwrap_err();
        assert!(error.to_string().contains("cannot send to /tmp/x"), "{error}");
        let error = sender.reply(&vec![0; 70_000]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        server.stop().unwrap();
        for error in [
            sender.reply(b"too late").unwrap_err(),
            sender.send_to(b"too late", other.local_addr().unwrap()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
            assert!(error.to_string().contains("the server is closed"), "{error}");
        }
    }
    check(Inline);
    check(Threading::new());
}

#[test]
fn a_sender_keeps_no_socket_and_no_port() {
    let (server, kept) = keeping::<Udp, _>(Inline, "127.0.0.1:0");
    let address = inet(&*server);
    let client = udp_client();
    client.send_to(b"?", address).unwrap();
    let sender = kept.recv_timeout(SOON).unwrap();
    server.stop().unwrap();
    UdpSocket::bind(address).expect("the port is free");
    drop(sender);
}

#[test]
fn a_server_of_both_versions_of_ip_sends_to_both() {
    if skip_if((!has_ipv6()).then_some("no IPv6")) {
        return;
    }
    let (keep, kept) = channel();
    let keep = parking_lot::Mutex::new(keep);
    let handler = datagram_fn(move |request| Ok(keep.lock().send(request.sender()?)?));
    let server = Builder::<Udp, _>::new(Inline)
        .socket_options(socketserver::SocketOptions::default().only_v6(false))
        .bind("[::]:0", handler)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let port = inet(&*server).port();
    let (v4, v6) = (udp_client(), UdpSocket::bind("[::1]:0").unwrap());
    v6.set_read_timeout(Some(SOON)).unwrap();
    for (client, other, at) in [(&v4, &v6, "127.0.0.1"), (&v6, &v4, "::1")] {
        client.send_to(b"?", (at, port)).unwrap();
        let sender = kept.recv_timeout(SOON).unwrap();
        assert!(sender.reply(b"reply").unwrap());
        assert_eq!(receive_text(client), "reply");
        assert!(sender.send_to(b"sent", other.local_addr().unwrap()).unwrap());
        assert_eq!(receive_text(other), "sent");
    }
}

#[test]
fn over_unix_sockets_no_datagram_goes_to_a_relative_path() {
    let folder = folder();
    let (server, kept) = keeping::<UnixTransport, _>(Inline, folder.path().join("server"));
    let client = UnixDatagram::bind(folder.path().join("client")).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"?", folder.path().join("server")).unwrap();
    assert_eq!((receive_text(&client), receive_text(&client)), ("first".into(), "second".into()));
    let sender = kept.recv_timeout(SOON).unwrap();
    assert!(sender.reply(b"later").unwrap());
    assert_eq!(receive_text(&client), "later");
    assert!(sender.send_to(b"by name", Address::Unix(folder.path().join("client"))).unwrap());
    assert_eq!(receive_text(&client), "by name");
    assert!(!sender.send_to(b"x", Address::Unix("client".into())).unwrap());
    // A client without a name gets nothing, and `reply` returns false.
    UnixDatagram::unbound().unwrap().send_to(b"?", folder.path().join("server")).unwrap();
    let sender = kept.recv_timeout(SOON).unwrap();
    assert!(!sender.reply(b"x").unwrap());
    server.stop().unwrap();
    drop(client);
    let error = sender.send_to(b"x", Address::Unix(folder.path().join("client"))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}
