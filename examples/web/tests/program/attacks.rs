//! The first tries of an attacker, with curl and with raw bytes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use test_support::folder;

const SECRET: &str = "the secret";

/// A folder with a secret beside what is served.
fn site() -> (tempfile::TempDir, Process, SocketAddr) {
    let folder = folder();
    let path = folder.path();
    fs::create_dir_all(path.join("root/sub")).unwrap();
    // The name of this folder begins with that of the root: comparing the names as text would let it pass.
    fs::create_dir(path.join("root-secret")).unwrap();
    fs::write(path.join("secret.txt"), SECRET).unwrap();
    fs::write(path.join("root-secret/secret.txt"), SECRET).unwrap();
    fs::write(path.join("root/sub/file.txt"), "public").unwrap();
    let (server, address) = web(&["--dir", path.join("root").to_str().unwrap()]);
    (folder, server, address)
}

#[test]
fn nothing_outside_is_reached_by_any_spelling_of_dots() {
    let (_folder, _server, address) = site();
    let mut targets = Vec::new();
    for dots in [
        "..",
        "%2e%2e",
        ".%2E",
        "%2e.",
        "%252e%252e",
        "%c0%ae%c0%ae",
        "..%00",
        "...",
        ". .",
        "%u002e%u002e",
        "..;",
    ] {
        for slash in ["/", "%2f", "%2F", "\\", "%5c", "//", "/./", "%252f", "%c0%af"] {
            for start in ["/", "/sub/", "//", "/sub/../", "/sub/..%2f", "/./", "/x/"] {
                for end in
                    ["secret.txt", "root-secret/secret.txt", "secret.txt%00.html", "secret.txt/."]
                {
                    targets.push(format!("{start}{dots}{slash}{end}"));
                    targets.push(format!("{start}{dots}{slash}{dots}{slash}{end}"));
                }
            }
        }
    }
    targets.push("http://../secret.txt".into());
    targets.push("http://x/../secret.txt".into());
    for target in targets {
        let answer = get(address, &target, "");
        assert_ne!(answer.status, 200, "{target}");
        assert!(!answer.text().contains(SECRET), "{target}");
    }
    let outside = std::env::temp_dir();
    assert_eq!(get(address, &format!("/{}", outside.display()), "").status, 404);
    assert_eq!(get(address, "/sub/file.txt", "").text(), "public");
    // A path with `..` is refused even if it leads inside.
    assert_eq!(get(address, "/sub/../sub/file.txt", "").status, 404);
}

#[test]
fn nothing_outside_is_reached_by_curl() {
    if Command::new("curl").arg("--version").output().is_err() {
        test_support::skip("curl is not installed");
        return;
    }
    let (_folder, _server, address) = site();
    for path in [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/..%2fsecret.txt",
        "/sub/%2e%2e/%2e%2e/secret.txt",
        "//../secret.txt",
    ] {
        let url = format!("http://{address}{path}");
        let args = ["--path-as-is", "--max-time", "20", "-s", "-w", "%{http_code}", &url];
        let output = Command::new("curl").args(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.ends_with("404") && !text.contains(SECRET), "{path}: {text}");
    }
}

#[test]
fn links_are_followed_inside_and_lead_nowhere_else() {
    let (folder, _server, address) = site();
    let path = folder.path();
    let root = path.join("root");
    let link = |to: &Path, name: &str| symlink(to, root.join(name)).unwrap();
    link(Path::new("sub/file.txt"), "inside.txt");
    link(&root.join("sub"), "inside");
    link(Path::new("sub/../sub/../../root/sub/file.txt"), "around.txt");
    link(&path.join("secret.txt"), "outside.txt");
    link(Path::new("../root-secret"), "outside");
    link(Path::new("outside.txt"), "chain.txt");
    link(Path::new("/proc/self/root"), "proc");
    link(Path::new("loop"), "loop");
    link(Path::new("nowhere"), "broken");
    link(&path.join("secret.txt"), "sub/index.html");
    for target in ["/inside.txt", "/inside/file.txt", "/around.txt"] {
        assert_eq!(get(address, target, "").text(), "public", "{target}");
    }
    let outside = format!("/proc{}", path.join("secret.txt").display());
    for target in [
        "/outside.txt",
        "/outside/secret.txt",
        "/outside/",
        "/chain.txt",
        "/loop",
        "/broken",
        &outside,
    ] {
        assert_eq!(get(address, target, "").status, 404, "{target}");
    }
    // An index that is a link to the outside does not count.
    assert!(get(address, "/sub/", "").text().contains("file.txt"));
    // A listing does not show links to the outside, either.
    let listing = get(address, "/", "");
    for (name, is_shown) in [
        ("inside.txt", true),
        ("inside/", true),
        ("outside", false),
        ("chain", false),
        ("proc", false),
        ("loop", false),
        ("broken", false),
    ] {
        let shown = listing.text().contains(&format!("<bdi>{name}"));
        assert_eq!(shown, is_shown, "{name}");
    }
}

#[test]
fn exchanging_a_folder_for_a_link_in_the_right_moment_gains_nothing() {
    let (folder, _server, address) = site();
    let root = folder.path().join("root");
    fs::create_dir(root.join("real")).unwrap();
    fs::write(root.join("real/secret.txt"), "public").unwrap();
    symlink("../root-secret", root.join("link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = |from: &str, to: &str| fs::rename(root.join(from), root.join(to)).unwrap();
            while !done.load(Ordering::Relaxed) {
                swap("real", "now");
                swap("now", "real");
                swap("link", "now");
                swap("now", "link");
            }
        });
        let mut seen = [0, 0];
        for _ in 0..3_000 {
            let answer = get(address, "/now/secret.txt", "");
            assert!(!answer.text().contains(SECRET));
            seen[usize::from(answer.status == 200)] += 1;
        }
        done.store(true, Ordering::Relaxed);
        // How often a request meets the folder, and how often not, is chance.
        assert_eq!(seen[0] + seen[1], 3_000);
    });
}

#[test]
fn names_that_would_be_taken_for_something_else_are_shown_as_text() {
    let (folder, _server, address) = site();
    let root = folder.path().join("root");
    let names: [(&[u8], &str, &str); 9] = [
        (b"<b>&\"'.txt", "&lt;b&gt;&amp;&quot;&#39;.txt", "%3Cb%3E%26%22%27.txt"),
        (b"new\nline", "new\u{240a}line", "new%0Aline"),
        (b"red\x1b[31m", "red\u{241b}[31m", "red%1B%5B31m"),
        ("right\u{202e}left".as_bytes(), "right\u{fffd}left", "right%E2%80%AEleft"),
        ("c1\u{9b}".as_bytes(), "c1\u{fffd}", "c1%C2%9B"),
        (b"latin\xe9", "latin\u{fffd}", "latin%E9"),
        (b"50%25?#", "50%25?#", "50%2525%3F%23"),
        (b"javascript:alert(1)", "javascript:alert(1)", "javascript%3Aalert%281%29"),
        (b"\\\\evil", "\\\\evil", "%5C%5Cevil"),
    ];
    for (name, _, _) in names {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let listing = get(address, "/", "");
    let text = listing.text();
    assert!(!text.bytes().any(|byte| byte < b'\n' || byte == 0x1b), "a control character");
    for (name, shown, link) in names {
        assert!(text.contains(&format!("<bdi>{shown}</bdi>")), "{shown} in {text}");
        assert!(text.contains(&format!("href=\"./{link}\"")), "{link}");
        assert_eq!(get(address, &format!("/{link}"), "").body, name);
    }
    // The name of a folder is escaped in the title and in the path above a listing.
    let folder_name = OsStr::from_bytes(b"<i>\x1b\n");
    fs::create_dir(root.join(folder_name)).unwrap();
    let listing = get(address, "/%3Ci%3E%1B%0A/", "");
    assert!(listing.text().contains("<title>/&lt;i&gt;\u{241b}\u{240a}</title>"));
    assert!(!listing.text().contains("<i>"));
}

#[test]
fn headers_that_never_end_are_refused_while_they_come() {
    let (_server, address) = web(&[]);
    for (beginning, more, status) in [
        ("GET / HTTP/1.1\r\nHost: here\r\n", "A: b\r\n", 431),
        ("GET / HTTP/1.1\r\nHost: here\r\nA: ", "aaaaaaaaaaaaaaaa", 431),
        ("GET /", "aaaaaaaaaaaaaaaa", 414),
        ("", "\r\n", 414),
        ("GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n", 413),
        (
            "GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            "A: b\r\n",
            413,
        ),
        ("GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1", ";aaaaaaaa", 400),
    ] {
        let mut client = Client::new(address);
        let mut sender = client.reader.get_ref().try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let mut next = sender.write_all(beginning.as_bytes());
            // Sending fails once the server has closed.
            while next.is_ok() {
                next = sender.write_all(more.as_bytes());
            }
        });
        assert_eq!(client.answer().status, status, "{beginning}");
        client.assert_closed();
        drop(client);
        sending.join().unwrap();
    }
}

#[test]
fn lengths_that_are_none_or_too_large_are_refused() {
    let (_server, address) = web(&[]);
    let cases = [
        ("9223372036854775808", 413),
        ("18446744073709551615", 413),
        ("18446744073709551616", 413),
        ("99999999999999999999999999999999999999", 413),
        ("65537", 413),
        ("+5", 400),
        ("-5", 400),
        ("5, 5", 400),
        ("5 5", 400),
        ("0x5", 400),
        ("5_0", 400),
        ("", 400),
        ("\u{665}", 400),
    ];
    for (length, status) in cases {
        assert_refused(
            address,
            format!("GET / HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n\r\n"),
            status,
        );
    }
    for chunk in ["10001", "ffffffffffffffff", "8000000000000000"] {
        assert_refused(
            address,
            format!(
                "GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}\r\n"
            ),
            413,
        );
    }
}

#[test]
fn a_request_cannot_be_hidden_behind_another() {
    let (_server, address) = web(&[]);
    let hidden = "GET /hidden HTTP/1.1\r\nHost: here\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let heads = [
        format!("Content-Length: 5\r\n{chunked}"),
        format!("{chunked}Content-Length: 5\r\n"),
        "Content-Length: 5\r\nContent-Length: 6\r\n".to_owned(),
        "Content-Length: 5\r\nContent-Length: 5\r\n".to_owned(),
        format!("{chunked}{chunked}"),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        " Transfer-Encoding: chunked\r\n".to_owned(),
        "A: b\r\n\tTransfer-Encoding: chunked\r\n".to_owned(),
        "A: b\rContent-Length: 5\r\n".to_owned(),
        "Content-Length\0: 5\r\n".to_owned(),
    ];
    for head in heads {
        assert_refused(
            address,
            format!("GET / HTTP/1.1\r\nHost: here\r\n{head}\r\n0\r\n\r\n{hidden}"),
            400,
        );
    }
    for coding in
        ["xchunked", "chunked, gzip", "gzip, chunked", "identity", "\"chunked\"", "chunked\x0b"]
    {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n{hidden}"
        );
        let mut client = Client::new(address);
        let status = client.ask(&request).status;
        assert!(matches!(status, 400 | 501), "{coding}: {status}");
        client.assert_closed();
    }
    let start = format!("GET / HTTP/1.1\r\nHost: here\r\n{chunked}\r\n");
    for body in [
        "\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5;\n\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5\r\r\nhello\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "11111111111111111\r\n",
    ] {
        assert_refused(address, format!("{start}{body}{hidden}"), 400);
    }
    assert_refused(address, format!("GET / HTTP/1.0\r\n{chunked}\r\n0\r\n\r\n{hidden}"), 400);
    // After a refusal the following bytes are ignored, however they are cut.
    let mut client = Client::new(address);
    assert_eq!(
        client.ask(format!("{GET}BOGUS / HTTP/1.1\r\nHost: here\r\n\r\n{hidden}")).status,
        200
    );
    assert_eq!(client.answer().status, 501);
    client.assert_closed();
}

#[test]
fn who_takes_nothing_of_an_answer_is_left() {
    const SIZE: u64 = 64 * 1024 * 1024;
    let folder = folder();
    fs::File::create(folder.path().join("large")).unwrap().set_len(SIZE).unwrap();
    let dir = folder.path().to_str().unwrap();
    // The file is more than sockets hold. Under `inline` a client that is not given up keeps the next one waiting.
    let (server, address) = web(&["--dir", dir, "--send-timeout", "0.5", "--mixin", "inline"]);
    let mut silent: Vec<Client> = (0..2).map(|_| Client::new(address)).collect();
    for client in &mut silent {
        client.send("GET /large HTTP/1.1\r\nHost: here\r\n\r\n");
    }
    assert_eq!(get(address, "/large", "Range: bytes=0-0\r\n").status, 206);
    assert!(server.err_line().starts_with("---"));
    assert!(server.err_line().contains("failed for"));
    assert!(server.err_line().contains("write timeout"));
}

#[test]
fn listings_that_nobody_reads_cost_a_bounded_memory() {
    const CLIENTS: usize = 400;
    let folder = folder();
    for number in 0..2_000 {
        let name = format!("holiday-photo-with-a-name-of-some-length-{number:05}.jpeg");
        fs::File::create(folder.path().join(name)).unwrap();
    }
    let dir = folder.path().to_str().unwrap();
    let (server, address) = web(&["--dir", dir]);
    let before = peak_memory(server.id());
    let silent: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = connect(address);
            // The answers are more than the sockets of both sides hold.
            client.write_all(GET.repeat(30).as_bytes()).unwrap();
            client
        })
        .collect();
    // This asks until the waiting clients have used up the share of their address. Then one page more is refused, and
    // everything else is answered.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = get(address, "/", "");
        if answer.status == 503 {
            assert_eq!(answer.header("Retry-After"), Some("5"));
            break;
        }
        assert_eq!(answer.status, 200);
        assert!(Instant::now() < deadline, "nothing bounds what waits");
    }
    assert_eq!(get(address, "/none", "").status, 404);
    // The share of one address is only a part of the budget, so a client from elsewhere gets its listing.
    assert_eq!(Client::from_elsewhere(address).get("/", "").status, 200);
    let cost = peak_memory(server.id()) - before;
    // The cost is a quarter of 64 MiB for the listings, and the threads of 400 clients. Without a bound it was 3 MiB for
    // each client.
    assert!(cost < 160 * 1024, "{cost} KiB for {CLIENTS} clients");
    drop(silent);
    while get(address, "/", "").status != 200 {
        assert!(Instant::now() < deadline, "what those that left had is not given back");
    }
}

/// The most memory that a process has had, in KiB.
fn peak_memory(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
