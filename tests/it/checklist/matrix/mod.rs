//! Rows 98 to 100: every transport under every mixin, a transport and a mixin of one's own, and a
//! wrapper between the connection and its handler.

mod courier;
pub(super) mod memory;
mod wrappers;

use std::io::Write;
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socketserver::mixin::Mixin;
use socketserver::transport::{BindAddress, Transport};
use socketserver::{
    Address, PoolTcpServer, PoolUdpServer, PoolUnixDatagramServer, PoolUnixStreamServer, Server,
    TcpServer, ThreadingTcpServer, ThreadingUdpServer, ThreadingUnixDatagramServer,
    ThreadingUnixStreamServer, UdpServer, UnixDatagramServer, UnixStreamServer,
};

use crate::handlers::OneLine;
use crate::support::{SOON, connect_any, folder, read_to_end, receive, soon, udp_client};

fn loopback(_folder: &Path) -> BindAddress {
    "127.0.0.1:0".into()
}

fn file(folder: &Path) -> BindAddress {
    folder.join("server").into()
}

fn over_a_connection(server: &Address, _folder: &Path) -> Vec<u8> {
    let mut client = connect_any(server);
    client.write_all(b"hello world\n").unwrap();
    read_to_end(&mut *client)
}

fn over_udp(server: &Address, _folder: &Path) -> Vec<u8> {
    let client = udp_client();
    client.send_to(b"hello world\n", server.as_inet().unwrap()).unwrap();
    receive(&client)
}

fn over_unix_datagrams(server: &Address, folder: &Path) -> Vec<u8> {
    static CLIENTS: AtomicUsize = AtomicUsize::new(0);
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
    let client = unix::UnixDatagram::bind(folder.join(format!("client-{number}"))).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"hello world\n", server.as_path().unwrap()).unwrap();
    receive(&client)
}

/// Serves one client after the other, and then stops without forcing anything.
fn three_echoes<T: Transport, M: Mixin + 'static>(
    server: Server<T, M>,
    folder: &Path,
    client: fn(&Address, &Path) -> Vec<u8>,
) {
    let listener = Arc::downgrade(&server.fileno().unwrap());
    let server = server.serve_in_background().unwrap();
    for _ in 0..3 {
        assert_eq!(client(&server.server_address(), folder), b"hello world\n");
    }
    assert_eq!(server.context().counts().accepted, 3);
    let report = soon("a stop", move || server.stop()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(listener.upgrade().is_none(), "the listener is still open");
}

macro_rules! echoes {
    ($($test:ident: $server:ty, $address:ident, $client:ident;)*) => {$(
        #[test]
        fn $test() {
            let folder = folder();
            let server = <$server>::bind($address(folder.path()), || OneLine).unwrap();
            three_echoes(server, folder.path(), $client);
        }
    )*};
}

echoes! {
    row_098_echo_tcp_inline: TcpServer, loopback, over_a_connection;
    row_098_echo_tcp_threading: ThreadingTcpServer, loopback, over_a_connection;
    row_098_echo_tcp_pool: PoolTcpServer, loopback, over_a_connection;
    row_098_echo_udp_inline: UdpServer, loopback, over_udp;
    row_098_echo_udp_threading: ThreadingUdpServer, loopback, over_udp;
    row_098_echo_udp_pool: PoolUdpServer, loopback, over_udp;
    row_098_echo_unix_stream_inline: UnixStreamServer, file, over_a_connection;
    row_098_echo_unix_stream_threading: ThreadingUnixStreamServer, file, over_a_connection;
    row_098_echo_unix_stream_pool: PoolUnixStreamServer, file, over_a_connection;
    row_098_echo_unix_datagram_inline: UnixDatagramServer, file, over_unix_datagrams;
    row_098_echo_unix_datagram_threading: ThreadingUnixDatagramServer, file, over_unix_datagrams;
    row_098_echo_unix_datagram_pool: PoolUnixDatagramServer, file, over_unix_datagrams;
}
