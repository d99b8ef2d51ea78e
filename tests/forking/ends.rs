//! The ends of children, their number until then, and the answers that their clients receive.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::{SOON, Server, eventually, insist, kill, state};

tests![
    row_070_a_child_leaves_with_a_status_that_says_how_its_request_ended,
    row_071_nothing_that_the_parent_keeps_for_its_end_runs_at_a_childs,
    row_073_the_forty_first_client_waits_until_one_of_forty_children_has_ended,
    active_children_are_those_that_the_system_knows,
    an_outbox_works_in_a_child,
    a_hundred_stops_under_load_lose_no_answer,
    a_stop_or_a_close_from_a_thread_of_a_child_waits_for_nobody_and_stops_the_parent,
    a_child_that_would_serve_by_the_server_of_its_parent_is_told_that_it_serves_already,
    a_stop_of_a_child_that_ends_in_whatever_way_reaches_the_parent,
    a_child_that_has_crashed_is_not_taken_for_one_that_was_closed,
    a_close_that_waits_for_nobody_tells_the_children_all_the_same,
];

fn a_stop_or_a_close_from_a_thread_of_a_child_waits_for_nobody_and_stops_the_parent() {
    for how in ["close-in-thread", "stop-in-thread"] {
        let mut server = Server::tcp(&["grace=60000"]);
        let mut busy = server.connect();
        assert_eq!(busy.ask("upload 4"), "ready");
        let mut client = server.connect();
        client.send(how);
        client.send("refuse");
        client.receive();
        drop(client);
        eventually("only the busy one is left", || server.children().len() == 1);
        busy.send_bytes(b"half");
        assert_eq!(busy.receive(), "got 4");
        assert!(server.wait().success());
        assert_eq!(server.told("children: "), "children: 0", "{how}");
    }
}

fn a_child_that_would_serve_by_the_server_of_its_parent_is_told_that_it_serves_already() {
    let mut server = Server::tcp(&[]);
    let mut client = server.connect();
    for how in ["forever", "one", "run"] {
        let answer = client.ask(&format!("serve {how}"));
        assert!(answer.ends_with("is serving already"), "{how}: {answer}");
    }
    assert_eq!(client.ask("echo hi"), "hi");
    drop(client);
    assert_eq!(server.connect().ask("echo still here"), "still here");
    server.stop();
}

fn a_stop_of_a_child_that_ends_in_whatever_way_reaches_the_parent() {
    let mut server = Server::tcp(&["events"]);
    assert_eq!(server.connect().ask("close-me"), "");
    assert!(server.wait().success());
    let told = server.all_told("event in ");
    assert!(told.iter().any(|line| line.ends_with("ended ClosedHere")), "{told:#?}");
}

fn a_child_that_has_crashed_is_not_taken_for_one_that_was_closed() {
    // The child seems to wait for its peer when it crashes, and its parent learns of the crash late.
    let mut server = Server::tcp(&["events", "admin"]);
    let mut client = server.connect();
    let pid: u32 = client.ask("pid").parse().unwrap();
    server.signal(libc::SIGSTOP);
    kill(pid, libc::SIGABRT);
    eventually("it has ended", || state(pid) == Some('Z'));
    // When it accepts the next client, the parent collects the children that have ended.
    let mut next = server.connect();
    next.send("echo hi");
    server.signal(libc::SIGCONT);
    assert_eq!(next.receive(), "hi");
    drop(next);
    eventually("all are reaped", || server.children().is_empty());
    server.stop();
    let told = server.all_told("event in ");
    let end = format!("1 of {} ended Killed", client.address());
    assert!(told.iter().any(|line| line.ends_with(&end)), "{told:#?}");
}

fn a_close_that_waits_for_nobody_tells_the_children_all_the_same() {
    let mut server = Server::tcp(&["no-block"]);
    let mut idle = server.connect();
    assert_eq!(idle.ask("echo hi"), "hi");
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
    assert_eq!(idle.receive(), "");
}

fn row_070_a_child_leaves_with_a_status_that_says_how_its_request_ended() {
    // After four requests the server waits for no more clients, and its program waits for the children.
    let mut server = Server::tcp(&["one-by-one", "turns=4", "statuses"]);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    let pids: Vec<_> = clients.iter_mut().map(|client| client.ask("pid")).collect();
    while server.told("active: ") != format!("active: [{}]", pids.join(", ")) {}
    for (client, end) in clients.iter_mut().zip(["refuse", "fail", "panic", "exit 7"]) {
        client.send(end);
    }
    // The statuses are in the order of the clients; the last one is the handler's own.
    assert_eq!(server.told("statuses: "), "statuses: [Some(0), Some(1), Some(101), Some(7)]");
    assert!(server.wait().success());
}

fn row_071_nothing_that_the_parent_keeps_for_its_end_runs_at_a_childs() {
    let mut server = Server::tcp(&["last-words"]);
    assert_eq!(server.connect().ask("echo hi"), "hi");
    assert_eq!(server.connect().ask("refuse"), "no, thank you");
    assert_eq!(server.connect().ask("fail"), "");
    assert_eq!(server.connect().ask("panic"), "");
    let mut interrupted = server.connect();
    let child: u32 = interrupted.ask("pid").parse().unwrap();
    assert_eq!(interrupted.ask("upload 4"), "ready");
    kill(child, libc::SIGINT);
    insist(child, libc::SIGINT);
    assert_eq!(interrupted.receive(), "");
    // Of the last two children one is signalled to end, and one requests a stop of the server.
    let mut idle = server.connect();
    assert_eq!(idle.ask("echo hi"), "hi");
    server.connect().send("stop");
    assert!(server.wait().success());
    assert_eq!(idle.receive(), "");
    let mut told = server.all_told("last words ");
    told.sort();
    let by_parent = |of: &str| format!("last words in {}: {of}", server.pid());
    assert_eq!(told, ["a thread's own", "an exit function", "main's"].map(by_parent));
}

fn row_073_the_forty_first_client_waits_until_one_of_forty_children_has_ended() {
    let server = Server::tcp(&[]);
    let mut clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for (client, number) in clients.iter_mut().zip(1..) {
        assert_eq!(client.ask("counts"), format!("{number} accepted, 0 ended"));
    }
    assert_eq!(server.children().len(), 40);
    server.signal(libc::SIGSTOP);
    eventually("it stands still", || state(server.pid()) == Some('T'));
    let mut one_more = server.connect();
    one_more.send("counts");
    // From here until it sleeps, the parent checks all that it waits for, and would accept the client if there were room.
    server.signal(libc::SIGCONT);
    eventually("it sleeps", || state(server.pid()) == Some('S'));
    assert_eq!(server.children().len(), 40);
    drop(clients.pop());
    // A child has the parent's counts of the moment of the fork.
    assert_eq!(one_more.receive(), "41 accepted, 1 ended");
    assert_eq!(server.children().len(), 40);
}

fn active_children_are_those_that_the_system_knows() {
    // The server waits for one request more than the test sends, because a server that closes would end the children.
    let server = Server::tcp(&["one-by-one", "turns=5"]);
    let mut expected: Vec<u32> = Vec::new();
    let mut clients = Vec::new();
    for turn in 0..4 {
        // Before the last request a child ends by itself, and is not remembered.
        if turn == 3 {
            let gone = expected.remove(0);
            drop(clients.remove(0));
            eventually("it is reaped", || state(gone).is_none());
        }
        let mut client = server.connect();
        expected.push(client.ask("pid").parse().unwrap());
        clients.push(client);
        let mut known: Vec<u32> = server.children().iter().map(|child| child.0).collect();
        known.sort_unstable();
        expected.sort_unstable();
        assert_eq!(known, expected);
        let told = server.told("active: ");
        let list = told.trim_start_matches("active: [").trim_end_matches(']');
        let mut active: Vec<u32> = list.split(", ").map(|pid| pid.parse().unwrap()).collect();
        active.sort_unstable();
        assert_eq!(active, expected);
    }
}

fn an_outbox_works_in_a_child() {
    let mut server = Server::tcp(&[]);
    let (mut stays, mut leaves) = (server.connect(), server.connect());
    // Gathered output leaves when the child waits for its next line, and when it ends.
    stays.send("outbox");
    leaves.send("outbox and leave");
    for number in 0..1_000 {
        assert_eq!(stays.receive(), number.to_string());
        assert_eq!(leaves.receive(), number.to_string());
    }
    assert_eq!(leaves.receive(), "");
    assert_eq!(stays.ask("echo after it"), "after it");
    // If the outbox needs a thread, the child starts it, and the parent can still fork.
    assert_eq!(server.connect().ask("echo and new"), "and new");
    server.stop();
    assert_eq!(stays.receive(), "");
}

/// The answer to a request with a number: so long that it does not fit into one segment.
pub fn answer(number: &str) -> String {
    format!("{number} {}", number.repeat(3_000))
}

/// The outcomes of the clients' requests.
#[derive(Default)]
struct Answers {
    whole: AtomicUsize,
    half: AtomicUsize,
    wrong: AtomicUsize,
}

/// Sends numbered requests, a few on each connection, until the server takes no more.
fn ask_until_the_end(address: &str, client: usize, answers: &Answers) {
    for connection in 0.. {
        let Ok(stream) = TcpStream::connect(address) else { return };
        stream.set_read_timeout(Some(SOON)).unwrap();
        // The second part of a request must not wait for an acknowledgement of the first.
        stream.set_nodelay(true).unwrap();
        let mut stream = BufReader::new(stream);
        for request in 0..5 {
            let number = format!("{client}{connection:04}{request}");
            // The request comes in two parts, so that the end may come between them.
            let parts = [format!("long {}", &number[..3]), format!("{}\n", &number[3..])];
            if parts.iter().any(|part| stream.get_mut().write_all(part.as_bytes()).is_err()) {
                return;
            }
            let expected = answer(&number) + "\n";
            let mut got = Vec::new();
            if let Err(error) = stream.read_until(b'\n', &mut got) {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "no end in time");
            }
            let seen = match got.len() {
                0 => return,
                _ if got == expected.as_bytes() => &answers.whole,
                _ if expected.as_bytes().starts_with(&got) => &answers.half,
                _ => &answers.wrong,
            };
            seen.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Each request that a child has taken is answered in whole, whenever the stop comes.
/// Ten servers are stopped at a time, because a round may last a second: a client that connects during a stop is refused
/// only when its system tries again.
fn a_hundred_stops_under_load_lose_no_answer() {
    std::thread::scope(|scope| {
        for lane in 0..10 {
            scope.spawn(move || (0..10).for_each(|round| a_stop_under_load(10 * round + lane)));
        }
    });
}

fn a_stop_under_load(round: usize) {
    let mut server = Server::tcp(&["grace=20000"]);
    let answers = Arc::new(Answers::default());
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (address, answers) = (server.address.clone(), Arc::clone(&answers));
            thread::spawn(move || ask_until_the_end(&address, client, &answers))
        })
        .collect();
    let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
    // The stop comes after the first answers: until it runs, the server takes no signals.
    eventually("some are served", || count(&answers.whole) > round * 29 % 60);
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
    for client in clients {
        client.join().unwrap();
    }
    let told = server.all_told("");
    assert_eq!((count(&answers.half), count(&answers.wrong)), (0, 0), "round {round}: {told:#?}");
    let taken = told.iter().filter(|line| *line == "taken").count();
    assert_eq!(count(&answers.whole), taken, "round {round}");
    let counts = told.iter().find(|line| line.starts_with("counts: ")).unwrap();
    assert!(counts.contains("forced: 0") && counts.contains("killed: 0"), "{counts}");
    let balance = told.iter().find_map(|line| line.strip_prefix("balance: ")).unwrap();
    let (accepted, ended) = balance.split_once(" accepted, ").unwrap();
    assert_eq!(format!("{accepted} ended"), ended, "round {round}");
}
