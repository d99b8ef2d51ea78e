//! Promises of the command line and the client of every program, as tests that each program calls for itself.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::process::{Ended, Process};
use crate::program::{Program, assert_ends, assert_fails_in_one_line};
use crate::{folder, has_ipv6};

/// One address for each transport that a program serves, in `folder`.
fn an_address_of_each_kind(folder: &Path) -> Vec<String> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let mut addresses = vec![
        "127.0.0.1:0".to_owned(),
        "udp:127.0.0.1:0".to_owned(),
        format!("unix:{}", folder.join("s").display()),
        format!("unix:@{name}"),
        format!("unixgram:{}", folder.join("d").display()),
    ];
    // A machine may have no IPv6 at all.
    if has_ipv6() {
        addresses.push("tcp:[::1]:0".into());
    }
    addresses
}

/// Serves each kind of address, all in one process where the mixin allows it, with a client at each: `check` gets the
/// client's output.
pub fn every_transport_under(program: Program<'_>, mixin: &str, input: &str, check: impl Fn(&str)) {
    let folder = folder();
    let addresses = an_address_of_each_kind(folder.path());
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    // A process that forks has one thread, and so one server.
    let processes: Vec<&[&str]> =
        if mixin == "forking" { addresses.chunks(1).collect() } else { vec![&addresses] };
    for addresses in processes {
        let (server, listening) = program.serve(addresses, &["--mixin", mixin]);
        for (asked, address) in addresses.iter().zip(&listening) {
            // The server prints the address that it was given, with the real port, and without the prefix of TCP.
            let asked = asked.trim_start_matches("tcp:");
            let beginning = asked.strip_suffix(":0").unwrap_or(asked);
            assert!(address.starts_with(beginning), "{address} instead of {asked}");
            assert!(!address.ends_with(":0"), "{address} is no real port");
            let answer = program.ask(address, input);
            assert_ends(&answer, 0);
            assert_eq!(answer.err, "");
            check(&answer.out);
        }
        server.send_signal(libc::SIGTERM);
        let ended = server.end();
        assert_ends(&ended, 0);
        assert_eq!(ended.err, "", "{mixin}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a socket's file is left");
}

/// Wrong command lines end with status 2 and say something on stderr alone.
pub fn wrong_use_ends_with_2(program: Program<'_>) {
    for args in [
        &["serve", "--bind", "nonsense"][..],
        &["serve", "--bind", "127.0.0.1:99999"],
        &["serve", "--bind", "unix:"],
        &["serve", "--no-such-option"],
        &["serve", "--mixin", "magic"],
        &["serve", "--grace", "-1"],
        &["connect", "nonsense"],
        &["no-such-command"],
        &[],
    ] {
        let ended = program.run(args);
        assert_ends(&ended, 2);
        assert!(!ended.err.is_empty() && ended.out.is_empty(), "{ended:?}");
    }
}

/// A client that finds no server says so in one line, over each transport.
pub fn connecting_to_nobody_says_so_in_one_line(program: Program<'_>) {
    let folder = folder();
    // The socket is bound and does not listen, so that no other process can listen there during the test.
    let tcp = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    tcp.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let nobody = [
        tcp.local_addr().unwrap().as_socket().unwrap().to_string(),
        format!("unix:{}", folder.path().join("s").display()),
        format!("unixgram:{}", folder.path().join("d").display()),
        "unix:@nobody-is-called-that".to_owned(),
    ];
    for address in &nobody {
        let ended = program.run(&["connect", address]);
        assert_fails_in_one_line(&ended, 1, &[address, "is the server running?"]);
    }
}

/// `serve --help` names the default address, and datagram addresses only where the program takes them.
pub fn the_help_says_where_it_listens(program: Program<'_>, address: &str, takes_datagrams: bool) {
    let ended = program.run(&["serve", "--help"]);
    assert_ends(&ended, 0);
    let help = ended.out.split("--mixin").next().unwrap();
    assert!(help.contains(&format!("[default: {address}]")), "{help}");
    assert_eq!(help.contains("udp:"), takes_datagrams, "{help}");
}

/// The program's README, or that of all programs, names each option that is in the `--help` of its commands.
pub fn the_readme_names_every_option(program: Program<'_>, commands: &[&str], readme: &str) {
    let of_all = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/README.md");
    let of_all = std::fs::read_to_string(of_all).unwrap();
    let mut count = 0;
    for command in commands {
        let help = program.run(&[command, "--help"]).out;
        let options = help.split_whitespace().filter(|word| word.starts_with("--"));
        // An option whose value may be missing: `--status[=WHO]`.
        let options = options.map(|word| word.split('[').next().unwrap_or_default());
        for option in options.map(|word| word.trim_end_matches(['.', ',', ':', ';', '\'', ']'])) {
            let is_named = readme.contains(option) || of_all.contains(option);
            assert!(is_named || option == "--", "{command} {option} is in no README");
            count += 1;
        }
    }
    assert!(count > 5, "the options were not found");
}

/// Runs a client with this as its stdout, and one line of input.
fn shows_on(program: Program<'_>, address: &str, stdout: Stdio) -> Ended {
    // The input is there before the client starts, which may end before it reads all of it.
    let (input, mut typed) = UnixStream::pair().unwrap();
    typed.write_all(b"hello\n").unwrap();
    drop(typed);
    let mut command = program.command(&["connect", address]);
    Process::start(command.stdin(OwnedFd::from(input)).stdout(stdout)).end()
}

/// A client whose stdout is closed ends as a program that SIGPIPE ends: nothing is wrong with the server or the
/// connection. The server, at `address`, sends something as soon as a client has connected or asked.
pub fn a_client_whose_reader_has_had_enough_ends_without_a_word(
    program: Program<'_>,
    address: &str,
) {
    let (server, listening) = program.serve(&[address], &[]);
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let ended = shows_on(program, &listening[0], OwnedFd::from(writer).into());
    assert_ends(&ended, 141);
    assert_eq!(ended.err, "", "{address}");
    drop(server);
}

/// A client that cannot write to its stdout says that, and does not say that the connection broke.
pub fn a_client_that_cannot_write_says_so_and_does_not_blame_the_connection(
    program: Program<'_>,
    address: &str,
) {
    let (server, listening) = program.serve(&[address], &[]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = shows_on(program, &listening[0], full.into());
    assert_fails_in_one_line(&ended, 1, &["cannot write to stdout: No space left on device"]);
    drop(server);
}

/// Which side of a connection speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeaksFirst {
    /// The client sends its standard input.
    Client,
    /// The server sends unasked.
    Server,
}

/// A client whose connection is reset says so, with the server's address.
pub fn a_connection_that_breaks_is_told_with_its_server(program: Program<'_>, first: SpeaksFirst) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let mut client = program.command(&["connect", &address.to_string()]);
    let client = Process::start(client.stdin(Stdio::piped()));
    let (mut stream, _) = listener.accept().unwrap();
    // The reset must not come before the client has its connection: so the client speaks first, or takes more than the
    // kernel's buffers hold.
    match first {
        SpeaksFirst::Server => stream.write_all(&vec![b'.'; 32 << 20]).unwrap(),
        SpeaksFirst::Client => {
            client.ask("hello");
            stream.read_exact(&mut [0]).unwrap();
        }
    }
    // This makes the close a reset.
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
    let ended = client.end();
    let told = format!("the connection to {address} broke: ");
    assert_fails_in_one_line(&ended, 1, &[&told]);
}
