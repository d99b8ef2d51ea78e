//! A line of servers whose first one was started with sockets that systemd has opened.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use test_support::activation::{NotifySocket, activated};
use test_support::process::Process;
use test_support::program::assert_ends;
use test_support::{eventually, folder};

use super::line::Client;
use crate::ECHO;

/// A service: the process that was started with the sockets, and its successors, which all have its standard output.
struct Service {
    first: Process,
    manager: NotifySocket,
    main: u32,
    _folder: tempfile::TempDir,
}

fn activated_process(
    options: &[&str],
    sockets: &[(&str, &dyn AsFd)],
    manager: Option<&NotifySocket>,
) -> Process {
    let (mut command, copies) = activated(&ECHO.command(&["serve"]), sockets);
    command.args(options).stdin(Stdio::null()).stdout(Stdio::piped());
    command.envs(manager.map(|manager| ("NOTIFY_SOCKET", &manager.place)));
    let process = Process::start(&mut command);
    drop(copies);
    process
}

impl Service {
    fn start(options: &[&str], sockets: &[(&str, &dyn AsFd)]) -> Self {
        let folder = folder();
        let manager = NotifySocket::at(folder.path());
        let first = activated_process(options, sockets, Some(&manager));
        manager.told_of("READY=1");
        Self { main: first.id(), first, manager, _folder: folder }
    }

    fn signal(&self, signal: &str) {
        let process = self.main.to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    /// Makes the main process start a successor, which is the main process from then on. Returns the number of the
    /// old one.
    fn upgrade(&mut self) -> u32 {
        self.signal("-USR2");
        let main = loop {
            let message = self.manager.told();
            if let Some(main) = message.strip_prefix("MAINPID=") {
                break main.parse().unwrap();
            }
        };
        std::mem::replace(&mut self.main, main)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.main != self.first.id() {
            // The process may have ended.
            let _ = Command::new("kill").args(["-9", &self.main.to_string()]).status();
        }
    }
}

/// Whether a process is gone, or a zombie that nobody has waited for.
fn has_ended(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    status.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// Starts successors, each of which finds the sockets by the same command line.
fn a_line_keeps_its_sockets(options: &[&str], sockets: &[(&str, &dyn AsFd)], served: &[String]) {
    let mut service = Service::start(options, sockets);
    for round in 0..4 {
        for address in served {
            Client::of(address).asks(&format!("round {round}"));
        }
        if round < 3 {
            let old = service.upgrade();
            eventually("the old process has ended", || has_ended(old));
        }
    }
    service.signal("-TERM");
    service.manager.told_of("STOPPING=1");
    eventually("the last one has ended", || has_ended(service.main));
}

#[test]
fn the_successors_find_the_only_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for options in [&["--bind", "systemd"][..], &["--bind", "systemd:http", "--mixin", "pool"]] {
        a_line_keeps_its_sockets(options, &[("http", &listener)], std::slice::from_ref(&address));
    }
}

/// The next process is started by hand, without the sockets. It asks for them at the path, and its `--bind` may have the
/// name of the socket or its address.
#[test]
fn a_process_that_asks_at_the_path_finds_the_sockets_by_name_and_by_address() {
    let folder = folder();
    let path = folder.path().join("h");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let handover = ["--handover", path.to_str().unwrap()];
    let options = ["--bind", "systemd:http", handover[0], handover[1]];
    let mut last = activated_process(&options, &[("http", &listener)], None);
    Client::of(&address).asks("first");
    for place in ["systemd:http", "systemd", &address, "systemd:http"] {
        let next = Process::start(ECHO.command(&["serve", "--bind", place]).args(handover));
        assert_eq!(next.line(), format!("listening on {address}"), "{place}");
        assert_ends(&last.end(), 0);
        Client::of(&address).asks(place);
        last = next;
    }
    last.send_signal(libc::SIGTERM);
    assert_ends(&last.end(), 0);
}

/// A server that forks hands over in its loop.
#[test]
fn the_successors_of_a_server_that_forks_find_its_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = ["--bind", "systemd:http", "--mixin", "forking"];
    a_line_keeps_its_sockets(&options, &[("http", &listener)], &[address]);
}

#[test]
fn the_successors_find_the_sockets_of_every_kind_whose_files_stay() {
    let folder = folder();
    let path = |name| folder.path().join(name);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(path("s")).unwrap();
    let unixgram = UnixDatagram::bind(path("g")).unwrap();
    let sockets: [(&str, &dyn AsFd); 4] =
        [("net", &tcp), ("local", &unix), ("net", &udp), ("local", &unixgram)];
    let served = |net: bool, local: bool| -> Vec<String> {
        let net = net.then(|| {
            let of = |address: SocketAddr| address.to_string();
            [of(tcp.local_addr().unwrap()), format!("udp:{}", of(udp.local_addr().unwrap()))]
        });
        let local = local.then(|| {
            [format!("unix:{}", path("s").display()), format!("unixgram:{}", path("g").display())]
        });
        net.into_iter().flatten().chain(local.into_iter().flatten()).collect()
    };
    a_line_keeps_its_sockets(&["--bind", "systemd"], &sockets, &served(true, true));
    a_line_keeps_its_sockets(&["--bind", "systemd:local"], &sockets, &served(false, true));
    let both = ["--bind", "systemd:local", "--bind", "systemd:net"];
    a_line_keeps_its_sockets(&both, &sockets, &served(true, true));
    assert!(path("s").exists() && path("g").exists());
}

/// With `NotifyAccess=all` a STOPPING=1 of the old process would be taken for the service's.
#[test]
fn an_old_process_tells_the_service_manager_of_its_successor_and_nothing_more() {
    for mixin in ["threading", "forking"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ["--bind", "systemd", "--mixin", mixin];
        let mut service = Service::start(&options, &[("http", &listener)]);
        // The client keeps a request open, which the old process has to end after the handover.
        let mut client = Client::of(&listener.local_addr().unwrap().to_string());
        client.asks("before");
        let old = service.upgrade();
        drop(client);
        eventually("the old process has ended", || has_ended(old));
        let rest = service.manager.all_within(Duration::from_millis(100));
        let harmful = |line: &str| line.starts_with("STOPPING") || line.starts_with("EXTEND");
        assert!(!rest.iter().flat_map(|message| message.lines()).any(harmful), "{mixin}: {rest:?}");
        service.signal("-TERM");
        service.manager.told_of("STOPPING=1");
    }
}
