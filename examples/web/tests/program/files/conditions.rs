//! Parts of files, and files that the client has already.

use super::*;

#[test]
fn a_part_of_a_file_is_sent_as_asked_for() {
    let (_folder, _server, address) = site(|path| {
        digits(path);
        fs::write(path.join("empty"), "").unwrap();
    });
    let parts = [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=3-5", "345", "bytes 3-5/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
        ("BYTES = 1 - 2 ", "12", "bytes 1-2/10"),
        ("bytes=9-99999999999999999999999", "9", "bytes 9-9/10"),
    ];
    let mut client = Client::new(address);
    for (range, text, content_range) in parts {
        let answer = client.get("/digits.txt", &format!("Range: {range}\r\n"));
        assert_eq!((answer.status, answer.text()), (206, text), "{range}");
        assert_eq!(answer.header("Content-Range"), Some(content_range));
    }
    // A range that cannot be read, or more than one, is ignored.
    for range in ["lines=1-2", "bytes=5-3", "bytes=-", "bytes=+1-2", "bytes=0-1,3-4", "bytes", ""] {
        let answer = client.get("/digits.txt", &format!("Range: {range}\r\n"));
        assert_eq!((answer.status, answer.text()), (200, "0123456789"), "{range}");
        assert_eq!(answer.header("Accept-Ranges"), Some("bytes"));
    }
    // A range is for GET alone.
    client.send("HEAD /digits.txt HTTP/1.1\r\nHost: here\r\nRange: bytes=1-2\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("10")));
    let nothing = [
        ("/digits.txt", "bytes=10-", "bytes */10"),
        ("/digits.txt", "bytes=99999999999999999999999-", "bytes */10"),
        ("/digits.txt", "bytes=-0", "bytes */10"),
        ("/empty", "bytes=0-", "bytes */0"),
        ("/empty", "bytes=-1", "bytes */0"),
    ];
    for (target, range, content_range) in nothing {
        let answer = client.get(target, &format!("Range: {range}\r\n"));
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("Content-Range"), Some(content_range));
    }
    client.assert_open();
}

#[test]
fn a_part_is_sent_only_of_the_file_that_the_client_knows() {
    let (_folder, _server, address) = site(digits);
    let mut client = Client::new(address);
    let whole = client.get("/digits.txt", "");
    let (tag, date) = (whole.header("ETag").unwrap(), whole.header("Last-Modified").unwrap());
    let cases = [
        (tag.to_owned(), 206),
        (date.to_owned(), 206),
        (format!("W/{tag}"), 200),
        ("\"another\"".to_owned(), 200),
        ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 200),
    ];
    for (known, status) in cases {
        let answer =
            client.get("/digits.txt", &format!("Range: bytes=1-\r\nIf-Range: {known}\r\n"));
        assert_eq!(answer.status, status, "{known}");
    }
}

#[test]
fn what_the_client_has_is_not_sent_again() {
    let (folder, _server, address) = site(digits);
    let mut client = Client::new(address);
    let whole = client.get("/digits.txt", "");
    let (tag, date) = (whole.header("ETag").unwrap(), whole.header("Last-Modified").unwrap());
    let (old, new) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Tue, 01 Jan 2999 00:00:00 GMT");
    let cases = [
        (format!("If-None-Match: {tag}"), 304),
        (format!("If-None-Match: \"x\", W/{tag}"), 304),
        ("If-None-Match: *".into(), 304),
        ("If-None-Match: \"x\"".into(), 200),
        (format!("If-Modified-Since: {date}"), 304),
        (format!("If-Modified-Since: {new}"), 304),
        (format!("If-Modified-Since: {old}"), 200),
        ("If-Modified-Since: some day".into(), 200),
        // The tag alone decides where there is one.
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}"), 200),
        (format!("If-None-Match: {tag}\r\nIf-Modified-Since: {old}"), 304),
        (format!("If-None-Match: {tag}\r\nRange: bytes=0-1"), 304),
    ];
    for (header, status) in cases {
        let answer = client.get("/digits.txt", &format!("{header}\r\n"));
        assert_eq!(answer.status, status, "{header}");
        if status == 304 {
            assert_eq!(answer.header("ETag"), Some(tag));
            for absent in ["Content-Length", "Content-Type"] {
                assert_eq!(answer.header(absent), None);
            }
        }
    }
    // The file is changed: its size and the second of its time stay the same.
    let path = folder.path().join("digits.txt");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_times(FileTimes::new().set_modified(modified + Duration::from_nanos(1))).unwrap();
    assert_eq!(client.get("/digits.txt", &format!("If-None-Match: {tag}\r\n")).status, 200);
}

#[test]
fn a_file_from_before_all_dates_is_served() {
    // The files are in memory, if there is such a folder: file systems of disks cannot store such times.
    let memory = tempfile::Builder::new().prefix("ss").tempdir_in("/dev/shm");
    let folder = memory.unwrap_or_else(|_| folder());
    for (name, time) in [
        ("old.txt", UNIX_EPOCH - Duration::from_secs(1)),
        ("new.txt", UNIX_EPOCH + Duration::from_secs(253_402_300_800)),
    ] {
        let file = File::create(folder.path().join(name)).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }
    let (_server, address) = web(&["--dir", folder.path().to_str().unwrap()]);
    for target in ["/old.txt", "/new.txt", "/"] {
        assert_eq!(get(address, target, "").status, 200);
    }
    assert_eq!(get(address, "/old.txt", "").header("Last-Modified"), None);
}
