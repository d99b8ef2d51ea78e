//! Entries of folders, on both sides: one that cannot be sent or stored does not stop the others.

use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::*;
use test_support::{folder, skip};

/// A command that runs the program as an unprivileged user, from a folder that this user can reach. `None` if this process
/// cannot act as another user.
fn as_nobody(folder: &Path, arguments: &[&str]) -> Option<Command> {
    let program = folder.join("upload");
    fs::copy(UPLOAD.path(), &program).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let works = command.arg("true").output().is_ok_and(|output| output.status.success());
    if !works {
        skip("setpriv cannot make this process another user's");
        return None;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped());
    Some(command)
}

fn make(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn an_entry_that_cannot_be_sent_costs_itself_alone() {
    let folder = folder();
    let tree = folder.path().join("tree");
    for name in ["a/first", "key", "locked/inside", "z/last"] {
        make(&tree.join(name), name);
    }
    let deep: std::path::PathBuf = ["d"; 40].iter().collect();
    make(&tree.join("deep").join(&deep).join("bottom"), "bottom");
    make(&tree.join("deep/top"), "top");
    make(&tree.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "no UTF-8");
    make(&tree.join(std::ffi::OsStr::from_bytes(b"f\xff")).join("in it"), "no UTF-8");
    make(&tree.join("CON"), "a device elsewhere");
    let _socket = UnixListener::bind(tree.join("socket")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.join("pipe"), 0o666.into()).unwrap();
    symlink("/nowhere", tree.join("link")).unwrap();
    symlink("..", tree.join("loop")).unwrap();
    for name in ["key", "locked"] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let (_server, address) = serve_in(folder.path(), &[]);
    let Some(mut client) = as_nobody(folder.path(), &["connect", &address, "tree"]) else { return };
    let ended = Process::start(&mut client).end();
    assert_ends(&ended, 1);
    let names: Vec<_> = stored(folder.path()).into_keys().collect();
    assert_eq!(names, ["tree/a/first", "tree/deep/top", "tree/z/last"]);
    for (name, why) in [
        ("tree/key", "Permission denied"),
        ("tree/locked", "Permission denied"),
        ("tree/deep/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d", "deeper than 32"),
        ("tree/caf\u{fffd}", "it is not UTF-8"),
        ("tree/f\u{fffd}/in it", "it is not UTF-8"),
        ("tree/CON", "the name of a device"),
    ] {
        let line =
            ended.out.lines().find(|line| line.starts_with(&format!("not stored: {name:?}: ")));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {}", ended.out);
    }
    for name in ["socket", "pipe", "link", "loop"] {
        assert!(ended.out.contains(&format!("left out \"tree/{name}\"")), "{}", ended.out);
    }
    assert!(ended.out.contains("3 of 9 files stored"), "{}", ended.out);
    assert!(ended.err.contains("6 of 9 files were not stored"), "{}", ended.err);
}

#[test]
fn empty_folders_arrive() {
    for mixin in ["threading", "forking"] {
        let folder = folder();
        let (server, address) = serve_in(folder.path(), &["--mixin", mixin]);
        let model = folder.path().join("model");
        for name in ["tree/logs", "tree/src/deep/er", "tree/in the way", "empty"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        make(&folder.path().join("tree/src/a"), "a");
        make(&model.join("tree/in the way"), "a file");
        for options in [&[][..], &["--resume"]] {
            let ended = send_with(folder.path(), &address, options, &["tree", "empty"]);
            assert_ends(&ended, 1);
            assert!(ended.out.contains(", 3 empty folders made: "), "{}", ended.out);
            let refused = "not stored: \"tree/in the way\": \"in the way\" is no folder there";
            assert!(ended.out.contains(refused), "{}", ended.out);
            for name in ["tree/logs", "tree/src/deep/er", "empty"] {
                assert!(model.join(name).is_dir(), "{name}");
            }
            assert!(model.join("tree/src/a").is_file());
        }
        assert!(server.line().contains("was refused the folder \"tree/in the way\""));
        assert!(server.line().contains("made the folder \"tree/logs\""));
    }
    // The rules for names of files hold for names of folders too.
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    let mut peer = Peer::connect(&address);
    for path in [&[&b".."[..]][..], &[], &[b"a", b".upload-a"], &[b"a/b"], &[b"a", b"\n"]] {
        let path = path.iter().map(|name| name.to_vec()).collect();
        peer.say(&Message::Folder { path });
        peer.expect_refusal(Code::Name);
    }
    assert_eq!(fs::read_dir(folder.path().join("model")).unwrap().count(), 0);
    assert_eq!(peer.store("a", b"good"), "a");
}

#[test]
fn a_file_that_is_longer_or_shorter_than_it_says_is_told() {
    // A file that the system makes when it is read has no size, or that of a page.
    let longer = "/proc/self/status";
    let shorter = "/sys/devices/system/cpu/online";
    let size = |path| fs::metadata(path).map(|data| data.len());
    if size(longer).is_ok_and(|size| size == 0) && size(shorter).is_ok_and(|size| size == 4096) {
        let folder = folder();
        let (_server, address) = serve_in(folder.path(), &[]);
        make(&folder.path().join("a"), "a");
        let ended = send(folder.path(), &address, &[longer, shorter, "a"]);
        assert_ends(&ended, 1);
        for why in
            ["\"status\": it is longer than its size says", "\"online\": it has become shorter"]
        {
            assert!(ended.out.contains(why), "{}", ended.out);
        }
        assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["a"]);
        let document = ["--wire", "document", "--pause", "10"];
        let ended = send_with(folder.path(), &address, &document, &[longer]);
        assert_ends(&ended, 1);
        assert!(ended.err.contains("it is longer than its size says"), "{}", ended.err);
        let ended = send_with(folder.path(), &address, &document, &[shorter]);
        assert_ends(&ended, 1);
        assert!(ended.err.contains("it has become shorter"), "{}", ended.err);
    } else {
        skip("this system has no files without a size");
    }
}

/// Accepts a client, calls `before`, and greets the client. The test is the rest of the server, and can act between the
/// client's steps.
fn greet(listener: &TcpListener, before: impl FnOnce()) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    before();
    assert!(matches!(Message::read(&mut stream), Ok(Some(Message::Hello { .. }))));
    stream.write_all(&Message::Hello { version: VERSION }.encode()).unwrap();
    stream
}

#[test]
fn what_vanishes_or_is_exchanged_before_it_is_sent_costs_itself_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = folder();
    let tree = folder.path().join("tree");
    for name in ["gone", "a link", "a pipe", "stays"] {
        make(&tree.join(name), name);
    }
    make(&folder.path().join("secret"), "secret");
    let client = start_sending(folder.path(), &address, &[], &["tree"]);
    // The client has looked for its files before it connects.
    let mut stream = greet(&listener, || {
        for name in ["gone", "a link", "a pipe"] {
            fs::remove_file(tree.join(name)).unwrap();
        }
        symlink("../secret", tree.join("a link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, tree.join("a pipe"), 0o666.into()).unwrap();
    });
    let Ok(Some(Message::Put(put))) = Message::read(&mut stream) else { panic!("no file comes") };
    assert_eq!(put.path, [b"tree".to_vec(), b"stays".to_vec()]);
    assert_eq!(Message::read(&mut stream).unwrap(), Some(Message::Data(5)));
    std::io::copy(&mut std::io::Read::take(&mut stream, 5), &mut std::io::sink()).unwrap();
    assert!(matches!(Message::read(&mut stream), Ok(Some(Message::End(_)))));
    stream.write_all(&Message::Done { path: put.path }.encode()).unwrap();
    let ended = client.end();
    assert_ends(&ended, 1);
    for name in ["gone", "a link", "a pipe"] {
        assert!(ended.out.contains(&format!("not stored: \"tree/{name}\"")), "{}", ended.out);
    }
    assert!(ended.out.contains("1 of 4 files stored"), "{}", ended.out);
}

#[test]
fn a_file_that_grows_while_it_is_sent_is_withdrawn() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = folder();
    let path = folder.path().join("file");
    make(&path, "short");
    let client = start_sending(folder.path(), &address, &["--resume"], &["file"]);
    let mut stream = greet(&listener, || {});
    assert!(matches!(Message::read(&mut stream), Ok(Some(Message::Put(_)))));
    // The client waits for this offer, and has sent nothing of the file yet.
    make(&path, "longer than before");
    stream.write_all(&Message::Have { offset: 0, whole: false }.encode()).unwrap();
    stream.write_all(&Message::Digest(*blake3::hash(b"").as_bytes()).encode()).unwrap();
    assert_eq!(Message::read(&mut stream).unwrap(), Some(Message::From(0)));
    assert_eq!(Message::read(&mut stream).unwrap(), Some(Message::Data(5)));
    std::io::copy(&mut std::io::Read::take(&mut stream, 5), &mut std::io::sink()).unwrap();
    assert_eq!(Message::read(&mut stream).unwrap(), Some(Message::Abort));
    let refusal = protocol::Refusal::new(Code::Withdrawn, "it is withdrawn");
    stream.write_all(&Message::Refused(refusal).encode()).unwrap();
    let ended = client.end();
    assert_ends(&ended, 1);
    assert!(ended.err.contains("it is longer than its size says, or has grown"), "{}", ended.err);
}

#[test]
fn a_folder_of_another_user_in_the_store_stops_no_server() {
    let folder = folder();
    let store = folder.path().join("model");
    make(&store.join("lost+found/much"), &"x".repeat(10_000));
    make(&store.join("counted"), &"x".repeat(500));
    fs::set_permissions(&store, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(store.join("lost+found"), fs::Permissions::from_mode(0o700)).unwrap();
    let arguments = ["serve", "--bind", "127.0.0.1:0", "--dir", "model", "--max-total", "1000"];
    let Some(mut server) = as_nobody(folder.path(), &arguments) else { return };
    let server = Process::start(&mut server);
    let address = listening(&server);
    let told = server.err_line();
    assert!(told.contains("cannot look into \"lost+found\""), "{told}");
    assert!(told.contains("does not count for --max-total"), "{told}");
    let mut peer = Peer::connect(&address);
    assert_eq!(peer.store("a", &[b'x'; 400]), "a");
    peer.put(&[b"b"], &[b'x'; 200], false);
    peer.expect_refusal(Code::TooMuch);
    peer.say(&Message::Abort);
    // A file in a folder that cannot be opened is refused, and does not end the connection either.
    peer.put(&[b"lost+found", b"c"], b"c", false);
    peer.expect_refusal(Code::Storage);
    peer.say(&Message::Abort);
    assert_eq!(peer.store("d", b"d"), "d");
}
