//! The path of a Unix socket stays that of the file that was created, after a `chdir` and after renames.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socketserver::{Address, BaseServer, SocketOptions, UnixDatagramServer, UnixStreamServer};

use crate::handlers::{Echo, OneLine, Silent};
use crate::support::process::in_a_process;
use crate::support::{connect_any, exchange, folder};

/// Changes the working directory of the process: only for tests in a process of their own.
fn go_to(folder: &Path) {
    std::env::set_current_dir(folder).unwrap();
}

fn path_of(server: &dyn BaseServer) -> PathBuf {
    server.server_address().as_path().unwrap().to_owned()
}

#[test]
fn a_relative_path_means_the_same_when_the_process_has_gone_elsewhere() {
    const NAME: &str = "paths::a_relative_path_means_the_same_when_the_process_has_gone_elsewhere";
    let ended = in_a_process(NAME, || {
        let (here, elsewhere) = (folder(), folder());
        go_to(here.path());
        let stream = UnixStreamServer::builder()
            .socket_options(SocketOptions::default().unlink_on_close(true));
        let stream = stream.bind("stream", || Echo).unwrap().serve_in_background().unwrap();
        let datagram = UnixDatagramServer::builder()
            .socket_options(SocketOptions::default().unlink_on_close(true));
        let datagram = datagram.bind("./datagram", || OneLine).unwrap();
        go_to(elsewhere.path());
        // The current folder now has files of the same names, which are not the servers'.
        let others = ["stream", "datagram"];
        others.iter().for_each(|name| fs::write(name, "precious").unwrap());
        assert_eq!(path_of(&*stream), here.path().join("stream"));
        assert_eq!(path_of(&datagram), here.path().join("datagram"));
        assert_eq!(datagram.context().server_address(), datagram.server_address());
        let mut client = connect_any(&stream.server_address());
        assert_eq!(exchange(&mut *client, "hello"), "hello\n");
        drop(client);
        let report = stream.stop().unwrap();
        assert_eq!(report.server_address, Address::Unix(here.path().join("stream")));
        drop(datagram);
        for name in others {
            assert!(!here.path().join(name).exists(), "{name} is removed where it was made");
            assert_eq!(fs::read_to_string(name).unwrap(), "precious");
        }
        "done".to_owned()
    });
    assert!(ended.is_none_or(|ended| ended.out == "done"));
}

#[test]
fn a_short_name_in_a_folder_with_a_long_one_can_be_bound() {
    const NAME: &str = "paths::a_short_name_in_a_folder_with_a_long_one_can_be_bound";
    let ended = in_a_process(NAME, || {
        let folder = folder();
        let long = folder.path().join("x".repeat(150));
        fs::create_dir(&long).unwrap();
        go_to(&long);
        let server = UnixStreamServer::builder()
            .socket_options(SocketOptions::default().unlink_on_close(true).unix_mode(0o600));
        let server = server.bind("s", || Echo).unwrap().serve_in_background().unwrap();
        assert_eq!(path_of(&*server), long.join("s"));
        let mut client = connect_any(&Address::Unix("s".into()));
        assert_eq!(exchange(&mut *client, "hello"), "hello\n");
        // The check for a living server finds it, although its path is long.
        assert!(UnixStreamServer::bind("s", || Silent).unwrap_err().is_address_in_use());
        go_to(folder.path());
        server.stop().unwrap();
        assert!(!long.join("s").exists());
        "done".to_owned()
    });
    assert!(ended.is_none_or(|ended| ended.out == "done"));
}

/// A server is bound and does not listen yet, while others try to take its path.
#[test]
fn the_path_of_a_server_that_is_about_to_listen_is_not_stale() {
    fn others_are_refused(path: &Path) {
        let refused = |error: socketserver::Error| assert!(error.is_address_in_use(), "{error}");
        refused(UnixStreamServer::bind(path, || Silent).unwrap_err());
        refused(UnixDatagramServer::bind(path, || Silent).unwrap_err());
    }

    let folder = folder();
    let path = folder.path().join("stream");
    let stream = UnixStreamServer::builder().build_unbound(&path, || OneLine).unwrap();
    stream.server_bind().unwrap();
    others_are_refused(&path);
    stream.server_activate().unwrap();
    others_are_refused(&path);
    let stream = stream.serve_in_background().unwrap();
    assert_eq!(exchange(&mut *connect_any(&stream.server_address()), "hello"), "hello\n");
    // A process that tests for a living server is no client.
    assert_eq!(stream.context().counts().accepted, 1);

    let path = folder.path().join("datagram");
    let datagram = UnixDatagramServer::builder().build_unbound(&path, || OneLine).unwrap();
    datagram.server_bind().unwrap();
    others_are_refused(&path);
    datagram.server_activate().unwrap();
    others_are_refused(&path);
}

#[test]
fn a_file_is_removed_where_it_was_made_also_when_its_folder_has_another_name() {
    let folder = folder();
    let (was, is) = (folder.path().join("was"), folder.path().join("is"));
    fs::create_dir(&was).unwrap();
    let server =
        UnixStreamServer::builder().socket_options(SocketOptions::default().unlink_on_close(true));
    let server = server.bind(was.join("s"), || Silent).unwrap();
    fs::rename(&was, &is).unwrap();
    fs::create_dir(&was).unwrap();
    fs::write(was.join("s"), "precious").unwrap();
    drop(server);
    assert!(!is.join("s").exists());
    assert_eq!(fs::read_to_string(was.join("s")).unwrap(), "precious");
}

/// A hook that runs right before the bind, and changes the folder between two inspections.
struct Exchanges<F>(F);

impl<R: socketserver::request::Request, F: Fn() + Send + Sync + 'static>
    socketserver::ServerHooks<R> for Exchanges<F>
{
    fn before_bind(&self, _fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
        (self.0)();
        Ok(())
    }
}

#[test]
fn a_socket_in_a_place_that_a_link_leads_to_gets_its_mode_and_nothing_else_does() {
    use std::os::unix::fs::PermissionsExt;
    let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let folder = folder();
    let real = folder.path().join("real");
    fs::create_dir(&real).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    // A link to a folder is followed. A link in place of the socket's file is not replaced, nor is its target.
    let server = UnixStreamServer::builder()
        .socket_options(SocketOptions::default().unix_mode(0o666))
        .bind(link.join("s"), || Silent);
    let server = server.unwrap();
    assert!(fs::symlink_metadata(real.join("s")).unwrap().file_type().is_socket());
    assert_eq!(mode_of(&real.join("s")), 0o666);
    drop(server);
    std::os::unix::fs::symlink(&secret, real.join("t")).unwrap();
    let error = UnixStreamServer::builder()
        .socket_options(SocketOptions::default().unix_mode(0o666))
        .bind(real.join("t"), || Silent);
    assert!(error.unwrap_err().is_address_in_use());
    assert_eq!(mode_of(&secret), 0o600);
    // The link is put there in the last moment.
    let (place, target) = (real.join("u"), secret.clone());
    let exchange = Exchanges(move || std::os::unix::fs::symlink(&target, &place).unwrap());
    let error = UnixStreamServer::builder()
        .hooks(exchange)
        .socket_options(SocketOptions::default().unix_mode(0o666));
    assert!(error.bind(real.join("u"), || Silent).unwrap_err().is_address_in_use());
    assert_eq!(mode_of(&secret), 0o600);
}
