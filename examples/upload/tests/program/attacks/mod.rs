//! Bytes from peers and faults of disks that must do no harm.

mod disk;
mod slow;

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use super::*;
use test_support::{SOON, alone, eventually, folder, read_to_end, skip, system};

/// Invalid paths, as a client may send them.
fn bad_paths() -> Vec<Vec<Vec<u8>>> {
    let names: [&[u8]; 28] = [
        b"",
        b".",
        b"..",
        b"/",
        b"/etc/passwd",
        b"../a",
        b"a/b",
        b"a\\b",
        b"..\\a",
        b"a\0",
        b"\0",
        b"a\nb",
        b"\x1b[2J",
        b"a\x7f",
        b"a\r",
        b"a\xc2\x9b",
        b"\xff\xfe",
        b"CON",
        b"con",
        b"NUL.txt",
        b"nul .tar.gz",
        b"COM1",
        b"lpt9.x",
        b"COM\xc2\xb2",
        b"aux:b",
        b".upload-x",
        b".upload.part",
        &[b'a'; 256],
    ];
    let alone = names.iter().map(|name| vec![name.to_vec()]);
    let as_folder = names.iter().map(|name| vec![name.to_vec(), b"a".to_vec()]);
    let below = names.iter().map(|name| vec![b"tree".to_vec(), name.to_vec()]);
    alone.chain(as_folder).chain(below).chain([vec![]]).collect()
}

#[test]
fn bad_names_are_refused_and_write_nothing() {
    let folder = folder();
    let (server, address) = serve_in(folder.path(), &[]);
    let mut peer = Peer::connect(&address);
    for path in bad_paths() {
        for resume in [false, true] {
            let path: Vec<&[u8]> = path.iter().map(|name| &name[..]).collect();
            peer.put(&path, b"attack", resume);
            let text = peer.expect_refusal(Code::Name);
            assert!(!text.contains(char::is_control), "{text:?}");
            peer.say(&Message::Abort);
        }
    }
    // The connection goes on, and names that are nearly as bad are valid.
    let longest = "a".repeat(255);
    for name in ["...", "a b", "console", "COM", "COM10", "nuls.txt", "-rf", &longest] {
        assert_eq!(peer.store(name, b"good"), name);
    }
    assert_eq!(stored(folder.path()).len(), 8);
    assert_eq!(contents(folder.path()).len(), 8, "something was written elsewhere");
    // No name reaches the operator's terminal unescaped.
    server.send_signal(libc::SIGTERM);
    drop(peer);
    let ended = server.end();
    let is_harmless = |c: char| c == '\n' || !c.is_control();
    assert!(ended.out.chars().all(is_harmless) && ended.err.is_empty(), "{ended:?}");
    assert!(ended.out.contains("\\u{1b}[2J"));
}

#[test]
fn a_client_shows_names_and_refusals_without_what_a_terminal_would_obey() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = folder();
    fs::write(folder.path().join("a"), "a").unwrap();
    fs::write(folder.path().join("b"), "b").unwrap();
    let client = start_sending(folder.path(), &address, &[], &["a", "b"]);
    let (mut stream, _) = listener.accept().unwrap();
    let evil = "\x1b]0;title\x07\n";
    let done = Message::Done { path: vec![evil.into()] };
    let refused = Message::Refused(protocol::Refusal::new(Code::Storage, evil));
    stream.write_all(&Message::Hello { version: VERSION }.encode()).unwrap();
    stream.write_all(&done.encode()).unwrap_or_default();
    stream.write_all(&refused.encode()).unwrap_or_default();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let ended = client.end();
    assert_ends(&ended, 1);
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    let is_harmless = |c: char| c == '\n' || !c.is_control();
    assert!((ended.out + &ended.err).chars().all(is_harmless));
}

#[test]
fn links_are_not_followed() {
    let folder = folder();
    let outside = folder.path().join("outside");
    let model = folder.path().join("model");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(&model).unwrap();
    fs::write(outside.join("victim"), "unharmed").unwrap();
    symlink(&outside, model.join("folder")).unwrap();
    symlink(outside.join("victim"), model.join("file")).unwrap();
    symlink(outside.join("nothing"), model.join("dangling")).unwrap();
    for conflict in ["rename", "refuse", "replace"] {
        let (_server, address) = serve_in(folder.path(), &["--conflict", conflict]);
        let mut peer = Peer::connect(&address);
        for resume in [false, true] {
            peer.put(&[b"folder", b"victim"], b"attacked", resume);
            assert!(peer.expect_refusal(Code::Name).contains("no folder"));
            peer.say(&Message::Abort);
        }
        match conflict {
            "rename" => {
                assert_eq!(peer.store("file", b"attacked"), "file-1");
                assert_eq!(peer.store("dangling", b"attacked"), "dangling-1");
            }
            "refuse" => {
                peer.put(&[b"dangling"], b"attacked", false);
                peer.expect_refusal(Code::Exists);
            }
            // The link itself is replaced, and not what it leads to.
            _ => assert_eq!(peer.store("file", b"attacked"), "file"),
        }
        let outside = contents(&outside);
        assert_eq!(
            outside.into_iter().collect::<Vec<_>>(),
            [("victim".into(), b"unharmed".into())]
        );
    }
    assert_eq!(fs::read(model.join("file")).unwrap(), b"attacked");
    assert!(!fs::symlink_metadata(model.join("file")).unwrap().is_symlink());
}

#[test]
fn a_wrong_digest_keeps_nothing() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    let mut peer = Peer::connect(&address);
    for content in [&b"short"[..], &noise(1, 600_000)] {
        peer.put(&[b"a"], content, false);
        peer.data(content);
        peer.end(b"another");
        assert!(peer.expect_refusal(Code::BadDigest).contains("digest"));
        assert!(stored(folder.path()).is_empty());
    }
    assert_eq!(peer.store("a", b"good"), "a");
}

#[test]
fn more_or_less_than_was_said_keeps_nothing() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    let ends: [fn(&mut Peer); 4] = [
        |peer| peer.data(b"more than was said"),
        |peer| peer.end(b"less"),
        |peer| peer.say(&Message::Done { path: vec![] }),
        |peer| peer.put(&[b"b"], b"another", false),
    ];
    for end in ends {
        let mut peer = Peer::connect(&address);
        peer.put(&[b"a"], &[0; 10], false);
        peer.data(&[0; 5]);
        end(&mut peer);
        peer.expect_refusal(Code::Protocol);
        peer.expect_end();
        assert!(stored(folder.path()).is_empty());
    }
}

#[test]
fn what_is_no_message_ends_the_connection() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    let too_long = (protocol::CONTROL_BYTES as u32 + 1).to_be_bytes();
    let frames: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 100],
        [&b"H"[..], &too_long].concat(),
        [&b"P"[..], &u32::MAX.to_be_bytes()].concat(),
        b"H\0\0\0\x08uplode\0\x01".to_vec(),
    ];
    for frame in &frames {
        let mut peer = Peer { stream: connect(address.parse().unwrap()) };
        peer.stream.write_all(frame).unwrap();
        peer.expect_refusal(Code::Protocol);
        peer.expect_end();
    }
    let mut old = Peer { stream: connect(address.parse().unwrap()) };
    old.say(&Message::Hello { version: 0 });
    assert!(old.expect_refusal(Code::Protocol).contains("version 1"));
    old.expect_end();
    // Each frame is sent once where a file may begin, and once in the middle of a file.
    let pieces = [u32::MAX, DATA_BYTES as u32 + 1, 0];
    let pieces = pieces.map(|length| [&b"D"[..], &length.to_be_bytes()].concat());
    for frame in frames.iter().chain(&pieces) {
        for in_a_file in [false, true] {
            let mut peer = Peer::connect(&address);
            if in_a_file {
                peer.put(&[b"a"], &[0; 10], false);
            }
            peer.stream.write_all(frame).unwrap();
            peer.expect_refusal(Code::Protocol);
            peer.expect_end();
        }
    }
    assert!(stored(folder.path()).is_empty());
    assert_eq!(Peer::connect(&address).store("a", b"good"), "a");
}

#[test]
fn enormous_sizes_cost_nothing() {
    for (max_file, refused) in [("64G", true), ("16777215T", false)] {
        let folder = folder();
        let (_server, address) = serve_in(folder.path(), &["--max-file", max_file]);
        for size in [1 << 63, (1 << 63) - 1, (1 << 63) + 1] {
            let mut peer = Peer::connect(&address);
            peer.put_size(&[b"a"], b"", size, false);
            if refused {
                peer.expect_refusal(Code::TooLarge);
                peer.say(&Message::Abort);
                assert_eq!(peer.store("b", b"good").chars().next(), Some('b'));
            } else {
                peer.data(b"a beginning");
                peer.end(b"a beginning");
                peer.expect_refusal(Code::Protocol);
            }
        }
        assert!(partial_files(folder.path()).is_empty());
    }
}

#[test]
fn a_name_stays_open_however_many_have_taken_it() {
    // The names are taken with many numbers in a row, or with those that an attacker who knows the algorithm would take.
    let many: Vec<u32> = (0..10_001).collect();
    let clever: Vec<u32> = [0].into_iter().chain((0..32).map(|power| 1 << power)).collect();
    for (numbers, next) in [(many, Some("a-10001.txt")), (clever, None)] {
        let folder = folder();
        let (_server, address) = serve_in(folder.path(), &[]);
        let model = folder.path().join("model");
        for number in &numbers {
            fs::write(model.join(names::candidate("a.txt", *number)), "taken").unwrap();
        }
        let mut peer = Peer::connect(&address);
        let first = peer.store("a.txt", b"first");
        let second = peer.store("a.txt", b"second");
        if let Some(next) = next {
            assert_eq!(first, next);
        }
        assert_ne!(first, second);
        assert_eq!(stored(folder.path()).len(), numbers.len() + 2);
        assert_eq!(stored(folder.path())[&first], b"first");
        // The server does not compare each of these files with the new one.
        peer.put(&[b"a.txt"], b"second", true);
        assert!(matches!(peer.hear(), Some(Message::Have { .. })));
    }
}

#[test]
fn a_number_that_is_free_is_found_by_few_looks() {
    let looks = |taken: &dyn Fn(u32) -> bool| {
        let mut looks = 0;
        let found = names::next_number(|number| {
            looks += 1;
            Ok::<_, ()>(taken(number))
        });
        assert!(looks <= 64, "{looks} looks");
        found.unwrap()
    };
    for count in (0..100).chain([10_001, 1 << 20, u32::MAX / 2]) {
        assert_eq!(looks(&|number| number < count), Some(count), "the next one");
    }
    for seed in 0_u32..1_000 {
        let taken = |number: u32| number.wrapping_mul(seed | 1) % 3 > 0;
        assert!(looks(&taken).is_none_or(|found| !taken(found)));
    }
    assert_eq!(looks(&|_| true), None);
}

/// A small file system, which is unmounted when this is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        // Only root can mount, and not everywhere.
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Self(at))
    }

    fn grow(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={size}")]).arg(self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // The unmount is lazy, because a server may still be ending.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
