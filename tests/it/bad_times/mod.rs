//! Peers that are slow, silent or gone, handlers that misbehave, resources that run out: after each of
//! them the server answers the next client.

mod handlers;
mod many;
mod peers;
mod resources;

use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use socket2::SockRef;
use socketserver::handler::MakeHandler;
use socketserver::hooks::{Failure, Fault, Panicked};
use socketserver::mixin::Mixin;
use socketserver::request::{LineTooLong, TimedOut, Timeout};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Builder, Inline, Limits, Pool, ServerHooks, StreamRequest, Threading,
};

use crate::support::{connect, exchange, inet};

type Running<T = Tcp> = BackgroundServer<T, Box<dyn Mixin>>;

fn mixins() -> [Box<dyn Mixin>; 3] {
    [Box::new(Inline), Box::new(Threading::new()), Box::new(Pool::new(4))]
}

/// A failure, as `handle_error` received it.
#[derive(Debug)]
struct Told {
    text: String,
    fault: Fault,
    limit: Option<Timeout>,
    is_disconnect: bool,
    line_too_long: bool,
    panicked: bool,
}

struct Tell {
    told: Sender<Told>,
}

impl ServerHooks<StreamRequest> for Tell {
    fn handle_error(&self, failure: &Failure<'_>) {
        // The test may be over already.
        let _ = self.told.send(Told {
            text: failure.to_string(),
            fault: failure.fault(),
            limit: TimedOut::find(failure.error()).map(TimedOut::which),
            is_disconnect: failure.is_disconnect(),
            line_too_long: LineTooLong::find(failure.error()).is_some(),
            panicked: failure.error().is::<Panicked>(),
        });
    }
}

fn serve(
    mixin: impl Mixin + 'static,
    limits: Limits,
    handler: impl MakeHandler<StreamRequest>,
) -> (Running, Receiver<Told>) {
    let (told, telling) = channel();
    let builder = Builder::<Tcp, _>::new(Box::new(mixin) as Box<dyn Mixin>);
    let server = builder.limits(limits).hooks(Tell { told }).bind("127.0.0.1:0", handler).unwrap();
    (server.serve_in_background().unwrap(), telling)
}

fn client(server: &Running) -> TcpStream {
    connect(inet(&**server))
}

/// Fails unless the server answers the next client, and comes to a clean end.
fn serves_on(server: Running) {
    assert_eq!(exchange(&mut client(&server), "next"), "next\n");
    let report = server.stop().unwrap();
    assert!(report.is_clean(), "{report}");
}

/// Closes a connection so that the peer gets a reset and not an end.
fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}

/// A limit that is short enough for a test to wait until it has passed.
const SHORT: Duration = Duration::from_millis(100);

fn serves_once(server: &Running) {
    assert_eq!(exchange(&mut client(server), "once"), "once\n");
}
