//! STARTTLS with clients of other projects, and with an attacker.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use test_support::process::Process;
use test_support::program::{Program, assert_ends, listening};
use test_support::tls::{certificate, s_client};
use test_support::{connect, exchange, read_line, read_to_end, skip};

const STARTTLS: Program<'_> = Program(env!("CARGO_BIN_EXE_starttls"));

fn serve() -> (Process, String) {
    let files = [certificate("server.pem"), certificate("server.key")];
    let mut command = STARTTLS.command(&[&files[0], &files[1], "127.0.0.1:0"]);
    let server = Process::start(&mut command);
    let address = listening(&server);
    (server, address)
}

/// Connects without TLS, and reads the greeting.
fn greeted(address: &str) -> TcpStream {
    let mut client = connect(address.parse().unwrap());
    assert_eq!(read_line(&mut client), "220 ready\r\n");
    client
}

#[test]
fn openssl_begins_tls_in_the_middle() {
    let (server, address) = serve();
    let options = ["-starttls", "smtp", "-crlf"];
    let Some(ended) = s_client(&address, &options, "EHLO me\nMAIL FROM:<me>\nDATA\nQUIT\n") else {
        return;
    };
    assert_ends(&ended, 0);
    for answer in ["250 hello again, unheard by others", "250 ok", "502 not here", "221 goodbye"] {
        assert!(ended.out.contains(answer), "{ended:?}");
    }
    server.send_signal(15);
    assert_ends(&server.end(), 0);
}

#[test]
fn pythons_smtplib_begins_tls_in_the_middle() {
    const CLIENT: &str = "import smtplib, ssl, sys\n\
        client = smtplib.SMTP('localhost', int(sys.argv[1]), timeout=20)\n\
        client.starttls(context=ssl.create_default_context(cafile=sys.argv[2]))\n\
        print(client.sock.version(), client.noop()[0], client.quit()[0])";
    let (_server, address) = serve();
    let port = address.rsplit(':').next().unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", CLIENT, port, &certificate("ca.pem")]).stdin(Stdio::null());
    let Ok(output) = command.output() else { return skip("python3 is not installed") };
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim_end(), "TLSv1.3 250 221", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn commands_in_the_clear_are_refused() {
    let (_server, address) = serve();
    let mut client = greeted(&address);
    assert_eq!(exchange(&mut client, "MAIL FROM:<me>\r"), "530 first STARTTLS\r\n");
    assert_eq!(exchange(&mut client, "QUIT\r"), "221 goodbye\r\n");
    assert!(read_to_end(&mut client).is_empty());
}

/// An attacker on the path can add commands to the client's until TLS begins. None of them may be obeyed later.
#[test]
fn commands_that_are_slipped_in_behind_starttls_are_never_obeyed() {
    let (server, address) = serve();
    let mut client = greeted(&address);
    client.write_all(b"STARTTLS\r\nMAIL FROM:<attacker>\r\nQUIT\r\n").unwrap();
    assert_eq!(read_line(&mut client), "220 go ahead\r\n");
    let rest = read_to_end(&mut client);
    // The rest is at most an alert of TLS.
    assert!(rest.len() <= 7 && !rest.starts_with(b"250"), "{rest:?}");
    server.send_signal(15);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "", "a peer's fault is reported as a failure");
}
