//! The methods of [`Transport`](super::Transport) that several of our transports share. `Transport` has no defaults for
//! them, because a transport of a program need have no socket.
//!
//! | macro | for an implementor with a field |
//! |---|---|
//! | `listener_methods!` | `listener`, a [`StreamListener`](super::stream_listener::StreamListener) |
//! | `datagram_methods!` | `datagrams`, an `Arc` of a [`DatagramSocket`](super::datagram_socket::DatagramSocket) |
//! | `socket_methods!` | either: the two above call it |
//!
//! `bind_methods!` has the methods of [`Bind`](super::Bind).

/// The methods of [`Bind`](super::Bind), for the kind of socket that the transport serves on. `$over` makes the transport
/// of a [`ServerSocket`](super::server_socket::ServerSocket).
macro_rules! bind_methods {
    ($kind:ident, $over:expr) => {
        fn unbound(
            address: &crate::bind_address::BindAddress,
            options: &crate::transport::SocketOptions,
        ) -> crate::Result<Self> {
            let kind = crate::transport::SocketKind::$kind;
            crate::transport::server_socket::ServerSocket::unbound(kind, address, options)
                .map($over)
        }

        fn from_fd(
            fd: std::os::fd::OwnedFd,
            options: &crate::transport::SocketOptions,
        ) -> crate::Result<Self> {
            let kind = crate::transport::SocketKind::$kind;
            crate::transport::server_socket::ServerSocket::adopted(kind, fd, options).map($over)
        }
    };
}

/// The methods that are the same for every socket. `$part` is the field.
macro_rules! socket_methods {
    ($part:ident) => {
        fn server_bind(&self, before_bind: crate::transport::BeforeBind<'_>) -> crate::Result<()> {
            self.$part.socket.server_bind(before_bind)
        }

        fn server_address(&self) -> crate::address::Address {
            self.$part.socket.server_address()
        }

        fn fileno(&self) -> Option<std::sync::Arc<std::os::fd::OwnedFd>> {
            self.$part.socket.fileno()
        }

        fn refuse_new(&self) -> bool {
            self.$part.refuse_new()
        }

        fn server_close(&self) {
            self.$part.server_close();
        }

        fn handover(&self) -> Option<&dyn crate::transport::HandoverSocket> {
            Some(&self.$part.socket)
        }
    };
}

/// The methods that are the same for every listening socket.
macro_rules! listener_methods {
    () => {
        type Raw = crate::transport::stream_listener::AcceptedConnection;
        type Request = crate::request::StreamRequest;

        crate::transport::socket_methods::socket_methods!(listener);

        fn server_activate(&self) -> crate::Result<()> {
            self.listener.server_activate()
        }

        /// An accept that finds no client costs as much as 16 polls (3.3 microseconds against 0.2, measured on Linux
        /// 6.18), because the kernel makes the new socket before it looks for a client.
        fn waits_first(&self) -> bool {
            true
        }

        fn get_request(&self) -> std::io::Result<(Self::Raw, crate::address::Address)> {
            self.listener.get_request()
        }

        fn shed(&self) -> usize {
            self.listener.shed()
        }

        fn connection(raw: &Self::Raw) -> Option<std::sync::Arc<std::os::fd::OwnedFd>> {
            // The live list shuts the descriptor down to end the request, and never closes it.
            Some(std::sync::Arc::clone(&raw.fd))
        }

        fn descriptors_per_request(&self) -> usize {
            1
        }

        #[inline]
        fn make_request(&self, raw: Self::Raw, ticket: crate::request::Ticket) -> Self::Request {
            Self::Request::over_socket(raw.fd, ticket)
        }

        #[inline]
        fn shutdown_request(&self, request: &mut Self::Request) {
            request.shutdown_request();
        }

        #[inline]
        fn close_request(&self, request: Self::Request) {
            request.close_request();
        }

        #[inline]
        fn end_request(&self, request: Self::Request) {
            request.end_request();
        }

        #[inline]
        fn close_in_child(&self) {
            // The reserve descriptor keeps no port busy, and closes when the child ends.
            self.listener.socket.close();
        }

        fn closes_descriptor_alone(&self) -> bool {
            true
        }

        /// Nothing needs the listener any more: the thread that closes has emptied the queue, and requests have
        /// sockets of their own.
        fn close_when(&self) -> crate::transport::CloseWhen {
            crate::transport::CloseWhen::AtOnce
        }
    };
}

/// The methods that are the same for every datagram socket.
macro_rules! datagram_methods {
    () => {
        type Raw = Box<crate::transport::incoming_datagram::IncomingDatagram>;
        type Request = crate::request::DatagramRequest;

        crate::transport::socket_methods::socket_methods!(datagrams);

        fn get_request(&self) -> std::io::Result<(Self::Raw, crate::address::Address)> {
            let datagram = self.datagrams.get_request()?;
            // The address is returned with the datagram, because the loop decides by it (limits, `verify_request`) before a
            // request is made.
            let peer = datagram.client_address();
            Ok((datagram, peer))
        }

        fn received(raw: &Self::Raw) -> std::time::Instant {
            raw.taken
        }

        /// The replies leave by the server's own socket.
        fn close_when(&self) -> crate::transport::CloseWhen {
            crate::transport::CloseWhen::RequestsHaveEnded
        }

        /// `close_in_child` does nothing: a child replies by its copy of the socket.
        fn close_in_others_child(&self) {
            self.datagrams.socket.close();
        }
    };
}

pub(super) use {bind_methods, datagram_methods, listener_methods, socket_methods};
