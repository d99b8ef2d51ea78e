//! Real clients, under every mixin: curl and Python's `http.client`.

use std::process::{Command, Stdio};

use super::*;
use test_support::{folder, has_ipv6, skip};

const HTTP_CLIENT: &str = include_str!("http_client.py");

pub fn is_missing(tool: &str) -> bool {
    let missing = Command::new(tool).arg("--version").output().is_err();
    if missing {
        skip(&format!("{tool} is not installed"));
    }
    missing
}

pub fn curl(args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20"]).args(args).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_is_served_under_every_mixin() {
    if is_missing("curl") {
        return;
    }
    let folder = folder();
    std::fs::write(folder.path().join("file.txt"), "0123456789").unwrap();
    for mixin in MIXINS {
        let (server, address) = web(&["--mixin", mixin, "--idle-timeout", "60"]);
        let url = format!("http://{address}/");
        // Two requests over one connection: curl prints how many connections each has opened.
        let count = ["-w", " %{num_connects}\n", &url, &url];
        assert_eq!(curl(&count), "Hello, World 1\nHello, World 0\n", "{mixin}");
        assert_eq!(curl(&["--http1.0", &url]), "Hello, World");
        assert!(curl(&["-I", &url]).starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(curl(&["-X", "GET", "--data", "a=b", &url]), "Hello, World");
        let chunked = ["-X", "GET", "-H", "Transfer-Encoding: chunked", "--data", "a=b", &url];
        assert_eq!(curl(&chunked), "Hello, World");
        assert_eq!(
            curl(&["--data", "a=b", "-o", "-", "-w", "%{http_code}", &url])[..15],
            *"<!DOCTYPE html>"
        );
        server.send_signal(libc::SIGTERM);
        assert_ends(&server.end(), 0);

        let (_server, address) = web(&["--mixin", mixin, "--dir", folder.path().to_str().unwrap()]);
        let url = format!("http://{address}/file.txt");
        assert_eq!(curl(&[&url]), "0123456789");
        assert_eq!(curl(&["-r", "2-4", &url]), "234");
        assert!(curl(&["-L", &format!("http://{address}/.")]).contains("file.txt"));
    }
}

#[test]
fn pythons_http_client_is_served_under_every_mixin() {
    if is_missing("python3") {
        return;
    }
    let folder = folder();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/file.txt"), "0123456789").unwrap();
    for mixin in MIXINS {
        for dir in [None, Some(folder.path().to_str().unwrap())] {
            let mut options = vec!["--mixin", mixin, "--idle-timeout", "60"];
            options.extend(dir.iter().flat_map(|dir| ["--dir", *dir]));
            let (_server, address) = web(&options);
            let mut command = Command::new("python3");
            command.args(["-c", HTTP_CLIENT, &address.to_string()]).args(dir.map(|_| "files"));
            let ended = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped())).end();
            assert_ends(&ended, 0);
            assert_eq!(ended.out, "done\n", "{mixin}: {}", ended.err);
        }
    }
}

#[test]
fn curl_is_served_over_ipv6() {
    if is_missing("curl") {
        return;
    }
    if !has_ipv6() {
        // A machine may have no IPv6 at all.
        println!("skipped: there is no IPv6 here");
        return;
    }
    let (_server, addresses) = WEB.serve(&["[::1]:0"], &[]);
    assert_eq!(curl(&["-g", &format!("http://{}/", addresses[0])]), "Hello, World");
}

#[test]
fn curl_is_served_over_a_unix_socket() {
    if is_missing("curl") {
        return;
    }
    let folder = folder();
    let path = folder.path().join("s");
    let (_server, _) = WEB.serve(&[&format!("unix:{}", path.display())], &[]);
    let args = ["--unix-socket", path.to_str().unwrap(), "http://here/"];
    assert_eq!(curl(&args), "Hello, World");
}
