//! An answer arrives although the client has not sent everything yet and goes on sending.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use socketserver::hooks::Failure;
use socketserver::mixin::{Mixin, Refused};
use socketserver::transport::Tcp;
use socketserver::{
    Builder, HandlerResult, Inline, Limits, ServerHooks, StreamRequest, Threading, stream_fn,
};

use crate::handlers::{Held, held};
use crate::support::{SOON, connect, eventually, inet};

/// Limits that leave a slow machine the time to go on sending.
fn patient() -> Limits {
    Limits::default().linger(SOON).linger_bytes(usize::MAX)
}

const MOMENT: Duration = Duration::from_millis(50);

/// The answer that a client receives if it goes on sending after its request has ended on the server.
fn heard(mut client: TcpStream, first: &[u8], has_ended: impl Fn() -> bool) -> io::Result<String> {
    client.write_all(first)?;
    eventually("the request has ended", has_ended);
    // If the system has forgotten the connection it sends a reset, and this call or the next one fails.
    client.write_all(&vec![b'x'; 3 << 20])?;
    client.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

struct Silent;

impl ServerHooks<StreamRequest> for Silent {
    /// Some of the handlers fail on purpose.
    fn handle_error(&self, _failure: &Failure<'_>) {}
}

fn answers(
    what: &str,
    mixin: impl Mixin + 'static,
    first: &[u8],
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) {
    let server = Builder::<Tcp, _>::new(mixin).hooks(Silent).limits(patient());
    let server = server.bind("127.0.0.1:0", stream_fn(handle)).unwrap();
    let server = server.serve_in_background().unwrap();
    let context = server.context();
    let ended = || context.counts().accepted == 1 && context.live_count() == 0;
    let answer = heard(connect(inet(&*server)), first, ended);
    assert_eq!(answer.expect(what), "enough\n", "{what}");
}

fn line_and_answer(request: &mut StreamRequest) -> HandlerResult {
    request.next_line(&mut String::new())?;
    Ok(writeln!(request, "enough")?)
}

#[test]
fn an_answer_to_a_peer_that_is_said_to_go_on_arrives() {
    let says_so = |request: &mut StreamRequest| {
        request.expect_more_input();
        line_and_answer(request)
    };
    answers("said by the handler", Threading::new(), b"3 MiB\n", says_so);
    answers("in the loop", Inline, b"3 MiB\n", says_so);
    answers("held back", Threading::new(), b"3 MiB\n", |request| {
        request.set_wbufsize(64)?;
        request.expect_more_input();
        line_and_answer(request)
    });
    answers("by the outbox", Threading::new(), b"3 MiB\n", |request| {
        request.outbox()?;
        request.expect_more_input();
        line_and_answer(request)
    });
    answers("with a copy of the descriptor", Threading::new(), b"3 MiB\n", |request| {
        let _copy = request.fileno().expect("a socket").try_clone_to_owned()?;
        request.expect_more_input();
        line_and_answer(request)
    });
}

#[test]
fn the_server_sees_by_itself_what_can_be_seen_of_a_peer_that_goes_on() {
    answers("much has come", Threading::new(), &[b'x'; 9_000], |request| {
        request.read_exact(&mut [0; 9_000])?;
        Ok(writeln!(request, "enough")?)
    });
    answers("more has come than was read", Threading::new(), b"a line\nand more", line_and_answer);
    answers("the handler fails", Threading::new(), b"3 MiB\n", |request| {
        line_and_answer(request)?;
        Err("too large".into())
    });
    answers("the handler panics", Threading::new(), b"3 MiB\n", |request| {
        line_and_answer(request)?;
        panic!("asked to panic");
    });
    answers("a read has ended in the middle", Threading::new(), b"3 M", |request| {
        request.set_timeout(Some(MOMENT));
        let error = request.next_line(&mut String::new()).expect_err("half a line");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        request.set_timeout(None);
        Ok(writeln!(request, "enough")?)
    });
    answers("a line is too long", Threading::new(), &[b'x'; 70_000], |request| {
        let error = request.next_line(&mut String::new()).expect_err("70,000 bytes");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        Ok(writeln!(request, "enough")?)
    });
}

#[test]
fn a_refusal_arrives_although_the_peer_has_not_begun() {
    struct Busy;

    impl ServerHooks<StreamRequest> for Busy {
        fn overflow(&self, request: &mut StreamRequest, _why: &Refused) -> HandlerResult {
            Ok(writeln!(request, "busy")?)
        }
    }

    let (handler, holder) = held();
    let server = Builder::<Tcp, _>::new(Threading::new())
        .hooks(Busy)
        .limits(patient().per_peer(1))
        .bind("127.0.0.1:0", move || Held::clone(&handler))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let _first = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let context = server.context();
    let refused = || context.counts().refused == 1 && context.live_count() == 1;
    assert_eq!(heard(connect(inet(&*server)), b"", refused).expect("a word"), "busy\n");
    holder.release.send(()).unwrap();
}
