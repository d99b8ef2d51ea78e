//! Disks and folders that fail under an upload.

use super::*;

#[test]
fn a_folder_that_vanishes_is_told() {
    let folder = folder();
    let (_server, address) = serve_in(folder.path(), &[]);
    fs::remove_dir(folder.path().join("model")).unwrap();
    let mut peer = Peer::connect(&address);
    for resume in [false, true] {
        peer.put(&[b"a"], b"a", resume);
        assert!(peer.expect_refusal(Code::Storage).contains("its folder has been removed"));
        peer.say(&Message::Abort);
    }
}

/// Sends a file of 3,000,000 bytes to where there is room for one mebibyte, and an empty file, which finds room.
fn send_to_a_full_disk(folder: &Path, address: &str) {
    fs::write(folder.join("large"), noise(1, 3_000_000)).unwrap();
    fs::write(folder.join("empty"), "").unwrap();
    let ended = send(folder, address, &["large", "empty"]);
    assert_ends(&ended, 1);
    assert_eq!(ended.err.lines().count(), 1);
    assert!(
        ended.out.contains("1 of 2 files stored: 0 B in "),
        "only what is stored counts: {}",
        ended.out
    );
    for words in ["\"large\" was not stored", "cannot write it", "make room", "--resume"] {
        assert!(ended.err.contains(words), "{}", ended.err);
    }
    let stored = stored(folder);
    assert!(!stored.contains_key("large") && stored.contains_key("empty"));
    assert_eq!(partial_files(folder).len(), 1, "what --resume needs");
}

fn goes_on_with_room(folder: &Path, address: &str) {
    let ended = send_with(folder, address, &["--resume"], &["large", "empty"]);
    assert_ends(&ended, 0);
    assert!(ended.out.contains("1 of 2 files stored, 1 there already: 1.8"), "{}", ended.out);
    assert!(stored(folder)["large"] == noise(1, 3_000_000));
}

#[test]
fn a_full_disk_is_told_and_what_has_come_is_kept() {
    let folder = folder();
    let model = folder.path().join("model");
    let Some(disk) = SmallDisk::mount(&model, "1m") else {
        return a_file_size_limit_is_told_and_what_has_come_is_kept();
    };
    let (server, address) = serve_in(folder.path(), &[]);
    send_to_a_full_disk(folder.path(), &address);
    disk.grow("8m");
    goes_on_with_room(folder.path(), &address);
    drop(server);
}

#[test]
fn a_file_size_limit_is_told_and_what_has_come_is_kept() {
    let folder = folder();
    let model = folder.path().join("model");
    // `ulimit -f` counts blocks of 512 bytes, or of 1,024 in some shells.
    let limited = "ulimit -f 2048 && [ $(ulimit -f) = 2048 ] && exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited, "sh"]).arg(UPLOAD.path());
    command.args(["serve", "--bind", "127.0.0.1:0", "--dir"]).arg(model);
    let limited = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    send_to_a_full_disk(folder.path(), &listening(&limited));
    drop(limited);
    let size = fs::metadata(&partial_files(folder.path())[0]).unwrap().len();
    assert!(size >= 1 << 20, "only {size} bytes are kept");
    let (_server, address) = serve_in(folder.path(), &[]);
    let ended = send_with(folder.path(), &address, &["--resume"], &["large"]);
    assert_ends(&ended, 0);
    assert!(stored(folder.path())["large"] == noise(1, 3_000_000));
}
