//! The client with TLS: what it says when something is wrong. Servers of the other programs are asked in the same way.

use std::io::Write;
use std::net::TcpListener;

use super::*;

/// A client with TLS at this address, without input.
fn connect_with_tls(address: &str, options: &[&str]) -> test_support::process::Ended {
    ECHO.run(&[&["connect", address, "--tls"], options].concat())
}

#[test]
fn a_server_without_tls_is_told_from_one_with_it() {
    let (_server, address) = echo(&[]);
    let ended = connect_with_tls(&address.to_string(), &[]);
    assert_fails_in_one_line(
        &ended,
        1,
        &[&format!("cannot connect to {address} with TLS: it does not speak TLS")],
    );
}

#[test]
fn an_alert_in_answer_to_words_without_tls_says_that_the_server_speaks_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = ECHO.command(&["connect", &address.to_string()]);
    let client = Process::start(client.stdin(Stdio::piped()));
    client.ask("hello");
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&[21, 3, 3, 0, 2, 2, 10]).unwrap();
    assert_fails_in_one_line(&client.end(), 1, &["it speaks TLS: give --tls"]);
}

#[test]
fn options_of_tls_that_cannot_work_are_refused() {
    for (options, status, says) in [
        (
            &["--ca", "/does/not/exist"][..],
            1,
            "cannot read the certificate in /does/not/exist: No such file",
        ),
        (&["--ca", "/dev/null"], 1, "there is no certificate in PEM in /dev/null"),
        (&["--tls-name", "not a name"], 2, "\"not a name\" is no name that a certificate can have"),
    ] {
        let ended = connect_with_tls("127.0.0.1:1", options);
        assert_fails_in_one_line(&ended, status, &[says]);
    }
    let datagrams = connect_with_tls("udp:127.0.0.1:1", &[]);
    assert_fails_in_one_line(&datagrams, 2, &["TLS needs a connection"]);
    for options in [&["--ca", "x"][..], &["--tls", "--tls-cert", "x"], &["--tls", "--tls-key", "x"]]
    {
        assert_ends(&ECHO.run(&[&["connect", "127.0.0.1:1"], options].concat()), 2);
    }
}
