//! The messages of a run to the service manager, and its watchdog.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use socketserver::hooks::Incoming;
use socketserver::mixin::Mixin;
use socketserver::{
    BaseServer, HandlerError, HandlerResult, Inline, Limits, Pool, ServerContext, ServerHooks,
    StreamRequest, TcpServer, Threading, run_all, stream_fn,
};

use crate::support::activation::{NotifySocket, in_bash};
use crate::support::process::{Process, answer, child_command, is_child};
use crate::support::{connect, exchange, folder, inet};

fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

/// Starts the test as a child with these variables.
fn start(name: &str, variables: &[(&str, &str)]) -> Process {
    let mut command = child_command(name);
    for unset in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(unset);
    }
    command.envs(variables.iter().copied());
    Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

fn mixin() -> Box<dyn Mixin> {
    match std::env::var("MIXIN").as_deref() {
        Ok("inline") => Box::new(Inline),
        Ok("pool") => Box::new(Pool::new(2)),
        _ => Box::new(Threading::new()),
    }
}

const TOLD: &str = "systemd::notify::a_run_tells_of_its_beginning_its_reloads_and_its_end";

#[test]
fn a_run_tells_of_its_beginning_its_reloads_and_its_end() {
    if is_child(TOLD) {
        let limits =
            Limits::default().lame_duck(Duration::from_secs(3_600)).drain(Duration::from_secs(7));
        let builder =
            TcpServer::builder().mixin(mixin()).limits(limits).on_reload(|_server| Ok(()));
        let server = builder.bind("127.0.0.1:0", stream_fn(echo)).unwrap();
        answer(inet(&server));
        let handle = server.shutdown_handle();
        // The end of the input, or a line, ends the lame duck.
        std::thread::spawn(move || {
            let _ = std::io::stdin().lines().next();
            handle.shutdown();
        });
        assert!(server.run().unwrap().is_clean());
        return answer("ended");
    }
    let folder = folder();
    let abstract_name = format!("socketserver.notify.{}", std::process::id());
    for (mixin, manager) in [
        ("inline", NotifySocket::at(folder.path())),
        ("threading", NotifySocket::named(&abstract_name)),
        ("pool", NotifySocket::named(&format!("{abstract_name}.pool"))),
    ] {
        let child = start(TOLD, &[("NOTIFY_SOCKET", &manager.place), ("MIXIN", mixin)]);
        let address: SocketAddr = child.answer().parse().unwrap();
        let status = format!("STATUS=serving at {address}: 0 requests open, 0 completed");
        assert_eq!(manager.told(), format!("READY=1\n{status}"));
        assert_eq!(exchange(&mut connect(address), "hello"), "hello\n");
        child.send_signal(libc::SIGHUP);
        let reloading = manager.told();
        let (first, time) = reloading.split_once("\nMONOTONIC_USEC=").expect("the time");
        assert!(first == "RELOADING=1" && time.parse::<u64>().unwrap() > 1_000_000, "{reloading}");
        assert_eq!(manager.told(), "READY=1");
        child.send_signal(libc::SIGTERM);
        let stopping = manager.told();
        // The lame duck, the drain, and a margin.
        let extend = format!("EXTEND_TIMEOUT_USEC={}", (3_600 + 7 + 5) * 1_000_000u64);
        assert!(
            stopping.starts_with(&format!("STOPPING=1\n{extend}\nSTATUS=stopping, ")),
            "{stopping}"
        );
        child.ask("close");
        assert_eq!(manager.told(), "EXTEND_TIMEOUT_USEC=12000000");
        assert_eq!(child.answer(), "ended");
        assert!(child.end().status.success());
    }
}

/// Blocks a server in the named hook until the test lets it go on.
struct Held(&'static str);

static IS_LET_GO: Mutex<bool> = Mutex::new(false);
static LET_GO: Condvar = Condvar::new();

impl Held {
    fn wait(&self, hook: &str) {
        if self.0 == hook {
            answer("held");
            let free = IS_LET_GO.lock().unwrap();
            drop(LET_GO.wait_while(free, |is_free| !*is_free).unwrap());
        }
    }
}

impl ServerHooks for Held {
    fn ready(&self, _server: &ServerContext) {
        self.wait("ready");
    }

    fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        self.wait("verify_request");
        Ok(true)
    }
}

/// Serves by two servers, the second of which blocks in a hook.
fn serve_two(held: &'static str) {
    let free = TcpServer::builder().mixin(Threading::new()).bind("127.0.0.1:0", stream_fn(echo));
    let held = TcpServer::builder().hooks(Held(held)).bind("127.0.0.1:0", stream_fn(echo));
    let (free, held) = (free.unwrap(), held.unwrap());
    answer(inet(&held));
    std::thread::spawn(|| {
        let _ = std::io::stdin().lines().next();
        *IS_LET_GO.lock().unwrap() = true;
        LET_GO.notify_all();
    });
    let servers: Vec<Box<dyn BaseServer>> = vec![Box::new(free), Box::new(held)];
    run_all(&servers, Duration::from_secs(5), || ()).unwrap();
}

const TWO: &str = "systemd::notify::several_servers_are_ready_when_the_last_one_is";

#[test]
fn several_servers_are_ready_when_the_last_one_is() {
    if is_child(TWO) {
        return serve_two("ready");
    }
    let folder = folder();
    let manager = NotifySocket::at(folder.path());
    let child = start(TWO, &[("NOTIFY_SOCKET", &manager.place)]);
    child.answer();
    assert_eq!(child.answer(), "held");
    assert_eq!(manager.all_within(Duration::from_millis(200)), [""; 0]);
    child.ask("go on");
    assert!(manager.told().starts_with("READY=1\nSTATUS=serving at 127.0.0.1:"));
    child.send_signal(libc::SIGTERM);
    assert!(manager.told().starts_with("STOPPING=1\n"));
    assert!(child.end().status.success());
}

const STOPPED: &str =
    "systemd::notify::a_service_that_is_stopped_before_it_is_ready_is_not_ready_after_it";

#[test]
fn a_service_that_is_stopped_before_it_is_ready_is_not_ready_after_it() {
    if is_child(STOPPED) {
        return serve_two("ready");
    }
    let folder = folder();
    let manager = NotifySocket::at(folder.path());
    let child = start(STOPPED, &[("NOTIFY_SOCKET", &manager.place)]);
    child.answer();
    assert_eq!(child.answer(), "held");
    child.send_signal(libc::SIGTERM);
    manager.told_of("STOPPING=1");
    child.ask("go on");
    assert!(child.end().status.success());
    // All messages of the service have arrived by now.
    let late = manager.all_within(Duration::from_millis(1));
    assert!(!late.iter().any(|message| message.contains("READY")), "{late:?}");
}

const WATCHED: &str =
    "systemd::notify::the_watchdog_hears_of_loops_that_live_and_not_of_one_that_hangs";

#[test]
fn the_watchdog_hears_of_loops_that_live_and_not_of_one_that_hangs() {
    if is_child(WATCHED) {
        return serve_two("verify_request");
    }
    let folder = folder();
    let manager = NotifySocket::at(folder.path());
    let watched = [("NOTIFY_SOCKET", &*manager.place), ("WATCHDOG_USEC", "400000")];
    let child = start(WATCHED, &watched);
    let address: SocketAddr = child.answer().parse().unwrap();
    for _ in 0..3 {
        manager.told_of("WATCHDOG=1");
    }
    // An accept loop waits for this hook, and the other server goes on.
    let mut client = connect(address);
    assert_eq!(child.answer(), "held");
    // The message of a round that had begun may still come.
    manager.all_within(Duration::from_millis(400));
    let late = manager.all_within(Duration::from_millis(1_000));
    assert!(!late.iter().any(|message| message.contains("WATCHDOG")), "{late:?}");
    child.ask("go on");
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    drop(client);
    manager.told_of("WATCHDOG=1");
    child.send_signal(libc::SIGTERM);
    assert!(child.end().status.success());
}

const ALONE: &str = "systemd::notify::a_server_that_nobody_watches_says_nothing_of_a_watchdog";

#[test]
fn a_server_that_nobody_watches_says_nothing_of_a_watchdog() {
    if is_child(ALONE) {
        let server = TcpServer::bind("127.0.0.1:0", stream_fn(echo)).unwrap();
        answer(inet(&server));
        server.run().unwrap();
        return;
    }
    let folder = folder();
    let manager = NotifySocket::at(folder.path());
    let notify = ("NOTIFY_SOCKET", &*manager.place);
    // The watchdog is meant for another process, is switched off, or has a time that is no number.
    for watched in [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "0"), ("WATCHDOG_USEC", "soon")] {
        let child = start(ALONE, &[notify, ("WATCHDOG_USEC", "20000"), watched]);
        child.answer();
        manager.told_of("READY=1");
        assert_eq!(manager.all_within(Duration::from_millis(100)), [""; 0], "{watched:?}");
        child.send_signal(libc::SIGTERM);
        assert!(child.end().status.success());
        manager.all_within(Duration::from_millis(20));
    }
    // This is the number of the program itself, which its shell knows before the exec.
    let mut command = in_bash("WATCHDOG_PID=$$ exec \"$0\" \"$@\"", &child_command(ALONE));
    command.envs([notify, ("WATCHDOG_USEC", "20000")]);
    let child = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    child.answer();
    manager.told_of("WATCHDOG=1");
    child.send_signal(libc::SIGTERM);
    assert!(child.end().status.success());
}

#[test]
fn a_service_manager_that_does_not_listen_is_said_once_and_prevents_nothing() {
    let folder = folder();
    let gone = folder.path().join("gone");
    for (place, says) in [(gone.to_str().unwrap(), "No such file"), ("gone", "neither a path")] {
        let child = start(ALONE, &[("NOTIFY_SOCKET", place), ("WATCHDOG_USEC", "20000")]);
        let address: SocketAddr = child.answer().parse().unwrap();
        assert_eq!(exchange(&mut connect(address), "hello"), "hello\n");
        let warning = child.err_line();
        assert!(warning.starts_with("warning: cannot tell the service manager"), "{warning}");
        assert!(warning.contains(says), "{warning}");
        child.send_signal(libc::SIGTERM);
        let ended = child.end();
        assert!(ended.status.success() && !ended.err.contains("service manager"), "{}", ended.err);
    }
}

const OWN: &str = "systemd::notify::a_program_tells_what_it_likes";

#[test]
fn a_program_tells_what_it_likes() {
    if is_child(OWN) {
        let told = socketserver::systemd::notify("STATUS=warm");
        return answer(format!("{:?}", told.map_err(|error| error.kind())));
    }
    let folder = folder();
    let manager = NotifySocket::at(folder.path());
    assert_eq!(start(OWN, &[("NOTIFY_SOCKET", &manager.place)]).answer(), "Ok(true)");
    assert_eq!(manager.told(), "STATUS=warm");
    assert_eq!(start(OWN, &[]).answer(), "Ok(false)");
    assert_eq!(start(OWN, &[("NOTIFY_SOCKET", "vsock:2:1")]).answer(), "Err(InvalidInput)");
}
