//! A mixin of one's own: two lanes. A few threads are reserved for some addresses (whoever watches or operates the
//! server, say), and all other clients share the rest. However many of these come, the others get in.
//!
//! ```text
//! cargo run --release --example own_mixin -- 127.0.0.1:9999 --reserve 127.0.0.2
//! nc 127.0.0.1 9999
//! nc -s 127.0.0.2 127.0.0.1 9999
//! ```
//!
//! It echoes lines, each after the name of the thread that has read it. The fifth client at a time is told that
//! its lane is full; one from the reserved address is served all the same.
//!
//! It is made of two mixins that there are, and shows what one of one's own has to think of: where a request
//! goes, whether there is room, and how it all ends.
//!
//! Limits: the lane is chosen by address, before a byte is read, so that all clients of one proxy have the same.
//! A full lane refuses, because there is one queue in the kernel for both: if it had its clients wait there, it
//! would have those of the other lane wait behind them.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::Parser;
use socketserver::{
    HandlerResult, Job, Mixin, Pool, Refused, ServerHooks, StreamRequest, TcpServer, WhenFull,
    stream_fn,
};

/// Echoes lines, in two lanes.
#[derive(Parser)]
struct Cli {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:9999")]
    address: String,
    /// An address with a lane of its own. May be given several times
    #[arg(long, value_name = "IP")]
    reserve: Vec<IpAddr>,
    /// How many clients each lane serves at once
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    threads: usize,
}

struct Lanes {
    reserved_for: Vec<IpAddr>,
    reserved: Pool,
    common: Pool,
}

impl Lanes {
    fn new(reserved_for: Vec<IpAddr>, threads: usize) -> Self {
        let lane =
            |name: &str| Pool::new(threads).queue(0).when_full(WhenFull::Refuse).thread_name(name);
        Self { reserved_for, reserved: lane("reserved"), common: lane("common") }
    }
}

impl Mixin for Lanes {
    /// In the loop: nobody else is accepted until it returns. A job may go anywhere from here, and has to be
    /// run, refused or released in the end.
    fn process_request(&self, job: Job) {
        let is_reserved = job.peer().ip().is_some_and(|ip| self.reserved_for.contains(&ip));
        let lane = if is_reserved { &self.reserved } else { &self.common };
        lane.process_request(job);
    }

    /// Lanes that refuse are always ready. Those that wait would have to say so here, and to promise by
    /// `event_fd` that the loop hears of it when they have room again.
    fn ready(&self) -> bool {
        self.reserved.ready() && self.common.ready()
    }

    /// After every request and at every wake-up of the loop.
    fn service_actions(&self) {
        self.reserved.service_actions();
        self.common.service_actions();
    }

    /// When the requests have ended: what was started is joined, as long as the deadline allows.
    fn server_close(&self, deadline: Instant) {
        self.reserved.server_close(deadline);
        self.common.server_close(deadline);
    }
}

struct Busy;

impl ServerHooks<StreamRequest> for Busy {
    fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
        Ok(writeln!(request, "{why}")?)
    }
}

/// Sends every line back, with the name of the thread.
fn echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{}: {text}", thread::current().name().unwrap_or("?"))?;
    }
    Ok(())
}

fn serve(cli: Cli) -> socketserver::Result<()> {
    let server = TcpServer::builder()
        .mixin(Lanes::new(cli.reserve, cli.threads))
        .hooks(Busy)
        .bind(cli.address, stream_fn(echo))?;
    // A closed stdout is not an error: a server without an operator goes on serving.
    let _ = writeln!(io::stdout(), "listening on {}", server.server_address());
    let report = server.run()?;
    let _ = writeln!(io::stderr(), "{report}");
    Ok(())
}

fn main() -> ExitCode {
    match serve(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}
