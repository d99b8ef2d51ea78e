//! Rows 1 to 5: the address of a server, failures of its construction, and its steps.

use std::fs;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::os::unix::net as unix;
use std::path::Path;

use socket2::SockRef;
use socketserver::mixin::Mixin;
use socketserver::monitor::AcceptOutcome;
use socketserver::transport::Tcp;
use socketserver::{
    Builder, Pool, Server, ServerContext, ServerHooks, TcpServer, ThreadingTcpServer, UdpServer,
    UnixDatagramServer, UnixStreamServer,
};

use super::{LOCAL, getsockname, has_ipv6, is_listening, serve_one};
use crate::handlers::{Diary, OneLine, Silent};
use crate::support::{
    SOON, alone, connect, connect_any, folder, inet, open_descriptors, receive_from, udp_client,
};

/// An abstract name that no other test and no other process has.
fn abstract_name(test: &str) -> String {
    format!("@ss-{}-{test}", std::process::id())
}

#[test]
fn row_001_port_0_becomes_the_real_port_tcp() {
    let server = TcpServer::bind(LOCAL, || OneLine).unwrap();
    assert_ne!(inet(&server).port(), 0);
    assert_eq!(server.context().server_address(), server.server_address());
    assert_eq!(serve_one(&server, connect(inet(&server))), "hello\n");
}

#[test]
fn row_001_port_0_becomes_the_real_port_udp() {
    let server = UdpServer::bind(LOCAL, || OneLine).unwrap();
    assert_ne!(inet(&server).port(), 0);
    let client = udp_client();
    client.send_to(b"hello", inet(&server)).unwrap();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    assert_eq!(receive_from(&client), (b"hello".to_vec(), inet(&server)));
}

#[test]
fn row_002_server_address_is_getsockname_inet() {
    let tcp = TcpServer::bind(LOCAL, || Silent).unwrap();
    assert_eq!(tcp.server_address(), getsockname(&tcp));
    let udp = UdpServer::bind(LOCAL, || Silent).unwrap();
    assert_eq!(udp.server_address(), getsockname(&udp));
}

#[test]
fn row_002_server_address_is_getsockname_inet6() {
    if !has_ipv6() {
        return;
    }
    let tcp = TcpServer::bind("[::1]:0", || Silent).unwrap();
    assert_eq!(tcp.server_address(), getsockname(&tcp));
    let udp = UdpServer::bind("[::1]:0", || Silent).unwrap();
    assert_eq!(udp.server_address(), getsockname(&udp));
}

#[test]
fn row_002_server_address_is_getsockname_unix() {
    let folder = folder();
    let stream = UnixStreamServer::bind(folder.path().join("s"), || Silent).unwrap();
    assert_eq!(stream.server_address(), getsockname(&stream));
    assert_eq!(stream.server_address().as_path(), Some(&*folder.path().join("s")));
    let datagram = UnixDatagramServer::bind(folder.path().join("d"), || Silent).unwrap();
    assert_eq!(datagram.server_address(), getsockname(&datagram));
}

#[test]
#[cfg(target_os = "linux")]
fn row_002_server_address_is_getsockname_abstract() {
    let (stream, datagram) = (abstract_name("002-stream"), abstract_name("002-datagram"));
    let server = UnixStreamServer::bind(&stream, || Silent).unwrap();
    assert_eq!(server.server_address(), getsockname(&server));
    assert_eq!(server.server_address().to_string(), stream);
    let server = UnixDatagramServer::bind(&datagram, || Silent).unwrap();
    assert_eq!(server.server_address(), getsockname(&server));
}

#[test]
fn row_003_a_failed_bind_closes_the_socket() {
    let taken = TcpListener::bind(LOCAL).unwrap();
    let address = taken.local_addr().unwrap();
    let server = TcpServer::builder().build_unbound(address, || Silent).unwrap();
    assert!(server.fileno().is_some());
    assert!(server.server_bind().unwrap_err().is_address_in_use());
    assert!(server.fileno().is_none());
}

#[test]
fn row_003_a_failed_activation_closes_the_socket() {
    // Both may bind, because neither listens yet; then only one can.
    let first = TcpServer::builder().build_unbound(LOCAL, || Silent).unwrap();
    first.server_bind().unwrap();
    let second = TcpServer::builder().build_unbound(inet(&first), || Silent).unwrap();
    second.server_bind().unwrap();
    first.server_activate().unwrap();
    let error = second.server_activate().unwrap_err();
    assert!(error.is_address_in_use(), "{error}");
    assert!(second.fileno().is_none());
}

#[test]
#[cfg(target_os = "linux")]
fn row_003_1024_failures_leak_no_descriptor() {
    alone("checklist::construction::steps::row_003_1024_failures_leak_no_descriptor", || {
        let taken = TcpListener::bind(LOCAL).unwrap();
        let taken = taken.local_addr().unwrap();
        let folder = folder();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let before = open_descriptors();
        for _ in 0..256 {
            assert!(TcpServer::bind(taken, || Silent).is_err());
            // An address reserved for documentation.
            assert!(UdpServer::bind("192.0.2.1:0", || Silent).is_err());
            assert!(UnixStreamServer::bind(&file, || Silent).is_err());
            assert!(UnixDatagramServer::bind(&file, || Silent).is_err());
        }
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn row_004_build_unbound_neither_binds_nor_listens() {
    let server = TcpServer::builder().build_unbound(LOCAL, || OneLine).unwrap();
    assert_eq!(getsockname(&server).port(), Some(0));
    assert!(!is_listening(&server));

    server.server_bind().unwrap();
    assert_ne!(getsockname(&server).port(), Some(0));
    assert_eq!(server.server_address(), getsockname(&server));
    assert!(!is_listening(&server));

    server.server_activate().unwrap();
    assert!(is_listening(&server));
    assert_eq!(serve_one(&server, connect(inet(&server))), "hello\n");
}

#[test]
fn row_004_steps_after_the_close_are_errors_that_name_it() {
    let server = TcpServer::builder().build_unbound(LOCAL, || OneLine).unwrap();
    server.server_bind().unwrap();
    server.server_activate().unwrap();
    assert_eq!(serve_one(&server, connect(inet(&server))), "hello\n");
    assert!(server.server_close().is_clean());
    for late in [server.server_bind(), server.server_activate(), server.serve_forever()] {
        let error = late.unwrap_err().to_string();
        assert!(error.ends_with(" is closed"), "{error}");
    }
}

#[test]
fn row_004_a_server_that_was_not_activated_says_so() {
    fn assert_it_says_so<M: Mixin>(server: &Server<Tcp, M>) {
        server.server_bind().unwrap();
        let address = server.server_address();
        for late in [server.serve_forever(), server.handle_request().map(drop)] {
            let error = late.unwrap_err().to_string();
            let why = "the socket does not listen; server_activate makes it listen";
            assert_eq!(error, format!("cannot accept at {address}: {why}"));
        }
    }
    assert_it_says_so(&TcpServer::builder().build_unbound(LOCAL, || OneLine).unwrap());
    assert_it_says_so(&ThreadingTcpServer::builder().build_unbound(LOCAL, || OneLine).unwrap());
    let pool = Builder::<Tcp, _>::new(Pool::new(2)).build_unbound(LOCAL, || OneLine);
    assert_it_says_so(&pool.unwrap());
}

#[test]
fn row_004_build_unbound_makes_no_file() {
    let folder = folder();
    let path = folder.path().join("s");
    let server = UnixStreamServer::builder().build_unbound(&path, || OneLine).unwrap();
    assert!(server.fileno().is_some() && !path.exists());
    server.server_bind().unwrap();
    assert!(path.exists() && !is_listening(&server));
    server.server_activate().unwrap();
    assert_eq!(serve_one(&server, connect_any(&server.server_address())), "hello\n");
}

#[test]
fn row_004_build_unbound_datagrams() {
    let server = UdpServer::builder().build_unbound(LOCAL, || Silent).unwrap();
    assert_eq!(getsockname(&server).port(), Some(0));
    server.server_bind().unwrap();
    server.server_activate().unwrap();
    assert_eq!(server.server_address(), getsockname(&server));
    assert_ne!(inet(&server).port(), 0);
}

/// Notes when the hooks of construction run, and the state of the socket at that time.
struct Construction {
    diary: Diary,
}

impl<R> ServerHooks<R> for Construction {
    fn before_bind(&self, socket: BorrowedFd<'_>) -> std::io::Result<()> {
        let socket = SockRef::from(&socket);
        let address = socket.local_addr()?;
        let bound = address.as_socket().is_some_and(|address| address.port() != 0);
        self.diary.note(format!("before_bind(bound: {bound})"));
        Ok(())
    }

    fn server_activated(&self, server: &ServerContext) {
        let port = server.server_address().port();
        self.diary.note(format!("server_activated(port: {})", port != Some(0)));
    }
}

#[test]
fn row_005_bind_comes_before_activate_each_once() {
    let diary = Diary::default();
    let hooks = Construction { diary: diary.clone() };
    let _server = TcpServer::builder().hooks(hooks).bind(LOCAL, || Silent).unwrap();
    assert_eq!(diary.lines(), ["before_bind(bound: false)", "server_activated(port: true)"]);
}

#[test]
fn row_005_each_hook_belongs_to_its_step() {
    let diary = Diary::default();
    let hooks = Construction { diary: diary.clone() };
    let server = TcpServer::builder().hooks(hooks).build_unbound(LOCAL, || Silent).unwrap();
    assert!(diary.lines().is_empty());
    server.server_bind().unwrap();
    assert_eq!(diary.lines(), ["before_bind(bound: false)"]);
    server.server_activate().unwrap();
    assert_eq!(diary.lines().len(), 2);
    assert!(diary.contains("server_activated(port: true)"));
}

#[test]
fn row_005_an_error_of_before_bind_is_the_binds() {
    struct Refuses;
    impl<R> ServerHooks<R> for Refuses {
        fn before_bind(&self, _socket: BorrowedFd<'_>) -> std::io::Result<()> {
            Err(std::io::Error::other("not today"))
        }
        fn server_activated(&self, _server: &ServerContext) {
            panic!("a server that is not bound is not activated");
        }
    }
    let error = TcpServer::builder().hooks(Refuses).bind(LOCAL, || Silent).unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn row_014_abstract_names_have_no_file_and_go_with_their_server() {
    use std::os::linux::net::SocketAddrExt;
    let name = abstract_name("014");
    let server = UnixStreamServer::bind(&name, || OneLine).unwrap();
    assert!(!Path::new(&name).exists());
    assert!(UnixStreamServer::bind(&name, || Silent).unwrap_err().is_address_in_use());
    let address = unix::SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
    let client = unix::UnixStream::connect_addr(&address).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(serve_one(&server, client), "hello\n");
    drop(server);
    UnixStreamServer::bind(&name, || Silent).unwrap();
}
