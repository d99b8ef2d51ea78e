//! TLS for stream servers, by rustls: one line on the builder, and the handler does not change.
//!
//! ```no_run
//! use std::io::Write;
//! use socketserver::tls::Tls;
//! use socketserver::{ThreadingTcpServer, stream_fn};
//!
//! # fn main() -> socketserver::Result<()> {
//! let echo = stream_fn(|request| {
//!     let mut line = String::new();
//!     while let Some(text) = request.next_line(&mut line)? {
//!         writeln!(request, "{text}")?;
//!     }
//!     Ok(())
//! });
//! ThreadingTcpServer::builder()
//!     .tls(Tls::from_pem("cert.pem", "key.pem")?)
//!     .bind("0.0.0.0:9999", echo)?
//!     .run()?;
//! # Ok(())
//! # }
//! ```
//!
//! To try it on your own machine, with a client:
//!
//! ```text
//! openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
//!     -keyout key.pem -out cert.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost
//! openssl s_client -connect localhost:9999 -CAfile cert.pem -quiet
//! ```
//!
//! # The handler
//!
//! Reads and writes are of plaintext; deadlines, limits, [`Outbox`](crate::Outbox), `set_wbufsize`, drain and `close_live`
//! are as without TLS. [`request.tls()`](crate::StreamRequest::tls) says what was agreed on. Three things differ:
//!
//! - An end of input is `Ok(None)` or zero bytes only if the client has said so (close_notify). If the connection ends
//!   without a close_notify, somebody may have cut it, and the read fails with `UnexpectedEof`, a
//!   [`PeerFault`](crate::request::PeerFault): a message that was cut short does not pass for a whole one.
//! - [`shutdown_write`](crate::StreamRequest::shutdown_write) sends close_notify and the end of the TCP stream. Reading
//!   goes on. (Many clients answer a close_notify by closing.)
//! - A write that times out may have been encrypted already, and leaves later, before the next one.
//!
//! Every orderly end sends close_notify: the return of the handler, and a drain. `close_live` and the deadline of a drain
//! send it too, if that needs no wait.
//!
//! # The handshake
//!
//! The handshake runs in the worker, within [`Limits::handshake`](field@crate::Limits::handshake), so that a client that
//! stalls in it delays no other client. A failed handshake is the client's fault, and is not reported on stderr.
//! [`CloseReason`](crate::monitor::CloseReason) is `TimedOut` for silence, `Garbled` for bytes that are not TLS,
//! `Disconnected` if the client has left, and `HandshakeFailed` for a version, cipher or certificate that does not suit.
//! The client is sent an alert, if TLS has one for the case.
//!
//! # Certificates
//!
//! - Several names: [`certificate`](Tls::certificate) adds one more; the client's SNI chooses among them by the names in
//!   the certificates themselves, and the first is for everybody else.
//! - Clients' certificates: [`require_client_certificates`](Tls::require_client_certificates) and
//!   [`request_client_certificates`](Tls::request_client_certificates).
//! - New certificates on a running server: keep a clone, and call [`reload`](Tls::reload) from any thread, on SIGHUP for
//!   example. The files are read anew, all or nothing, for connections from then on.
//!
//! # Resumption
//!
//! A client that comes again shows a ticket and skips the costly part of the handshake. The tickets need no memory here:
//! the server encrypts its state into them, with a key that is in no file. Each key makes tickets for six hours, and reads
//! them until the next key is six hours old. Then it is gone, and nobody can use it to decrypt old sessions. Keys change
//! when a connection comes, in the process that accepts. Under [`Forking`](crate::Forking) that is the parent, before the
//! fork, so that a ticket of one child is good in every other. (With STARTTLS a handshake changes the keys; under `Forking`
//! such a server keeps its first key, because the parent sees no handshake, and tickets that it gives after the six hours
//! cannot be resumed.) A restart makes new keys, and so does a [`reload`](Tls::reload) if clients have to show
//! certificates. TLS 1.2 and 1.3 have the same tickets. Early data (0-RTT) is never accepted.
//!
//! # The crypto provider
//!
//! The provider is rustls' process default, if one is installed, and otherwise ring. [`with_provider`](Tls::with_provider)
//! takes another. For all other settings make a [`rustls::ServerConfig`], and pass it to [`Tls::from`].

mod certificates;
mod config;
mod facts;
mod fault;
mod handshake;
mod pem;
mod session;
mod small_file;
mod stream;
mod tickets;

pub use ::rustls;

pub use config::Tls;
pub use facts::TlsInfo;
pub use small_file::read_small_file;
