//! A folder that is served: files, parts of them, listings, and what is not there.

mod conditions;
mod listings;

use std::fs::{self, File, FileTimes};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use test_support::{folder, skip};

/// Starts a server of a folder that `fill` has put things into.
fn site(fill: impl Fn(&Path)) -> (tempfile::TempDir, Process, SocketAddr) {
    let folder = folder();
    fill(folder.path());
    let (server, address) = web(&["--dir", folder.path().to_str().unwrap()]);
    (folder, server, address)
}

fn digits(path: &Path) {
    fs::write(path.join("digits.txt"), "0123456789").unwrap();
}

#[test]
fn files_come_with_their_type() {
    let types = [
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.html", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.svg", "image/svg+xml"),
        ("a.pdf", "application/pdf"),
        ("a.tar.gz", "application/gzip"),
        ("a.nobody-knows", "text/plain; charset=utf-8"),
        ("README", "text/plain; charset=utf-8"),
        ("Makefile", "text/plain; charset=utf-8"),
        ("a.rs", "text/plain; charset=utf-8"),
        ("a.toml", "text/plain; charset=utf-8"),
        ("a.md", "text/plain; charset=utf-8"),
        ("a.ts", "text/plain; charset=utf-8"),
        ("a.sh", "text/plain; charset=utf-8"),
        ("a.yml", "text/plain; charset=utf-8"),
        ("a.sql", "text/plain; charset=utf-8"),
        ("a.java", "text/plain; charset=utf-8"),
        ("a.php", "text/plain; charset=utf-8"),
        ("a.xml", "text/xml; charset=utf-8"),
        ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"),
    ];
    let (_folder, _server, address) = site(|path| {
        for (name, _) in types {
            fs::write(path.join(name), name).unwrap();
        }
    });
    let mut client = Client::new(address);
    for (name, kind) in types {
        let answer = client.get(&format!("/{name}"), "");
        assert_eq!((answer.status, answer.text()), (200, name));
        assert_eq!(answer.header("Content-Type"), Some(kind), "{name}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    }
    client.send("HEAD /a.txt HTTP/1.1\r\nHost: here\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("5")));
    assert_eq!(client.get("/a.txt", "").text(), "a.txt");
}

#[test]
fn a_folder_asked_for_as_a_file_is_moved_there() {
    let (_folder, _server, address) = site(|path| {
        fs::create_dir_all(path.join("a b/\u{e4}\"<")).unwrap();
        fs::create_dir(path.join("evil.example")).unwrap();
    });
    let cases = [
        ("/a%20b", "/a%20b/"),
        ("/a%20b?c=d&e", "/a%20b/?c=d&e"),
        ("/a%20b/%C3%A4%22%3C", "/a%20b/%C3%A4%22%3C/"),
        ("/a%20b?\u{e4}", "/a%20b/?%C3%A4"),
        // Two slashes would begin the name of another server.
        ("//evil.example", "/evil.example/"),
        ("/%2Fevil.example", "/evil.example/"),
        ("http://elsewhere//evil.example", "/evil.example/"),
    ];
    let mut client = Client::new(address);
    for (target, location) in cases {
        let answer = client.get(target, "");
        assert_eq!((answer.status, answer.header("Location")), (301, Some(location)), "{target}");
        assert_eq!(client.get(location, "").status, 200);
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let (folder, _server, address) = site(|path| {
        digits(path);
        // A pipe without a writer: to open it for reading would wait for ever.
        let status = std::process::Command::new("mkfifo").arg(path.join("pipe")).status();
        assert!(status.unwrap().success());
    });
    let long = format!("/{}", "a".repeat(300));
    // The connection goes on after such a request, so one connection serves all of these.
    let mut client = Client::new(address);
    for target in ["/none", "/none/none", "/digits.txt/", "/digits.txt/x", "/pipe", "/%00", &long] {
        let answer = client.get(target, "");
        assert_eq!((answer.status, answer.header("Connection")), (404, None), "{target}");
    }
    client.assert_open();
    assert_eq!(client.get("/none", "Connection: close\r\n").header("Connection"), Some("close"));
    client.assert_closed();
    // The page names what was asked for, as text.
    let page = get(address, "/%3Cscript%3E%1B%5B31m&\"", "");
    assert!(page.text().contains("/&lt;script&gt;\u{241b}[31m&amp;&quot;"), "{}", page.text());
    // The answer to HEAD has no body.
    let mut client = Client::new(address);
    client.send("HEAD /none HTTP/1.1\r\nHost: here\r\n\r\n");
    let head = client.head();
    assert_eq!(head.status, 404);
    assert_ne!(head.header("Content-Length"), Some("0"));
    client.assert_open();
    // A file that vanishes while the server runs is not found, either.
    assert_eq!(get(address, "/digits.txt", "").status, 200);
    fs::remove_file(folder.path().join("digits.txt")).unwrap();
    assert_eq!(get(address, "/digits.txt", "").status, 404);
}

#[test]
fn what_may_not_be_read_is_forbidden() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let path = folder.path().join("digits.txt");
    digits(folder.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // The names in this folder may be read and nothing else, so that it only looks empty.
    let names_only = folder.path().join("names");
    fs::create_dir(&names_only).unwrap();
    digits(&names_only);
    fs::set_permissions(&names_only, fs::Permissions::from_mode(0o444)).unwrap();
    let mut command = WEB.command(&[]);
    if File::open(&path).is_ok() {
        // Root may read everything, unless it gives that right away.
        let rights = "-dac_override,-dac_read_search";
        command = Command::new("setpriv");
        command.args(["--bounding-set", rights, "--inh-caps", rights]).arg(WEB.path());
        if !Command::new("setpriv")
            .args(["--bounding-set", rights, "true"])
            .status()
            .is_ok_and(|status| status.success())
        {
            skip("this user cannot give away the right to read everything");
            return;
        }
    }
    let dir = folder.path().to_str().unwrap();
    command.args(["serve", "--bind", "127.0.0.1:0", "--dir", dir]);
    let server = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let address = listening(&server).parse().unwrap();
    let mut client = Client::new(address);
    assert_eq!(client.get("/digits.txt", "").status, 403);
    client.assert_open();
    assert_eq!(client.get("/names/", "").status, 403);
    client.assert_open();
    // The file is listed all the same.
    assert!(get(address, "/", "").text().contains("digits.txt"));
}

#[test]
fn a_large_file_is_sent_whole_and_never_held_whole() {
    const SIZE: usize = 64 * 1024 * 1024;
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 7 % 251) as u8).collect();
    let (_folder, server, address) = site(|path| fs::write(path.join("large"), &content).unwrap());
    let mut client = Client::new(address);
    assert!(client.get("/large", "").body == content, "it is not the same");
    let part = client.get("/large", "Range: bytes=1000000-60000000\r\n");
    assert!(part.body == content[1_000_000..=60_000_000], "it is not that part");
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: usize = line.split_whitespace().next().unwrap().parse().unwrap();
    assert!(most < SIZE / 1024 / 2, "the server has used {most} KiB");
    // A client that leaves in the middle does not disturb others.
    let mut gone = Client::new(address);
    gone.send("GET /large HTTP/1.1\r\nHost: here\r\n\r\n");
    gone.head();
    drop(gone);
    assert_eq!(client.get("/large", "Range: bytes=0-0\r\n").status, 206);
}

#[test]
fn a_file_that_grows_shorter_ends_the_connection() {
    const SIZE: u64 = 64 * 1024 * 1024;
    let (folder, server, address) =
        site(|path| File::create(path.join("large")).unwrap().set_len(SIZE).unwrap());
    let mut client = Client::new(address);
    client.send("GET /large HTTP/1.1\r\nHost: here\r\n\r\n");
    // The rest of the answer is more than sockets hold.
    assert_eq!(client.head().header("Content-Length"), Some(&*SIZE.to_string()));
    File::create(folder.path().join("large")).unwrap();
    let mut body = Vec::new();
    client.reader.read_to_end(&mut body).unwrap();
    assert!((body.len() as u64) < SIZE);
    let err = server.err_line();
    assert!(!err.is_empty());
    assert_eq!(get(address, "/", "").status, 200);
}

#[test]
fn what_is_no_text_is_not_shown_as_text() {
    let (_folder, _server, address) = site(|path| {
        for name in ["none", "a.ts", "a.pot", "a.nobody-knows", "a.java"] {
            fs::write(path.join(name), b"G\0\x01\xff").unwrap();
        }
    });
    for (name, kind) in [
        ("none", "application/octet-stream"),
        ("a.nobody-knows", "application/octet-stream"),
        ("a.java", "application/octet-stream"),
        ("a.ts", "video/vnd.dlna.mpeg-tts"),
        ("a.pot", "application/vnd.ms-powerpoint"),
    ] {
        assert_eq!(
            get(address, &format!("/{name}"), "").header("Content-Type"),
            Some(kind),
            "{name}"
        );
    }
}

#[test]
fn a_file_that_declares_its_charset_keeps_it() {
    let cut = ["a".repeat(1023).as_str(), "\u{e4}"].concat();
    let files: [(&str, &[u8], &str); 14] = [
        ("a.html", b"<meta charset=\"shift_jis\"><p>\x93\xfa", "text/html"),
        ("b.html", b"<!DOCTYPE html><HEAD><META HTTP-EQUIV='Content-Type' CONTENT='text/html; CHARSET = koi8-r'>", "text/html"),
        ("c.html", b"<!-- <meta charset=latin1> --><p>", "text/html; charset=utf-8"),
        ("d.html", b"<p>charset=latin1", "text/html; charset=utf-8"),
        ("e.html", b"<meta name=description content='a charset'>", "text/html; charset=utf-8"),
        ("f.html", b"<p>caf\xe9", "text/html"),
        ("a.xml", b"<?xml version='1.0' encoding='iso-8859-1'?>", "text/xml"),
        ("b.xml", b"<?xml version='1.0'?>", "text/xml; charset=utf-8"),
        ("a.css", b"@charset \"iso-8859-1\";", "text/css"),
        ("a.txt", b"caf\xe9", "text/plain"),
        ("b.txt", b"\xff\xfea\0", "text/plain"),
        // The kilobyte that is read may end in the middle of a character.
        ("c.txt", cut.as_bytes(), "text/plain; charset=utf-8"),
        ("d.txt", &cut.as_bytes()[..1024], "text/plain; charset=utf-8"),
        ("empty", b"", "text/plain; charset=utf-8"),
    ];
    let (_folder, _server, address) = site(|path| {
        for (name, bytes, _) in files {
            fs::write(path.join(name), bytes).unwrap();
        }
    });
    for (name, _, kind) in files {
        assert_eq!(
            get(address, &format!("/{name}"), "").header("Content-Type"),
            Some(kind),
            "{name}"
        );
    }
}

#[test]
fn a_packed_picture_says_that_it_is_packed() {
    let (_folder, _server, address) = site(|path| {
        fs::write(path.join("a.svgz"), b"\x1f\x8b\x08 and so on").unwrap();
        fs::write(path.join("b.SVGZ"), b"<svg xmlns='http://www.w3.org/2000/svg'/>").unwrap();
    });
    for (name, coding) in [("a.svgz", Some("gzip")), ("b.SVGZ", None)] {
        let answer = get(address, &format!("/{name}"), "");
        assert_eq!(answer.header("Content-Type"), Some("image/svg+xml"));
        assert_eq!(answer.header("Content-Encoding"), coding, "{name}");
    }
}

#[test]
fn names_with_a_dot_are_served_only_if_that_is_asked_for() {
    let fill = |path: &Path| {
        for folder in [".git", ".well-known", "a"] {
            fs::create_dir(path.join(folder)).unwrap();
            fs::write(path.join(folder).join("config"), "x").unwrap();
        }
        fs::write(path.join(".env"), "x").unwrap();
        fs::write(path.join("a/.env"), "x").unwrap();
        std::os::unix::fs::symlink(".", path.join("here")).unwrap();
    };
    let hidden =
        ["/.env", "/.git/", "/.git/config", "/a/.env", "/%2egit/config", "/here/.env", "/.git"];
    let (folder, _server, address) = site(fill);
    for path in hidden {
        assert_eq!(get(address, path, "").status, 404, "{path}");
    }
    assert_eq!(get(address, "/.well-known/config", "").status, 200);
    assert!(!get(address, "/", "").text().contains(".env"));
    assert!(get(address, "/", "").text().contains(".well-known"));
    let (_server, address) = web(&["--dot-files", "--dir", folder.path().to_str().unwrap()]);
    for path in hidden {
        assert_ne!(get(address, path, "").status, 404, "{path}");
    }
    assert!(get(address, "/", "").text().contains(".env"));
}

#[test]
fn a_link_that_names_the_folder_may_be_exchanged() {
    let outside = folder();
    for version in ["1", "2"] {
        fs::create_dir(outside.path().join(version)).unwrap();
        fs::write(outside.path().join(version).join("page.txt"), version).unwrap();
    }
    let link = outside.path().join("current");
    std::os::unix::fs::symlink("1", &link).unwrap();
    let (_server, address) = web(&["--dir", link.to_str().unwrap()]);
    assert_eq!(get(address, "/page.txt", "").text(), "1");
    // The link is exchanged as a deployment does it, without a moment at which there is no link.
    std::os::unix::fs::symlink("2", outside.path().join("next")).unwrap();
    fs::rename(outside.path().join("next"), &link).unwrap();
    assert_eq!(get(address, "/page.txt", "").text(), "2");
    assert!(get(address, "/", "").text().contains("page.txt"));
    // The file of the old version, which was inside, is outside now.
    std::os::unix::fs::symlink(outside.path().join("1/page.txt"), outside.path().join("2/old"))
        .unwrap();
    assert_eq!(get(address, "/old", "").status, 404);
    // The link is removed, and made again.
    fs::remove_file(&link).unwrap();
    let answer = get(address, "/page.txt", "");
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("5")));
    std::os::unix::fs::symlink("1", &link).unwrap();
    assert_eq!(get(address, "/page.txt", "").text(), "1");
}
