//! The control socket as a server in a thread beside the program's own.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socketserver::monitor::Activity;
use socketserver::request::{LineTooLong, TimedOut};
use socketserver::transport::UnixStream;
use socketserver::{
    BackgroundServer, HandlerResult, ServerContext, StreamRequest, StreamRequestHandler, Threading,
    ThreadingUnixStreamServer,
};

use super::{LINE_BYTES, MOST, NOT_YOURS, Operator, Then, limits, may_control, socket_options};
use crate::status::Status;

pub(super) type Server = ThreadingUnixStreamServer;

/// The server while it runs. Its drop ends it.
pub(crate) struct Running(#[allow(dead_code)] BackgroundServer<UnixStream, Threading>);

impl Running {
    /// Serves in a thread of its own.
    pub(crate) fn start(server: Server) -> socketserver::Result<Self> {
        server.serve_in_background().map(Self)
    }
}

pub(super) fn bind(path: &Path, operator: &Arc<Operator>) -> socketserver::Result<Server> {
    // At the program's end the operators' connections are closed at once; only an answer that is being written may take `AT_END`.
    let limits = limits().drain(AT_END).first_read(Duration::ZERO);
    let operator = Arc::clone(operator);
    Server::builder()
        .mixin(Threading::new().thread_name("control"))
        .limits(limits)
        .socket_options(socket_options())
        .bind(path, move || Session { operator: Arc::clone(&operator) })
}

/// How long the end of the program waits for an answer that is being written.
const AT_END: Duration = Duration::from_millis(200);

/// One operator's connection.
struct Session {
    operator: Arc<Operator>,
}

impl StreamRequestHandler for Session {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        match self.converse(request) {
            // An operator that stops reading, or stops in the middle of a command, is no failure of this program.
            Err(error) if TimedOut::find(&*error).is_some() => Ok(()),
            result => result,
        }
    }
}

impl Session {
    fn converse(&mut self, request: &mut StreamRequest) -> HandlerResult {
        // The uid comes from the kernel, so the peer cannot forge it.
        if !may_control(request.peer_credentials()?.uid) {
            return Ok(request.write_all(NOT_YOURS.as_bytes())?);
        }
        make_room(request.server(), request.id());
        let mut line = Vec::new();
        loop {
            let line = match request.next_line(&mut line) {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(error) if LineTooLong::find(&error).is_some() => {
                    let text = format!("error a command has {LINE_BYTES} bytes at most\n");
                    return Ok(request.write_all(text.as_bytes())?);
                }
                // The operator was silent for too long, which `handle` ignores, or the program ends.
                Err(error) => return Err(error.into()),
            };
            let answer = self.operator.obey(line);
            request.write_all(answer.text.as_bytes())?;
            match answer.then {
                Then::Next => {}
                Then::End => return Ok(()),
                Then::Watch(every) => watch(request, every)?,
            }
        }
    }
}

/// Sends the status again and again, until any input comes.
fn watch(request: &mut StreamRequest, every: Duration) -> io::Result<()> {
    loop {
        request.set_timeout(Some(every));
        let input = request.fill_buf().map(|_| ());
        // The server's own limits apply to the answer.
        request.set_timeout(None);
        match input {
            Ok(()) => return Ok(()),
            Err(error) if TimedOut::find(&error).is_some() => {}
            Err(error) => return Err(error),
        }
        let text = Status::now().lines() + "ok\n";
        request.write_all(text.as_bytes())?;
    }
}

/// Ends the oldest other connection if this one is too many. Connections that wait for a command are ended first.
fn make_room(server: &ServerContext, own: u64) {
    let mut others = server.live();
    others.retain(|other| other.id < own);
    if others.len() >= MOST {
        others.sort_by_key(|other| (other.activity != Activity::Idle, other.id));
        if let Some(oldest) = others.first() {
            server.close_live(oldest.id);
        }
    }
}
