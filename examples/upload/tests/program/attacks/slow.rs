//! Clients that send little or nothing, and the places that they take.

use super::*;

/// Sends a few bytes now and then, for as long as the server takes them.
fn trickle(mut stream: &TcpStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let began = std::time::Instant::now();
    while began.elapsed() < SOON {
        let waits = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        };
        match std::io::Read::read(&mut stream, &mut [0; 64]) {
            Ok(0) => return,
            Err(error) if !waits(&error) => return,
            _ => {}
        }
        if stream.write_all(bytes).is_err() {
            return;
        }
    }
    panic!("the server goes on taking a byte now and then");
}

#[test]
fn a_header_that_never_ends_is_given_up() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &["--idle", "0.5"]);
    for begin in [&b"H"[..], b"P\0\0\x20\0", b"post|"] {
        let mut stream = connect(address.parse().unwrap());
        stream.write_all(begin).unwrap();
        trickle(&stream, b"1");
    }
    // The frame trickles once between two files, and once in the middle of a file.
    let mut peer = Peer::connect(&address);
    peer.stream.write_all(b"P\0\0\x20\0").unwrap();
    trickle(&peer.stream, b"1");
    let mut peer = Peer::connect(&address);
    peer.put(&[b"a"], &noise(1, DATA_BYTES), false);
    peer.stream.write_all(&data_header(DATA_BYTES)).unwrap();
    trickle(&peer.stream, b"1");
    assert!(!stored(folder.path()).contains_key("a"));
}

#[test]
fn who_sends_a_file_byte_by_byte_is_given_up_however_the_bytes_are_wrapped() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &["--idle", "0.5"]);
    let one_byte = [&data_header(1)[..], b"1"].concat();
    for bytes in [one_byte, Message::Working.encode()] {
        for resume in [false, true] {
            let mut peer = Peer::connect(&address);
            peer.put(&[b"a"], &noise(1, DATA_BYTES), resume);
            if resume {
                assert!(matches!(peer.hear(), Some(Message::Have { .. })));
                assert!(matches!(peer.hear(), Some(Message::Digest(_))));
            }
            if resume && bytes.len() > 5 {
                peer.say(&Message::From(0));
            }
            trickle(&peer.stream, &bytes);
        }
    }
    // The rest of a refused file is not read for ever, either.
    let mut peer = Peer::connect(&address);
    peer.put(&[b".."], b"", false);
    peer.expect_refusal(Code::Name);
    let piece = Message::Working.encode().repeat(1_000);
    let mut taken = 0;
    while peer.stream.write_all(&piece).is_ok() {
        taken += piece.len();
        assert!(taken < 200 << 20, "it goes on taking it");
    }
}

#[test]
fn what_is_announced_and_never_comes_keeps_nobody_out() {
    for mixin in ["threading", "forking"] {
        let folder = folder();
        let (server, address) = serve_in(folder.path(), &["--max-total", "1000", "--mixin", mixin]);
        let mut peer = Peer::connect(&address);
        peer.put(&[b"a"], &[1; 1000], false);
        peer.data(&[1]);
        eventually("a byte of it has come", || stored(folder.path()).values().any(|a| a == &[1]));
        // While the file is on its way, its whole size counts.
        let mut other = Peer::connect(&address);
        other.put(&[b"b"], &[2; 900], false);
        other.expect_refusal(Code::TooMuch);
        other.say(&Message::Abort);
        drop(peer);
        assert!(server.line().contains("was refused"));
        assert!(server.line().contains("broke off"));
        assert_eq!(other.store("b", &[2; 900]), "b");
        // Now there is no room for the rest of `a`. Its part stays, even if another client begins anew.
        for resume in [true, false] {
            other.put(&[b"a"], &[1; 1000], resume);
            other.expect_refusal(Code::TooMuch);
            other.say(&Message::Abort);
            assert!(stored(folder.path()).values().any(|a| a == &[1]), "it is gone");
        }
    }
}

#[test]
fn what_is_on_its_way_is_not_copied_beyond_the_limit() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &["--max-total", "1000"]);
    let mut peer = Peer::connect(&address);
    peer.put(&[b"a"], &[1; 800], false);
    peer.data(&[1; 700]);
    let parts = || stored(folder.path()).into_values().map(|part| part.len()).collect::<Vec<_>>();
    eventually("most of it has come", || parts() == [700]);
    for _ in 0..3 {
        let mut other = Peer::connect(&address);
        other.put(&[b"a"], &[1; 800], true);
        other.expect_refusal(Code::TooMuch);
        assert_eq!(parts(), [700]);
    }
}

#[test]
fn clients_beyond_what_memory_is_for_have_to_wait() {
    const CLIENTS: usize = 1024;
    alone("attacks::slow::clients_beyond_what_memory_is_for_have_to_wait", || {
        let (_, most) = system::descriptor_limits();
        if most < 4_000 {
            return skip("this process may not have so many connections");
        }
        system::set_descriptor_limits(4_000, most);
        let folder = folder();
        let (_server, address) = serve_in(folder.path(), &["--max-per-peer", "1024"]);
        let mut peers: Vec<Peer> = (0..CLIENTS).map(|_| Peer::connect(&address)).collect();
        let mut next = Peer { stream: connect(address.parse().unwrap()) };
        next.say(&Message::Hello { version: VERSION });
        next.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(Message::read(&mut next.stream).is_err(), "it is served as well");
        peers.pop();
        next.stream.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(next.hear(), Some(Message::Hello { version: VERSION }));
    });
}

#[test]
fn what_nobody_wants_is_not_taken_for_ever() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &["--max-file", "1"]);
    let mut peer = Peer::connect(&address);
    peer.put_size(&[b"a"], b"", 1 << 40, false);
    peer.expect_refusal(Code::TooLarge);
    let piece = [&data_header(DATA_BYTES)[..], &vec![0; DATA_BYTES]].concat();
    let mut taken = 0;
    while peer.stream.write_all(&piece).is_ok() {
        taken += DATA_BYTES;
        assert!(taken < 200 << 20, "it goes on taking it");
    }
}

#[test]
fn clients_that_leave_leave_nothing_behind() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    for _ in 0..50 {
        let mut peer = Peer::connect(&address);
        peer.put(&[b"a"], &[0; 10], false);
    }
    // No byte of these files arrived: there is no part to resume.
    eventually("all have left", || partial_files(folder.path()).is_empty());
    let mut silent = connect(address.parse().unwrap());
    silent.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut silent), b"");
    assert_eq!(Peer::connect(&address).store("a", b"good"), "a");
}
