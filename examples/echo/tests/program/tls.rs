//! Echo with TLS. As the smallest program it also shows what all of them share: certificates that are exchanged, and what
//! a client says when something is wrong.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::*;
use test_support::process::Ended;
use test_support::tls::{self, Dialog, certificate, s_client, s_server, trusting};

const DIALOG: Dialog<'_> = Dialog {
    serve: &["--mode", "line"],
    connect: &[],
    typed: "hello\n",
    sent: "hello\n",
    answer: "hello",
    mixins: &MIXINS,
};

#[test]
fn the_client_talks_tls() {
    tls::own_client_talks_tls(ECHO, &DIALOG);
}

#[test]
fn clients_of_others_talk_tls() {
    tls::clients_of_others_talk_to_it(ECHO, &DIALOG);
}

#[test]
fn clients_show_certificates() {
    tls::clients_show_certificates(ECHO, &DIALOG);
}

#[test]
fn words_in_the_clear_are_not_answered() {
    let ended = tls::words_in_the_clear_are_not_answered(ECHO, &DIALOG);
    assert!(ended.err.contains("it speaks TLS: give --tls"), "{ended:?}");
}

#[test]
fn the_log_says_why_a_handshake_has_failed() {
    for mixin in ["threading", "forking"] {
        let options = ["--log-level", "verbose", "--mixin", mixin];
        let (server, address) = DIALOG.serve(ECHO, "127.0.0.1:0", &options);
        let mut client = connect(address.parse().unwrap());
        client.write_all(b"hello\n").unwrap();
        let _ = client.read_to_end(&mut Vec::new());
        let mut log = String::new();
        while !log.contains(" ended: ") {
            log += &server.line();
            log += "\n";
        }
        assert!(log.contains("received corrupt message"), "{mixin}: {log}");
        assert!(log.contains("ended: the peer sent what cannot be read"), "{mixin}: {log}");
    }
}

#[test]
fn both_directions_flow_at_once() {
    let dialog = Dialog { serve: &[], ..DIALOG };
    let (_server, address) = dialog.serve(ECHO, "127.0.0.1:0", &[]);
    // This is far more than fits into the buffers between the two: if the client did not read while it writes, both would wait.
    let typed = "0123456789abcdef".repeat(1 << 20) + "\n";
    let ended = Dialog { typed: &typed, ..dialog }.ask(ECHO, &address, &trusting());
    assert_ends(&ended, 0);
    assert!(ended.out == typed, "{} bytes came back", ended.out.len());
}

#[test]
fn the_count_comes_after_the_end_of_the_input() {
    let dialog = Dialog { serve: &["--mode", "sink"], answer: "6\n", ..DIALOG };
    tls::own_client_talks_tls(ECHO, &dialog);
}

/// The subject of the certificate that a server shows.
fn subject(address: &str, name: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", address, "-servername", name]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.starts_with("subject=")).unwrap_or_default().to_owned()
}

#[test]
fn sighup_exchanges_the_certificates_and_bad_files_change_nothing() {
    if s_client("127.0.0.1:1", &[], "").is_none() {
        return;
    }
    for mixin in MIXINS {
        let folder = folder();
        let (chain, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let install = |name: &str| {
            fs::copy(certificate(&format!("{name}.pem")), &chain).unwrap();
            fs::copy(certificate(&format!("{name}.key")), &key).unwrap();
        };
        install("server");
        let paths = [&chain, &key].map(|path| path.to_str().unwrap());
        let options = ["--mixin", mixin];
        let (server, address) =
            DIALOG.serve_with(ECHO, "127.0.0.1:0", paths[0], paths[1], &options);
        assert!(subject(&address, "localhost").ends_with("localhost"));
        install("other");
        server.send_signal(libc::SIGHUP);
        assert_eq!(server.err_line(), format!("{address} has read its certificates again"));
        assert!(subject(&address, "localhost").ends_with("other.example"), "{mixin}");
        fs::write(&key, "no key").unwrap();
        server.send_signal(libc::SIGHUP);
        let said = server.err_line();
        assert!(
            said.contains(paths[1]) && said.ends_with("the certificates from before stay"),
            "{said}"
        );
        assert!(subject(&address, "localhost").ends_with("other.example"), "{mixin}");
        server.send_signal(libc::SIGTERM);
        assert_ends(&server.end(), 0);
    }
}

#[test]
fn a_server_whose_files_are_wrong_does_not_start() {
    let (chain, key) = (certificate("server.pem"), certificate("server.key"));
    let (missing, folder) = ("/does/not/exist", folder());
    let large = folder.path().join("large.pem");
    fs::File::create(&large).unwrap().set_len(1 << 30).unwrap();
    let large = large.to_str().unwrap();
    for (options, status, says) in [
        (&["--tls-cert", &chain][..], 2, "--tls-key"),
        (&["--tls-key", &key], 2, "--tls-cert"),
        (&["--tls-client-ca", &chain], 2, "--tls-cert"),
        (&["--tls-cert", missing, "--tls-key", &key], 1, missing),
        (&["--tls-cert", "/dev/zero", "--tls-key", &key], 1, "it is a device, and no file"),
        (&["--tls-cert", &chain, "--tls-key", "/dev/zero"], 1, "it is a device, and no file"),
        (&["--tls-cert", large, "--tls-key", &key], 1, "it has more than 16 MiB"),
        (&["--tls-cert", &chain, "--tls-key", &chain], 1, "PRIVATE KEY"),
        (&["--tls-cert", &chain, "--tls-key", &certificate("other.key")], 1, "does not belong to"),
        (
            &["--tls-cert", &chain, "--tls-key", &key, "--bind", "udp:127.0.0.1:0"],
            2,
            "needs connections",
        ),
    ] {
        let ended = ECHO.run(&[&["serve"], options].concat());
        assert_ends(&ended, status);
        assert!(ended.err.contains(says) && ended.out.is_empty(), "{ended:?}");
    }
}

/// Connects to this address with TLS and without input.
fn connect_with_tls(address: &str, options: &[&str]) -> Ended {
    ECHO.run(&[&["connect", address, "--tls"], options].concat())
}

#[test]
fn a_server_without_tls_is_told_from_one_with_it() {
    let (_server, address) = echo(&[]);
    let ended = connect_with_tls(&address.to_string(), &[]);
    let says = format!("cannot connect to {address} with TLS: it does not speak TLS");
    assert_fails_in_one_line(&ended, 1, &[&says]);
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
        (&["--ca", "/dev/zero"], 1, "in /dev/zero: it is a device, and no file"),
        (&["--ca", "/dev/null"], 1, "in /dev/null: it is a device, and no file"),
        (
            &["--tls-name", "not a name"],
            2,
            "\"not a name\" is not a name that a certificate can have",
        ),
    ] {
        assert_fails_in_one_line(&connect_with_tls("127.0.0.1:1", options), status, &[says]);
    }
    let datagrams = connect_with_tls("udp:127.0.0.1:1", &[]);
    assert_fails_in_one_line(&datagrams, 2, &["TLS needs a connection"]);
    for options in [&["--ca", "x"][..], &["--tls", "--tls-cert", "x"], &["--tls", "--tls-key", "x"]]
    {
        assert_ends(&ECHO.run(&[&["connect", "127.0.0.1:1"], options].concat()), 2);
    }
}

/// Makes a self-signed certificate for 127.0.0.1 as most people do, by one command, with further options. `None` without
/// openssl.
fn self_signed(folder: &Path, options: &[&str]) -> Option<[String; 2]> {
    let files = ["cert.pem", "key.pem"].map(|name| folder.join(name).display().to_string());
    let mut command = Command::new("openssl");
    command
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-out", &files[0], "-keyout", &files[1]])
        .args(options);
    let output = command.output().ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(files)
}

#[test]
fn a_certificate_that_openssl_has_signed_by_itself_is_trusted_by_its_file_alone() {
    let folder = folder();
    let Some([chain, key]) = self_signed(folder.path(), &["-days", "1"]) else { return };
    let (_server, address) = DIALOG.serve_with(ECHO, "127.0.0.1:0", &chain, &key, &[]);
    for options in [&["--ca", &certificate("ca.pem")][..], &[]] {
        let ended = connect_with_tls(&address, options);
        assert_fails_in_one_line(&ended, 1, &["signed by itself", "give --ca FILE"]);
    }
    let ended = DIALOG.ask(ECHO, &address, &["--tls".into(), "--ca".into(), chain.clone()]);
    assert_ends(&ended, 0);
    assert_eq!(ended.out, "hello\n");
    let ended = connect_with_tls(&address, &["--ca", &chain, "--tls-name", "example.org"]);
    assert_fails_in_one_line(
        &ended,
        1,
        &["its certificate is for 127.0.0.1, and not for example.org"],
    );
}

#[test]
fn a_wrong_name_is_told_with_those_of_the_certificate() {
    let (chain, key) = (certificate("other.pem"), certificate("other.key"));
    let (_server, address) = DIALOG.serve_with(ECHO, "127.0.0.1:0", &chain, &key, &[]);
    let ca = certificate("ca.pem");
    let ended = connect_with_tls(&address, &["--ca", &ca]);
    let says = "its certificate is for other.example, *.wild.example, and not for 127.0.0.1";
    assert_fails_in_one_line(&ended, 1, &[says, "--tls-name"]);
    let named = [trusting(), vec!["--tls-name".into(), "a.wild.example".into()]].concat();
    assert_ends(&DIALOG.ask(ECHO, &address, &named), 0);
}

#[test]
fn an_expired_certificate_is_told_with_its_age() {
    let folder = folder();
    let Some([chain, key]) = self_signed(folder.path(), &[]) else { return };
    // `openssl req` cannot set dates in the past; `openssl ca` signs the certificate again with such dates.
    let conf = folder.path().join("ca.conf");
    let base = folder.path().display();
    fs::write(
        &conf,
        format!(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = {base}/index\nnew_certs_dir = {base}\nrand_serial = yes\n\
             default_md = sha256\npolicy = any\nx509_extensions = names\n[any]\ncommonName = supplied\n\
             [names]\nsubjectAltName = IP:127.0.0.1\n"
        ),
    )
    .unwrap();
    fs::write(folder.path().join("index"), "").unwrap();
    let output = Command::new("openssl")
        .args(["ca", "-batch", "-notext", "-config", conf.to_str().unwrap()])
        .args(["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"])
        .args([
            "-ss_cert",
            &chain,
            "-keyfile",
            &key,
            "-cert",
            &chain,
            "-out",
            &format!("{chain}.old"),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let old = format!("{chain}.old");
    let (_server, address) = DIALOG.serve_with(ECHO, "127.0.0.1:0", &old, &key, &[]);
    let ended = connect_with_tls(&address, &["--ca", &chain]);
    assert_fails_in_one_line(&ended, 1, &["its certificate has expired", "days ago"]);
    let ended = connect_with_tls(&address, &["--ca", &old]);
    assert_fails_in_one_line(&ended, 1, &["its certificate has expired", "days ago"]);
}

#[test]
fn openssls_server_is_talked_to() {
    for version in ["-tls1_2", "-tls1_3"] {
        let Some((server, address)) = s_server(&["-rev", version]) else { return };
        let ended = DIALOG.ask(ECHO, &address.to_string(), &trusting());
        assert_ends(&ended, 0);
        assert_eq!(ended.out, "olleh\n");
        drop(server);
    }
}

#[test]
fn a_connection_that_is_cut_off_does_not_pass_for_a_whole_one() {
    let Some((server, address)) = s_server(&["-quiet"]) else { return };
    let mut client = ECHO.command(
        &[&["connect", &address.to_string()][..], &["--tls", "--ca", &certificate("ca.pem")]]
            .concat(),
    );
    let client = Process::start(client.stdin(Stdio::piped()));
    client.ask("hello");
    assert_eq!(server.line(), "hello");
    server.ask("an answer");
    assert_eq!(client.line(), "an answer");
    server.send_signal(libc::SIGKILL);
    let ended = client.end();
    let says = format!("the connection to {address} broke: it ended without a close_notify");
    assert_fails_in_one_line(&ended, 1, &[&says]);
}
