//! The TLS handshake: the step between a connection and its handler, and STARTTLS.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection};

use super::Tls;
use super::facts::TlsInfo;
use super::fault::{self, TlsStage};
use super::session::{SEALED_AT_ONCE, Session};
use super::stream::TlsStream;
use crate::error::HandlerResult;
use crate::events::Limit;
use crate::limits::Limits;
use crate::request::{
    BeyondLimit, Deadline, Preface, SealBase, Stream, StreamRequest, handshake_deadline,
};

impl Preface<StreamRequest> for Tls {
    fn prepare(&self) {
        Self::prepare(self);
    }

    fn deadline(&self, limits: &Limits) -> Option<Deadline> {
        handshake_deadline(limits)
    }

    fn is_handshake(&self) -> bool {
        true
    }

    fn refuse(&self, request: &mut StreamRequest) {
        request.close_unsealed();
    }

    fn run(&self, request: &mut StreamRequest) -> HandlerResult {
        Ok(request.start_tls(self)?)
    }
}

impl StreamRequest {
    /// The TLS of this connection: version, cipher, names and certificates. None if the connection is not encrypted.
    ///
    /// The result is borrowed from the request, so that a choice by name or protocol copies nothing. To write a part of it
    /// to the same request, copy that part first:
    ///
    /// ```
    /// use std::io::Write;
    /// use socketserver::{HandlerResult, StreamRequest, stream_fn};
    /// use socketserver::tls::TlsInfo;
    ///
    /// fn handle(request: &mut StreamRequest) -> HandlerResult {
    ///     let speaks_h2 = request.tls().and_then(TlsInfo::alpn) == Some(b"h2");
    ///     // `writeln!(request, "{:?}", request.tls())` would use the request twice (E0502).
    ///     let tls = request.tls().map(ToString::to_string);
    ///     writeln!(request, "{}, HTTP/2: {speaks_h2}", tls.as_deref().unwrap_or("in the clear"))?;
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    #[must_use]
    #[doc(alias("peercert", "getpeercert", "selected_alpn_protocol", "cipher"))]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.seal_facts()?.downcast_ref()
    }

    /// Starts TLS in the middle of a protocol that begins in the clear (STARTTLS). A server that speaks TLS from the first
    /// byte on uses [`Builder::tls`](crate::Builder::tls) instead.
    ///
    /// As for [`wrap_stream`](Self::wrap_stream), bytes that were written before leave first, in the clear. An outbox
    /// that was made before takes no more messages; a new [`outbox`](Self::outbox) is encrypted. Bytes that the peer
    /// has sent after its STARTTLS are taken for the beginning of its handshake, so nobody can slip in a command that
    /// looks encrypted. A handler that must send a line first ("220 go ahead") writes it before this call.
    ///
    /// # Errors
    ///
    /// The errors of the handshake. They are the peer's fault ([`PeerFault`](crate::request::PeerFault)), unless the
    /// machine has no randomness or the configuration cannot work. After
    /// [`Limits::handshake`](crate::Limits::handshake) the error is `TimedOut`. If the handshake had to make room for
    /// others ([`Limits::handshakes`](field@crate::Limits::handshakes)), the error ends the request as
    /// [`Refused`](crate::monitor::CloseReason::Refused), and is not reported. After an error the connection is gone.
    ///
    /// ```
    /// use std::io::Write;
    /// use socketserver::tls::Tls;
    /// use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler};
    ///
    /// struct Mail {
    ///     tls: Tls,
    /// }
    ///
    /// impl StreamRequestHandler for Mail {
    ///     fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
    ///         let mut line = String::new();
    ///         while let Some(command) = request.next_line(&mut line)? {
    ///             match command {
    ///                 "STARTTLS" if request.tls().is_none() => {
    ///                     writeln!(request, "220 go ahead")?;
    ///                     request.start_tls(&self.tls)?;
    ///                 }
    ///                 _ => writeln!(request, "500 only STARTTLS is understood")?,
    ///             }
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn start_tls(&mut self, tls: &Tls) -> io::Result<()> {
        let config = tls.config();
        let (context, entry, most) = self.share_for_handshake();
        // With STARTTLS no preface renews the keys, so this call does. A child does not: a key of its own would end
        // with it.
        if !context.role().is_child() {
            tls.prepare();
        }
        let unfinished = context.handshakes.enter(&entry, most);
        // The request has no connection until the handshake ends, and none if the handshake fails.
        let shaken = self.seal(|base| {
            let (stream, info) = shake_hands(config, base)?;
            Ok((Box::new(stream), Box::new(info)))
        });
        drop(unfinished);
        // The handshake has left the list of the unfinished ones by now, so this answer is final.
        if entry.is_crowded_out() {
            return Err(io::Error::other(BeyondLimit { limit: Limit::Handshakes }));
        }
        shaken
    }
}

/// Makes the handshake. The raw stream keeps the limit in time.
fn shake_hands(config: Arc<ServerConfig>, mut base: SealBase) -> io::Result<(TlsStream, TlsInfo)> {
    let owner = base.entry.owner();
    let own_fault = |error| fault::of_session(owner, TlsStage::Handshake, error);
    // This fails without randomness, or with a configuration that cannot work: the fault is this side's.
    let mut tls = ServerConnection::new(config).map_err(own_fault)?;
    tls.set_buffer_limit(Some(SEALED_AT_ONCE));
    loop {
        // The send comes first, because each side waits for the other's last flight. In TLS 1.3 the tickets leave here
        // as well, after the handshake.
        while tls.wants_write() {
            tls.write_tls(&mut base.raw)?;
        }
        if !tls.is_handshaking() {
            break;
        }
        if tls.read_tls(&mut base.raw)? == 0 {
            // `RawStatus::explain` replaces this error by its cause, if that is known.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = tls.process_new_packets() {
            // With the alert the client's log says `bad certificate` and not `connection reset`.
            tell(&mut tls, &mut base.raw);
            return Err(own_fault(error));
        }
    }
    let info = TlsInfo::of(&tls);
    let session = Session { tls, ended: false };
    Ok((TlsStream::new(session, base), info))
}

/// Sends the alert, as far as this needs no wait: the peer may not be reading.
fn tell(tls: &mut ServerConnection, raw: &mut Box<dyn Stream>) {
    // With a deadline that has passed the raw stream tries once, and does not wait.
    raw.set_deadline(Some(Instant::now()));
    while tls.wants_write() && tls.write_tls(raw).is_ok() {}
}
