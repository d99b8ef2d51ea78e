//! Programs whose sockets systemd has opened: started by `systemd-socket-activate`, or with a stand-in for the service
//! manager that they report to.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use test_support::activation::{NotifySocket, activated};
use test_support::process::Process;
use test_support::{connect, eventually, exchange, folder, read_to_end, receive, skip, udp_client};

use super::ECHO;

/// Starts the program by systemd's own tool, at its first client. `None` if the tool is missing.
fn by_systemd(listen: &str, options: &[&str]) -> Option<Process> {
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", listen, "--fdname", "echo"]).arg(ECHO.path()).arg("serve");
    command.args(options).stdin(Stdio::null()).stdout(Stdio::piped());
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        skip("there is no systemd-socket-activate");
        return None;
    }
    let process = Process::start(&mut command);
    let line = process.err_line();
    assert!(line.starts_with("Listening on "), "{line}");
    Some(process)
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn a_server_is_started_by_its_first_client_under(mixin: &str) {
    let address = free_address();
    let options = ["--bind", "systemd:echo", "--mixin", mixin];
    let Some(server) = by_systemd(&address.to_string(), &options) else { return };
    let mut client = connect(address);
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(exchange(&mut connect(address), "again"), "again\n");
    server.send_signal(15);
    assert!(server.end().status.success());
}

#[test]
fn a_server_is_started_by_its_first_client_inline() {
    a_server_is_started_by_its_first_client_under("inline");
}

#[test]
fn a_server_is_started_by_its_first_client_in_threads() {
    a_server_is_started_by_its_first_client_under("threading");
}

#[test]
fn a_server_is_started_by_its_first_client_in_a_pool() {
    a_server_is_started_by_its_first_client_under("pool");
}

#[test]
fn a_server_is_started_by_its_first_client_in_processes() {
    a_server_is_started_by_its_first_client_under("forking");
}

#[test]
fn a_server_that_is_idle_ends_and_the_file_of_its_socket_stays() {
    let folder = folder();
    let path = folder.path().join("echo");
    let options = ["--bind", "systemd", "--idle-exit", "0.2"];
    let Some(server) = by_systemd(path.to_str().unwrap(), &options) else { return };
    let mut client = UnixStream::connect(&path).unwrap();
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    drop(client);
    assert!(server.end().status.success());
    assert!(path.exists());
}

fn start(command: &Command, sockets: &[(&str, &dyn AsFd)], manager: &NotifySocket) -> Process {
    let (mut command, copies) = activated(command, sockets);
    command.env("NOTIFY_SOCKET", &manager.place).env("WATCHDOG_USEC", "300000");
    let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    drop(copies);
    process
}

#[test]
fn all_sockets_of_a_unit_are_served_by_the_transports_that_they_are_of() {
    let folder = folder();
    let manager = NotifySocket::at(folder.path());
    let path = folder.path().join("s");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let sockets: [(&str, &dyn AsFd); 3] = [("echo", &tcp), ("echo", &udp), ("local", &unix)];
    // The server is started as by the unit of the documentation.
    let unit = include_str!("../../../../docs/systemd/echo.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let command = ECHO.command(&line.split(' ').skip(1).collect::<Vec<_>>());
    let server = start(&command, &sockets, &manager);
    let (tcp, udp) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    assert_eq!(server.line(), format!("listening on {tcp}"));
    assert_eq!(server.line(), format!("listening on udp:{udp}"));
    assert_eq!(server.line(), format!("listening on unix:{}", path.display()));
    manager.told_of("READY=1");
    assert_eq!(exchange(&mut connect(tcp), "over TCP"), "over TCP\n");
    let mut client = UnixStream::connect(&path).unwrap();
    assert_eq!(exchange(&mut client, "over a path"), "over a path\n");
    drop(client);
    let client = udp_client();
    client.send_to(b"over UDP", udp).unwrap();
    assert_eq!(receive(&client), b"over UDP");
    manager.told_of("WATCHDOG=1");
    server.send_signal(15);
    manager.told_of("STOPPING=1");
    assert!(server.end().status.success());
    assert!(path.exists());
}

/// Only the parent reports to the service manager, and its loop, which is its only thread, answers the watchdog.
#[test]
fn a_forking_server_tells_of_itself_and_its_children_do_not() {
    let folder = folder();
    let manager = NotifySocket::at(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let command = ECHO.command(&["serve", "--bind", "systemd:echo", "--mixin", "forking"]);
    let server = start(&command, &[("echo", &listener)], &manager);
    let address = listener.local_addr().unwrap();
    manager.told_of("READY=1");
    let mut client = connect(address);
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    eventually("the watchdog hears of it", || manager.told().contains("WATCHDOG=1"));
    // The child ends, and reports nothing.
    client.write_all(b"bye\n").unwrap();
    drop(client);
    manager.told_of("WATCHDOG=1");
    server.send_signal(15);
    let stopping = manager.told_of("STOPPING=1");
    assert!(stopping.contains("\nEXTEND_TIMEOUT_USEC=15000000\n"), "{stopping}");
    assert!(server.end().status.success());
    let rest = manager.all_within(std::time::Duration::from_millis(100));
    assert!(!rest.iter().any(|message| message.contains("STOPPING")), "{rest:?}");
}

#[test]
fn a_program_without_sockets_says_how_it_gets_some() {
    let ended = ECHO.run(&["serve", "--bind", "systemd:echo"]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.err.contains("systemd-socket-activate -l"), "{}", ended.err);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = folder();
    let manager = NotifySocket::at(folder.path());
    let command = ECHO.command(&["serve", "--bind", "systemd:other"]);
    let ended = start(&command, &[("echo", &listener)], &manager).end();
    assert!(ended.err.contains("FileDescriptorName=other"), "{}", ended.err);
}
