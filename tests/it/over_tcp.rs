//! The methods that transports and streams of the tests leave to the TCP transport or the stream inside them.

/// The methods of an `impl Transport` with a field `inner: Tcp` by which it binds, listens, makes requests and closes.
macro_rules! leave_to_tcp {
    () => {
        type Raw = <::socketserver::transport::Tcp as ::socketserver::transport::Transport>::Raw;
        type Request = ::socketserver::StreamRequest;

        fn server_bind(
            &self,
            before_bind: ::socketserver::transport::BeforeBind<'_>,
        ) -> ::socketserver::Result<()> {
            self.inner.server_bind(before_bind)
        }

        fn server_activate(&self) -> ::socketserver::Result<()> {
            self.inner.server_activate()
        }

        fn server_address(&self) -> ::socketserver::Address {
            self.inner.server_address()
        }

        fn make_request(
            &self,
            raw: Self::Raw,
            ticket: ::socketserver::transport::Ticket,
        ) -> ::socketserver::StreamRequest {
            self.inner.make_request(raw, ticket)
        }

        fn server_close(&self) {
            self.inner.server_close();
        }
    };
}

/// The methods of the same `impl` that give the descriptor that the loop waits for, and the descriptor by which a request is
/// ended from outside.
macro_rules! leave_connections_to_tcp {
    () => {
        fn fileno(&self) -> Option<::std::sync::Arc<::std::os::fd::OwnedFd>> {
            self.inner.fileno()
        }

        fn connection(raw: &Self::Raw) -> Option<::std::sync::Arc<::std::os::fd::OwnedFd>> {
            <::socketserver::transport::Tcp as ::socketserver::transport::Transport>::connection(
                raw,
            )
        }
    };
}

/// All methods of an `impl Stream` with a field `inner: Box<dyn Stream>`.
macro_rules! leave_to_inner_stream {
    () => {
        fn set_deadline(&mut self, deadline: Option<::std::time::Instant>) {
            self.inner.set_deadline(deadline);
        }

        fn shutdown(&mut self, how: ::std::net::Shutdown) -> ::std::io::Result<()> {
            self.inner.shutdown(how)
        }

        fn fileno(&self) -> Option<::std::os::fd::BorrowedFd<'_>> {
            self.inner.fileno()
        }
    };
}

pub(crate) use {leave_connections_to_tcp, leave_to_inner_stream, leave_to_tcp};
