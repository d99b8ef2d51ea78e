//! The methods of `Transport` that UDP and Unix datagram sockets share.

/// The methods of [`Transport`](super::Transport) that are the same for every datagram socket. For an implementor with a
/// field `datagrams`, an `Arc<DatagramSocket>`.
macro_rules! datagram_methods {
    () => {
        type Raw = Box<$crate::transport::datagram_socket::IncomingDatagram>;
        type Request = crate::request::DatagramRequest;

        fn server_bind(&self, before_bind: crate::transport::BeforeBind<'_>) -> crate::Result<()> {
            self.name.server_bind(&self.datagrams.socket, before_bind)
        }

        fn server_address(&self) -> crate::address::Address {
            self.name.server_address(&self.datagrams.socket)
        }

        fn fileno(&self) -> Option<std::sync::Arc<std::os::fd::OwnedFd>> {
            self.datagrams.socket.fileno()
        }

        fn get_request(&self) -> std::io::Result<(Self::Raw, crate::address::Address)> {
            let datagram = self.datagrams.get_request()?;
            let peer = datagram.client_address();
            Ok((datagram, peer))
        }

        fn received(raw: &Self::Raw) -> std::time::Instant {
            raw.taken
        }

        fn refuse_new(&self) -> bool {
            self.datagrams.refuse_new()
        }

        fn close_when(&self) -> crate::transport::CloseWhen {
            crate::transport::CloseWhen::RequestsHaveEnded
        }

        fn close_in_others_child(&self) {
            self.datagrams.socket.close();
        }
    };
}

pub(super) use datagram_methods;
