//! Events, the live list and the drain report of a server that forks.

use crate::support::{Server, eventually, kill, state};

tests![
    the_parent_tells_of_each_request_once_when_it_starts_and_when_it_ends,
    a_child_says_of_its_end_what_a_thread_would,
    what_a_child_does_stands_in_the_live_list_and_can_be_ended_from_there,
    a_report_says_how_far_a_child_was,
];

fn the_parent_tells_of_each_request_once_when_it_starts_and_when_it_ends() {
    let mut server = Server::tcp(&["events"]);
    let mut expected = Vec::new();
    let mut client = |line: &str| {
        let mut client = server.connect();
        let answer = client.ask(line);
        expected.push(client.address());
        (client, answer)
    };
    drop(client("echo hi"));
    client("fail");
    client("panic");
    client("exit 0");
    client("exit 7");
    let (mut victim, pid) = client("pid");
    kill(pid.parse().unwrap(), libc::SIGKILL);
    assert_eq!(victim.receive(), "");
    let (mut idle, _) = client("echo hi");
    eventually("all others have ended", || server.children().len() == 1);
    server.stop();
    assert_eq!(idle.receive(), "");

    let ends = ["Completed", "Failed", "Panicked", "Completed", "Failed", "Killed", "Stopped"];
    let told = server.all_told("event in ");
    for (id, (peer, end)) in expected.iter().zip(ends).enumerate() {
        let of_this = format!("event in {}: {} of {peer} ", server.pid(), id + 1);
        let lines: Vec<_> = told.iter().filter_map(|line| line.strip_prefix(&of_this)).collect();
        assert_eq!(lines, ["started", &format!("ended {end}")], "{told:#?}");
    }
    assert_eq!(told.len(), 2 * ends.len(), "{told:#?}");
}

fn a_child_says_of_its_end_what_a_thread_would() {
    let mut server = Server::tcp(&["events", "idle=300"]);
    let mut silent = server.connect();
    assert_eq!(silent.ask("echo hi"), "hi");
    assert_eq!(silent.receive(), "");
    let mut long = server.connect();
    long.try_send_bytes(&[b'a'; 100_000]);
    assert_eq!(long.receive(), "");
    let mut gone = server.connect();
    assert_eq!(gone.ask("upload 9"), "ready");
    drop(gone);
    let mut late = server.connect();
    assert_eq!(late.ask("hurry 9"), "ready");
    assert_eq!(late.receive(), "");
    eventually("all have ended", || server.children().is_empty());
    server.stop();
    let all = server.all_told("");
    let of = |start: &str| {
        let lines = all.iter().filter(|line| line.starts_with(start)).map(String::as_str);
        lines.collect::<Vec<_>>()
    };
    // The child takes the times and knows the limit, and the parent tells of both.
    for (id, limit) in (1..).zip(["Some(Idle)", "None", "None", "Some(Read)"]) {
        let times = of(&format!("times of {id}: queue Some("));
        let [times] = times[..] else { panic!("{id}: {all:#?}") };
        let end = format!("), fits true, limit {limit}");
        assert!(times.contains(", handler Some(") && times.ends_with(&end), "{times}");
    }
    let [idle] = of("times of 1: ")[..] else { panic!("{all:#?}") };
    let (_, millis) = idle.split_once("handler Some(").unwrap();
    let (millis, _) = millis.split_once(')').unwrap();
    assert!(millis.parse::<u64>().unwrap() >= 300, "{idle}");
    let told = of("event in ").join("\n");
    for (id, end) in (1..).zip(["Idle", "LineTooLong", "Disconnected", "TimedOut"]) {
        let line = told
            .lines()
            .find(|line| line.contains(&format!(": {id} of ")) && line.contains("ended"));
        assert!(line.is_some_and(|line| line.ends_with(&format!("ended {end}"))), "{end}: {told}");
    }
}

fn what_a_child_does_stands_in_the_live_list_and_can_be_ended_from_there() {
    let mut server = Server::tcp(&["events", "admin"]);
    let mut client = server.connect();
    assert_eq!(client.ask("echo hello"), "hello");
    let pid: u32 = client.ask("pid").parse().unwrap();
    // When the next client comes, the first child is perhaps not waiting for its peer yet.
    eventually("it is closed", || {
        server.connect().ask("echo next");
        state(pid).is_none()
    });
    assert_eq!(client.receive(), "");
    let (bytes_in, bytes_out) = ("echo hello\npid\n".len(), format!("hello\n{pid}\n").len());
    // Two requests are live, but only one child is busy: the figures are printed before the second client's child is forked.
    let figures = server.told("figures: 2 of ");
    assert!(figures.contains(" live, 1 of 40 busy, 0 queued"), "{figures}");
    let line = server.told(&format!("admin: {}: ", client.address()));
    let bytes = format!("{bytes_in} bytes in, {bytes_out} bytes out, process {pid}; closed: true");
    assert!(
        line.contains("waiting for its peer's next request") && line.ends_with(&bytes),
        "{line}"
    );
    server.stop();
    let told = server.all_told("");
    let ended = format!("event in {}: 1 of {} ended ClosedHere", server.pid(), client.address());
    assert!(told.contains(&ended), "{told:#?}");
    assert!(told.contains(&format!("bytes of 1: {bytes_in} in, {bytes_out} out")), "{told:#?}");
}

fn a_report_says_how_far_a_child_was() {
    let mut server = Server::tcp(&["grace=0"]);
    let mut client = server.connect();
    assert_eq!(client.ask("echo hi"), "hi");
    assert_eq!(client.ask("stubborn"), "here");
    server.signal(libc::SIGINT);
    assert!(server.wait().success());
    let report = server.all_told("").join("\n");
    // Bytes are counted after the send: the last answer may arrive before it is counted.
    let counted = |bytes_out| format!("17 bytes in, {bytes_out} bytes out, process ");
    assert!(report.contains(&counted(3)) || report.contains(&counted(8)), "{report}");
}
