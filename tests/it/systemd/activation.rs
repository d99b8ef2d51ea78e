//! Sockets by activation: which are taken, by whom, and what is left when a server closes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_getfd};
use socketserver::handler::{inherit_only_stdio, restore_limits};
use socketserver::transport::{BindAddress, SocketKind, Tcp, activated_sockets};
use socketserver::{
    HandlerResult, Inline, Pool, Server, StreamRequest, TcpServer, Threading, ThreadingTcpServer,
    UdpServer, UnixDatagramServer, UnixStreamServer, datagram_fn, stream_fn,
};

use crate::support::activation::{activated, in_bash};
use crate::support::process::{Process, answer, child_command, is_child};
use crate::support::{connect, exchange, folder, receive};

fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

fn start(command: Command) -> Process {
    let mut command = command;
    Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

/// The text of the error of a bind.
fn error_of<T>(bound: socketserver::Result<T>) -> String {
    bound.map(|_| ()).unwrap_err().to_string()
}

const ALL_KINDS: &str = "systemd::activation::a_server_of_each_kind_serves_on_its_activated_socket";

#[test]
fn a_server_of_each_kind_serves_on_its_activated_socket() {
    if is_child(ALL_KINDS) {
        return serve_all_kinds();
    }
    let folder = folder();
    let (stream_path, datagram_path) = (folder.path().join("s"), folder.path().join("d"));
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(&stream_path).unwrap();
    let unixgram = UnixDatagram::bind(&datagram_path).unwrap();
    let sockets: [(&str, &dyn AsFd); 4] =
        [("all", &tcp), ("all", &udp), ("ctl", &unix), ("ctl", &unixgram)];
    let (command, copies) = activated(&child_command(ALL_KINDS), &sockets);
    let child = start(command);
    drop(copies);
    assert_eq!(child.answer(), "they serve");

    let mut client = connect(tcp.local_addr().unwrap());
    assert_eq!(exchange(&mut client, "over TCP"), "over TCP\n");
    let mut client = UnixStream::connect(&stream_path).unwrap();
    assert_eq!(exchange(&mut client, "over a path"), "over a path\n");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"over UDP", udp.local_addr().unwrap()).unwrap();
    assert_eq!(receive(&client), b"over UDP");
    let own = folder.path().join("c");
    let client = UnixDatagram::bind(&own).unwrap();
    client.send_to(b"over a path", &datagram_path).unwrap();
    let mut reply = [0; 32];
    let count = client.recv(&mut reply).unwrap();
    assert_eq!(&reply[..count], b"over a path");

    // A client that connects while the server closes, or has closed, is left for the next server.
    child.ask("close");
    assert_eq!(child.answer(), "closed");
    assert!(child.end().status.success());
    let mut late = connect(tcp.local_addr().unwrap());
    late.write_all(b"for the next one\n").unwrap();
    let (mut accepted, _) = tcp.accept().unwrap();
    let mut heard = [0; 17];
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"for the next one\n");
    // The files belong to the service manager, and stay; `shutdown(2)` would have ended its listener as well.
    let waits = UnixStream::connect(&stream_path).unwrap();
    unix.accept().unwrap();
    drop(waits);
    assert!(datagram_path.exists());
}

fn serve_all_kinds() {
    let shown = activated_sockets().unwrap();
    let kinds: Vec<_> = shown.iter().map(|socket| (socket.kind, &*socket.name)).collect();
    assert_eq!(
        kinds,
        [
            (SocketKind::TcpListener, "all"),
            (SocketKind::UdpSocket, "all"),
            (SocketKind::UnixListener, "ctl"),
            (SocketKind::UnixDatagram, "ctl")
        ]
    );
    let reply = datagram_fn(|request| Ok(request.reply(request.packet()).map(drop)?));
    let tcp: Server<Tcp, Threading> =
        ThreadingTcpServer::bind(BindAddress::activated("all"), stream_fn(echo)).unwrap();
    // The UDP socket has the same name as the TCP socket. The other two are found by a number, and as the only one that
    // fits the transport.
    let udp = UdpServer::bind(BindAddress::activated("all"), reply).unwrap();
    let unix = UnixStreamServer::builder()
        .mixin(Pool::new(1))
        .bind(BindAddress::activated_number(2), stream_fn(echo))
        .unwrap();
    let reply = datagram_fn(|request| Ok(request.reply(request.packet()).map(drop)?));
    let unixgram = UnixDatagramServer::bind(BindAddress::activated_only(), reply).unwrap();
    assert!(tcp.server_address().port().is_some_and(|port| port != 0));
    assert!(unix.server_address().as_path().is_some());
    for fd in [tcp.fileno(), udp.fileno(), unix.fileno(), unixgram.fileno()] {
        assert_eq!(fcntl_getfd(&*fd.unwrap()).unwrap(), FdFlags::CLOEXEC);
    }
    assert!(activated_sockets().unwrap().iter().all(|socket| socket.is_taken));
    let error = error_of(TcpServer::bind(BindAddress::activated("all"), stream_fn(echo)));
    assert!(error.contains("taken by a server already"), "{error}");
    no_program_inherits_the_variables();
    let tcp = tcp.serve_in_background().unwrap();
    let udp = udp.serve_in_background().unwrap();
    let unix = unix.serve_in_background().unwrap();
    let unixgram = unixgram.serve_in_background().unwrap();
    answer("they serve");
    let _ = std::io::stdin().lines().next();
    for report in [tcp.stop(), udp.stop(), unix.stop(), unixgram.stop()] {
        assert!(report.unwrap().is_clean());
    }
    answer("closed");
}

/// Asserts that the library's methods for commands pass no variable on to programs that handlers start.
fn no_program_inherits_the_variables() {
    let variables = |command: &mut Command| {
        let env = String::from_utf8(command.output().unwrap().stdout).unwrap();
        env.lines().filter(|line| line.starts_with("LISTEN_")).count()
    };
    assert_eq!(variables(&mut Command::new("env")), 3);
    assert_eq!(variables(restore_limits(&mut Command::new("env"))), 0);
    assert_eq!(variables(inherit_only_stdio(&mut Command::new("env"))), 0);
    // A variable that the program itself sets is passed on.
    let mut command = Command::new("env");
    assert_eq!(variables(inherit_only_stdio(command.env("LISTEN_FDS", "1"))), 1);
}

const WRONG: &str =
    "systemd::activation::a_wrong_socket_is_refused_with_what_came_and_what_to_write";

#[test]
fn a_wrong_socket_is_refused_with_what_came_and_what_to_write() {
    if is_child(WRONG) {
        return ask_for_wrong_ones();
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let (connection, _) = tcp.accept().unwrap();
    let unix = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let file = tempfile::tempfile().unwrap();
    let sockets: [(&str, &dyn AsFd); 5] =
        [("a", &tcp), ("b", &tcp), ("c", &connection), ("d", &unix), ("e", &file)];
    let (command, copies) = activated(&child_command(WRONG), &sockets);
    let ended = start(command).end();
    drop(copies);
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
}

fn ask_for_wrong_ones() {
    let tcp = |address| error_of(TcpServer::bind(address, stream_fn(echo)));
    let silent = || datagram_fn(|_request| Ok(()));
    for (error, says) in [
        (tcp(BindAddress::activated("no")), "FileDescriptorName=no"),
        (tcp(BindAddress::activated("no")), "0 (\"a\"): a TCP socket at 127.0.0.1:"),
        (tcp(BindAddress::activated_number(5)), "none of this number"),
        (tcp(BindAddress::activated_only()), "there are several"),
        (tcp(BindAddress::activated("c")), "a single connection"),
        (tcp(BindAddress::activated("c")), "Accept=no"),
        (tcp(BindAddress::activated("d")), "does not listen"),
        (tcp(BindAddress::activated_number(4)), "no socket of TCP, UDP or Unix"),
        (
            error_of(UnixStreamServer::bind(BindAddress::activated("a"), stream_fn(echo))),
            "ListenStream=/PATH",
        ),
        (
            error_of(UdpServer::bind(BindAddress::activated("a"), silent())),
            "ListenDatagram=HOST:PORT",
        ),
        (
            error_of(UnixDatagramServer::bind(BindAddress::activated_only(), silent())),
            "ListenDatagram=/PATH",
        ),
    ] {
        assert!(error.starts_with("cannot take the activated socket"), "{error}");
        assert!(error.contains(says), "{says}: {error}");
    }
    // The failed binds have taken none of the sockets.
    let first = Server::<Tcp, Inline>::bind(BindAddress::activated("b"), stream_fn(echo)).unwrap();
    let _only = TcpServer::bind(BindAddress::activated_only(), stream_fn(echo)).unwrap();
    drop(first);
    let error = tcp(BindAddress::activated("b"));
    assert!(error.contains("for one server"), "{error}");
    answer("done");
}

const CONTRADICTION: &str = "systemd::activation::contradicting_variables_are_errors";

#[test]
fn contradicting_variables_are_errors() {
    if is_child(CONTRADICTION) {
        let error = error_of(TcpServer::bind(BindAddress::activated("x"), stream_fn(echo)));
        let listed = activated_sockets();
        return answer(format!("{} | {error}", listed.map_or(0, |sockets| sockets.len())));
    }
    let null = "exec \"$0\" \"$@\" 3</dev/null";
    for (variables, says) in [
        ("", "LISTEN_PID is not set"),
        ("LISTEN_PID=1 LISTEN_FDS=1", "LISTEN_PID is 1, and this is process"),
        ("LISTEN_PID=$$", "LISTEN_FDS is not"),
        ("LISTEN_PID=$$ LISTEN_FDS=one", "LISTEN_FDS is \"one\", which is no number"),
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=a:b", "LISTEN_FDNAMES has 2 names"),
        ("LISTEN_PID=$$ LISTEN_FDS=99999999999999", "no process has so many descriptors"),
        ("LISTEN_PID=$$ LISTEN_FDS=0", "without sockets (LISTEN_FDS is 0)"),
        ("LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=a:b:c", "descriptor 4 cannot be taken"),
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x", "no socket of TCP"),
    ] {
        let export =
            if variables.is_empty() { String::new() } else { format!("export {variables};") };
        let mut command = in_bash(&format!("{export} {null}"), &child_command(CONTRADICTION));
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        let said = start(command).answer();
        assert!(said.contains(says), "{variables}: {said}");
    }
}

#[test]
fn a_descriptor_that_is_closed_by_an_exec_has_not_come_through_one() {
    const NAME: &str =
        "systemd::activation::a_descriptor_that_is_closed_by_an_exec_has_not_come_through_one";
    if is_child(NAME) {
        // These files take the numbers from 3 on, with the flag that all of std's descriptors have.
        let _own: Vec<_> = (0..8).map(|_| tempfile::tempfile().unwrap()).collect();
        let error = error_of(TcpServer::bind(BindAddress::activated_only(), stream_fn(echo)));
        return answer(error);
    }
    // Number 3 is free when the program starts. By the time that it binds, a file of its own has this number.
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&-";
    let said = start(in_bash(script, &child_command(NAME))).answer();
    assert!(said.contains("descriptor 3 cannot be taken"), "{said}");
}
