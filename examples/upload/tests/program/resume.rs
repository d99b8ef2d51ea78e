//! Uploads that are broken off, and what becomes of them.

use std::net::TcpListener;

use super::*;
use test_support::{eventually, folder};

const LENGTH: usize = 2_000_000;

/// A client that has sent `count` bytes of `file`. All of them have reached the disk, and the client is still there.
fn half_sent(folder: &Path, address: &str, content: &[u8], count: usize) -> Peer {
    let mut peer = Peer::connect(address);
    peer.put(&[b"file"], content, false);
    peer.data(&content[..count]);
    eventually("what was sent is on the disk", || {
        let files = partial_files(folder);
        files
            .first()
            .is_some_and(|file| fs::metadata(file).is_ok_and(|data| data.len() >= count as u64))
    });
    peer
}

/// Runs the real client with `--resume`. Fails unless it sends what was missing, and no more.
fn goes_on(folder: &Path, address: &str, content: &[u8], missing: &str) {
    fs::write(folder.join("file"), content).unwrap();
    let ended = send_with(folder, address, &["--resume"], &["file"]);
    assert_ends(&ended, 0);
    let summary = ended.out.lines().last().unwrap();
    assert!(summary.starts_with(&format!("1 of 1 files stored: {missing} in ")), "{summary}");
    assert!(stored(folder)["file"] == content);
}

#[test]
fn an_upload_goes_on_after_its_server_was_killed() {
    for mixin in ["threading", "forking"] {
        let (folder, content) = (folder(), noise(1, LENGTH));
        let (server, address) = serve_in(folder.path(), &["--mixin", mixin]);
        let mut peer = half_sent(folder.path(), &address, &content, 1_500_000);
        server.send_signal(libc::SIGKILL);
        if mixin == "threading" {
            peer.expect_end();
        }
        // A child outlives its parent, until its client leaves.
        drop(peer);
        assert!(!server.end().status.success());
        assert_eq!(partial_files(folder.path()).len(), stored(folder.path()).len());
        let (_server, address) = serve_in(folder.path(), &["--mixin", mixin]);
        // 500,000 bytes are missing.
        goes_on(folder.path(), &address, &content, "488.28 KiB");
    }
}

#[test]
fn an_upload_goes_on_after_its_client_has_vanished() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (server, address) = serve_in(folder.path(), &[]);
    // The upload breaks in the middle of a piece, whose beginning is kept as well.
    let mut peer = half_sent(folder.path(), &address, &content, 750_000);
    peer.stream.write_all(&data_header(DATA_BYTES)).unwrap();
    peer.stream.write_all(&content[750_000..1_000_000]).unwrap();
    drop(peer);
    assert!(server.line().contains("broke off \"file\""));
    assert!(!stored(folder.path()).contains_key("file"));
    // 1,000,000 bytes are missing.
    goes_on(folder.path(), &address, &content, "976.56 KiB");
    assert!(partial_files(folder.path()).is_empty());
    server.send_signal(libc::SIGTERM);
    assert_eq!(server.end().err, "", "it is no failure of the server");
}

#[test]
fn an_upload_goes_on_although_the_server_does_not_know_that_it_was_broken_off() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (_server, address) = serve_in(folder.path(), &[]);
    let _silent = half_sent(folder.path(), &address, &content, 1_500_000);
    goes_on(folder.path(), &address, &content, "488.28 KiB");
}

#[test]
fn without_resume_an_upload_begins_anew() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (server, address) = serve_in(folder.path(), &[]);
    drop(half_sent(folder.path(), &address, &content, 1_500_000));
    assert!(server.line().contains("broke off \"file\""));
    fs::write(folder.path().join("file"), &content).unwrap();
    let ended = send(folder.path(), &address, &["file"]);
    assert!(ended.out.contains("1 of 1 files stored: 1.91 MiB"), "{}", ended.out);
    assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["file"]);
}

/// Answers the server's offers until one is accepted, and returns their offsets. `takes` decides which are accepted; the
/// empty offer always is.
fn answer_offers(peer: &mut Peer, takes: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut offered = Vec::new();
    loop {
        let Some(Message::Have { offset, whole: false }) = peer.hear() else { panic!("no offer") };
        let Some(Message::Digest(_)) = peer.hear() else { panic!("no digest") };
        offered.push(offset);
        peer.say(&Message::From(if takes(offset) { offset } else { 0 }));
        if offset == 0 || takes(offset) {
            return offered;
        }
    }
}

#[test]
fn what_one_has_left_no_other_takes_away() {
    for mixin in ["threading", "forking"] {
        let (folder, content) = (folder(), noise(1, LENGTH));
        let (server, address) = serve_in(folder.path(), &["--mixin", mixin]);
        drop(half_sent(folder.path(), &address, &content, 1_500_000));
        assert!(server.line().contains("broke off \"file\""));
        // A stranger knows the file's name, its size and its fingerprint, and no more of it.
        let mut false_one = content.clone();
        false_one[100_000..].fill(0);
        let left = || {
            let files = partial_files(folder.path());
            let left = files.iter().filter_map(|file| fs::read(file).ok());
            left.filter(|left| content.starts_with(left) && left.len() == 1_500_000).count()
        };
        let mut stranger = Peer::connect(&address);
        for resume in [false, true] {
            for (sent, ends) in [(0, true), (200_000, true), (200_000, false), (1_800_000, false)] {
                stranger.put(&[b"file"], &content, resume);
                if resume {
                    let offered = answer_offers(&mut stranger, |_| false);
                    assert!(offered.contains(&1_500_000), "{offered:?}");
                }
                stranger.data(&false_one[..sent]);
                if ends {
                    stranger.say(&Message::Abort);
                    stranger.expect_refusal(Code::Withdrawn);
                } else {
                    stranger = Peer::connect(&address);
                    let told = server.line();
                    assert!(told.contains("broke off") || told.contains("withdrew"), "{told}");
                }
                assert_eq!(left(), 1, "{mixin}: {sent} bytes, resume {resume}");
            }
        }
        drop(stranger);
        goes_on(folder.path(), &address, &content, "488.28 KiB");
        assert_eq!(left(), 0, "what is stored is left as well");
    }
}

#[test]
fn an_upload_that_begins_anew_again_and_again_leaves_nothing_of_it_once_it_is_whole() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (server, address) = serve_in(folder.path(), &[]);
    for count in [100_000, 1_500_000, 700_000] {
        let mut peer = Peer::connect(&address);
        peer.put(&[b"file"], &content, false);
        peer.data(&content[..count]);
        drop(peer);
        assert!(server.line().contains("broke off \"file\""));
    }
    assert_eq!(partial_files(folder.path()).len(), 3);
    fs::write(folder.path().join("file"), &content).unwrap();
    assert_ends(&send(folder.path(), &address, &["file"]), 0);
    assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["file"]);
}

#[test]
fn a_client_that_leaves_while_it_is_made_offers_leaves_nothing() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (_server, address) = serve_in(folder.path(), &[]);
    // The client of this upload is still there, so its bytes are offered as a copy.
    let _silent = half_sent(folder.path(), &address, &content, 1_500_000);
    for _ in 0..3 {
        let mut peer = Peer::connect(&address);
        peer.put(&[b"file"], &content, true);
        assert!(matches!(peer.hear(), Some(Message::Have { offset: 1_500_000, whole: false })));
    }
    eventually("only what the first has sent is left", || partial_files(folder.path()).len() == 1);
}

#[test]
fn a_client_of_the_first_version_is_made_one_offer_and_then_sends() {
    let content = noise(1, LENGTH);
    let mut changed = content.clone();
    changed[1_000_000] ^= 1;
    for (sent, from) in [(&content, 1_500_000), (&changed, 0)] {
        let folder = folder();
        let (server, address) = serve_in(folder.path(), &[]);
        drop(half_sent(folder.path(), &address, &content, 1_500_000));
        assert!(server.line().contains("broke off \"file\""));
        let mut peer = Peer { stream: test_support::connect(address.parse().unwrap()) };
        peer.say(&Message::Hello { version: 1 });
        assert_eq!(peer.hear(), Some(Message::Hello { version: 1 }));
        peer.put(&[b"file"], sent, true);
        assert_eq!(peer.hear(), Some(Message::Have { offset: 1_500_000, whole: false }));
        assert!(matches!(peer.hear(), Some(Message::Digest(_))));
        peer.say(&Message::From(from));
        peer.data(&sent[from as usize..]);
        peer.end(sent);
        assert!(matches!(peer.hear(), Some(Message::Done { .. })));
        assert!(stored(folder.path())["file"] == *sent);
    }
}

#[test]
fn what_is_left_of_another_file_is_not_mixed_with_this_one() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (server, address) = serve_in(folder.path(), &[]);
    drop(half_sent(folder.path(), &address, &content, 1_500_000));
    assert!(server.line().contains("broke off \"file\""));
    // The changed file has the same name, size and beginning.
    let mut changed = content;
    changed[1_000_000] ^= 1;
    goes_on(folder.path(), &address, &changed, "1.91 MiB");
}

#[test]
fn all_but_the_end_may_have_come() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (server, address) = serve_in(folder.path(), &[]);
    drop(half_sent(folder.path(), &address, &content, LENGTH));
    assert!(server.line().contains("broke off \"file\""));
    goes_on(folder.path(), &address, &content, "0 B");
}

#[test]
fn what_is_there_already_is_not_sent_again() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    fs::create_dir(folder.path().join("tree")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join("tree").join(name), noise(1, 1000)).unwrap();
    }
    assert_ends(&send(folder.path(), &address, &["tree"]), 0);
    // One file has the same size and other bytes, and one is missing.
    fs::write(folder.path().join("tree/a"), noise(2, 1000)).unwrap();
    fs::remove_file(folder.path().join("model/tree/b")).unwrap();
    let ended = send_with(folder.path(), &address, &["--resume"], &["tree"]);
    assert_ends(&ended, 0);
    assert!(ended.out.contains("2 of 3 files stored, 1 there already: 1.95 KiB"), "{}", ended.out);
    let names: Vec<_> = stored(folder.path()).into_keys().collect();
    assert_eq!(names, ["tree/a", "tree/a-1", "tree/b", "tree/c"]);
}

#[test]
fn what_is_there_already_is_no_conflict() {
    for conflict in ["refuse", "replace"] {
        let folder = folder();
        let (_server, address) = serve_in(folder.path(), &["--conflict", conflict]);
        fs::write(folder.path().join("a"), noise(1, 1000)).unwrap();
        assert_ends(&send(folder.path(), &address, &["a"]), 0);
        let ended = send_with(folder.path(), &address, &["--resume"], &["a"]);
        assert_ends(&ended, 0);
        assert!(ended.out.contains("0 of 1 files stored, 1 there already"), "{}", ended.out);
    }
}

#[test]
fn a_silent_client_is_told_and_may_go_on_later() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (_server, address) = serve_in(folder.path(), &["--idle", "1"]);
    let mut peer = half_sent(folder.path(), &address, &content, 1_500_000);
    assert!(peer.expect_refusal(Code::Idle).contains("--resume"));
    peer.expect_end();
    goes_on(folder.path(), &address, &content, "488.28 KiB");
}

#[test]
fn what_nobody_continues_is_removed_when_the_next_client_comes() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (server, address) = serve_in(folder.path(), &["--keep", "0"]);
    drop(half_sent(folder.path(), &address, &content, 1_500_000));
    assert!(server.line().contains("broke off \"file\""));
    assert_eq!(partial_files(folder.path()).len(), 1);
    // The next client comes. Its own part is being written, and so is kept, however old it may be.
    let mut living = Peer::connect(&address);
    assert_eq!(partial_files(folder.path()).len(), 0);
    living.put(&[b"living"], &content, false);
    living.data(&content[..1_000_000]);
    eventually("it is on its way", || partial_files(folder.path()).len() == 1);
    Peer::connect(&address).store("other", b"other");
    living.data(&content[1_000_000..]);
    living.end(&content);
    assert!(matches!(living.hear(), Some(Message::Done { .. })));
    assert_eq!(stored(folder.path()).keys().collect::<Vec<_>>(), ["living", "other"]);
}

#[test]
fn what_is_younger_is_kept_over_a_new_start() {
    let (folder, content) = (folder(), noise(1, LENGTH));
    let (server, address) = serve_in(folder.path(), &[]);
    drop(half_sent(folder.path(), &address, &content, 1_500_000));
    server.send_signal(libc::SIGTERM);
    assert_ends(&server.end(), 0);
    let (_server, _address) = serve_in(folder.path(), &[]);
    assert_eq!(partial_files(folder.path()).len(), 1);
}

#[test]
fn a_client_whose_server_has_gone_says_how_to_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = folder();
    fs::write(folder.path().join("file"), noise(1, 20_000_000)).unwrap();
    let client = start_sending(folder.path(), &address, &[], &["file"]);
    let (mut stream, _) = listener.accept().unwrap();
    assert!(matches!(Message::read(&mut stream), Ok(Some(Message::Hello { .. }))));
    stream.write_all(&Message::Hello { version: VERSION }.encode()).unwrap();
    assert!(matches!(Message::read(&mut stream), Ok(Some(Message::Put(_)))));
    drop(stream);
    let ended = client.end();
    assert_ends(&ended, 1);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    for words in ["\"file\" was not stored", &address, "broke", "run it again with --resume"] {
        assert!(ended.err.contains(words), "{}", ended.err);
    }
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_sent_is_withdrawn() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, noise(1, 1_000_000)).unwrap();
    let client = start_sending(folder.path(), &address, &["--resume"], &["file"]);
    let (mut stream, _) = listener.accept().unwrap();
    assert!(matches!(Message::read(&mut stream), Ok(Some(Message::Hello { .. }))));
    stream.write_all(&Message::Hello { version: VERSION }.encode()).unwrap();
    assert!(matches!(Message::read(&mut stream), Ok(Some(Message::Put(_)))));
    // The client waits for this offer, and has sent nothing of the file yet.
    fs::write(&path, "short").unwrap();
    stream.write_all(&Message::Have { offset: 0, whole: false }.encode()).unwrap();
    let nothing = *blake3::hash(b"").as_bytes();
    stream.write_all(&Message::Digest(nothing).encode()).unwrap();
    assert_eq!(Message::read(&mut stream).unwrap(), Some(Message::From(0)));
    assert_eq!(Message::read(&mut stream).unwrap(), Some(Message::Abort));
    let refusal = protocol::Refusal::new(Code::Withdrawn, "it is withdrawn");
    stream.write_all(&Message::Refused(refusal).encode()).unwrap();
    let ended = client.end();
    assert_ends(&ended, 1);
    assert!(ended.err.contains("it has become shorter while it was sent"), "{}", ended.err);
}

#[test]
fn what_was_stored_by_another_name_is_not_sent_again() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    let content = noise(1, LENGTH);
    // Two of the older files have the same size: one has another beginning, and one only another end.
    let (mut one, mut two) = (content.clone(), content.clone());
    one[0] ^= 1;
    two[LENGTH - 1] ^= 1;
    fs::create_dir(folder.path().join("tree")).unwrap();
    for (number, older) in [b"short", &one[..], &two, &content].into_iter().enumerate() {
        fs::write(folder.path().join("tree/a.txt"), older).unwrap();
        assert_ends(&send(folder.path(), &address, &["tree"]), 0);
        assert_eq!(stored(folder.path()).len(), number + 1);
    }
    let ended = send_with(folder.path(), &address, &["--resume"], &["tree"]);
    assert_ends(&ended, 0);
    assert!(ended.out.contains("0 of 1 files stored, 1 there already"), "{}", ended.out);
    assert_eq!(stored(folder.path()).len(), 4);
    assert!(stored(folder.path())["tree/a-3.txt"] == content);
}

#[test]
fn a_server_that_is_stopped_takes_what_comes_in_its_grace_and_keeps_the_rest() {
    for mixin in ["threading", "forking"] {
        let (folder, content) = (folder(), noise(1, LENGTH));
        let (server, address) = serve_in(folder.path(), &["--mixin", mixin]);
        let mut peer = half_sent(folder.path(), &address, &content, 1_500_000);
        server.send_signal(libc::SIGTERM);
        peer.data(&content[1_500_000..]);
        peer.end(&content);
        assert!(matches!(peer.hear(), Some(Message::Done { .. })));
        peer.expect_end();
        assert_ends(&server.end(), 0);
        assert!(stored(folder.path())["file"] == content);

        fs::remove_file(folder.path().join("model/file")).unwrap();
        let (server, address) = serve_in(folder.path(), &["--mixin", mixin, "--grace", "0.1"]);
        let mut peer = half_sent(folder.path(), &address, &content, 1_500_000);
        server.send_signal(libc::SIGTERM);
        peer.expect_end();
        let ended = server.end();
        assert_ends(&ended, 0);
        let (_server, address) = serve_in(folder.path(), &["--mixin", mixin]);
        goes_on(folder.path(), &address, &content, "488.28 KiB");
    }
}
