//! Other implementations: openssl's client and Python's.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use socketserver::transport::Tcp;
use socketserver::{BackgroundServer, Threading, ThreadingTcpServer};

use super::client::{localhost, pem};
use crate::handlers::Echo;
use crate::support::{inet, skip, soon};

fn server() -> BackgroundServer<Tcp, Threading> {
    ThreadingTcpServer::builder()
        .tls(localhost().require_client_certificates(pem("ca.pem")).unwrap().alpn(["echo/1"]))
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap()
}

#[test]
fn openssl_speaks_to_it_and_reads_its_farewell() {
    let server = server();
    for version in ["-tls1_3", "-tls1_2"] {
        let client = Command::new("openssl")
            .args(["s_client", "-connect", &inet(&*server).to_string(), "-servername", "localhost"])
            .args(["-verify_return_error", "-quiet", "-alpn", "echo/1", version])
            .arg("-CAfile")
            .arg(pem("ca.pem"))
            .arg("-cert")
            .arg(pem("client.pem"))
            .arg("-key")
            .arg(pem("client.key"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut client) = client else { return skip("openssl is not installed") };
        let mut stdin = client.stdin.take().unwrap();
        let mut stdout = client.stdout.take().unwrap();
        stdin.write_all(b"hello\n").unwrap();
        let answer = soon("openssl's answer", move || {
            let mut answer = [0; 6];
            stdout.read_exact(&mut answer).map(|()| answer)
        });
        assert_eq!(&answer.unwrap(), b"hello\n");
        drop(stdin);
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

/// Python raises `SSLEOFError` for an end without close_notify, and `SSLError` for an end with a bad one.
const PYTHON: &str = "
import socket, ssl, sys
port, folder = sys.argv[1:]
for version in ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2:
    context = ssl.create_default_context(cafile=folder + '/ca.pem')
    context.load_cert_chain(folder + '/client.pem', folder + '/client.key')
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(['echo/1'])
    session = None
    for round in range(2):
        plain = socket.create_connection(('127.0.0.1', int(port)), timeout=20)
        tls = context.wrap_socket(plain, server_hostname='localhost', session=session,
                                  suppress_ragged_eofs=False)
        assert tls.selected_alpn_protocol() == 'echo/1'
        tls.sendall(b'x' * 50000 + b'\\n')
        answer = b''
        while len(answer) < 50001:
            answer += tls.recv(65536)
        assert answer == b'x' * 50000 + b'\\n'
        assert tls.session_reused == (round == 1), (version, round)
        session = tls.session
        # Both sides say that they end: unwrap() sends close_notify and waits for the other one.
        tls.unwrap()
        plain.close()
print('fine')
";

#[test]
fn python_speaks_to_it_resumes_and_ends_in_order() {
    let server = server();
    let folder = pem("ca.pem").parent().unwrap().to_owned();
    let run = Command::new("python3")
        .args(["-c", PYTHON, &inet(&*server).port().to_string()])
        .arg(folder)
        .output();
    let Ok(run) = run else { return skip("python3 is not installed") };
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{told}");
    assert_eq!(run.stdout, b"fine\n");
}
