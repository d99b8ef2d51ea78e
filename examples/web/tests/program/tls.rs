//! The web over TLS: curl, Python, openssl and Chromium, and the certificate that is made for a try.

use std::process::{Command, Stdio};

use super::browser::{chromium, dump};
use super::clients::{curl, is_missing};
use super::*;
use test_support::folder;
use test_support::tls::{self, Dialog, certificate};

const DIALOG: Dialog<'_> = Dialog {
    serve: &[],
    connect: &[],
    typed: "",
    sent: "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    answer: "Hello, World",
    mixins: &MIXINS,
};

#[test]
fn clients_of_others_talk_tls() {
    tls::clients_of_others_talk_to_it(WEB, &DIALOG);
}

#[test]
fn curl_is_served_under_every_mixin() {
    if is_missing("curl") {
        return;
    }
    let folder = folder();
    let file = "0123456789".repeat(100_000);
    std::fs::write(folder.path().join("file.txt"), &file).unwrap();
    let dir = ["--dir", folder.path().to_str().unwrap(), "--idle-timeout", "60"];
    let ca = certificate("ca.pem");
    for mixin in MIXINS {
        let options = [&dir[..], &["--mixin", mixin]].concat();
        let (server, address) = DIALOG.serve(WEB, "127.0.0.1:0", &options);
        let url = format!("https://{address}/file.txt");
        // There are two requests over one connection.
        let count = ["--cacert", &ca, "-w", " %{num_connects}\n", &url, &url];
        assert_eq!(curl(&count), format!("{file} 1\n{file} 0\n"), "{mixin}");
        assert_eq!(curl(&["--cacert", &ca, "-r", "2-4", &url]), "234");
        server.send_signal(libc::SIGTERM);
        assert_ends(&server.end(), 0);
    }
}

#[test]
fn a_client_without_the_authority_or_a_certificate_gets_nothing() {
    if is_missing("curl") {
        return;
    }
    let ca = certificate("ca.pem");
    let (_server, address) = DIALOG.serve(WEB, "127.0.0.1:0", &["--tls-client-ca", &ca]);
    let status = |options: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-s", "--max-time", "20"]).args(options).arg(format!("https://{address}/"));
        command.stdin(Stdio::null()).output().unwrap().status.success()
    };
    let (cert, key) = (certificate("client.pem"), certificate("client.key"));
    assert!(status(&["--cacert", &ca, "--cert", &cert, "--key", &key]));
    assert!(!status(&["--cacert", &ca]));
    assert!(!status(&["--cert", &cert, "--key", &key]));
}

/// Starts a server with a self-signed certificate. Returns also its URL, and its first lines, which say how to trust the
/// certificate.
fn self_signed() -> (Process, String, Vec<String>) {
    let mut command = WEB.command(&["serve", "--bind", "127.0.0.1:0", "--tls-self-signed"]);
    let server = Process::start(&mut command);
    let lines: Vec<String> = (0..4).map(|_| server.line()).collect();
    let url = lines[0].strip_prefix("listening on ").unwrap().to_owned();
    (server, url, lines)
}

#[test]
fn the_advice_of_a_self_signed_server_works_for_curl_and_for_nobody_else() {
    if is_missing("curl") {
        return;
    }
    let (_server, url, lines) = self_signed();
    let (_, advice) = lines[3].split_once("curl asks for exactly this one: ").unwrap();
    let run = |command: &str| {
        let output =
            Command::new("sh").args(["-c", &format!("{command} -sS --max-time 20")]).output();
        output.unwrap()
    };
    assert_eq!(String::from_utf8(run(advice).stdout).unwrap(), "Hello, World");
    // An attacker could run another server of the same kind.
    let (_other, other, _) = self_signed();
    assert!(!run(&advice.replace(&url, &other)).status.success());
    // openssl computes the same fingerprint.
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", url.trim_start_matches("https://")]).stdin(Stdio::null());
    let Ok(shown) = openssl.output() else { return };
    let pem = String::from_utf8_lossy(&shown.stdout).into_owned();
    let begin = pem.find("-----BEGIN").unwrap();
    let mut x509 = Command::new("openssl");
    x509.args(["x509", "-noout", "-fingerprint", "-sha256"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut x509 = Process::start(&mut x509);
    x509.type_in(&pem[begin..]);
    assert!(x509.line().ends_with(lines[2].trim()), "{lines:?}");
}

#[test]
fn a_browser_is_served_over_tls() {
    let Some(browser) = chromium() else { return };
    let (_server, url, lines) = self_signed();
    let pin = lines[3].split('\'').nth(1).unwrap().trim_start_matches("sha256//");
    let trusting = format!("--ignore-certificate-errors-spki-list={pin}");
    assert!(dump(browser, &format!("{url}/"), &[&trusting]).contains("Hello, World"));
}

#[test]
fn one_certificate_is_enough() {
    let (chain, key) = (certificate("server.pem"), certificate("server.key"));
    let options = ["serve", "--tls-self-signed", "--tls-cert", &chain, "--tls-key", &key];
    assert_ends(&WEB.run(&options), 2);
}
