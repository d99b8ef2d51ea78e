//! Behind a proxy the child reads the header, and the parent knows the client all the same.

use std::time::Instant;

use crate::support::{Client, Server, eventually, state};

tests![
    the_parent_knows_the_client_that_its_child_has,
    limits_of_one_client_hold_for_children,
    a_client_that_comes_too_often_is_refused_by_children,
    a_bad_header_in_a_child_has_its_reason_in_the_parent,
    a_client_of_a_unix_socket_is_known_by_its_path,
];

fn start(options: &[&str]) -> Server {
    Server::start("tcp-behind-a-proxy", "127.0.0.1:0", &[options, &["events"]].concat())
}

/// A client with this number, through the proxy.
fn client(server: &Server, number: u8) -> Client {
    let mut client = server.connect();
    client.send(&format!("PROXY TCP4 192.0.2.{number} 198.51.100.1 7 443\r"));
    client
}

fn the_parent_knows_the_client_that_its_child_has() {
    let mut server = start(&["admin"]);
    let mut one = client(&server, 1);
    assert_eq!(one.ask("who"), "192.0.2.1:7 by Some(127.0.0.1)");
    let pid: u32 = one.ask("pid").parse().unwrap();
    // The hook finds the first client in the live list, and closes it.
    eventually("it is closed", || {
        client(&server, 2).ask("echo next");
        state(pid).is_none()
    });
    let line = server.told("admin: ");
    assert!(line.starts_with("admin: 192.0.2.1:7: request 1, "), "{line}");
    assert!(line.contains(&format!(", by {}, process {pid}", one.address())), "{line}");
    server.stop();
    let told = server.all_told("event in ");
    let place = |what: &str| {
        let line = format!("event in {}: {what}", server.pid());
        told.iter().position(|told| *told == line).unwrap_or_else(|| panic!("{line}: {told:#?}"))
    };
    let known = place("1 of 192.0.2.1:7 is known by 127.0.0.1");
    assert!(known < place("1 of 192.0.2.1:7 ended ClosedHere"));
}

fn limits_of_one_client_hold_for_children() {
    let mut server = start(&["per-peer=2"]);
    // The health checks of a proxy count for no client.
    let mut own: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for own in &mut own {
        own.send("PROXY UNKNOWN\r");
        assert!(own.ask("who").ends_with(" by Some(127.0.0.1)"));
    }
    let mut inside: Vec<_> = [1, 1, 2, 2].map(|number| client(&server, number)).into();
    for client in &mut inside {
        assert!(client.ask("who").starts_with("192.0.2."));
    }
    assert_eq!(client(&server, 1).receive(), "too many");
    assert_eq!(client(&server, 2).receive(), "too many");
    assert!(client(&server, 3).ask("who").starts_with("192.0.2.3:7 "));
    // There is room when one has left.
    drop(inside.remove(0));
    eventually("there is room", || client(&server, 1).ask("who").starts_with("192.0.2.1:7 "));
    drop((own, inside));
    eventually("all have left", || server.children().is_empty());
    server.stop();
    let told = server.all_told("event in ");
    let parent = format!("event in {}: ", server.pid());
    let refused = format!("{parent}9 of 192.0.2.1:7 ended Refused");
    assert!(told.contains(&refused), "{told:#?}");
    assert!(told.contains(&format!("{parent}PerPeer")), "{told:#?}");
}

fn a_client_that_comes_too_often_is_refused_by_children() {
    let mut server = start(&["peer-burst=3"]);
    // The header and the line are sent in one piece: the end of a client that is refused may be a reset.
    let come = |number: u8| {
        let mut client = server.connect();
        let header = format!("PROXY TCP4 192.0.2.{number} 198.51.100.1 7 443\r\nwho\n");
        client.send_bytes(header.as_bytes());
        client
    };
    // Each client has a child of its own, and all are there at once, so no child's count can be the parent's.
    let began = Instant::now();
    let mut all = [1; 8].map(come);
    let answers = all.each_mut().map(Client::receive);
    let served = answers.iter().filter(|answer| answer.starts_with("192.0.2.1:7 ")).count();
    // One token comes back each second.
    let most = 3 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((3..=most).contains(&served), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| *answer == "too many").count(), 8 - served);
    assert!(come(2).receive().starts_with("192.0.2.2:7 "), "another one may come");
    for _ in 0..6 {
        let mut own = server.connect();
        own.send("PROXY UNKNOWN\r");
        assert!(own.ask("who").ends_with(" by Some(127.0.0.1)"), "a health check is no client's");
    }
    eventually("it may come again", || come(1).receive().starts_with("192.0.2.1:7 "));
    drop(all);
    eventually("all have left", || server.children().is_empty());
    server.stop();
    let told = server.all_told("");
    let parent = format!("event in {}: ", server.pid());
    let refused = told.iter().filter(|line| line.ends_with("192.0.2.1:7 ended Refused")).count();
    assert!(refused >= 8 - served, "{told:#?}");
    // The parent knows which of the two limits it was.
    let reached = told.iter().filter(|line| **line == format!("{parent}PeerRate")).count();
    assert_eq!(reached, refused, "{told:#?}");
    let whys = told.iter().filter(|line| line.starts_with("why "));
    let whys = whys.filter(|line| line.ends_with(": TooFastFromPeer")).count();
    assert_eq!(whys, refused, "{told:#?}");
}

fn a_bad_header_in_a_child_has_its_reason_in_the_parent() {
    let mut server = start(&[]);
    let mut bad = server.connect();
    bad.send("GET / HTTP/1.1\r");
    assert_eq!(bad.receive(), "");
    eventually("it has ended", || server.children().is_empty());
    server.stop();
    let told = server.all_told("event in ");
    let end = format!("event in {}: 1 of {} ended BadProxyHeader", server.pid(), bad.address());
    assert!(told.contains(&end), "{told:#?}");
    let failed = format!("event in {}: 1 of {} failed: ", server.pid(), bad.address());
    let failed = told.iter().find_map(|line| line.strip_prefix(&failed)).expect("the cause");
    assert!(failed.starts_with("no valid PROXY header: "), "{failed}");
}

fn a_client_of_a_unix_socket_is_known_by_its_path() {
    let mut server = start(&[]);
    let mut local = server.connect();
    let path = format!("/run/{}", "x".repeat(103));
    let addresses = [path.as_bytes(), &[0; 108]].concat();
    local.send_bytes(&[&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &addresses].concat());
    assert_eq!(local.ask("who"), format!("{path} by Some(127.0.0.1)"));
    drop(local);
    eventually("it has ended", || server.children().is_empty());
    server.stop();
    let told = server.all_told("event in ");
    let end = format!("event in {}: 1 of {path} ended Completed", server.pid());
    assert!(told.contains(&end), "{told:#?}");
}
