//! The rows of the matrix over TLS: both stream transports under every mixin that runs in this process. (`tests/forking`
//! has the remaining mixin.)

use std::io::Write;
use std::sync::Arc;

use socketserver::mixin::Mixin;
use socketserver::tls::rustls::StreamOwned;
use socketserver::transport::{BindAddress, Tcp, Transport, UnixStream};
use socketserver::{
    Address, Builder, HandlerResult, Inline, Pool, Server, StreamRequest, Threading, stream_fn,
};

use super::client::{Client, VERSIONS, localhost};
use crate::handlers::{Crash, Echo, OneLine, Panic, Silent, announced};
use crate::support::{connect_any, exchange, folder, read_line, read_to_end, soon};

type Connection =
    StreamOwned<socketserver::tls::rustls::ClientConnection, Box<dyn crate::support::Duplex>>;

/// Tries each handler of the tests with a client that knows it.
fn try_all<T, M: Mixin + 'static>(mixin: impl Fn() -> M, address: impl Fn() -> BindAddress)
where
    T: Transport<Request = StreamRequest> + socketserver::transport::Bind,
{
    let builder = || Builder::<T, M>::new(mixin()).tls(localhost());
    serve(builder().bind(address(), || OneLine).unwrap(), |mut connection| {
        connection.write_all(b"hello world\nmore").unwrap();
        assert_eq!(read_to_end(&mut connection), b"hello world\n");
    });
    serve(builder().bind(address(), || Echo).unwrap(), |mut connection| {
        for line in ["one", "", "three"] {
            assert_eq!(exchange(&mut connection, line), format!("{line}\n"));
        }
        connection.conn.send_close_notify();
        assert!(read_to_end(&mut connection).is_empty());
    });
    serve(builder().bind(address(), stream_fn(announced)).unwrap(), |mut connection| {
        for size in [1, 50_000] {
            assert_eq!(exchange(&mut connection, &size.to_string()), "go on\n");
            connection.write_all(&vec![b'.'; size]).unwrap();
            assert_eq!(read_line(&mut connection), "thank you\n");
        }
        connection.conn.send_close_notify();
        assert!(read_to_end(&mut connection).is_empty());
    });
    serve(builder().bind(address(), || Silent).unwrap(), |mut connection| {
        assert!(read_to_end(&mut connection).is_empty());
    });
    serve(builder().bind(address(), stream_fn(held_back)).unwrap(), |mut connection| {
        connection.write_all(b"question\n").unwrap();
        assert_eq!(read_to_end(&mut connection), b"answer to question");
    });
    // The connection of a handler that fails ends in order: the peer knows that nothing was cut off.
    serve(builder().hooks(NotPrinted).bind(address(), || Crash).unwrap(), |mut connection| {
        assert!(read_to_end(&mut connection).is_empty());
    });
    serve(builder().hooks(NotPrinted).bind(address(), || Panic).unwrap(), |mut connection| {
        assert!(read_to_end(&mut connection).is_empty());
    });
}

/// Answers in pieces that leave together.
fn held_back(request: &mut StreamRequest) -> HandlerResult {
    request.set_wbufsize(1_000)?;
    let mut line = String::new();
    let question = request.next_line(&mut line)?.unwrap_or_default().to_owned();
    request.write_all(b"answer ")?;
    write!(request, "to {question}")?;
    Ok(())
}

struct NotPrinted;

impl socketserver::ServerHooks<StreamRequest> for NotPrinted {
    fn handle_error(&self, _failure: &socketserver::hooks::Failure<'_>) {}
}

/// Serves a client of each version, and stops in order.
fn serve<T: Transport, M: Mixin + 'static>(server: Server<T, M>, client: fn(Connection)) {
    let listener = Arc::downgrade(&server.fileno().unwrap());
    let server = server.serve_in_background().unwrap();
    let address: Address = server.server_address();
    for version in VERSIONS {
        let session = Client::speaking(&[version]).session();
        client(StreamOwned::new(session, connect_any(&address)));
    }
    let report = soon("a stop", move || server.stop()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(listener.upgrade().is_none(), "the listener is still open");
}

macro_rules! under {
    ($($test:ident: $mixin:expr;)*) => {$(
        #[test]
        fn $test() {
            try_all::<Tcp, _>(|| $mixin, || "127.0.0.1:0".into());
            let folder = folder();
            try_all::<UnixStream, _>(|| $mixin, || folder.path().join("server").into());
        }
    )*};
}

under! {
    streams_over_tls_under_inline: Inline;
    streams_over_tls_under_threading: Threading::new();
    streams_over_tls_under_pool: Pool::new(2);
}
