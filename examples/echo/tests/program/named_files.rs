//! Files and variables that are given by mistake. A pipe, a device or a folder in the place of a file ends the program at
//! once, with a sentence about it. A variable that is set and empty counts as unset.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use test_support::folder;
use test_support::process::Process;
use test_support::program::{assert_ends, assert_fails_in_one_line};
use test_support::tls::{Dialog, certificate};

use super::ECHO;

/// Paths that do not lead to a file, each with the words of the error about it. They exist until the folder is dropped.
fn no_files() -> (tempfile::TempDir, Vec<(PathBuf, &'static str)>) {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let all = vec![
        (pipe, "it is a pipe that no program writes to"),
        ("/dev/zero".into(), "it is a device, and no file"),
        (folder.path().into(), "it is a folder, and no file"),
    ];
    (folder, all)
}

/// Fails unless the program fails at once, in these words.
fn fails_at_once(command: &mut Command, says: &[&str]) {
    let began = Instant::now();
    let ended = Process::start(command).end();
    assert_fails_in_one_line(&ended, 1, says);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_server_does_not_wait_for_what_is_no_file() {
    let (_folder, wrong) = no_files();
    let (chain, key) = (certificate("server.pem"), certificate("server.key"));
    for (path, says) in &wrong {
        let path = path.to_str().unwrap();
        for files in [[path, &key, &chain], [&chain, path, &chain], [&chain, &key, path]] {
            let serve = ["serve", "--bind", "127.0.0.1:0"];
            let [chain, key, authorities] = files;
            let tls = ["--tls-cert", chain, "--tls-key", key, "--tls-client-ca", authorities];
            fails_at_once(&mut ECHO.command(&[&serve[..], &tls].concat()), &[path, says]);
        }
    }
}

#[test]
fn a_client_does_not_wait_for_what_is_no_file() {
    let (_folder, wrong) = no_files();
    let dialog = Dialog { serve: &[], connect: &[], typed: "", sent: "", answer: "", mixins: &[] };
    let (_server, address) = dialog.serve(ECHO, "127.0.0.1:0", &[]);
    let (chain, key) = (certificate("client.pem"), certificate("client.key"));
    for (path, says) in &wrong {
        let path = path.to_str().unwrap();
        let connect = ["connect", &address, "--tls"];
        for options in [
            ["--ca", path, "--tls-cert", &chain, "--tls-key", &key],
            ["--ca", &chain, "--tls-cert", path, "--tls-key", &key],
            ["--ca", &chain, "--tls-cert", &chain, "--tls-key", path],
        ] {
            fails_at_once(&mut ECHO.command(&[&connect[..], &options].concat()), &[path, says]);
        }
        fails_at_once(ECHO.command(&connect).env("SSL_CERT_FILE", path), &[path, says]);
    }
}

#[test]
fn a_pipe_that_a_program_writes_to_is_read() {
    let mut command = Command::new("bash");
    let script = r#"exec "$0" serve --bind 127.0.0.1:0 --tls-cert <(sleep 0.1; cat "$1") --tls-key <(cat "$2")"#;
    command.args(["-c", script]).arg(ECHO.path());
    command.args([certificate("server.pem"), certificate("server.key")]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let server = Process::start(&mut command);
    assert!(server.line().ends_with(" with TLS"));
    server.send_signal(libc::SIGTERM);
    assert_ends(&server.end(), 0);
}

/// With an empty variable a client trusts the same certificates as without the variable: those of this system, if it has
/// any. It says nothing about a file with an empty name.
#[test]
fn an_empty_variable_counts_as_unset() {
    let dialog = Dialog { serve: &[], connect: &[], typed: "", sent: "", answer: "", mixins: &[] };
    let (_server, address) = dialog.serve(ECHO, "127.0.0.1:0", &[]);
    let ends = |variables: &[(&str, &str)]| {
        let mut command = ECHO.command(&["connect", &address, "--tls"]);
        command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        Process::start(&mut command).end()
    };
    let without = ends(&[]);
    assert_ends(&without, 1);
    for variables in [&[("SSL_CERT_FILE", "")][..], &[("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", "")]]
    {
        assert_eq!(ends(variables).err, without.err, "{variables:?}");
    }
    let trusted = ends(&[("SSL_CERT_FILE", &certificate("ca.pem")), ("SSL_CERT_DIR", "")]);
    assert_ends(&trusted, 0);
    // The variables of a service manager count as unset, too.
    let mut command = ECHO.command(&["serve", "--bind", "127.0.0.1:0"]);
    for name in [
        "NOTIFY_SOCKET",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    ] {
        command.env(name, "");
    }
    let server = Process::start(&mut command);
    assert!(server.line().starts_with("listening on "));
    server.send_signal(libc::SIGTERM);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "");
    let mut command = ECHO.command(&["serve", "--bind", "systemd"]);
    fails_at_once(command.env("LISTEN_PID", ""), &["LISTEN_PID is not set"]);
}

#[test]
fn numbers_say_what_to_write() {
    for (option, value, says) in [
        ("--rate-per-peer", "", "write a number per second; 0 or none is no limit"),
        ("--rate-per-peer", "18446744073709551616", "write a number per second"),
        ("--max-clients", "0", "write a number of at least 1"),
        ("--max-per-peer", "x", "write a number of at least 1"),
        ("--workers", "", "write a number of at least 1"),
        ("--grace", "", "write a time: seconds (60, 0.5)"),
        ("--bind", "unix:@", "an abstract name needs at least one byte: @NAME"),
        ("--bind", "unixgram:@", "an abstract name needs at least one byte: @NAME"),
    ] {
        let ended = ECHO.run(&["serve", option, value]);
        assert_ends(&ended, 2);
        assert!(ended.err.contains(says) && ended.err.contains(option), "{ended:?}");
    }
    let server = Process::start(&mut ECHO.command(&[
        "serve",
        "--bind",
        "127.0.0.1:0",
        "--rate-per-peer",
        "none",
    ]));
    assert!(server.line().starts_with("listening on "));
}
