//! Senders of datagrams that nothing can be sent to: their replies fail quietly, and the fault is theirs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use socket2::{Domain, Protocol, Socket, Type};
use socketserver::hooks::Fault;
use socketserver::mixin::Mixin;
use socketserver::monitor::CloseReason;
use socketserver::{Inline, Pool, Threading, UdpServer, UnixDatagramServer, datagram_fn};

use crate::support::datagrams::{receive, udp_client};
use crate::support::{eventually, folder, hear, inet, skip};
use crate::whose_fault::{End, Ends, GONE};

#[test]
fn a_path_that_leads_elsewhere_by_the_time_of_the_reply_is_the_peers_fault() {
    let exchanges: [(&str, fn(&Path)); 5] = [
        ("nothing", |_| {}),
        ("a file", |path| fs::write(path, "").unwrap()),
        // The listener stays open, so that the error is EPROTOTYPE: a closed one would refuse.
        ("a stream socket", |path| std::mem::forget(UnixListener::bind(path).unwrap())),
        ("a link to itself", |path| symlink(path, path).unwrap()),
        ("a path through a file", |path| {
            let folder = path.parent().unwrap();
            fs::remove_dir(folder).unwrap();
            fs::write(folder, "").unwrap();
        }),
    ];
    for (is, exchange) in exchanges {
        let ends = Ends::default();
        let (release, released) = channel();
        let released = Mutex::new(released);
        let handler = datagram_fn(move |request| {
            hear(&released)?;
            Ok(request.reply(b"answer").map(drop)?)
        });
        let folder = folder();
        let server_path = folder.path().join("s");
        fs::create_dir(folder.path().join("f")).unwrap();
        let client_path = folder.path().join("f/c");
        let server = UnixDatagramServer::builder().hooks(ends.clone()).observer(ends.observer());
        let server = server.bind(&*server_path, handler).unwrap().serve_in_background().unwrap();
        let client = UnixDatagram::bind(&client_path).unwrap();
        client.send_to(b"question", &server_path).unwrap();
        fs::remove_file(&client_path).unwrap();
        exchange(&client_path);
        release.send(()).unwrap();
        assert_eq!(ends.first(), GONE, "{is}");
        server.stop().unwrap();
    }
}

/// A datagram of IPv4 with any source.
fn forge(from: SocketAddrV4, to: SocketAddrV4, text: &[u8]) -> std::io::Result<()> {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
    raw.set_header_included_v4(true)?;
    let udp_len = u16::try_from(8 + text.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_len).to_be_bytes());
    // No fragments; 64 hops, UDP, and the kernel's own checksum.
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_len.to_be_bytes());
    // Without a checksum.
    packet.extend([0, 0]);
    packet.extend(text);
    raw.send_to(&packet, &to.into()).map(drop)
}

#[test]
fn a_forged_sender_that_nothing_can_be_sent_to_is_no_failure_of_the_server() {
    fn check<M: Mixin + 'static>(mixin: M) -> bool {
        let ends = Ends::default();
        let server =
            UdpServer::builder().mixin(mixin).hooks(ends.clone()).observer(ends.observer());
        let handler = datagram_fn(|request| Ok(request.reply(request.packet()).map(drop)?));
        let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
        let std::net::SocketAddr::V4(address) = inet(&*server) else { unreachable!() };
        let forged = [
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(240, 0, 0, 1),
            Ipv4Addr::new(127, 255, 255, 255),
            Ipv4Addr::new(192, 0, 2, 1),
            Ipv4Addr::UNSPECIFIED,
        ];
        for ip in forged {
            if let Err(error) = forge(SocketAddrV4::new(ip, 1), address, b"forged") {
                skip(&format!("no raw sockets: {error}"));
                return false;
            }
        }
        let client = udp_client();
        client.connect(address).unwrap();
        client.send(b"true").unwrap();
        assert_eq!(receive(&client), b"true");
        eventually("all have ended", || {
            server.context().counts().accepted >= 4 && server.context().live().is_empty()
        });
        assert_eq!(server.context().counts().failed, 0);
        // Gathered replies may fail after their requests have ended, which are then completed. (With several workers, an
        // end may have the report of another request.)
        let is_good = |end: &End| {
            let reason = matches!(end.reason, CloseReason::Disconnected | CloseReason::Completed);
            reason && end.quiet && end.fault != Some(Fault::Handler)
        };
        assert!(ends.all().iter().all(is_good), "{:?}", ends.all());
        server.stop().unwrap();
        true
    }
    let _ = check(Threading::new()) && check(Pool::new(2)) && check(Inline);
}
