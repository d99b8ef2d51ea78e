//! The pages `/healthz` and `/readyz`, which a balancer asks for.

use socketserver::StreamRequest;

use crate::answer::{Answer, Clock, Connection};
use crate::files::Answered;
use crate::protocol::{Head, Method, Status};

/// Answers a request for one of the two pages. Returns `None` if the request is for something else.
///
/// `/healthz` says that the server answers at all. `/readyz` says whether the server wants new clients: it is 503 from
/// the beginning of the lame duck on, and so before the server refuses any client.
pub fn answer(
    request: &StreamRequest,
    head: &Head<'_>,
    (out, clock): (&mut Vec<u8>, &Clock),
    connection: Connection,
) -> Option<Answered> {
    let path = head.target.split('?').next().unwrap_or_default();
    let (status, text) = match path {
        "/healthz" => (Status::Ok, "ok\n"),
        "/readyz" if request.server().is_ready() => (Status::Ok, "ready\n"),
        "/readyz" => (Status::ServiceUnavailable, "not ready\n"),
        _ => return None,
    };
    Answer::new(out, clock, status, connection).field("Cache-Control", "no-store").body(
        "text/plain; charset=utf-8",
        text.as_bytes(),
        head.method == Method::Head,
    );
    Some(Answered { status, bytes: text.len() as u64 })
}
