//! The way by which requests arrive: TCP, UDP, Unix stream and Unix datagram sockets, or a [`Transport`] of your own.
//!
//! | transport | Python | a request is |
//! |---|---|---|
//! | [`Tcp`] | `TCPServer` | a connection, [`StreamRequest`](crate::StreamRequest) |
//! | [`Udp`] | `UDPServer` | a datagram, [`DatagramRequest`](crate::DatagramRequest) |
//! | [`UnixStream`] | `UnixStreamServer` | a connection |
//! | [`UnixDatagram`] | `UnixDatagramServer` | a datagram |
//!
//! All of them use [`SocketOptions`].
//!
//! # A transport of your own
//!
//! A transport is one type with one `impl Transport`. It works with every mixin and with every handler for its type of
//! request. Four things have to be right:
//!
//! 1. **Readiness.** [`get_request`](Transport::get_request) never waits. When it returns `WouldBlock`, the loop sleeps
//!    until [`fileno`](Transport::fileno) is readable. So the descriptor must be readable as long as there is a
//!    request: a listening socket, or an [`Event`](crate::park::Event) that is notified for each request and cleared
//!    when none is left.
//! 2. **Two steps.** `get_request` runs in the loop and returns a cheap [`Raw`](Transport::Raw) value;
//!    [`make_request`](Transport::make_request) makes the request from it in the worker. Slow work belongs in
//!    `make_request`.
//! 3. **The end.** Dropping a `Raw` or a request closes it and does nothing else: a forking parent drops its copy while the
//!    child serves the request. The orderly end, which the client sees, is
//!    [`shutdown_request`](Transport::shutdown_request).
//! 4. **The close.** [`server_close`](Transport::server_close) may be called twice, and `fileno` is `None` from then on.
//!
//! This transport serves messages that other threads of the same program put into a queue:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::io;
//! use std::os::fd::{AsFd, OwnedFd};
//! use std::sync::{Arc, Mutex};
//!
//! use socketserver::park::Event;
//! use socketserver::request::Reply;
//! use socketserver::transport::{BeforeBind, Ticket, Transport};
//! use socketserver::{Address, Builder, DatagramRequest, Pool, datagram_fn};
//!
//! struct Queue {
//!     messages: Arc<Mutex<VecDeque<Vec<u8>>>>,
//!     /// Readable while there are messages.
//!     arrived: Arc<Event>,
//!     fileno: Mutex<Option<Arc<OwnedFd>>>,
//! }
//!
//! /// Messages of a queue have no answers.
//! struct NoReply;
//!
//! impl Reply for NoReply {
//!     fn reply(&self, _bytes: &[u8]) -> io::Result<bool> {
//!         Ok(false)
//!     }
//! }
//!
//! impl Transport for Queue {
//!     type Raw = Vec<u8>;
//!     type Request = DatagramRequest;
//!
//!     fn server_bind(&self, _before_bind: BeforeBind<'_>) -> socketserver::Result<()> {
//!         Ok(())
//!     }
//!
//!     fn server_activate(&self) -> socketserver::Result<()> {
//!         Ok(())
//!     }
//!
//!     fn server_address(&self) -> Address {
//!         Address::Other("queue".into())
//!     }
//!
//!     fn fileno(&self) -> Option<Arc<OwnedFd>> {
//!         self.fileno.lock().unwrap().clone()
//!     }
//!
//!     fn get_request(&self) -> io::Result<(Vec<u8>, Address)> {
//!         let mut messages = self.messages.lock().unwrap();
//!         let Some(message) = messages.pop_front() else {
//!             // Under the lock, so that no message is pushed in between.
//!             self.arrived.clear();
//!             return Err(io::ErrorKind::WouldBlock.into());
//!         };
//!         Ok((message, Address::Other("a thread".into())))
//!     }
//!
//!     fn make_request(&self, raw: Vec<u8>, ticket: Ticket) -> DatagramRequest {
//!         DatagramRequest::new(raw, false, self.server_address(), Box::new(NoReply), ticket)
//!     }
//!
//!     fn server_close(&self) {
//!         self.fileno.lock().unwrap().take();
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (messages, arrived) = (Arc::default(), Arc::new(Event::new()?));
//! let fileno = Mutex::new(Some(Arc::new(arrived.as_fd().try_clone_to_owned()?)));
//! let queue = Queue { messages: Arc::clone(&messages), arrived: Arc::clone(&arrived), fileno };
//!
//! let (sender, receiver) = std::sync::mpsc::channel();
//! let server = Builder::new(Pool::new(2)).with_transport(
//!     queue,
//!     datagram_fn(move |request: &mut DatagramRequest| Ok(sender.send(request.packet().to_vec())?)),
//! )?;
//! let server = server.serve_in_background()?;
//!
//! messages.lock().unwrap().push_back(b"hello".to_vec());
//! arrived.notify();
//! assert_eq!(receiver.recv()?, b"hello");
//! # drop(server); Ok(())
//! # }
//! ```
//!
//! A transport that can be made from an address alone implements [`Bind`] as well; `Server::bind` and `from_fd` then
//! work for it. A transport that differs only a little from another one wraps it, and must forward every method,
//! including those with a default.
//!
//! # Stability
//!
//! The required methods of [`Transport`] and [`Bind`] and the order of their calls are stable: they are Python's. A
//! minor version may add a method with a default, an [`AcceptAction`] or a [`CloseWhen`]; the author of a transport
//! that forwards to another one should then read the changelog.

mod accept_error;
mod datagram_socket;
mod handover_socket;
mod incoming_datagram;
pub(crate) mod inherited;
mod later_datagram;
pub(crate) mod predecessor_sockets;
mod reply_loop;
mod server_socket;
mod socket_file;
mod socket_methods;
mod socket_options;
mod socket_source;
mod stream_listener;
mod tcp;
mod traits;
mod udp;
mod unix;

#[doc(alias = "address_family")]
pub use crate::bind_address::BindAddress;
pub use crate::request::Ticket;

pub use accept_error::{AcceptAction, accept_action};
pub use handover_socket::HandoverSocket;
pub(crate) use handover_socket::Holders;
pub(crate) use inherited::ActivatedAs;
pub use inherited::{ActivatedSocket, SocketKind, activated_sockets};
pub(crate) use socket_file::DescribedFile;
pub use socket_options::SocketOptions;
pub use tcp::Tcp;
pub use traits::{BeforeBind, Bind, CloseWhen, Transport};
pub use udp::Udp;
pub use unix::{UnixDatagram, UnixStream};
