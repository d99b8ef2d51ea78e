//! Files that arrive, their names, and the words of both sides about them.

use std::process::Command;

use super::*;
use test_support::{eventually, folder, has_ipv6, skip, skip_if};

/// Makes a folder with files of every size that matters, some of them in folders below it.
fn tree() -> (tempfile::TempDir, BTreeMap<String, Vec<u8>>) {
    let folder = folder();
    let mut files = BTreeMap::new();
    for (number, (name, length)) in [
        ("empty", 0),
        ("one", 1),
        ("a piece", DATA_BYTES),
        ("a piece and more", DATA_BYTES + 1),
        ("tree/many pieces", 3_000_000),
        ("tree/below/ünïcode 文件.txt", 70_000),
        ("tree/below/.hidden", 12),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = noise(number as u64, length);
        fs::write(path, &content).unwrap();
        files.insert(name.to_owned(), content);
    }
    (folder, files)
}

const TREE: [&str; 5] = ["empty", "one", "a piece", "a piece and more", "tree"];

fn a_tree_arrives(address: &str, mixin: &str) {
    let (sources, files) = tree();
    let target = folder();
    let address = address.replace("FOLDER", target.path().to_str().unwrap());
    let (server, addresses) = serve_at(target.path(), &[&address], &["--mixin", mixin]);
    let ended = send(sources.path(), &addresses[0], &TREE);
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "", "nothing is drawn where there is no terminal");
    let summary = ended.out.lines().last().unwrap();
    assert!(summary.starts_with("7 of 7 files stored: 4.93 MiB"), "{summary}");
    assert_eq!(stored(target.path()), files, "{mixin} at {address}");
    server.send_signal(libc::SIGTERM);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.out.lines().filter(|line| line.contains(" stored ")).count(), 7);
    assert_eq!(ended.err, "");
}

#[test]
fn files_and_folders_arrive_whole_under_every_mixin() {
    for mixin in MIXINS {
        a_tree_arrives("127.0.0.1:0", mixin);
    }
}

#[test]
fn files_arrive_over_unix_sockets() {
    a_tree_arrives("unix:FOLDER/s", "threading");
    a_tree_arrives("unix:FOLDER/s", "forking");
}

#[test]
fn files_arrive_over_ipv6() {
    // A machine may have no IPv6 at all.
    if has_ipv6() {
        a_tree_arrives("[::1]:0", "threading");
    }
}

/// Stores `a.txt` twice. Returns how the second upload ended, and the stored files.
fn twice(options: &[&str]) -> (Ended, Vec<(String, Vec<u8>)>) {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), options);
    fs::write(folder.path().join("a.txt"), "first").unwrap();
    assert_ends(&send(folder.path(), &address, &["a.txt"]), 0);
    fs::write(folder.path().join("a.txt"), "second").unwrap();
    let ended = send(folder.path(), &address, &["a.txt"]);
    (ended, stored(folder.path()).into_iter().collect())
}

fn file(name: &str, content: &str) -> (String, Vec<u8>) {
    (name.into(), content.into())
}

#[test]
fn a_name_that_is_taken_is_changed() {
    let (ended, stored) = twice(&[]);
    assert_ends(&ended, 0);
    assert!(ended.out.contains("stored \"a.txt\" as \"a-1.txt\""), "{}", ended.out);
    assert_eq!(stored, [file("a-1.txt", "second"), file("a.txt", "first")]);
}

#[test]
fn a_name_that_is_taken_is_refused_if_so_wished() {
    let (ended, stored) = twice(&["--conflict", "refuse"]);
    assert_ends(&ended, 1);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    assert!(ended.err.contains("\"a.txt\" was not stored: there is a file of that name"));
    assert_eq!(stored, [file("a.txt", "first")]);
}

#[test]
fn a_name_that_is_taken_is_replaced_if_so_wished() {
    let (ended, stored) = twice(&["--conflict", "replace"]);
    assert_ends(&ended, 0);
    assert_eq!(stored, [file("a.txt", "second")]);
}

#[test]
fn a_folder_is_not_replaced_by_a_file() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &["--conflict", "replace"]);
    fs::create_dir_all(folder.path().join("model/a")).unwrap();
    fs::write(folder.path().join("a"), "a file").unwrap();
    let ended = send(folder.path(), &address, &["a"]);
    assert_ends(&ended, 1);
    assert!(folder.path().join("model/a").is_dir());
}

const AT_ONCE: usize = 6;

/// Several clients send the bytes of a file of one name; when all have sent them, each sends the end. So they finish at
/// once. Returns their answers, and what is stored.
fn all_at_once(options: &[&str]) -> (Vec<Option<Message>>, BTreeMap<String, Vec<u8>>) {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), options);
    let content = |number: usize| noise(number as u64, 100_000);
    let mut peers: Vec<Peer> = (0..AT_ONCE).map(|_| Peer::connect(&address)).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.put(&[b"tree", b"a.txt"], &content(number), false);
        peer.data(&content(number));
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.end(&content(number));
    }
    let answers = peers.iter_mut().map(Peer::hear).collect();
    (answers, stored(folder.path()))
}

#[test]
fn clients_that_send_one_name_at_once_all_succeed() {
    let mut expected: Vec<_> = (0..AT_ONCE).map(|number| noise(number as u64, 100_000)).collect();
    expected.sort();
    for mixin in ["threading", "forking"] {
        let (answers, stored) = all_at_once(&["--mixin", mixin]);
        for answer in answers {
            assert!(matches!(answer, Some(Message::Done { .. })), "{answer:?}");
        }
        let mut contents: Vec<_> = stored.values().cloned().collect();
        contents.sort();
        assert!(contents == expected, "{mixin}: {:?}", stored.keys());
        assert!(stored.contains_key("tree/a.txt") && stored.contains_key("tree/a-5.txt"));
    }
}

#[test]
fn of_clients_that_send_one_name_at_once_one_succeeds_where_names_are_kept() {
    let (answers, stored) = all_at_once(&["--conflict", "refuse"]);
    let is_done = |answer: &&Option<Message>| matches!(answer, Some(Message::Done { .. }));
    assert_eq!(answers.iter().filter(is_done).count(), 1, "{answers:?}");
    let names: Vec<_> = stored.keys().filter(|name| !name.ends_with(".part")).collect();
    assert_eq!(names, ["tree/a.txt"]);
}

#[test]
fn the_same_file_sent_twice_at_once_arrives_twice() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    let content = noise(1, 300_000);
    let mut peers = [Peer::connect(&address), Peer::connect(&address)];
    for peer in &mut peers {
        peer.put(&[b"a"], &content, false);
        peer.data(&content);
    }
    for peer in &mut peers {
        peer.end(&content);
        assert!(matches!(peer.hear(), Some(Message::Done { .. })));
    }
    let stored = stored(folder.path());
    assert_eq!(stored.keys().collect::<Vec<_>>(), ["a", "a-1"]);
    assert!(stored.values().all(|stored| *stored == content));
}

#[test]
fn a_file_that_is_refused_does_not_keep_the_others() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &["--max-file", "100K"]);
    // The file is larger than what a connection holds, so that the refusal is read while it is being sent.
    fs::write(folder.path().join("large"), noise(1, 20_000_000)).unwrap();
    fs::write(folder.path().join("small"), noise(2, 100 * 1024)).unwrap();
    let ended = send(folder.path(), &address, &["large", "small"]);
    assert_ends(&ended, 1);
    assert_eq!(ended.err.lines().count(), 1);
    for words in ["\"large\" was not stored", "20000000 bytes", "102400", "--max-file"] {
        assert!(ended.err.contains(words), "{}", ended.err);
    }
    assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["small"]);
}

#[test]
fn all_files_together_are_limited_with_what_is_on_its_way() {
    for mixin in ["threading", "forking"] {
        let folder = folder();
        let (_server, address) =
            serve_in(folder.path(), &["--max-total", "1000", "--mixin", mixin]);
        let mut peer = Peer::connect(&address);
        peer.store("a", &[1; 300]);
        // Almost nothing of this file arrives at first.
        peer.put(&[b"b"], &[2; 600], false);
        peer.data(&[2; 1]);
        eventually("it is on its way", || partial_files(folder.path()).len() == 1);
        let mut other = Peer::connect(&address);
        other.put(&[b"c"], &[3; 101], false);
        assert!(other.expect_refusal(Code::TooMuch).contains("--max-total"));
        other.say(&Message::Abort);
        assert_eq!(other.store("d", &[4; 100]), "d");
        peer.data(&[2; 599]);
        peer.end(&[2; 600]);
        assert!(matches!(peer.hear(), Some(Message::Done { .. })));
        assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["a", "b", "d"]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_before_anything_is_sent() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    fs::write(folder.path().join("here"), "here").unwrap();
    let ended = send(folder.path(), &address, &["here", "not here"]);
    assert_fails_in_one_line(&ended, 1, &["cannot read \"not here\""]);
    assert!(stored(folder.path()).is_empty());
    let ended = send(folder.path(), &address, &["/dev/zero"]);
    assert_fails_in_one_line(&ended, 1, &["/dev/zero", "neither a file nor a folder"]);
}

#[test]
fn links_in_folders_are_left_out_and_named() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    fs::create_dir(folder.path().join("tree")).unwrap();
    fs::write(folder.path().join("tree/file"), "file").unwrap();
    std::os::unix::fs::symlink("file", folder.path().join("tree/li\x1b[1mnk")).unwrap();
    let ended = send(folder.path(), &address, &["tree"]);
    assert_ends(&ended, 0);
    assert!(ended.out.contains("left out \"tree/li\\u{1b}[1mnk\""), "{}", ended.out);
    assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["tree/file"]);
}

#[test]
fn a_dot_is_the_folder_that_it_means() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    fs::create_dir(folder.path().join("tree")).unwrap();
    fs::write(folder.path().join("tree/file"), "file").unwrap();
    assert_ends(&send(&folder.path().join("tree"), &address, &["."]), 0);
    assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["tree/file"]);
}

#[test]
fn what_is_no_upload_server_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // This reads until the client has gone.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let folder = folder();
    fs::write(folder.path().join("a"), "a").unwrap();
    let ended = send(folder.path(), &address, &["a"]);
    assert_fails_in_one_line(&ended, 1, &[&address, "does not answer as an upload server"]);
    answering.join().unwrap();
    // Then there is no server at all.
    let ended = send(folder.path(), &address, &["a"]);
    assert_fails_in_one_line(&ended, 1, &[&address, "is the server running?"]);
}

#[test]
fn wrong_use_ends_with_2_and_a_bad_folder_with_1() {
    for args in [
        &["connect"][..],
        &["connect", "127.0.0.1:1"],
        &["connect", "nonsense", "file"],
        &["connect", "--resume", "--wire", "document", "127.0.0.1:1", "file"],
        &["serve", "--conflict", "fight"],
        &["serve", "--max-file", "much"],
        &["connect", "127.0.0.1:1", "file", "--wire", "document", "--pause", ""],
        &["serve", "--max-file", "99999999999G"],
        &["serve", "--bind", "udp:127.0.0.1:0", "--dir", "/tmp"],
    ] {
        let ended = UPLOAD.run(args);
        assert_ends(&ended, 2);
        assert!(!ended.err.is_empty() && ended.out.is_empty(), "{ended:?}");
    }
    let unclear = UPLOAD.run(&["connect", "nonsense", "file"]);
    assert!(unclear.err.contains("write HOST:PORT or unix:PATH\n"), "{unclear:?}");
    // `/proc` is the kernel's: root has the right to make files there, but nobody can.
    for (folder, why) in [("/dev/null", "not a directory"), ("/proc", "cannot store files in")] {
        let args = ["serve", "--bind", "127.0.0.1:0", "--dir", folder];
        let says = [folder, why, "choose another --dir"];
        assert_fails_in_one_line(&UPLOAD.run(&args), 1, &says);
    }
}

#[test]
fn a_server_beyond_this_machine_says_what_anyone_may_do() {
    let folder = folder();
    let (server, _) = serve_at(folder.path(), &["0.0.0.0:0"], &[]);
    assert!(server.err_line().contains("anyone there may store files in"));
}

fn strace_is_missing() -> Option<&'static str> {
    let works =
        Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    (!works.is_ok_and(|status| status.success())).then_some("strace does not work here")
}

/// Nagle's algorithm would cost 40 ms for each small file, which a test could see only by measuring time.
#[test]
fn a_client_does_not_hold_back_what_is_small() {
    if skip_if(strace_is_missing()) {
        return;
    }
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    fs::write(folder.path().join("a"), "a").unwrap();
    let trace = folder.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=setsockopt", "-o", trace.to_str().unwrap()]);
    command.arg(UPLOAD.path()).args(["connect", &address, "a"]).current_dir(folder.path());
    assert_ends(&Process::start(command.stdout(Stdio::piped())).end(), 0);
    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("TCP_NODELAY, [1]"), "{trace}");
}

/// This checks the order of the system calls, because a power failure cannot be tested.
#[test]
fn a_file_is_synced_and_renamed_and_its_folder_synced_before_its_client_is_told() {
    let folder = folder();
    let trace = folder.path().join("trace");
    let model = folder.path().join("model");
    // `-y` shows file descriptors with their paths, and with `-D` the process is the server itself.
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-y", "-s", "8", "-o", trace.to_str().unwrap()]);
    command.args(["-e", "trace=fsync,renameat2,sendto,write"]).arg(UPLOAD.path());
    command.args(["serve", "--bind", "127.0.0.1:0", "--dir", model.to_str().unwrap()]);
    if skip_if(strace_is_missing()) {
        return;
    }
    let server = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut peer = Peer::connect(&listening(&server));
    peer.put(&[b"tree", b"file"], b"content", false);
    peer.data(b"content");
    peer.end(b"content");
    assert!(matches!(peer.hear(), Some(Message::Done { .. })));
    server.send_signal(libc::SIGTERM);
    server.end();
    let order = [
        ("write(", ".part>, \"content\""),
        ("fsync(", ".part>"),
        ("renameat2(", "\"file\", RENAME_NOREPLACE"),
        ("fsync(", "/model/tree>"),
        // `K` is the kind of `Done`.
        ("", "\"K\\0\\0\\0"),
    ];
    let is_in_order = |trace: &str| {
        let mut lines = trace.lines();
        order
            .iter()
            .all(|(call, object)| lines.any(|line| line.contains(call) && line.contains(object)))
    };
    // The tracer may end a little after the server.
    eventually("the calls are made in this order", || {
        fs::read_to_string(&trace).is_ok_and(|trace| is_in_order(&trace))
    });
}

#[test]
fn files_that_claim_to_be_larger_than_any_number_are_refused_one_by_one() {
    // The files are in memory, where such a size is possible: file systems of disks cannot count so far.
    let Ok(memory) = tempfile::Builder::new().prefix("ss").tempdir_in("/dev/shm") else {
        return skip("there is no /dev/shm");
    };
    for name in ["a", "b", "c"] {
        let file = fs::File::create(memory.path().join(name)).unwrap();
        if let Err(error) = file.set_len(i64::MAX as u64) {
            return skip(&format!("/dev/shm holds no such file: {error}"));
        }
    }
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    let ended = send(memory.path(), &address, &["a", "b", "c"]);
    assert_ends(&ended, 1);
    assert!(ended.err.starts_with("error: 3 of 3 files were not stored"), "{}", ended.err);
}
