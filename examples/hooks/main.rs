//! Hooks: what can be changed about a server without a transport or a mixin of one's own. An echo server that
//! lets only some clients in, says "busy" to those for whom it has no thread, reports failures in its own
//! words, ticks, and prints what happens.
//!
//! ```text
//! cargo run --release --example hooks -- 127.0.0.1:9999
//! nc 127.0.0.1 9999
//! ```
//!
//! Of three clients at a time the third is told that the server is busy; a line "fail" has the handler fail; and
//! with `--deny 127.0.0.2` this one is turned away:
//!
//! ```text
//! nc -s 127.0.0.2 127.0.0.1 9999
//! ```
//!
//! Limits: an address says little about who is behind it, and a list of addresses is no access control by
//! itself. The hooks of the loop (`verify_request`, `overflow`, `service_actions`) hold up everybody else while
//! they run: whatever takes time belongs into the handler.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use socketserver::{
    Failure, Fault, HandlerError, HandlerResult, Incoming, Limits, Refused, ServerEvent,
    ServerHooks, StreamRequest, Threading, ThreadingTcpServer, WhenFull, stream_fn,
};

/// Echoes lines, with hooks around it.
#[derive(Parser)]
struct Cli {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:9999")]
    address: String,
    /// An address that is turned away. May be given several times
    #[arg(long, value_name = "IP")]
    deny: Vec<IpAddr>,
    /// How many clients are served at once; the next one is told that the server is busy
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    at_once: usize,
    /// The time between two ticks, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    tick: u64,
}

/// One line on stderr, in one write, so that the lines of several threads do not mix.
fn say(line: &str) {
    // A server goes on without an operator.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

struct Hooks {
    denied: Vec<IpAddr>,
    peers_at_fault: AtomicU64,
    started: Instant,
    tick: Duration,
    ticks: AtomicU64,
}

impl ServerHooks<StreamRequest> for Hooks {
    /// In the loop, before any thread has to do with the client.
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        let ip = incoming.client_address().ip();
        Ok(!ip.is_some_and(|ip| self.denied.contains(&ip)))
    }

    /// What is written here goes into the socket's buffer or nowhere: it never waits.
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        Ok(writeln!(request, "busy: {why}; please come again in a minute")?)
    }

    /// Failures of our own, one line each. What peers do to themselves is only counted.
    fn handle_error(&self, failure: &Failure<'_>) {
        if failure.fault() == Fault::Peer {
            self.peers_at_fault.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (phase, peer) = (failure.phase(), failure.client_address());
        say(&format!("failure in {phase} for {peer}: {}", failure.error()));
    }

    /// After every request, and with a `poll_interval` at least that often; so it looks at the clock by itself.
    fn service_actions(&self) {
        let due = self.started.elapsed().as_secs() / self.tick.as_secs();
        if self.ticks.swap(due, Ordering::Relaxed) < due {
            say(&format!("tick: {} peers at fault", self.peers_at_fault.load(Ordering::Relaxed)));
        }
    }
}

/// Sends every line back.
fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        if text == "fail" {
            return Err("a client has asked for it".into());
        }
        writeln!(request, "{text}")?;
    }
    Ok(())
}

fn serve(cli: Cli) -> socketserver::Result<()> {
    let tick = Duration::from_secs(cli.tick.max(1));
    let hooks = Hooks {
        denied: cli.deny,
        peers_at_fault: AtomicU64::new(0),
        started: Instant::now(),
        tick,
        ticks: AtomicU64::new(0),
    };
    let server = ThreadingTcpServer::builder()
        .mixin(Threading::new().max_threads(cli.at_once).when_full(WhenFull::Refuse))
        .limits(Limits { idle: Duration::from_secs(300), ..Limits::default() })
        .hooks(hooks)
        .observer(|event: &ServerEvent<'_>| say(&event.to_string()))
        .poll_interval(tick)
        .bind(cli.address, stream_fn(echo))?;
    let _ = writeln!(io::stdout(), "listening on {}", server.server_address());
    say(&server.run()?.to_string());
    Ok(())
}

fn main() -> ExitCode {
    match serve(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
