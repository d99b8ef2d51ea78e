//! Servers that are bound before a fork: by a daemon whose parent has ended, and by a parent that shares its listener
//! with several children and may serve as well.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socketserver::mixin::{Gate, Job, Mixin};
use socketserver::park::Event;
use socketserver::transport::{Bind, Tcp, UnixStream};
use socketserver::{
    Builder, Forking, HandlerResult, Inline, Limits, Pool, SocketOptions, StreamRequest, Threading,
    UdpServer, datagram_fn, stream_fn,
};

use test_support::{receive, udp_client};

use crate::support::{Client, Server, ask_unix, eventually, kill, state, takes};
use crate::system;

tests![
    a_daemon_that_was_bound_before_its_fork_opens_its_gates_and_stops,
    children_and_their_parent_serve_one_listener_and_each_stops_alone,
    a_child_stops_by_a_handle_and_its_parent_goes_on,
    a_child_serves_in_the_background,
    a_server_that_has_served_goes_on_in_a_child,
    a_child_that_closes_before_it_serves_waits_for_nobody,
    a_server_whose_threads_are_its_parents_says_so,
    the_last_process_to_close_removes_the_file_of_a_socket,
    datagrams_that_were_received_before_a_fork_are_answered_once,
];

const MIXINS: [&str; 6] =
    ["inline", "threading", "pool", "forking", "with-own-gate", "with-own-event"];

/// A mixin of one's own: a thread for each request, one at a time.
struct WithOwnGate(Arc<Gate>);

impl Mixin for WithOwnGate {
    fn process_request(&self, job: Job) {
        let permit = self.0.try_enter();
        std::thread::spawn(move || {
            job.run();
            drop(permit);
        });
    }

    fn ready(&self) -> bool {
        self.0.is_open()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.event_fd())
    }

    fn service_actions(&self) {
        self.0.settle();
    }
}

/// A mixin of one's own whose free place is announced by an event alone.
struct WithOwnEvent {
    is_busy: Arc<AtomicBool>,
    has_ended: Arc<Event>,
}

impl Mixin for WithOwnEvent {
    fn process_request(&self, job: Job) {
        self.is_busy.store(true, Ordering::SeqCst);
        let (is_busy, has_ended) = (Arc::clone(&self.is_busy), Arc::clone(&self.has_ended));
        std::thread::spawn(move || {
            job.run();
            is_busy.store(false, Ordering::SeqCst);
            has_ended.notify();
        });
    }

    fn ready(&self) -> bool {
        !self.is_busy.load(Ordering::SeqCst)
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.has_ended.as_fd())
    }

    fn service_actions(&self) {
        self.has_ended.clear();
    }
}

/// A mixin with room for one request: a second one is served only if the gate opens when the first has ended.
fn mixin(name: &str) -> Box<dyn Mixin> {
    match name {
        "inline" => Box::new(Inline),
        "threading" => Box::new(Threading::new().max_threads(1)),
        "pool" => Box::new(Pool::new(1).queue(0)),
        "forking" => Box::new(Forking::new().max_children(1)),
        "with-own-gate" => Box::new(WithOwnGate(Gate::new(1).expect("a descriptor"))),
        "with-own-event" => {
            let has_ended = Arc::new(Event::new().expect("a descriptor"));
            Box::new(WithOwnEvent { is_busy: Arc::default(), has_ended })
        }
        _ => panic!("which mixin?"),
    }
}

/// The server's process: under `Forking` the parent of the one that handles.
fn serving_process(is_forking: bool) -> u32 {
    if is_forking { std::os::unix::process::parent_id() } else { std::process::id() }
}

fn answer(request: &mut StreamRequest, is_forking: bool) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        match text {
            "who" => writeln!(request, "{}", serving_process(is_forking))?,
            "stop" => {
                request.server().shutdown_handle().shutdown();
                return Ok(());
            }
            _ => writeln!(request, "{text}")?,
        }
    }
    Ok(())
}

/// `serve forked-MIXIN ADDRESS OPTION..`
pub fn main(name: &str, address: &str, options: &[String]) -> ExitCode {
    if name == "datagrams" {
        serve_datagrams(address)
    } else if address.contains('/') {
        serve::<UnixStream>(name, address, options)
    } else {
        serve::<Tcp>(name, address, options)
    }
}

fn serve<T: Bind<Request = StreamRequest>>(
    name: &str,
    address: &str,
    options: &[String],
) -> ExitCode {
    let option = |name: &str| options.iter().any(|option| option == name);
    let number =
        |name: &str| options.iter().find_map(|option| option.strip_prefix(name)?.parse().ok());
    let is_forking = name == "forking";
    let mut builder = Builder::<T, _>::new(mixin(name))
        .limits(Limits::default().live(number("live=").unwrap_or(1)))
        .socket_options(SocketOptions::default().unlink_on_close(true));
    if option("in-turns") {
        builder = builder.timeout(Duration::from_millis(20));
    }
    let handler = stream_fn(move |request| answer(request, is_forking));
    let server = builder.bind(address, handler).expect("it is bound");
    println!("listening on {}", server.server_address());
    for _ in 0..number("serve-before=").unwrap_or(0) {
        server.handle_request().expect("a request before the fork");
    }
    if option("until-it-ends") {
        eventually("the request has ended", || server.context().live_count() == 0);
    }
    if option("block-signals") {
        [libc::SIGTERM, libc::SIGINT].into_iter().for_each(system::block);
    }
    let mut children = Vec::new();
    for _ in 0..number("children=").unwrap_or(1) {
        match system::fork() {
            Some(child) => children.push(child),
            None => {
                let id = std::process::id();
                say!("child {id}");
                let ended = if option("close-only") {
                    Ok(server.server_close().to_string())
                } else if option("background") {
                    let server = server.serve_in_background().expect("a thread");
                    server.join().map(|()| "joined".to_owned())
                } else {
                    server.run().map(|report| report.to_string())
                };
                match ended {
                    Ok(report) => say!("over {id}: {report}"),
                    Err(error) => say!("failed {id}: {error}"),
                }
                std::process::exit(0);
            }
        }
    }
    if option("parent-leaves") {
        system::leave_at_once();
    }
    if option("parent-serves") {
        let report = server.run().expect("the parent serves");
        say!("over {}: {report}", std::process::id());
    }
    children.into_iter().for_each(system::wait_for);
    ExitCode::SUCCESS
}

/// Takes one datagram, and then serves in two processes.
fn serve_datagrams(address: &str) -> ExitCode {
    let server = UdpServer::bind(
        address,
        datagram_fn(|request| {
            let mut text = String::new();
            request.read_to_string(&mut text)?;
            write!(request, "{text}")?;
            Ok(())
        }),
    )
    .expect("it is bound");
    println!("listening on {}", server.server_address());
    server.handle_request().expect("one before the fork");
    let child = system::fork();
    let id = std::process::id();
    if child.is_none() {
        say!("child {id}");
    }
    server.run().expect("it serves");
    say!("over {id}: ");
    child.into_iter().for_each(system::wait_for);
    ExitCode::SUCCESS
}

fn child_of(server: &Server) -> u32 {
    server.told("child ")["child ".len()..].parse().unwrap()
}

/// Fails unless a second client waits until the first one has gone, and is served then.
fn assert_gates_open(server: &Server) {
    for _ in 0..2 {
        let mut first = server.connect();
        assert_eq!(first.ask("hello"), "hello");
        let mut second = server.connect();
        second.send("me too");
        drop(first);
        assert_eq!(second.receive(), "me too");
    }
}

fn a_daemon_that_was_bound_before_its_fork_opens_its_gates_and_stops() {
    for name in MIXINS {
        let mut server =
            Server::start(&format!("forked-{name}"), "127.0.0.1:0", &["parent-leaves"]);
        let daemon = child_of(&server);
        assert!(server.wait().success());
        assert_gates_open(&server);
        kill(daemon, libc::SIGTERM);
        server.told(&format!("over {daemon}: "));
    }
}

fn children_and_their_parent_serve_one_listener_and_each_stops_alone() {
    for name in MIXINS {
        let options = ["children=3", "parent-serves"];
        let mut server = Server::start(&format!("forked-{name}"), "127.0.0.1:0", &options);
        let children: Vec<u32> = (0..3).map(|_| child_of(&server)).collect();
        let all = |rest: &[u32]| -> BTreeSet<u32> {
            rest.iter().copied().chain([server.pid()]).collect()
        };
        // Each process has room for one request, so that as many clients at once are served by as many processes.
        let asked = |count: usize| -> BTreeSet<u32> {
            let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
            clients.iter_mut().for_each(|client| client.send("who"));
            clients.iter_mut().map(|client| client.receive().parse().unwrap()).collect()
        };
        assert_eq!(asked(4), all(&children), "{name}");
        for stopped in 0..3 {
            kill(children[stopped], libc::SIGTERM);
            server.told(&format!("over {}: ", children[stopped]));
            let left = &children[stopped + 1..];
            assert_eq!(asked(left.len() + 1), all(left), "{name}");
        }
        assert_gates_open(&server);
        server.stop();
        server.told(&format!("over {}: ", server.pid()));
    }
}

fn a_child_stops_by_a_handle_and_its_parent_goes_on() {
    for name in MIXINS {
        let mut server =
            Server::start(&format!("forked-{name}"), "127.0.0.1:0", &["parent-serves"]);
        let child = child_of(&server);
        // Two clients ask at once, so that the child serves one of them, and its parent the other.
        let mut clients = [server.connect(), server.connect()];
        clients.iter_mut().for_each(|client| client.send("who"));
        let pids = clients.each_mut().map(Client::receive);
        let place = pids.iter().position(|pid| *pid == child.to_string()).expect("the child's");
        let mut of_child = clients.into_iter().nth(place).unwrap();
        of_child.send("stop");
        server.told(&format!("over {child}: "));
        assert_gates_open(&server);
        server.stop();
    }
}

fn a_child_serves_in_the_background() {
    for name in ["inline", "threading", "pool"] {
        let mut server = Server::start(&format!("forked-{name}"), "127.0.0.1:0", &["background"]);
        let child = child_of(&server);
        assert_gates_open(&server);
        server.connect().send("stop");
        server.told(&format!("over {child}: "));
        assert!(server.wait().success());
    }
}

fn a_server_that_has_served_goes_on_in_a_child() {
    // A forking server still has a child when its process is forked. That child is no child of the new process.
    for (name, keeps) in [("inline", false), ("forking", true)] {
        let options = ["serve-before=1", "children=1"];
        let mut server = Server::start(&format!("forked-{name}"), "127.0.0.1:0", &options);
        let mut before = server.connect();
        assert_eq!(before.ask("hello"), "hello");
        let kept = keeps.then_some(before);
        let child = child_of(&server);
        assert_gates_open(&server);
        if let Some(mut kept) = kept {
            assert_eq!(kept.ask("still here"), "still here");
        }
        kill(child, libc::SIGTERM);
        server.told(&format!("over {child}: "));
        assert!(server.wait().success());
    }
}

fn a_child_that_closes_before_it_serves_waits_for_nobody() {
    for name in MIXINS {
        let options = ["close-only", "parent-serves"];
        let mut server = Server::start(&format!("forked-{name}"), "127.0.0.1:0", &options);
        let child = child_of(&server);
        server.told(&format!("over {child}: "));
        assert_gates_open(&server);
        server.stop();
    }
}

fn a_server_whose_threads_are_its_parents_says_so() {
    for name in ["threading", "pool"] {
        let options = ["serve-before=1", "until-it-ends"];
        let mut server = Server::start(&format!("forked-{name}"), "127.0.0.1:0", &options);
        assert_eq!(server.connect().ask("hello"), "hello");
        let child = child_of(&server);
        let failed = server.told(&format!("failed {child}: "));
        assert!(failed.contains("fork before the first request"), "{failed}");
        assert!(server.wait().success());
    }
}

fn the_last_process_to_close_removes_the_file_of_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let address = path.to_str().unwrap();
    // The parent leaves without a close. Then one child closes while the other one still serves.
    let options = ["children=2", "parent-leaves"];
    let mut server = Server::start("forked-inline", address, &options);
    let children = [child_of(&server), child_of(&server)];
    assert!(server.wait().success());
    eventually("both take signals", || children.iter().all(|child| takes(*child, libc::SIGTERM)));
    kill(children[0], libc::SIGTERM);
    server.told(&format!("over {}: ", children[0]));
    assert_eq!(ask_unix(address, "still here"), "still here");
    kill(children[1], libc::SIGTERM);
    server.told(&format!("over {}: ", children[1]));
    eventually("the file is gone", || !path.exists());
    eventually("and the process", || state(children[1]).is_none_or(|state| state == 'Z'));
}

fn datagrams_that_were_received_before_a_fork_are_answered_once() {
    let mut server = Server::start("forked-datagrams", "127.0.0.1:0", &[]);
    let socket = udp_client();
    socket.connect(&server.address).unwrap();
    server.signal(libc::SIGSTOP);
    eventually("it stands still", || state(server.pid()) == Some('T'));
    // The datagrams are received together, and one of them is answered before the fork.
    for text in ["one", "two", "three"] {
        socket.send(text.as_bytes()).unwrap();
    }
    server.signal(libc::SIGCONT);
    let child = child_of(&server);
    let receive = || receive(&socket).len();
    assert_eq!([receive(), receive(), receive()], [3, 3, 5]);
    for process in [child, server.pid()] {
        eventually("it takes signals", || takes(process, libc::SIGTERM));
        kill(process, libc::SIGTERM);
        server.told(&format!("over {process}: "));
    }
    assert!(server.wait().success());
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err(), "none is answered twice");
}
