//! The tutorial's wire: `post|name|size` and the bytes, in both directions.

use std::net::{Shutdown, TcpListener};
use std::process::Command;

use super::*;
use test_support::{eventually, folder, read_to_end, skip_if};

/// Sends bytes, and waits until the server has ended the connection.
fn send_raw(address: &str, bytes: &[u8]) {
    let mut stream = connect(address.parse().unwrap());
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // There is no answer. After a refusal the connection ends or is reset, as it happens.
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert_eq!(answer, b"");
}

#[test]
fn several_files_come_over_one_connection_without_an_answer() {
    for mixin in MIXINS {
        let folder = folder();
        let (_server, address) = serve_in(folder.path(), &["--mixin", mixin]);
        let large = noise(1, 700_000);
        let mut stream = connect(address.parse().unwrap());
        for (name, content) in
            [("a", &b"hello"[..]), ("large", &large), ("empty", b""), ("a", b"again")]
        {
            stream.write_all(&document::header(name, content.len() as u64)).unwrap();
            stream.write_all(content).unwrap();
            // The next header arrives by itself, as from a person at a prompt.
            let is_there = |name: &str| {
                stored(folder.path()).get(name).is_some_and(|stored| stored == content)
            };
            let stored_as = if content == b"again" { "a-1" } else { name };
            if !content.is_empty() {
                eventually("it is stored", || is_there(stored_as));
            }
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream), b"");
        let names: Vec<_> = stored(folder.path()).into_keys().collect();
        assert_eq!(names, ["a", "a-1", "empty", "large"], "{mixin}");
    }
}

#[test]
fn header_and_file_may_come_in_one_piece() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    send_raw(&address, b"post|a|5hellopost|b|3abcpost|c|0post|d|2dd");
    // These files begin with a digit. The end of the file shows which digits are the size.
    send_raw(&address, b"post|digits|71st daypost|more|22x");
    let stored: Vec<_> = stored(folder.path()).into_iter().collect();
    let file = |name: &str, content: &[u8]| (name.to_owned(), content.to_owned());
    let expected = [
        file("a", b"hello"),
        file("b", b"abc"),
        file("c", b""),
        file("d", b"dd"),
        file("digits", b"1st day"),
        file("more", b"2x"),
    ];
    assert_eq!(stored, expected);
}

#[test]
fn a_header_may_come_in_pieces_before_its_number() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    let mut stream = connect(address.parse().unwrap());
    for piece in [&b"p"[..], b"os", b"t|na", b"me|", b"4four"] {
        stream.write_all(piece).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), b"");
    assert_eq!(stored(folder.path())["name"], b"four");
}

#[test]
fn the_same_checks_hold_and_end_the_connection() {
    let folder = folder();
    let (server, address) = serve_in(folder.path(), &["--max-file", "1000", "--max-total", "2000"]);
    for header in [
        "post|../a|1",
        "post|..|1",
        "post||1",
        "post|/etc/x|1",
        "post|NUL|1",
        "post|a\nb|1",
        "post|.upload-a|1",
        "post|a|1001",
        "post|a|9223372036854775808",
        "post|a|99999999999999999999999",
        "post|a|-1",
        "post|a|x",
        "posh|a|1",
        "post|a",
    ] {
        // The `x` is no digit, so it ends the number.
        send_raw(&address, format!("{header}x and what follows").as_bytes());
        assert!(stored(folder.path()).is_empty(), "{header}");
    }
    send_raw(&address, format!("post|{}|1x", "a".repeat(256)).as_bytes());
    for name in ["b", "c"] {
        send_raw(&address, format!("post|{name}|1000{}", "x".repeat(1000)).as_bytes());
    }
    send_raw(&address, b"post|d|1x");
    assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(contents(folder.path()).len(), 2, "something was written elsewhere");
    server.send_signal(libc::SIGTERM);
    let ended = server.end();
    let is_harmless = |c: char| c == '\n' || !c.is_control();
    assert!(ended.out.chars().all(is_harmless) && ended.err.is_empty(), "{ended:?}");
}

#[test]
fn a_page_of_the_web_stores_nothing_by_its_readers_browser() {
    let folder = folder();
    let (server, address) = serve_in(folder.path(), &[]);
    let long = format!("/{}", "a".repeat(5_000));
    for (method, target) in
        [("post|a|9", "/"), ("post|a|1", "/x"), ("post|a|400", &long), ("post|a|9", "http://a/")]
    {
        send_raw(&address, format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert!(server.line().contains("sent a request of HTTP"));
    }
    // The first letters of these methods begin frames of the other wire, but with impossible lengths.
    for method in ["POST", "PUT", "HEAD", "MOVE", "FETCH", "DELETE", "KILL", "AB", "post"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n{}", "x".repeat(20_000));
        let mut stream = connect(address.parse().unwrap());
        stream.write_all(request.as_bytes()).unwrap_or_default();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    assert!(stored(folder.path()).is_empty());
    assert_eq!(Peer::connect(&address).store("a", b"good"), "a");
}

#[test]
fn a_vanished_client_leaves_nothing() {
    let folder = folder();
    let (server, address) = serve_in(folder.path(), &[]);
    send_raw(&address, b"post|a|1000only the beginning");
    assert!(server.line().contains("broke off \"a\""));
    assert!(stored(folder.path()).is_empty());
}

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/peer.py");

fn python_is_missing() -> Option<&'static str> {
    let there = Command::new("python3").arg("--version").output().is_ok();
    (!there).then_some("Python is not installed")
}

fn python(folder: &Path, args: &[&str]) -> Process {
    let mut command = Command::new("python3");
    command.arg("-u").args(args).current_dir(folder).env("PYTHONIOENCODING", "utf-8");
    Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

/// Makes two files, of which the second takes several pieces. Returns their contents.
fn two_files(folder: &Path) -> [Vec<u8>; 2] {
    let contents = [b"1 is a digit".to_vec(), noise(1, 500_000)];
    fs::write(folder.join("one.txt"), &contents[0]).unwrap();
    fs::write(folder.join("文件.bin"), &contents[1]).unwrap();
    contents
}

#[test]
fn a_client_in_python_is_served() {
    if skip_if(python_is_missing()) {
        return;
    }
    let folder = folder();
    let contents = two_files(folder.path());
    let (_server, address) = serve_in(folder.path(), &[]);
    let ended = python(folder.path(), &[PEER, "send", &address, "文件.bin", "one.txt"]).end();
    assert_ends(&ended, 0);
    let stored = stored(folder.path());
    assert!(stored["one.txt"] == contents[0] && stored["文件.bin"] == contents[1]);
}

#[test]
fn a_server_in_python_is_sent_to() {
    if skip_if(python_is_missing()) {
        return;
    }
    let folder = folder();
    let contents = two_files(folder.path());
    fs::create_dir(folder.path().join("model")).unwrap();
    let server = python(folder.path(), &[PEER, "serve"]);
    let address = server.line();
    let options = ["--wire", "document", "--pause", "0"];
    let ended = send_with(folder.path(), &address, &options, &["one.txt", "文件.bin"]);
    assert_ends(&ended, 0);
    assert!(ended.out.contains("2 of 2 files sent: 488.29 KiB"), "{}", ended.out);
    assert_ends(&server.end(), 0);
    let stored = stored(folder.path());
    assert!(stored["one.txt"] == contents[0] && stored["文件.bin"] == contents[1]);
}

#[test]
fn what_the_wire_cannot_say_is_told_before_anything_is_sent() {
    let folder = folder();
    fs::create_dir(folder.path().join("tree")).unwrap();
    for name in ["a|b", "tree/file"] {
        fs::write(folder.path().join(name), "a").unwrap();
    }
    for (name, why) in [("a|b", "a '|'"), ("tree", "no folders")] {
        let ended = send_with(folder.path(), "127.0.0.1:1", &["--wire", "document"], &[name]);
        assert_fails_in_one_line(&ended, 1, &["document's wire", why]);
    }
}

/// Copies a program of the tutorial into a folder, with this port. Returns `None` if the tutorial is not there.
fn document_program(folder: &Path, name: &str, port: &str) -> Option<()> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/document");
    let document = std::env::var("SOCKETSERVER_DOCUMENT").unwrap_or_else(|_| beside.to_owned());
    let program = fs::read_to_string(Path::new(&document).join(name)).ok()?;
    assert!(program.contains("8000"));
    fs::write(folder.join(name), program.replace("8000", port)).unwrap();
    Some(())
}

#[test]
fn the_documents_client_is_served() {
    let folder = folder();
    let contents = two_files(folder.path());
    let (_server, address) = serve_in(folder.path(), &[]);
    let port = address.rsplit_once(':').unwrap().1;
    if python_is_missing().is_some()
        || document_program(folder.path(), "upload_client.py", port).is_none()
    {
        println!("skipped: the document's programs are not at hand");
        return;
    }
    let client = python(folder.path(), &["upload_client.py"]);
    for (name, content) in ["文件.bin", "one.txt", "文件.bin"].iter().zip([1, 0, 1]) {
        client.ask(name);
        assert_eq!(client.line(), "上传成功");
        let there = |stored: Vec<u8>| stored == contents[content];
        // The client sends header and file at once. If the file begins with a digit, only its end shows where it began.
        eventually("it is stored", || stored(folder.path()).remove(*name).is_some_and(there));
    }
    drop(client);
    let is_twice =
        || stored(folder.path()).get("文件-1.bin").is_some_and(|twice| *twice == contents[1]);
    eventually("it is stored twice", is_twice);
}

#[test]
fn the_documents_server_is_sent_to() {
    let folder = folder();
    let contents = two_files(folder.path());
    fs::create_dir(folder.path().join("model")).unwrap();
    // The server's port is fixed: this one was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let port = address.port().to_string();
    if python_is_missing().is_some()
        || document_program(folder.path(), "upload_server.py", &port).is_none()
    {
        println!("skipped: the document's programs are not at hand");
        return;
    }
    let _server = python(folder.path(), &["upload_server.py"]);
    // The test does not connect, because the server would take the test for its client.
    eventually("it listens", || {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        table.contains(&format!("0100007F:{:04X} 00000000:0000 0A", address.port()))
    });
    // Nothing shows when the server has taken a header, so the pause is long enough for a busy machine.
    let options = ["--wire", "document", "--pause", "1500"];
    let ended = send_with(folder.path(), &address.to_string(), &options, &["文件.bin", "one.txt"]);
    assert_ends(&ended, 0);
    let arrived = || {
        let stored = stored(folder.path());
        stored.get("one.txt") == Some(&contents[0]) && stored.get("文件.bin") == Some(&contents[1])
    };
    eventually("both have arrived", arrived);
}
