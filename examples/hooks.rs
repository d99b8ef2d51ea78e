//! Hooks: one address is turned away, failures are reported in the program's own words, a tick comes at least every second,
//! and an observer prints each event.
//!
//! Try it: `nc 127.0.0.1 9999`, and type a line; then `nc -s 127.0.0.2 127.0.0.1 9999`.

use std::{env, time::Duration};

use socketserver::hooks::{Failure, Incoming};
use socketserver::{HandlerError, ServerHooks, ThreadingTcpServer, stream_fn};

struct Hooks;

impl ServerHooks for Hooks {
    // The accept loop calls this, and accepts no other client until it returns.
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        Ok(incoming.client_address().ip() != Some("127.0.0.2".parse()?))
    }
    fn handle_error(&self, failure: &Failure<'_>) {
        let (fault, phase, peer) = (failure.fault(), failure.phase(), failure.client_address());
        eprintln!("{fault:?} failed in {phase} for {peer}: {}", failure.error());
    }
    // The loop calls this after every request, and at least once a second because of `poll_interval`.
    fn service_actions(&self) {
        eprintln!("tick");
    }
}

fn main() -> socketserver::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:9999".to_owned());
    let fail = stream_fn(|request| {
        let line = request.next_line(&mut String::new())?.map(str::to_owned);
        line.map_or(Ok(()), |line| Err(format!("it cannot be done: {line}").into()))
    });
    let builder = ThreadingTcpServer::builder().hooks(Hooks).poll_interval(Duration::from_secs(1));
    let server = builder.observer(|event| eprintln!("{event}")).bind(address, fail)?;
    println!("listening on {}", server.server_address());
    server.run().map(|report| eprintln!("{report}"))
}
