//! Row 14: the file of a Unix socket.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::Barrier;

use socketserver::monitor::AcceptOutcome;
use socketserver::{SocketOptions, UnixDatagramServer, UnixStreamServer};

use super::serve_one;
use crate::handlers::{Echo, OneLine, Silent};
use crate::support::{SOON, connect_any, exchange, folder, receive, soon};

/// Leaves a stale socket file, as a killed server does.
fn leave_stale(path: &Path) {
    drop(unix::UnixListener::bind(path).unwrap());
    assert!(fs::symlink_metadata(path).unwrap().file_type().is_socket());
}

#[test]
fn row_014_the_path_stays_by_default() {
    let folder = folder();
    let (stream, datagram) = (folder.path().join("s"), folder.path().join("d"));
    let server = UnixStreamServer::bind(&stream, || Silent).unwrap();
    server.server_close();
    drop(server);
    drop(UnixDatagramServer::bind(&datagram, || Silent).unwrap());
    assert!(stream.exists() && datagram.exists());
}

#[test]
fn row_014_unlink_on_close_removes_the_path() {
    let folder = folder();
    let (stream, datagram) = (folder.path().join("s"), folder.path().join("d"));
    let server =
        UnixStreamServer::builder().socket_options(SocketOptions::default().unlink_on_close(true));
    let server = server.bind(&stream, || Silent).unwrap();
    assert!(stream.exists());
    server.server_close();
    assert!(!stream.exists());
    let server = UnixDatagramServer::builder()
        .socket_options(SocketOptions::default().unlink_on_close(true));
    drop(server.bind(&datagram, || Silent).unwrap());
    assert!(!datagram.exists());
}

#[test]
fn row_014_unlink_on_close_leaves_what_is_somebody_elses() {
    let folder = folder();
    let path = folder.path().join("s");
    let server =
        UnixStreamServer::builder().socket_options(SocketOptions::default().unlink_on_close(true));
    let server = server.bind(&path, || Silent).unwrap();
    fs::remove_file(&path).unwrap();
    let other = unix::UnixListener::bind(&path).unwrap();
    server.server_close();
    assert!(path.exists());
    drop(other);
    // If the file is gone altogether, that is no error either.
    let server =
        UnixStreamServer::builder().socket_options(SocketOptions::default().unlink_on_close(true));
    let server = server.bind(&path, || Silent).unwrap();
    fs::remove_file(&path).unwrap();
    server.server_close();
}

#[test]
fn row_014_a_closing_server_leaves_its_successors_path() {
    let folder = folder();
    let path = folder.path().join("s");
    let restart = |path: &Path| {
        let mut served = 0;
        while served < 200 {
            let server = UnixStreamServer::builder()
                .socket_options(SocketOptions::default().unlink_on_close(true));
            match server.bind(path, || Silent) {
                Ok(_server) => {
                    unix::UnixStream::connect(path).expect("a live server has its path");
                    served += 1;
                }
                Err(error) => assert!(error.is_address_in_use(), "{error}"),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| restart(&path));
        scope.spawn(|| restart(&path));
    });
}

#[test]
fn row_014_a_stale_path_is_replaced() {
    let folder = folder();
    let path = folder.path().join("s");
    leave_stale(&path);
    let server = UnixStreamServer::bind(&path, || OneLine).unwrap();
    assert_eq!(serve_one(&server, connect_any(&server.server_address())), "hello\n");
    drop(server);
    // A file that a server of the other kind has left is as stale.
    let server = UnixDatagramServer::bind(&path, || Silent).unwrap();
    drop(server);
    UnixStreamServer::bind(&path, || Silent).unwrap();
}

#[test]
fn row_014_replacing_can_be_forbidden() {
    let folder = folder();
    let path = folder.path().join("s");
    leave_stale(&path);
    let before = fs::symlink_metadata(&path).unwrap().ino();
    let server =
        UnixStreamServer::builder().socket_options(SocketOptions::default().replace_stale(false));
    assert!(server.bind(&path, || Silent).unwrap_err().is_address_in_use());
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before);
}

#[test]
fn row_014_a_live_stream_server_is_not_replaced() {
    let folder = folder();
    let path = folder.path().join("s");
    // The live server has to serve in the background, because the probes of the others are connections as well.
    let live = UnixStreamServer::bind(&path, || Echo).unwrap().serve_in_background().unwrap();
    assert!(UnixStreamServer::bind(&path, || Silent).unwrap_err().is_address_in_use());
    assert!(UnixDatagramServer::bind(&path, || Silent).unwrap_err().is_address_in_use());
    assert_eq!(exchange(&mut *connect_any(&live.server_address()), "hello"), "hello\n");
}

#[test]
fn row_014_a_live_datagram_server_is_not_replaced() {
    let folder = folder();
    let path = folder.path().join("d");
    let live = UnixDatagramServer::bind(&path, || OneLine).unwrap();
    assert!(UnixDatagramServer::bind(&path, || Silent).unwrap_err().is_address_in_use());
    assert!(UnixStreamServer::bind(&path, || Silent).unwrap_err().is_address_in_use());
    let client = unix::UnixDatagram::bind(folder.path().join("c")).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"hello", &path).unwrap();
    assert_eq!(live.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(receive(&client).len(), 5);
}

#[test]
fn row_014_a_server_with_a_full_queue_is_alive() {
    let folder = folder();
    let path = folder.path().join("s");
    let busy =
        UnixStreamServer::builder().socket_options(SocketOptions::default().request_queue_size(0));
    let _busy = busy.bind(&path, || Silent).unwrap();
    let _fills = unix::UnixStream::connect(&path).unwrap();
    let other = path.clone();
    let bind = soon("an answer about a busy server", move || {
        UnixStreamServer::bind(other, || Silent).map(drop)
    });
    assert!(bind.unwrap_err().is_address_in_use());
    assert!(path.exists());
}

#[test]
fn row_014_of_servers_that_start_at_once_one_wins() {
    // Ten times, because the moment between bind and listen is short.
    for _ in 0..10 {
        let folder = folder();
        let path = folder.path().join("s");
        leave_stale(&path);
        let start = Barrier::new(8);
        let bind = || {
            start.wait();
            UnixStreamServer::bind(&path, || OneLine)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut winners = Vec::new();
        for result in results {
            match result {
                Ok(server) => winners.push(server),
                Err(error) => assert!(error.is_address_in_use(), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        // The other servers have connected to test for a living one, and closed that connection.
        let server = winners.pop().unwrap().serve_in_background().unwrap();
        assert_eq!(exchange(&mut *connect_any(&server.server_address()), "hello"), "hello\n");
    }
}

#[test]
fn row_014_anything_but_a_socket_is_never_removed() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let sub = folder.path().join("folder");
    fs::create_dir(&sub).unwrap();
    // A link is not replaced, even if its target is a stale socket.
    let (stale, link) = (folder.path().join("stale"), folder.path().join("link"));
    leave_stale(&stale);
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    for path in [&file, &sub, &link] {
        let error = UnixStreamServer::bind(path, || Silent).unwrap_err();
        assert!(error.is_address_in_use(), "{error}");
        let error = UnixDatagramServer::bind(path, || Silent).unwrap_err();
        assert!(error.is_address_in_use(), "{error}");
    }
    for path in [&file, &sub] {
        let error = UnixStreamServer::bind(path, || Silent).unwrap_err();
        assert!(error.to_string().contains("is no socket"), "{error}");
    }
    // Nor does the error say that another server listens there.
    let error = UnixStreamServer::bind(&link, || Silent).unwrap_err();
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::AlreadyExists), "{error}");
    assert!(error.to_string().contains("is a link, and is not replaced"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(sub.is_dir() && stale.exists());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_unix_server_does_not_make_a_file_of_an_internet_address() {
    let address = "127.0.0.1:9000";
    for error in [
        UnixStreamServer::bind(address, || Silent).unwrap_err(),
        UnixDatagramServer::bind(address, || Silent).unwrap_err(),
    ] {
        assert!(
            error.is_bad_address() && error.to_string().contains("./127.0.0.1:9000"),
            "{error}"
        );
    }
    assert!(!Path::new(address).exists());
}

#[test]
fn row_014_the_mode_is_applied() {
    let folder = folder();
    // One mode is narrower and one is wider than a usual umask leaves the file.
    for mode in [0o600, 0o666] {
        let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = folder.path().join(format!("s{mode:o}"));
        let _stream = UnixStreamServer::builder()
            .socket_options(SocketOptions::default().unix_mode(mode))
            .bind(&path, || Silent)
            .unwrap();
        assert_eq!(mode_of(&path), mode);
        let path = folder.path().join(format!("d{mode:o}"));
        let _datagram = UnixDatagramServer::builder()
            .socket_options(SocketOptions::default().unix_mode(mode))
            .bind(&path, || Silent)
            .unwrap();
        assert_eq!(mode_of(&path), mode);
    }
}

#[test]
fn row_014_a_path_that_is_too_long_is_refused_in_words() {
    let folder = folder();
    let long = folder.path().join("x".repeat(200));
    let error = UnixStreamServer::bind(&long, || Silent).unwrap_err();
    assert!(error.to_string().contains("too long for a Unix socket"), "{error}");
}
